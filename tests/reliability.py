"""The tables of reliability from the committed results: python -m tests.reliability [--write]

Reads benchmarks/results/reliability/: faults.json (written by `python -m tests.faults`), soak.json
(`python -m tests.soak`), hostile.json (files that are no proper inputs), versions.json (runs of the test suite) and
distributed.json (`python -m tests.distributed`). Prints the tables, or with --write replaces what stands between the
markers `<!-- reliability -->` in README.md, `<!-- trials -->` in tests/README.md and `<!-- processes -->` in
jaxfer/train/DISTRIBUTED.md. A file that is missing is named below the table.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import machine, table
from benchmarks.records import BadRecords

RESULTS = machine.ROOT / "benchmarks" / "results" / "reliability"
NAMES = ("faults", "soak", "hostile", "versions", "distributed")
PAGES = {
  "reliability": machine.ROOT / "README.md",
  "trials": machine.ROOT / "tests" / "README.md",
  "processes": machine.ROOT / "jaxfer" / "train" / "DISTRIBUTED.md",
}
# Killed command -> what must be the same at its end.
_COMMANDS = {"training": "metrics and weights", "study": "table", "preparation": "data"}
# Measure of a long run -> its name and unit in words.
_MEASURES = {
  "resident_mib": ("memory", " MiB"),
  "open_files": ("open files", ""),
  "threads": ("threads", ""),
  "arrays": ("JAX arrays", ""),
  "programs": ("programs", ""),
  "cpu_seconds": ("CPU time of a step or training", " s"),
  "compiled": ("programs compiled in it", ""),
}

Found = Mapping[str, Any]


def environment() -> dict[str, Any]:
  """What a result was found on, without anything that names this machine."""
  found = machine.environment()
  return {
    "processor": found["cpu"],
    "threads": found["threads"],
    "python": found["python"],
    "jax": found["versions"]["jax"],
    "commit": found["commit"],
    "date": found["time"][:10],
  }


def read(folder: pathlib.Path) -> dict[str, Any]:
  """The results by the name of their file, without the files that do not exist."""
  paths = {name: folder / f"{name}.json" for name in NAMES}
  return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
  """A table in Markdown."""
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def several(count: int, one: str, many: str = "") -> str:
  """A count in words: "1 file", "2,000 files"."""
  return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(words: Sequence[str]) -> str:
  """Words in a sentence: "a, b and c"."""
  return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def killed(faults: Found) -> list[list[str]]:
  """The row of the commands that were killed, and a row for each that lost its result."""
  own = {name: faults[name] for name in _COMMANDS if name in faults}
  kept = {name: values for name, values in own.items() if not values["lost"]}
  rows = []
  if kept:
    kills, inside = (
      listed([f"{values[key]:,}" for values in kept.values()]) for key in ("kills", "while writing")
    )
    same = listed([_COMMANDS[name] for name in kept])
    what, often = f"SIGKILL in a {listed(list(kept))}", f"{kills} times, {inside} of them while writing"
    rows.append([what, often, f"resumed to the same {same}, bit for bit"])
  return rows + [
    [f"SIGKILL in a {name}", "", f"**lost**: {values['outcome']}"]
    for name, values in own.items()
    if name not in kept
  ]


def inflicted(faults: Found) -> list[list[str]]:
  """The row of the other faults, and a row for each outcome of those that were not run or lost the result."""
  names: dict[str, list[str]] = {}
  for name, own in faults.items():
    if name not in _COMMANDS:
      outcome = f"**lost**: {own['outcome']}" if own["lost"] else own["outcome"]
      if not own["lost"] and not outcome.startswith("not run"):
        outcome = "reported in one line; whatever was resumed gave the same result"
      names.setdefault(outcome, []).append(name)
  return [
    [f"{listed(own)} in a training", "once each" if len(own) > 1 else "once", outcome]
    for outcome, own in names.items()
  ]


def inputs(hostile: Found) -> list[list[str]]:
  """The row of the files that are no proper inputs."""
  rows = hostile["rows"]
  total = {name: sum(row[name] for row in rows) for name in ("tried", "read", "refused", "failed")}
  failed = "no crash, hang or foreign code" if not total["failed"] else f"**{total['failed']:,} failed**"
  outcome = f"{total['refused']:,} refused in one line, {total['read']:,} read; {failed}; "
  outcome += f"at most {max(row['peak_mib'] for row in rows):,.0f} MiB"
  return [
    [f"damaged and hostile {listed([row['kind'] for row in rows])}", f"{total['tried']:,} inputs", outcome]
  ]


def span(measures: Mapping[str, Mapping[str, float]], name: str) -> str:
  """A measure of a long run in its middle and in its last third: "812 to 813 MiB"."""
  middle, last = (f"{measures[name][part]:,.4g}" for part in ("middle", "last"))
  return f"{middle} to {last}{_MEASURES[name][1]}"


def allowed(values: Mapping[str, float]) -> str:
  """By how much a measure may grow: "2 %"."""
  return f"{100 * values['allowed']:.0f} %"


def long_runs(soak: Found) -> list[list[str]]:
  """A row for each long run."""
  rows = []
  for name, unit in (("training", "step"), ("study", "training")):
    if name not in soak:
      continue
    measures, samples = soak[name]["measures"], soak[name]["samples"]
    minutes = (samples["seconds"][-1] - samples["seconds"][0]) / 60
    grown = [_MEASURES[measure][0] for measure, values in measures.items() if values["grows"]]
    outcome = f"**grows**: {listed(grown)}" if grown else "steady"
    outcome += f": memory {span(measures, 'resident_mib')}, CPU time {span(measures, 'cpu_seconds')} a {unit}"
    rows.append(
      [
        f"a long {name}",
        f"{several(soak[name]['done'], unit)} in {several(round(minutes), 'minute')}",
        outcome,
      ]
    )
  return rows


def tested(versions: Found) -> list[list[str]]:
  """The row of the versions of Python and JAX."""
  rows = versions["rows"]
  of_python: dict[str, list[str]] = {}
  for row in sorted(rows, key=lambda row: [int(part) for part in f"{row['python']}.{row['jax']}".split(".")]):
    own = of_python.setdefault(".".join(row["python"].split(".")[:2]), [])
    if row["jax"] not in own:
      own.append(row["jax"])
  pairs = "; ".join(f"Python {python} with JAX {listed(jax)}" for python, jax in of_python.items())
  failed = sum(row["failed"] for row in rows)
  passed = f"{sum(row['passed'] for row in rows):,} passed"
  outcome = f"**{failed:,} failed**, {passed}" if failed else f"{passed}, none failed"
  return [[f"the tests: {pairs}", several(len(rows), "run"), outcome]]


def taken_away(distributed: Found) -> list[list[str]]:
  """The row of the trainings on several processes that lost one."""
  rows = distributed["faults"]
  counts = listed(sorted({str(row["processes"]) for row in rows}))
  signals = " or ".join(sorted({row["signal"] for row in rows}))
  slowest = max(end["seconds"] for row in rows for end in row["ends"])
  outcome = f"the others ended within {slowest:.0f} s and named it; resumed to the same numbers to 1e-5"
  if failed := sum(row["lost"] for row in rows):
    outcome = f"**lost** {several(failed, 'time')}"
  return [[f"{signals} to one of {counts} processes", several(len(rows), "time"), outcome]]


def lost(results: Found) -> str:
  """What was lost in all trials, in words."""
  faults = results.get("faults", {"faults": {}})["faults"].values()
  several_processes = results.get("distributed", {"systems": [], "faults": []})
  trainings = [*several_processes["systems"], *several_processes["faults"]]
  counts = [
    (sum(own["lost"] for own in [*faults, *trainings]), "result lost", "results lost"),
    (
      sum(row["failed"] for row in results.get("hostile", {"rows": []})["rows"]),
      "input failed",
      "inputs failed",
    ),
    (
      sum(row["failed"] for row in results.get("versions", {"rows": []})["rows"]),
      "test failed",
      "tests failed",
    ),
  ]
  found = [several(count, one, many) for count, one, many in counts if count]
  return f"**{listed(found)}**" if found else "**nothing**"


def missing(results: Found) -> str:
  """The files that are missing, in words; "" if there are all."""
  names = [f"`{name}.json`" for name in NAMES if name not in results]
  return f"Without results so far: {listed(names)}." if names else ""


def summary(results: Found) -> str:
  """The table of the top README."""
  rows = []
  if "faults" in results:
    rows += [*killed(results["faults"]["faults"]), *inflicted(results["faults"]["faults"])]
  for name, part in (
    ("distributed", taken_away),
    ("hostile", inputs),
    ("soak", long_runs),
    ("versions", tested),
  ):
    rows += part(results[name]) if name in results else []
  if rows:
    rows.append(["lost in all of these", "", lost(results)])
  text = markdown(["trial", "how much", "outcome"], rows) if rows else ""
  return "\n\n".join(part for part in (text, missing(results)) if part)


def origin(found: Found) -> str:
  """What a file's trials ran on."""
  where = found["environment"]
  return (
    f"{where['processor']}, {several(where['threads'], 'CPU thread')}, Python {where['python']}, JAX {where['jax']}, "
    f"commit {where['commit'][:12]}, {where['date']}"
  )


