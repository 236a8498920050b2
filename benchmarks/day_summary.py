"""The summary of a device day as text: finished, unfinished and failed parts, and ratios to peers."""

import collections
import pathlib
from collections.abc import Iterable, Sequence

from benchmarks import on_file, records
from benchmarks.day_plan import Part, State


def text(parts: Sequence[Part], state: State, results: pathlib.Path, notes: Iterable[str]) -> str:
  """Returns the summary for a terminal.

  Args:
    parts: parts of the day.
    state: state of the day.
    results: the results file; it need not exist yet.
    notes: further lines.
  """
  rows = list(on_file.of_run(results, state.run).values())
  entries = [(part, state.of(part)) for part in parts]
  left = [part.name for part, _ in entries if state.open(part)]
  minutes = sum(entry["seconds"] for _, entry in entries) / 60
  lines = [
    f"Device day on {state.run['device']}, commit {state.run['commit'][:12]}{', quick' if state.run['quick'] else ''}: "
    f"{state.slices} slices, {minutes:.1f} minutes",
    *notes,
    "",
    *(f"  {part.name:<24}{entry['status']:<9}{entry['seconds'] / 60:6.1f} of {part.minutes:g} min"
      for part, entry in entries),
    "",
    f"Left: {', '.join(left) or 'nothing'}",
    "",
    *_counts(rows),
    *_failures(rows, entries),
    *_ratios(rows),
  ]  # fmt: skip
  return "\n".join(lines) + "\n"


def _counts(rows: Sequence[records.Record]) -> list[str]:
  by_benchmark: dict[str, list[records.Record]] = {}
  for row in rows:
    by_benchmark.setdefault(row["benchmark"], []).append(row)
  lines = []
  for benchmark, own in by_benchmark.items():
    counts = collections.Counter(row["status"] for row in own)
    said = ", ".join(f"{counts[status]} {status}" for status in records.STATUSES if counts[status])
    lines.append(f"  {benchmark:<14}{len({row['case'] for row in own}):4d} cases: {said}")
  return ["On record:", *(lines or ["  nothing"])]


def _failures(rows: Sequence[records.Record], entries) -> list[str]:
  lines = [f"  {part.name}: {entry['reason']}" for part, entry in entries if entry["status"] == "failed"]
  lines += [
    f"  {row['benchmark']} {row['case']} {row['implementation']} {row['status']}: {row['reason']}"
    for row in rows
    if row["status"] in ("mismatch", "failed")
  ]
  return ["", "Failures:", *lines] if lines else ["", "No failures."]


def _ratios(rows: Sequence[records.Record]) -> list[str]:
  """Returns our time and those of all peers of the same case; 2.0x means that a peer takes twice our time."""
  cases: dict[tuple[str, str], dict[str, float]] = {}
  for row in rows:
    if row["status"] == "ok":
      cases.setdefault((row["benchmark"], row["case"]), {})[row["implementation"]] = row["seconds"]["median"]
  lines = []
  for (benchmark, case), times in cases.items():
    peers = {name: seconds for name, seconds in times.items() if not name.startswith("jaxfer")}
    if "jaxfer" in times and peers:
      ours = times["jaxfer"]
      beside = ", ".join(f"{name} {seconds / ours:.2f}x" for name, seconds in peers.items())
      lines.append(f"  {benchmark} {case}: {1e3 * ours:.3f} ms; {beside}")
  return ["", "Time of ours, and of the peers by ours:", *lines] if lines else []
