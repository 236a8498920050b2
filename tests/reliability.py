"""Makes the tables of reliability from the committed results.

  python -m tests.reliability [--write]

Reads five files in benchmarks/results/reliability/, which `python -m tests.NAME` writes: faults.json, soak.json,
hostile.json, versions.json and distributed.json. Prints the tables. With --write, they replace the text between the
markers `<!-- reliability -->` in README.md, `<!-- trials -->` in tests/README.md and `<!-- processes -->` in
jaxfer/train/DISTRIBUTED.md. Missing files are named below the tables.
"""

import argparse
import json
import math
import pathlib
import re
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
# What must be the same at the end of each killed command.
_COMMANDS = {"training": "metrics and weights", "study": "table", "preparation": "contents of the data"}
# Name and unit of each measure of a long run.
_MEASURES = {
  "resident_mib": ("memory", " MiB"),
  "open_files": ("open files", ""),
  "threads": ("threads", ""),
  "arrays": ("JAX arrays", ""),
  "programs": ("programs", ""),
  "cpu_seconds": ("CPU time per step or training", " s"),
  "compiled": ("programs compiled per step or training", ""),
}

Found = Mapping[str, Any]


def environment() -> dict[str, Any]:
  """Returns what a trial ran on, without anything that identifies this machine."""
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
  """Returns the contents of the result files by name. Files that do not exist are left out."""
  paths = {name: folder / f"{name}.json" for name in NAMES}
  return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
  """Formats a table in Markdown."""
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def several(count: int, one: str, many: str = "") -> str:
  """Formats a count: "1 file", "2,000 files"."""
  return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(words: Sequence[str]) -> str:
  """Joins words for a sentence: "a, b and c"."""
  return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def killed(faults: Found) -> list[list[str]]:
  """Returns one row for all killed commands that kept their results, and one for each that lost its result."""
  own = {name: faults[name] for name in _COMMANDS if name in faults}
  kept = {name: values for name, values in own.items() if not values["lost"]}
  rows = []
  if kept:
    kills, inside = (
      listed([f"{values[key]:,}" for values in kept.values()]) for key in ("kills", "while writing")
    )
    same = "; ".join([_COMMANDS[name] for name in kept])
    what, often = f"SIGKILL in a {listed(list(kept))}", f"{kills} kills, {inside} of them while writing"
    rows.append([what, often, f"resumed to the same results ({same}), bit for bit"])
  return rows + [
    [f"SIGKILL in a {name}", "", f"**lost**: {values['outcome']}"]
    for name, values in own.items()
    if name not in kept
  ]


def inflicted(faults: Found) -> list[list[str]]:
  """Returns one row for all other faults that were survived, and one for each outcome of the others."""
  names: dict[str, list[str]] = {}
  for name, own in faults.items():
    if name not in _COMMANDS:
      outcome = f"**lost**: {own['outcome']}" if own["lost"] else own["outcome"]
      if not own["lost"] and not outcome.startswith("not run"):
        outcome = "reported in one line; all resumed trainings gave the same result"
      names.setdefault(outcome, []).append(name)
  return [
    [f"{listed(own)} in a training", "once each" if len(own) > 1 else "once", outcome]
    for outcome, own in names.items()
  ]


def inputs(hostile: Found) -> list[list[str]]:
  """Returns the row of the damaged and hostile inputs."""
  rows = hostile["rows"]
  total = {name: sum(row[name] for row in rows) for name in ("tried", "read", "refused", "failed")}
  failed = "none crashed, hung or ran code" if not total["failed"] else f"**{total['failed']:,} failed**"
  outcome = f"{total['refused']:,} refused in one line, {total['read']:,} read; {failed}; "
  outcome += f"memory grew by at most {max(row['peak_mib'] for row in rows):,.0f} MiB"
  # A comma within a name would look like the end of it.
  kinds = [re.sub(", (.+)", r" (\1)", row["kind"]) for row in rows]
  return [[f"damaged and hostile inputs: {listed(kinds)}", f"{total['tried']:,} inputs", outcome]]


def span(measures: Mapping[str, Mapping[str, float]], name: str) -> str:
  """Formats a measure in the middle third and in the last third of a long run: "812 to 813 MiB"."""
  middle, last = (f"{measures[name][part]:,.4g}" for part in ("middle", "last"))
  return f"{middle} to {last}{_MEASURES[name][1]}"


def allowed(values: Mapping[str, float]) -> str:
  """Formats the share by which a measure may grow: "2 %"."""
  return f"{100 * values['allowed']:.0f} %"


def long_runs(soak: Found) -> list[list[str]]:
  """Returns one row for each long run."""
  rows = []
  for name, unit in (("training", "step"), ("study", "training")):
    if name not in soak:
      continue
    measures, samples = soak[name]["measures"], soak[name]["samples"]
    minutes = (samples["seconds"][-1] - samples["seconds"][0]) / 60
    grown = [_MEASURES[measure][0] for measure, values in measures.items() if values["grows"]]
    outcome = f"**grows**: {listed(grown)}" if grown else "steady"
    outcome += (
      f": memory {span(measures, 'resident_mib')}, CPU time {span(measures, 'cpu_seconds')} per {unit}"
    )
    rows.append(
      [
        f"a long {name}",
        f"{several(soak[name]['done'], unit)} in {several(round(minutes), 'minute')}",
        outcome,
      ]
    )
  return rows


def tested(versions: Found) -> list[list[str]]:
  """Returns the row of the test suite with several versions of Python and JAX."""
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
  return [[f"the test suite: {pairs}", several(len(rows), "run"), outcome]]