def details(results: Found) -> str:
  """The tables of tests/README.md."""
  parts = []
  if "faults" in results:
    faults = results["faults"]
    ends = sum(own.get("ends", 0) for own in faults["faults"].values())
    text = f"The killed commands came to their end {several(ends, 'time')}. All took {faults['seconds']:,} seconds."
    parts.append(f"**Faults** ({origin(faults)}). {text}")
    columns = ("kills", "while writing", "ends", "outcome", "lost")
    rows = [[name, *(own.get(column, "") for column in columns)] for name, own in faults["faults"].items()]
    parts.append(markdown(["fault", *columns], rows))
  if "soak" in results:
    soak = results["soak"]
    runs = [name for name in ("training", "study") if name in soak]
    rows = [
      [
        words,
        *(span(soak[name]["measures"], measure) for name in runs),
        allowed(soak[runs[0]]["measures"][measure]),
      ]
      for measure, (words, _) in _MEASURES.items()
    ]
    parts.append(f"**Long runs** ({origin(soak)}), from the middle third to the last:")
    parts.append(markdown(["measure", *runs, "may grow by"], rows))
  if "hostile" in results:
    columns = ("kind", "tried", "read", "refused", "failed", "peak_mib", "slowest_seconds")
    rows = [
      [value if isinstance(value, str) else f"{value:,}" for value in (row[column] for column in columns)]
      for row in results["hostile"]["rows"]
    ]
    parts.append("**Damaged and hostile inputs**:")
    parts.append(markdown(["kind", "tried", "read", "refused", "failed", "peak MiB", "slowest, s"], rows))
  if "versions" in results:
    columns = ("python", "jax", "suite", "passed", "failed", "skipped", "date", "machine")
    parts.append("**Versions**:")
    parts.append(
      markdown(columns, [[row[column] for column in columns] for row in results["versions"]["rows"]])
    )
  return "\n\n".join([*parts, *([note] if (note := missing(results)) else [])])


