"""Makes the performance tables from committed results: python -m benchmarks.table RESULTS.jsonl ... [--write]

Prints all results as Markdown. With --write it replaces the text between pairs of markers instead: the headline cases
(`<!-- performance -->` ... `<!-- /performance -->`) and the programs compiled for a TPU (`compiled`) in
benchmarks/README.md, and the small table (`speed`) in README.md. Give --write all files that the tables show, because
each call replaces whole tables. --papers adds a table with the times that the papers publish, beside ours.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence

from benchmarks import machine, records, speed_table, tpu_table
from benchmarks.records import BadRecords, Record

# The headline cases: those of each benchmark whose name contains one of these.
HEADLINES = {
  "conv_rnn": ("gradient/b8-t16-s32-c32-f32/float32", "f16-32-64-128"),
  "convnets": ("decoder_gradient", "train_step", "landmark_fusion/forward"),
  "vae_step": ("",),
  "members": ("",),
  "kmeans": ("",),
  "train_step": ("driver", "dtype"),
  "memory": ("options",),
  "input_pipeline": ("",),
  "prepare": ("",),
}


@dataclasses.dataclass(frozen=True)
class Published:
  """A time that a paper states, and our measurement to show beside it."""

  paper: str
  what: str
  time: str
  device: str
  case: tuple[str, str]  # Benchmark, and the beginning of the case's name.
  amount: float  # The amount of work in the paper's time, in the case's unit ...
  unit: str  # ... of `rates`, such as "samples_per_second"; 0 and "" if the case's time is compared directly.


PUBLISHED = (
  Published("002", "an epoch of training on 12,271 images", "15 min", "NVIDIA RTX A5000",
            ("convnets", "landmark_fusion/train_step"), 12_271, "samples_per_second"),
  Published("002", "evaluation on 3,068 test images", "about 1 min", "NVIDIA RTX A5000",
            ("convnets", "landmark_fusion/forward"), 3_068, "samples_per_second"),
  Published("004", "pre-training", "more than a day", "a supercomputer",
            ("convnets", "elderly_transfer/pretrain"), 0, ""),
  Published("004", "fine-tuning", "1-2 h", "a desktop", ("convnets", "elderly_transfer/finetune"), 0, ""),
)  # fmt: skip


def milliseconds(seconds: float) -> str:
  """Formats with three significant digits: "0.123 ms", "4.56 ms", "789 ms", "1,230 ms"."""
  value = 1e3 * seconds
  digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
  return f"{value:,.{digits}f} ms"


def duration(seconds: float) -> str:
  """Formats a duration: "0.4 s", "38 s", "12 min", "3.1 h"."""
  for limit, divisor, unit in ((10, 1, "s"), (120, 1, "s"), (7200, 60, "min")):
    if seconds < limit:
      return f"{seconds / divisor:.{1 if limit == 10 else 0}f} {unit}"
  return f"{seconds / 3600:.1f} h"


def _cell(record: Record | None, ours: Record | None, notes: list[str]) -> str:
  if record is None:
    return ""
  if record["status"] != "ok":
    note = f"{record['implementation']}, {record['status']}: {record['reason']}"
    if note not in notes:
      notes.append(note)
    return f"{record['status']} ({notes.index(note) + 1})"
  s = record["seconds"]
  text = f"{milliseconds(s['median'])} ({milliseconds(s['p10'])[:-3]}-{milliseconds(s['p90'])[:-3]})"
  if "matmul" in record["shares"]:
    text += f", {record['shares']['matmul']:.0%}"
  if record["benchmark"] == "memory" and record["memory"]:
    text += f", {record['memory']['peak_bytes'] / 2**20:.0f} MiB"
  if ours is not None and ours is not record and ours["seconds"]:
    text += f", {s['median'] / ours['seconds']['median']:.2f}x"
  return text


def headlines(found: Sequence[Record]) -> list[Record]:
  """Returns the records of the headline cases.

  Raises:
    BadRecords: there are none.
  """
  shown = [r for r in found if any(text in r["case"] for text in HEADLINES.get(r["benchmark"], ()))]
  if not shown:
    raise BadRecords(f"none of the {len(found)} records is of a headline case")
  return shown


def section(name: str, found: Sequence[Record]) -> str:
  """Returns the section of one file: its machine, and a table for each benchmark."""
  latest = records.latest(found)
  env = found[-1]["environment"]
  versions = ", ".join(f"{package} {v}" for package, v in env["versions"].items() if v)
  commits = ", ".join(dict.fromkeys(record["environment"]["commit"][:12] for record in found))
  ceilings = found[-1]["ceilings"]
  rates = ", ".join(f"{dtype} {rate / 1e12:.2f} TFLOP/s" for dtype, rate in ceilings["matmul"].items())
  lines = [
    f"**{env['device_kind'] if env['platform'] != 'cpu' else env['cpu']}**, {env['threads']} CPU threads; "
    f"{versions}; Python {env['python']}; commit {commits}. From `{name}`.",
    "",
    f"Ceilings measured in the same run: matrix product {rates}; copy {ceilings['copy'] / 1e9:.0f} GB/s. "
    "A cell reads: median (p10-p90), share of the matrix-product ceiling of its dtype, peak memory of `memory`, time "
    "relative to ours.",
  ]
  if any(record["quick"] for record in found):
    lines += ["", "**Some of these are runs of `--quick`, whose times say nothing.**"]
  for benchmark in dict.fromkeys(key[0] for key in latest):
    keys = [key for key in latest if key[0] == benchmark]
    implementations = list(dict.fromkeys(key[2] for key in keys))
    notes: list[str] = []
    lines += ["", f"`{benchmark}`", "", f"| case | {' | '.join(implementations)} |"]
    lines.append("|---" * (len(implementations) + 1) + "|")
    for case in dict.fromkeys(key[1] for key in keys):
      ours = latest.get((benchmark, case, "jaxfer"))
      cells = [_cell(latest.get((benchmark, case, i)), ours, notes) for i in implementations]
      lines.append(f"| {case} | {' | '.join(cells)} |")
    lines += [""] * bool(notes) + [f"({k}) {note}" + "  " for k, note in enumerate(notes, 1)]
  return "\n".join(lines)


def papers(found: Sequence[Record]) -> str:
  """Returns a table of the papers' times beside ours."""
  lines = ["| paper | what | published | on | ours | on |", "|---|---|---|---|---|---|"]
  for p in PUBLISHED:
    benchmark, case = p.case
    mine = [
      r for r in found if r["benchmark"] == benchmark and r["case"].startswith(case) and r["status"] == "ok"
    ]
    mine = [r for r in mine if r["implementation"].startswith("jaxfer") and not r["quick"]]
    ours, device = "not measured", ""
    if mine:
      best = min(mine, key=lambda r: r["seconds"]["median"])
      seconds = p.amount / best["rates"][p.unit] if p.unit else best["seconds"]["median"]
      env = best["environment"]
      ours, device = duration(seconds), env["cpu"] if env["platform"] == "cpu" else env["device_kind"]
    lines.append(f"| {p.paper} | {p.what} | {p.time} | {p.device} | {ours} | {device} |")
  return "\n".join(lines)


