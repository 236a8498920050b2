"""Estimates the cost of our programs on a TPU: compiled by the real compiler on a machine without a TPU, not run.

Ours and a peer are compiled for the same chip, with the same dtypes, matmul precision and outputs. For each, the script
reports cycles by XLA's model, cycles by its static schedule, HBM bytes, memory, compile time, the share of the matrix
unit's peak, and the most expensive operations. `tpu_cost` has the rules, and README.md explains the figures.

It needs libtpu in a separate environment, because libtpu takes over the default platform:

  python3.11 -m venv .venv-tpu && .venv-tpu/bin/pip install -e ".[tpu-compile]" -c constraints.txt
  .venv-tpu/bin/python -m benchmarks.tpu
"""

import argparse
import dataclasses
import datetime
import functools
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import tpu_compile  # isort: skip  Before JAX, because it configures JAX's devices.

import jax

from benchmarks import harness, machine, records, tpu_cases, tpu_cost, tpu_hlo
from benchmarks.tpu_cases import Case, Program


def environment(topology: str) -> dict[str, Any]:
  """Returns the environment for a record: the machine that compiled, and the device for which it compiled."""
  devices = tpu_compile.devices(topology)
  found = machine.environment()
  return {
    **found,
    "platform": "tpu",
    "device_kind": devices[0].device_kind,
    "device_count": len(devices),
    "platform_version": f"libtpu {tpu_compile.version()}, no device",
    "topology": topology,
    "versions": {**found["versions"], "libtpu": tpu_compile.version()},
  }


def chip(topology: str) -> tpu_cost.Chip:
  """Returns the chip of a topology."""
  return tpu_cost.CHIPS[topology.split(":")[0]]


def ceilings(chip: tpu_cost.Chip) -> dict[str, Any]:
  """Returns the peak rates for a record, which are published, not measured."""
  matmul = {"float32": chip.matmul, "bfloat16": chip.matmul}
  return {"matmul": matmul, "copy": chip.bandwidth, "clock": chip.clock, "hbm_bytes": chip.hbm}


def compile_one(case: Case, program: Program) -> tuple[tpu_compile.Compiled, tpu_hlo.Module, tpu_cost.Cost]:
  """Compiles one program and computes its cost."""
  lower = functools.partial(program.lower, tpu_compile.devices(case.topology))
  compiled = tpu_compile.compile_program(lower, case.topology)
  module = tpu_hlo.Module(compiled.text)
  return compiled, module, tpu_cost.cost(module, compiled.schedules, chip(case.topology))


def measure(case: Case, name: str, quick: bool) -> records.Record:
  """Returns the record of one implementation of a case."""
  made: records.Record = {
    "schema": records.SCHEMA,
    "benchmark": "tpu",
    "case": case.name,
    "implementation": name,
    "status": "failed",
    "reason": None,
    "quick": quick,
    "settings": dict(case.settings),
    "dtype": case.dtype,
    "matmul_precision": "default",
    **dict.fromkeys(("seconds", "lower_seconds", "compile_seconds", "first_call_seconds", "memory")),
    "work": {"samples": case.samples},
    "rates": {},
    "shares": {},
    "agreement": None,
    "environment": environment(case.topology),
    "ceilings": ceilings(chip(case.topology)),
    "compiled": None,
  }
  try:
    compiled, module, cost = compile_one(case, case.programs[name])
  except (jax.errors.JaxRuntimeError, tpu_hlo.Unreadable) as failure:
    made["reason"] = f"{type(failure).__name__}: {str(failure).splitlines()[0][:300]}"
    return made
  facts = dataclasses.asdict(cost)
  facts |= {"donated": module.alias, "products": module.products()}
  made |= {"status": "compiled", "compiled": facts, "memory": compiled.memory}
  made |= {"lower_seconds": compiled.lower_seconds, "compile_seconds": compiled.compile_seconds}
  if case.flops is not None:
    made["work"]["flops"] = case.flops()
  made["shares"] = shares(case.topology, cost, made["work"].get("flops"))
  return made


