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
  """A file of results that cannot be used: one line with file, line and field."""


def statistics(seconds: Sequence[float], calls_per_run: int = 1) -> dict[str, float | int]:
  """Median and spread of runs; each entry of `seconds` is a run's time divided by its calls."""
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
  """What identifies a measurement across files."""
  return record["benchmark"], record["case"], record["implementation"]


def check(record: Mapping[str, Any], where: str) -> None:
  """Holds a record to the schema.

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
    raise BadRecords(f"{where}: status '{record['status']}' is none of {', '.join(STATUSES)}")
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
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("a") as file:
    for record in records:
      check(record, f"new record for {path}")
      file.write(json.dumps(record, allow_nan=False) + "\n")


def read(path: pathlib.Path) -> list[Record]:
  """All records of a file, in order.

  Raises:
    BadRecords: the file is not there, or a line is not of the schema.
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
      record.setdefault("compiled", None)  # Files of before 2026-11-27 know of no such programs.
    check(record, f"{path}:{number}")
    records.append(record)
  if not records:
    raise BadRecords(f"{path}: no records")
  return records


def latest(records: Iterable[Record]) -> dict[tuple[str, str, str], Record]:
  """The last record of each measurement, in order of first appearance: runs append to the day's file."""
  found: dict[tuple[str, str, str], Record] = {}
  for record in records:
    found[key(record)] = record
  return found
