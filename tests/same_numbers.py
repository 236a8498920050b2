"""Checks that a change of the code does not change any number, on one machine.

  python -m tests.same_numbers write before.json      # with the old code
  python -m tests.same_numbers compare before.json    # with the new code; the exit code is 1 if a number differs

It runs the smoke study of every system, and one training of every system with both drivers on one and on four devices.
The trainings use the small systems of `tests/small_systems.py`. Numbers are compared exactly, so a file that `write`
made on one processor is useless on another.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from tests import conftest  # Before JAX: it sets the number of devices and the compiler's flags.

import jax  # isort: skip

from jaxfer import config
from jaxfer.study import run, study
from tests import small_systems as systems

assert conftest.QUICK
STUDIES = (
  "elderly_transfer/table_synthetic",
  "identity_expression_vae/table3_synthetic",
  "landmark_fusion/ablation_synthetic",
  "stacked_autoencoder/table2_synthetic",
  "two_stream_conv_rnn/table1_synthetic",
)
DATA = pathlib.Path(os.environ.get("JAXFER_DATA_DIR", "runs/data"))
NOT_COMPARED = ("seconds", "_per_second", "time", "digest", "revision", "version")


def silent(line: str) -> None:
  del line


def numbers(tree: Any, path: str = "") -> Iterator[tuple[str, float | None]]:
  """Yields the numbers of a JSON tree with their paths, without times and versions."""
  if isinstance(tree, dict):
    for key, value in tree.items():
      if not any(part in key for part in NOT_COMPARED):
        yield from numbers(value, f"{path}/{key}")
  elif isinstance(tree, list):
    for k, value in enumerate(tree):
      yield from numbers(value, f"{path}/{k}")
  elif tree is None or isinstance(tree, int | float):
    yield path, tree


def training(name: str, driver: str, devices: int) -> list[Any]:
  """Returns the metric rows of a system's training."""
  small = systems.SYSTEMS[name]
  execution = dataclasses.replace(small.execution, driver=driver, devices=devices)
  with tempfile.TemporaryDirectory() as folder:
    run.train(dataclasses.replace(small, execution=execution), pathlib.Path(folder), DATA, log=silent)
    lines = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def smoke(name: str) -> dict[str, Any]:
  """Returns the table of a smoke study on one device, so that sums over devices do not round differently."""
  with tempfile.TemporaryDirectory() as folder:
    described = config.load_study(f"configs/{name}.py")
    study.run(described, "smoke", ("execution.devices=1",), pathlib.Path(folder), DATA, log=silent)
    table: dict[str, Any] = json.loads((pathlib.Path(folder) / "table.json").read_text())
  return table


def measure() -> dict[str, float | None]:
  """Returns every number by its path."""
  found: dict[str, float | None] = {}
  for name in STUDIES:
    found |= numbers(smoke(name), f"study {name}")
    print(name, len(found), flush=True)
  with systems.installed():
    for name in systems.SYSTEMS:
      for driver in ("scan", "steps"):
        for devices in (1, 4):
          found |= numbers(training(name, driver, devices), f"training {name}, {driver}, {devices}")
          jax.clear_caches()
      print(name, len(found), flush=True)
  return found


def main() -> int:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("action", choices=("write", "compare"))
  flags.add_argument("file", type=pathlib.Path)
  arguments = flags.parse_args()
  found = measure()
  if arguments.action == "write":
    arguments.file.write_text(json.dumps(found, indent=0) + "\n")
    return 0
  before = json.loads(arguments.file.read_text())
  different = sorted(key for key in {*before, *found} if before.get(key, "") != found.get(key, ""))
  for key in different[:40]:
    print(f"{key}: {before.get(key, 'absent')} before, {found.get(key, 'absent')} now")
  for group, count in collections.Counter(key.partition("/")[0] for key in different).items():
    print(f"{group}: {count}")
  print(f"{len(different)} of {len(before)} numbers differ")
  return 1 if different else 0


if __name__ == "__main__":
  sys.exit(main())
