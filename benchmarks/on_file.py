"""What a results file already holds, so that `--continue` measures only the rest."""

import argparse
import pathlib
from collections.abc import Mapping
from typing import Any

from benchmarks import machine, records

_NOT_ASKED_FOR = "not asked for: --peers"


def not_asked_for(peers: str | None) -> str:
  """The reason in the record of a peer that `--peers` leaves out."""
  return f"{_NOT_ASKED_FOR} {peers}"


def find(
  path: pathlib.Path, benchmark: str, environment: Mapping[str, Any], arguments: argparse.Namespace
) -> dict[tuple[str, str], records.Record]:
  """The records of a benchmark that need not be measured again, by case and implementation.

  They are those of the same device, commit, JAX version, precision and `--quick`. Of several with the same name the
  last holds. A peer that was left out is measured when it is asked for.

  Args:
    path: the results file; it need not exist.
    benchmark: the benchmark's name.
    environment: of this process (`machine.environment`).
    arguments: `peers`, `precision` and `quick` of this process.
  """
  records.mend(path)
  if not path.exists() or not path.stat().st_size:
    return {}
  here = _run(environment, arguments.quick, arguments.precision)
  return {
    (record["case"], record["implementation"]): record
    for record in records.read(path)
    if record["benchmark"] == benchmark
    and _run(record["environment"], record["quick"], record["matmul_precision"]) == here
    and (
      record["reason"] == not_asked_for(arguments.peers)
      or not (record["reason"] or "").startswith(_NOT_ASKED_FOR)
    )
  }


def _run(environment: Mapping[str, Any], quick: bool, precision: str) -> tuple[Any, ...]:
  return machine.slug(environment), environment["commit"], quick, precision
