"""Tables of programs that were compiled for a TPU and not run; `benchmarks.table` prints them."""

import collections
from collections.abc import Iterable, Mapping, Sequence

from benchmarks import records
from benchmarks.records import Record

HEADING = "### Compiled for TPU, not run"
_TITLES = {
  "jaxfer": "auto",
  "jaxfer_scan": "scan",
  "jaxfer_scan_folded2": "folded by 2",
  "jaxfer_scan_folded4": "folded by 4",
  "jaxfer_scan_folded8": "folded by 8",
  "jaxfer_pallas": "Pallas",
  "jaxfer_pallas_packed": "Pallas, packed in and out",
  "flax": "peer",
  "flax_scan": "peer",
  "flax_unrolled": "peer unrolled",
  "flax_scan_unrolled": "peer unrolled",
}
_SHOWN = 0.03
_BOUNDS = {
  "convolution": "convolutions",
  "vector": "vector unit",
  "copy": "copies",
  "memory": "HBM",
  "pallas": "Pallas kernel",
  "collective": "collectives",
}


def section(names: Sequence[str], found: Sequence[Record]) -> str:
  """Returns the section of all files: compiler, costs, memory, and the most expensive operations and layers."""
  latest = [record for record in records.latest(found).values() if record["status"] == "compiled"]
  env = found[-1]["environment"]
  cases: dict[str, dict[str, Record]] = {}
  for record in latest:
    cases.setdefault(record["case"], {})[record["implementation"]] = record
  cases = {case: made for case, made in cases.items() if "jaxfer" in made and not _is_largest(made["jaxfer"])}
  files = " and ".join(f"`{name}`" for name in names)
  # Two records of one program have the same seconds.
  minutes = sum({record["compile_seconds"] for record in latest}) / 60
  lines = [
    HEADING,
    "",
    f"From {files}: jax {env['versions']['jax']}, libtpu {env['versions']['libtpu']}; {len(latest)} programs, "
    f"{minutes:.0f} minutes of compiling.",
    "",
    "| case | cycles by XLA: ours, peer | peer / ours | static schedule: ours, peer | peer / ours | of the matrix peak "
    "| bounds ours | bounds the peer |",
    "|---|---|---|---|---|---|---|---|",
    *(_cost(case, made) for case, made in cases.items()),
    "",
    "| case | HBM traffic: ours, peer | temporary memory: ours, peer | compile time: ours, peer |",
    "|---|---|---|---|",
    *(_memory(case, made) for case, made in cases.items()),
    "",
    "The most expensive operations of ours, with their share of the cycles by XLA:",
    "",
    "| case | first | second | third |",
    "|---|---|---|---|",
    *(_operations(case, made["jaxfer"]) for case, made in cases.items()),
  ]
  if pallas := {case: made for case, made in cases.items() if "jaxfer_pallas" in made}:
    single = {case: made for case, made in pallas.items() if "jaxfer_pallas_packed" in made}
    lines += ["", *_implementations(pallas), *(["", *_kernels(single)] if single else [])]
  if layered := {
    case: made["jaxfer"] for case, made in cases.items() if made["jaxfer"]["compiled"].get("layers")
  }:
    lines += ["", *_layers(layered)]
  if largest := [record for record in latest if _is_largest(record)]:
    lines += ["", *_largest(largest)]
  missing = [record for record in records.latest(found).values() if record["status"] != "compiled"]
  lines += [""] * bool(missing)
  lines += [f"{r['case']}, {r['implementation']}: {r['status']}, {r['reason']}" for r in missing]
  return "\n".join(lines)


def sides(made: Mapping[str, Record]) -> list[Record]:
  """Returns our record and, if it was compiled, the peer's: the better of its unrollings by XLA's cycles."""
  peers = [record for name, record in made.items() if not name.startswith("jaxfer")]
  return [made["jaxfer"], *sorted(peers, key=lambda record: record["compiled"]["cycles"])[:1]]


def bound(record: Record) -> str:
  """Returns the bound of a program, with its share of the static schedule."""
  shares = record["compiled"]["bounds"]
  name = max(shares, key=lambda key: shares[key])
  return f"{_BOUNDS[name]} {shares[name] / max(1, sum(shares.values())):.0%}"


def _pair(values: Iterable[float], form: str = ".2f") -> str:
  return ", ".join(f"{value:{form}}" for value in values)


def _is_largest(record: Record) -> bool:
  return "largest_batch" in record["compiled"]


def _cost(case: str, made: Mapping[str, Record]) -> str:
  both = sides(made)
  cells = [case]
  for measure in ("cycles", "schedule_cycles"):
    counts = [record["compiled"][measure] for record in both]
    ratio = counts[-1] / counts[0]
    shown = "not compiled" if len(counts) == 1 else f"{ratio:.2f}" if ratio >= 1 else f"**{ratio:.2f}**"
    cells += [f"{_pair(count / 1e6 for count in counts)} M", shown]
  shares = [record["shares"].get("matmul") for record in both]
  cells.append("-" if None in shares else _pair(shares, ".0%"))
  cells += [bound(record) for record in both] + [""] * (2 - len(both))
  if both[-1]["implementation"].endswith("_unrolled"):
    cells[0] += " (peer unrolled)"
  return f"| {' | '.join(cells)} |"