def measure_largest(make: Callable[[int], Case], batches: Sequence[int]) -> records.Record:
  """Returns our program's record at the largest batch that should fit by a line through two others, as a check."""
  points = []
  for batch in batches:
    record = measure(make(batch), "jaxfer", False)
    if record["status"] != "compiled":
      return record
    points.append((batch, record["memory"]["peak_bytes"]))
  batch, slope = tpu_cost.largest_batch(points, chip(make(batches[0]).topology).hbm)
  record = measure(make(batch), "jaxfer", False)
  if record["compiled"] is not None:
    record["compiled"]["largest_batch"] = {"batch": batch, "bytes_per_sample": slope, "points": points}
  return record


def shares(topology: str, cost: tpu_cost.Cost, flops: float | None) -> dict[str, float]:
  """Returns shares of the cycles by XLA's model: "matmul" at the matrix unit's peak, "hbm" at the bandwidth."""
  at = chip(topology)
  found = {"hbm": cost.hbm_bytes / at.bandwidth * at.clock / cost.cycles}
  if flops is not None:
    found["matmul"] = flops / len(tpu_compile.devices(topology)) / at.matmul * at.clock / cost.cycles
  return found


def line(record: records.Record) -> str:
  """Formats a record as a line of text."""
  head = f"  {record['case']:<72} {record['implementation']:<18}"
  if record["status"] != "compiled":
    return f"{head} {record['status']}: {record['reason']}"
  c, memory = record["compiled"], record["memory"]
  return (
    f"{head} {c['cycles'] / 1e6:8.2f} M cycles by XLA, {c['schedule_cycles'] / 1e6:7.2f} M by the schedule, "
    f"HBM {c['hbm_bytes'] / 2**20:,.0f} MiB, temporary {memory['temp_bytes'] / 2**20:,.0f} MiB, "
    f"compiled in {record['compile_seconds']:.0f} s"
  )


def main() -> int:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--topology", default="", help="only cases of this topology, such as v5e:1x1")
  flags.add_argument("--only", default="", metavar="TEXT", help="only cases whose name contains this")
  flags.add_argument(
    "--memory", action="store_true", help="find the largest batches instead, by two compilations and a check"
  )
  flags.add_argument("--quick", action="store_true", help="tiny sizes, to check that everything works")
  flags.add_argument("--list", action="store_true", help="print the cases' names and stop")
  flags.add_argument("--ours", action="store_true", help="without the peers")
  flags.add_argument("--cached", action="store_true", help="only programs that were compiled before")
  flags.add_argument("--output", type=pathlib.Path, help="JSON lines to append to")
  arguments = flags.parse_args()
  jax.config.update("jax_enable_compilation_cache", False)
  jax.config.update("jax_disable_most_optimizations", False)
  every = tpu_cases.quick_cases() if arguments.quick else tpu_cases.cases()
  chosen = [c for c in every if arguments.only in c.name and c.topology.startswith(arguments.topology)]
  if arguments.list:
    print("\n".join(case.name for case in chosen))
    return 0
  date = datetime.datetime.now(datetime.UTC).date()
  folder = pathlib.Path("runs/benchmarks") if arguments.quick else harness.RESULTS
  path = arguments.output or folder / f"tpu-compiled-jax{jax.__version__}-{date}.jsonl"
  if arguments.memory:
    for make, batches in tpu_cases.memory_cases():
      if arguments.only in make(batches[0]).name:
        record = measure_largest(make, batches)
        records.append(path, [record])
        print(line(record), flush=True)
    return 0
  failed, seconds = False, 0.0
  print(
    f"compiling {len(chosen)} cases with libtpu {tpu_compile.version()}, not running them -> {path}",
    flush=True,
  )
  for case in chosen:
    for name, program in case.programs.items():
      if arguments.ours and name != "jaxfer":
        continue
      if arguments.cached and not tpu_compile.known(
        functools.partial(program.lower, tpu_compile.devices(case.topology)), case.topology
      ):
        continue
      record = measure(case, name, arguments.quick)
      records.append(path, [record])
      print(line(record), flush=True)
      failed |= name == "jaxfer" and record["status"] == "failed"
      seconds += record["compile_seconds"] or 0
  print(f"compiling took {seconds / 60:.1f} minutes in total, including cached programs", flush=True)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