def processes(results: Found) -> str:
  """The tables of DISTRIBUTED.md."""
  if "distributed" not in results:
    return missing(results)
  own = results["distributed"]
  parts = [
    f"`python -m tests.distributed --out FOLDER` trains small systems on one, two and four processes of one machine "
    f"({origin(own)}). A metric of each epoch, side by side:"
  ]
  counts = list(own["systems"][0]["metrics"][0]["values"])
  rows = [
    [
      system["kind"],
      " ".join(str(line[key]) for key in ("member", "stage") if key in line),
      line["epoch"],
      line["split"],
      *(f"{line['values'][count]:.7g}" for count in counts),
    ]
    for system in own["systems"]
    for line in system["metrics"]
  ]
  parts.append(
    markdown(
      [
        "system",
        "stage",
        "epoch",
        "data",
        *(several(int(count), "process", "processes") for count in counts),
      ],
      rows,
    )
  )
  parts.append(
    "The largest difference of any metric or weight from those of one process, relative to the larger of 1 and its "
    "size (of an array: to its largest value):"
  )
  parts.append(
    markdown(
      ["system", *(f"{count} processes" for count in counts[1:])],
      [
        [row["kind"], *(f"{row['differences'][count]:.1e}" for count in counts[1:])] for row in own["systems"]
      ],
    )
  )
  parts.append(
    f"A training on several processes loses one of them in its fifth epoch, with `--heartbeat {own['heartbeat']}`. "
    "Each of the others ends after the given time. `--resume` then continues on one process. The difference is that "
    "from a training on one process that nothing disturbed:"
  )
  parts.append(
    markdown(
      ["signal", "process", "others end after", "exit codes", "difference"],
      [
        [
          row["signal"],
          f"{row['process']} of {row['processes']}",
          ", ".join(f"{end['seconds']} s" for end in row["ends"]),
          ", ".join(str(end["code"]) for end in row["ends"]),
          f"{row['difference']:.1e}",
        ]
        for row in own["faults"]
      ],
    )
  )
  parts.append("What they print, where HOST is the name of the machine:")
  parts.append("\n".join(["```", *(end["says"] for row in own["faults"] for end in row["ends"]), "```"]))
  return "\n\n".join(parts)


def texts(folder: pathlib.Path = RESULTS) -> dict[str, str]:
  """The text for each pair of markers."""
  results = read(folder)
  return {"reliability": summary(results), "trials": details(results), "processes": processes(results)}


def main(arguments: Sequence[str] | None = None) -> int:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--write", action="store_true", help="write the tables into both pages")
  parsed = flags.parse_args(arguments)
  for name, text in texts().items():
    if parsed.write:
      try:
        table.write(PAGES[name], text, name)
      except BadRecords as error:
        print(error, file=sys.stderr)
        return 2
    else:
      print(text, end="\n\n")
  return 0


if __name__ == "__main__":
  sys.exit(main())