def taken_away(distributed: Found) -> list[list[str]]:
  """Returns the row of the trainings on several processes that lost one."""
  rows = distributed["faults"]
  counts = " or ".join(sorted({str(row["processes"]) for row in rows}))
  signals = " or ".join(sorted({row["signal"] for row in rows}))
  slowest = math.ceil(max(end["seconds"] for row in rows for end in row["ends"]))
  outcome = f"the others ended within {slowest} s and named it; resumed to the same numbers to 1e-5"
  if failed := sum(row["lost"] for row in rows):
    outcome = f"**lost** {several(failed, 'time')}"
  return [[f"{signals} to one of {counts} processes", several(len(rows), "time"), outcome]]


def lost(results: Found) -> str:
  """Returns how much was lost in all trials, in words."""
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
  """Returns a sentence that names the missing files, or "" if no file is missing."""
  names = [f"`{name}.json`" for name in NAMES if name not in results]
  return f"Results still missing: {listed(names)}." if names else ""


def summary(results: Found) -> str:
  """Returns the table of the top README."""
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
    rows.append(["lost in all trials", "", lost(results)])
  text = markdown(["trial", "how much", "outcome"], rows) if rows else ""
  return "\n\n".join(part for part in (text, missing(results)) if part)


def origin(found: Found) -> str:
  """Returns what the trials of a file ran on, in words."""
  where = found["environment"]
  return (
    f"{where['processor']}, {several(where['threads'], 'CPU thread')}, Python {where['python']}, JAX {where['jax']}, "
    f"commit {where['commit'][:12]}, {where['date']}"
  )


def details(results: Found) -> str:
  """Returns the tables of tests/README.md."""
  parts = []
  if "faults" in results:
    faults = results["faults"]
    ends = sum(own.get("ends", 0) for own in faults["faults"].values())
    text = f"The killed commands reached their end {several(ends, 'time')}. All trials took {faults['seconds']:,} s."
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
    parts.append(f"**Long runs** ({origin(soak)}). Each measure is given for the middle third and the last:")
    parts.append(markdown(["measure", *runs, "allowed growth"], rows))
  if "hostile" in results:
    columns = ("kind", "tried", "read", "refused", "failed", "peak_mib", "slowest_seconds")
    rows = [
      [value if isinstance(value, str) else f"{value:,}" for value in (row[column] for column in columns)]
      for row in results["hostile"]["rows"]
    ]
    parts.append("**Damaged and hostile inputs**:")
    parts.append(
      markdown(["kind", "tried", "read", "refused", "failed", "memory growth, MiB", "slowest input, s"], rows)
    )
  if "versions" in results:
    columns = ("python", "jax", "suite", "passed", "failed", "skipped", "date", "machine")
    parts.append("**Versions**:")
    parts.append(
      markdown(columns, [[row[column] for column in columns] for row in results["versions"]["rows"]])
    )
  return "\n\n".join([*parts, *([note] if (note := missing(results)) else [])])


def side_by_side(distributed: Found) -> str:
  """Returns the tables of the trainings on one and on several processes."""
  systems = distributed["systems"]
  counts = list(systems[0]["metrics"][0]["values"])
  metrics = [
    [
      system["kind"],
      " ".join(line[key] for key in ("member", "stage") if key in line),
      line["epoch"],
      f"{line['split']} {line['metric']}",
      *(f"{line['values'][count]:.7g}" for count in counts),
    ]
    for system in systems
    for line in system["metrics"]
  ]
  differences = [
    [row["kind"], *(f"{row['differences'][count]:.1e}" for count in counts[1:])] for row in systems
  ]
  columns = [several(int(count), "process", "processes") for count in counts]
  return "\n\n".join(
    [
      "The last metric of each line of the log:",
      markdown(["system", "stage", "epoch", "metric", *columns], metrics),
      "The largest difference from one process, over all metrics and weights. It is relative to the larger of 1 and "
      "the size of the metric, or the largest value of the weight array:",
      markdown(["system", *columns[1:]], differences),
    ]
  )


def interruptions(distributed: Found) -> str:
  """Returns the table of the trainings that lost a process, and the messages of the other processes."""
  faults = distributed["faults"]
  rows = [
    [
      row["signal"],
      f"{row['process']} of {row['processes']}",
      ", ".join(f"{end['seconds']} s" for end in row["ends"]),
      ", ".join(str(end["code"] if end["code"] >= 0 else 128 - end["code"]) for end in row["ends"]),
      f"{row['difference']:.1e}",
    ]
    for row in faults
  ]
  return "\n\n".join(
    [
      f"Next, a training loses one of its processes in the fifth epoch, with `--heartbeat {distributed['heartbeat']}`. "
      "The other processes end after the times in the table, and `--resume` continues on one process. The difference "
      "is that from a training on one process that was never interrupted:",
      markdown(["signal", "to process (from 0)", "the others end after", "exit codes", "difference"], rows),
      "The other processes print these lines, where HOST stands for the name of the machine:",
      "\n".join(["```", *(end["says"] for row in faults for end in row["ends"]), "```"]),
    ]
  )


def processes(results: Found) -> str:
  """Returns the tables of DISTRIBUTED.md."""
  if "distributed" not in results:
    return missing(results)
  own = results["distributed"]
  first = (
    "`python -m tests.distributed --out FOLDER` trains small systems on one, two and four processes of one machine "
    f"({origin(own)})."
  )
  return "\n\n".join([first, side_by_side(own), interruptions(own)])


def texts(folder: pathlib.Path = RESULTS) -> dict[str, str]:
  """Returns the text for each pair of markers."""
  results = read(folder)
  return {"reliability": summary(results), "trials": details(results), "processes": processes(results)}


def main(arguments: Sequence[str] | None = None) -> int:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--write", action="store_true", help="write the tables to the pages")
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