def _implementations(cases: Mapping[str, Mapping[str, Record]]) -> list[str]:
  """Compares all implementations of the recurrence with the peers, and the Pallas kernels with the better peer."""
  shown = {name: title for name, title in _TITLES.items() if any(name in made for made in cases.values())}
  titles = list(dict.fromkeys(shown.values()))
  lines = [
    "Implementations of the recurrence beside the peers: millions of cycles by XLA / by the static schedule. The last",
    "two columns are the better peer over the Pallas kernels, by the static schedule:",
    "",
    f"| case | {' | '.join(titles)} | peer / Pallas | peer / packed |",
    f"|---|{'---|' * (len(titles) + 2)}",
  ]
  for case, made in cases.items():
    cells = []
    for title in titles:
      found = [made[name]["compiled"] for name in shown if shown[name] == title and name in made]
      cells += [f"{c['cycles'] / 1e6:.2f} / {c['schedule_cycles'] / 1e6:.2f}" for c in found] or ["-"]
    peers = [record for name, record in made.items() if not name.startswith("jaxfer")]
    best = min((record["compiled"]["schedule_cycles"] for record in peers), default=None)
    for name in ("jaxfer_pallas", "jaxfer_pallas_packed"):
      ratio = best / made[name]["compiled"]["schedule_cycles"] if best and name in made else None
      cells.append("-" if ratio is None else f"{ratio:.2f}" if ratio >= 1 else f"**{ratio:.2f}**")
    lines.append(f"| {case} | {' | '.join(cells)} |")
  return lines


def _kernels(cases: Mapping[str, Mapping[str, Record]]) -> list[str]:
  """Describes the bounds of each Pallas kernel."""
  lines = [
    "What bounds the Pallas kernels: the share of the matrix unit's peak in the static schedule, and how full the",
    "slots of the three busiest units are in the forward and the backward kernel. A unit's slots are counted in the",
    "bundle that uses most of them:",
    "",
    "| case | of the matrix peak | forward kernel | backward kernel |",
    "|---|---|---|---|",
  ]
  for case, made in cases.items():
    record = made["jaxfer_pallas_packed"]
    compiled, flops = record["compiled"], record["work"].get("flops")
    units: Mapping[str, Mapping[str, float]] = compiled.get("units", {})
    cells = []
    for which in ("forward", "backward"):
      kernels = [shares for name, shares in units.items() if f"recurrence_{which}" in name]
      busiest = sorted(kernels[0].items(), key=lambda at: -at[1])[:3] if kernels else []
      cells.append(", ".join(f"{unit} {share:.0%}" for unit, share in busiest) or "-")
    peak = record["ceilings"]["matmul"]["bfloat16"] / record["ceilings"]["clock"]
    devices = record["environment"]["device_count"]
    share = f"{flops / devices / peak / compiled['schedule_cycles']:.0%}" if flops else "-"
    lines.append(f"| {case} | {share} | {' | '.join(cells)} |")
  return lines


def _memory(case: str, made: Mapping[str, Record]) -> str:
  pair = sides(made)
  traffic = _pair((record["compiled"]["hbm_bytes"] / 2**20 for record in pair), ",.0f")
  temporary = _pair((record["memory"]["temp_bytes"] / 2**20 for record in pair), ",.0f")
  seconds = _pair((record["compile_seconds"] for record in pair), ".0f")
  return f"| {case} | {traffic} MiB | {temporary} MiB | {seconds} s |"


def _operations(case: str, record: Record) -> str:
  cells = []
  for line in record["compiled"]["operations"]:
    path = [part for part in line["source"].split("/") if part not in ("while", "body", "closed_call")]
    share = line["cycles"] / max(1, record["compiled"]["cycles"])
    cells.append(f"`{line['name']}` ({line['kind']}, {share:.0%}) {'/'.join(path[-2:])}")
  return f"| {case} | {' | '.join(cells)} |"


def _layers(found: Mapping[str, Record]) -> list[str]:
  """The layers of each program that take at least `_SHOWN` of its cycles by either count."""
  lines = [
    "Cycles per layer of ours, forward and backward, with the share of the matrix unit's peak. Layers that take less",
    f"than {_SHOWN:.0%} of the cycles by both counts are summed up as the rest. `other` comes from no module. The",
    "schedule has no waits, so its share of the peak can exceed 100%. Programs compiled before 2026-11-28",
    "have no layers:",
    "",
    "| case | layer | cycles by XLA | of the peak | static schedule | of the peak |",
    "|---|---|---|---|---|---|",
  ]
  for case, record in found.items():
    compiled = record["compiled"]
    peak = record["ceilings"]["matmul"]["bfloat16"] / record["ceilings"]["clock"]
    whole = {key: max(1, compiled[key]) for key in ("cycles", "schedule_cycles")}
    rows: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for name, cost in sorted(compiled["layers"].items(), key=lambda at: -at[1]["cycles"]):
      shown = any(cost[key] >= _SHOWN * whole[key] for key in whole)
      rows[name if shown else "the rest"].update(cost)
    rest = [rows.pop("the rest")] if "the rest" in rows else []
    for name, cost in [*rows.items(), *(("the rest", cost) for cost in rest)]:
      cells = []
      for key in whole:
        share = f"{cost['flops'] / peak / cost[key]:.0%}" if cost["flops"] and cost[key] else "-"
        cells += [f"{cost[key] / 1e3:,.0f} k ({cost[key] / whole[key]:.0%})", share]
      lines.append(f"| {case} | {name} | {' | '.join(cells)} |")
  return lines


def _largest(found: Sequence[Record]) -> list[str]:
  lines = [
    "Largest batch that fits a chip's HBM, from a line through two compilations and checked by a third:",
    "",
    "| case, compiled at that batch | memory per sample | largest batch | its memory |",
    "|---|---|---|---|",
  ]
  for record in found:
    line = record["compiled"]["largest_batch"]
    memory = f"{record['memory']['peak_bytes'] / 2**30:.2f} GiB"
    lines.append(
      f"| {record['case']} | {line['bytes_per_sample'] / 2**20:.2f} MiB | {line['batch']:,} | {memory} |"
    )
  return lines
