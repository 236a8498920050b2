"""Finds measurements in a results file, so that `--continue` measures only the rest."""

import argparse
import pathlib
from collections.abc import Mapping
from typing import Any

from benchmarks import machine, records

_NOT_ASKED_FOR = "not asked for: --peers"


def not_asked_for(peers: str | None) -> str:
  """Returns the reason in the record of a peer that `--peers` leaves out."""
  return f"{_NOT_ASKED_FOR} {peers}"


def find(
  path: pathlib.Path, benchmark: str, environment: Mapping[str, Any], arguments: argparse.Namespace
) -> dict[tuple[str, str], records.Record]:
  """Returns the records of a benchmark that need not be measured again, by case and implementation.

  They have the same device, commit, JAX version, precision and `--quick`. Among several with the same name, the last
  one counts. A peer that was left out is measured once it is requested.

  Args:
    path: the results file; it need not exist.
    benchmark: name of the benchmark.
    environment: environment of this process (`machine.environment`).
    arguments: `peers`, `precision` and `quick` of this process.
  """
  run = run_of(environment, arguments.quick)
  return {
    (record["case"], record["implementation"]): record
    for record in of_run(path, run, not_asked_for(arguments.peers)).values()
    if record["benchmark"] == benchmark and record["matmul_precision"] == arguments.precision
  }


def run_of(environment: Mapping[str, Any], quick: bool) -> dict[str, Any]:
  """Returns the properties that two measurements of one run share: "device" (and JAX), "commit", "quick"."""
  return {"device": machine.slug(environment), "commit": environment["commit"], "quick": quick}


def of_run(
  path: pathlib.Path, run: Mapping[str, Any], left_out: str | None = None
) -> dict[tuple[str, str, str], records.Record]:
  """Returns the last record of each measurement of a run (`run_of`), without peers that were not requested.

  Args:
    path: the results file; it need not exist.
    run: properties of the run from `run_of`.
    left_out: reason of peers that were not requested but still belong to the run.
  """
  records.mend(path)
  if not path.exists() or not path.stat().st_size:
    return {}
  return records.latest(
    record
    for record in records.read(path)
    if run_of(record["environment"], record["quick"]) == run
    and (record["reason"] == left_out or not (record["reason"] or "").startswith(_NOT_ASKED_FOR))
  )
