"""The schema of benchmark results: JSON lines, one record for each case and implementation (see README.md)."""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

SCHEMA = 1
STATUSES = ("ok", "compiled", "missing", "mismatch", "failed")
# Field -> types. Every record has every field.
FIELDS: dict[str, tuple[type, ...]] = {
  "schema": (int,),
  "benchmark": (str,),
  "case": (str,),
  "implementation": (str,),
  "status": (str,),
  "reason": (str, type(None)),
  "quick": (bool,),
  "settings": (dict,),
  "dtype": (str,),
  "matmul_precision": (str,),
  "seconds": (dict, type(None)),
  "lower_seconds": (float, type(None)),
  "compile_seconds": (float, type(None)),
  "first_call_seconds": (float, type(None)),
  "work": (dict,),
  "rates": (dict,),
  "shares": (dict,),
  "memory": (dict, type(None)),
  "agreement": (dict, type(None)),
  "environment": (dict,),
  "ceilings": (dict,),
  "compiled": (dict, type(None)),
}
STATISTICS = ("median", "p10", "p90", "mad", "min", "mean", "runs", "calls_per_run")

Record = dict[str, Any]


class BadRecords(Exception):
  """A file of results cannot be used; the message gives file, line and field."""


def statistics(seconds: Sequence[float], calls_per_run: int = 1) -> dict[str, float | int]:
  """Returns median and spread of runs; each entry of `seconds` is the time of a run divided by its calls."""
  values = np.asarray(seconds, np.float64)
  median = float(np.median(values))
  return {
    "median": median,
    "p10": float(np.percentile(values, 10)),
    "p90": float(np.percentile(values, 90)),
    "mad": float(np.median(np.abs(values - median))),
    "min": float(values.min()),
    "mean": float(values.mean()),
    "runs": len(values),
    "calls_per_run": calls_per_run,
  }


def key(record: Mapping[str, Any]) -> tuple[str, str, str]:
  """Returns the key that identifies a measurement across files."""
  return record["benchmark"], record["case"], record["implementation"]


def check(record: Mapping[str, Any], where: str) -> None:
  """Checks a record against the schema.

  Raises:
    BadRecords: a field is missing, unknown or of another type, or the record contradicts itself.
  """
  if not isinstance(record, Mapping):
    raise BadRecords(f"{where}: not a JSON object")
  if record.get("schema") != SCHEMA:
    raise BadRecords(f"{where}: schema {record.get('schema')}, this reader knows {SCHEMA}")
  for name in sorted({*FIELDS, *record}):
    if name not in FIELDS:
      raise BadRecords(f"{where}: unknown field '{name}'")
    if name not in record:
      raise BadRecords(f"{where}: field '{name}' is missing")
    if not isinstance(record[name], FIELDS[name]):
      raise BadRecords(f"{where}: field '{name}' is {type(record[name]).__name__}")
  if record["status"] not in STATUSES:
    raise BadRecords(f"{where}: status '{record['status']}' is not one of {', '.join(STATUSES)}")
  if (record["status"] == "ok") != (record["seconds"] is not None):
    raise BadRecords(f"{where}: exactly the records of status ok have seconds")
  if (record["status"] == "compiled") != (record["compiled"] is not None):
    raise BadRecords(f"{where}: exactly the records of status compiled say what was compiled")
  if record["status"] not in ("ok", "compiled") and not record["reason"]:
    raise BadRecords(f"{where}: status '{record['status']}' without a reason")
  if record["seconds"] is not None:
    absent = [s for s in STATISTICS if not math.isfinite(record["seconds"].get(s, math.nan))]
    if absent:
      raise BadRecords(f"{where}: seconds lack {', '.join(absent)}")


def append(path: pathlib.Path, records: Iterable[Record]) -> None:
  """Adds records to a file, each checked first."""
  lines = []
  for record in records:
    check(record, f"new record for {path}")
    lines.append(json.dumps(record, allow_nan=False) + "\n")
  path.parent.mkdir(parents=True, exist_ok=True)
  mend(path)
  with path.open("a") as file:
    file.write("".join(lines))


def mend(path: pathlib.Path) -> None:
  """Cuts off an incomplete last line, which a process leaves if it is killed while writing."""
  if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
    with path.open("r+b") as file:
      file.truncate(text.rfind(b"\n") + 1)


def read(path: pathlib.Path) -> list[Record]:
  """Reads all records of a file, in order.

  Raises:
    BadRecords: the file does not exist, or a line does not follow the schema.
  """
  try:
    lines = path.read_text().splitlines()
  except OSError as error:
    raise BadRecords(f"{path}: {error.strerror}") from error
  records = []
  for number, line in enumerate(lines, 1):
    try:
      record = json.loads(line)
    except ValueError as error:
      raise BadRecords(f"{path}:{number}: not JSON ({error})") from error
    if isinstance(record, dict):
      record.setdefault("compiled", None)  # Files from before 2026-11-27 do not have this field.
    check(record, f"{path}:{number}")
    records.append(record)
  if not records:
    raise BadRecords(f"{path}: no records")
  return records


def latest(records: Iterable[Record]) -> dict[tuple[str, str, str], Record]:
  """Returns the last record of each measurement, in order of first appearance, since runs append to the day's file."""
  found: dict[tuple[str, str, str], Record] = {}
  for record in records:
    found[key(record)] = record
  return found


def line(record: Record) -> str:
  """Formats a record as a line of text."""
  head = f"  {record['case']:<52} {record['implementation']:<20}"
  if record["status"] != "ok":
    return f"{head} {record['status']}: {record['reason']}"
  s = record["seconds"]
  parts = [
    f"{1e3 * s['median']:10.3f} ms (p10 {1e3 * s['p10']:.3f}, p90 {1e3 * s['p90']:.3f}, {s['runs']} runs)"
  ]
  if record["compile_seconds"] is not None:
    parts.append(f"compile {record['compile_seconds']:.1f} s")
  if "matmul" in record["shares"]:
    parts.append(f"{record['shares']['matmul']:.0%} of matmul")
  if record["memory"] is not None:
    parts.append(f"{record['memory']['peak_bytes'] / 2**20:.0f} MiB")
  parts.append(f"error {record['agreement']['error']:.0e}")
  return f"{head} {', '.join(parts)}"