def write(readme: pathlib.Path, text: str, name: str = "performance") -> None:
  """Replaces the text between the markers `<!-- name -->` and `<!-- /name -->`.

  Raises:
    BadRecords: the file does not exist, or does not have exactly one pair of markers.
  """
  begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
  old = readme.read_text() if readme.exists() else ""
  if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
    raise BadRecords(f"{readme} must hold {begin} and, after it, {end}, once each")
  before, after = old[: old.index(begin) + len(begin)], old[old.index(end) :]
  readme.write_text(f"{before}\n\n{text}\n\n{after}")


def pages(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the file that holds each pair of markers."""
  benchmarks = root / "benchmarks" / "README.md"
  return {"performance": benchmarks, "compiled": benchmarks, "speed": root / "README.md"}


def page_texts(
  files: Mapping[str, Sequence[Record]], only_headlines: bool, with_papers: bool
) -> dict[str, str]:
  """Returns the text for each pair of markers, "" if no file has anything for it.

  Args:
    files: records by the name of their file.
    only_headlines: whether to leave out measured cases that are not headline cases.
    with_papers: whether to add the times that the papers publish.
  """
  compiled = {name: found for name, found in files.items() if all(r["benchmark"] == "tpu" for r in found)}
  measured = {name: found for name, found in files.items() if name not in compiled}
  parts = [section(name, headlines(found) if only_headlines else found) for name, found in measured.items()]
  if with_papers:
    parts.append(papers([record for found in files.values() for record in found]))
  speed = [text for found in measured.values() if (text := speed_table.measured(found))]
  merged = [record for found in compiled.values() for record in found]
  speed += [speed_table.compiled(merged)] * bool(merged)
  texts = {
    "performance": parts,
    "compiled": [tpu_table.section(list(compiled), merged)] * bool(merged),
    "speed": speed,
  }
  return {name: "\n\n".join(own) for name, own in texts.items()}


def main(arguments: Sequence[str] | None = None) -> int:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("results", type=pathlib.Path, nargs="+")
  flags.add_argument("--papers", action="store_true", help="add the times of the papers")
  flags.add_argument("--write", action="store_true", help="write the tables into both READMEs")
  parsed = flags.parse_args(arguments)
  try:
    files = {}
    for path in parsed.results:
      absolute = path.resolve()
      inside = absolute.is_relative_to(machine.ROOT)
      files[str(absolute.relative_to(machine.ROOT)) if inside else path.name] = records.read(path)
    texts, places = page_texts(files, parsed.write, parsed.papers), pages(machine.ROOT)
    for name, text in texts.items():
      if parsed.write and text:
        write(places[name], text, name)
      elif text and name != "speed":
        print(text)
  except BadRecords as error:
    print(error, file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
