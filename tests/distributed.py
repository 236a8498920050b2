"""Trains on one, two and four processes and compares them, and takes processes away from running trainings.

  python -m tests.distributed --out runs/distributed

A small system of each kind (one update, a frozen network, two updates, members) trains on one, two and four processes
on this machine. Then a training on several processes loses one of them: it is killed or stopped in the fifth epoch, the
other processes end, and `--resume` continues on a single process. The results are compared with those of one process.

The figures are written to OUT/distributed.json: a metric of each epoch, the largest differences, when each process
ended and what it said. "lost" is 1 in each of these cases, and the exit code is then 1:

- A result differs by more than 1e-5 of the larger of 1 and its size.
- Another process does not end with SIGABRT and one line that names the missing process.
- The resumed training does not say that it is not bit-identical.
"""

import argparse
import json
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tests import processes
from tests.reliability import environment

TOY = """
import dataclasses
from jaxfer.config import Split
from tests import study_toy

def get_config():
  return dataclasses.replace(study_toy.STUDY.base, split=Split(test=0.3, validation=0.3))
"""
SMALL = """
import dataclasses
from jaxfer.config import Call, Execution, Split
from tests import small_systems

def get_config():
  execution = Execution(driver="steps", backend="jit")
  return dataclasses.replace(small_systems.SYSTEMS["NAME"], execution=execution, MORE)
"""
# Not Adam: the gradient of a bias before BatchNorm is zero up to rounding, which Adam would scale up to full steps.
PLAIN = 'recipe=Call("elderly_transfer", epochs=1, optimizer="sgd", select="last")'
# For each kind of system: its name in `small_systems`, and further changes of its configuration.
KINDS = {
  "plain": ("elderly_transfer", PLAIN),
  "frozen net": ("landmark_fusion", ""),
  "two updates": ("identity_expression_vae", ""),
  "members": ("elderly_transfer", f"split=Split(folds=4), {PLAIN}"),
}
COUNTS = (1, 2, 4)
# Number of processes, signal, and which process gets it.
FAULTS = [
  (2, signal.SIGKILL, 1),
  (2, signal.SIGSTOP, 1),
  (2, signal.SIGKILL, 0),
  (4, signal.SIGKILL, 2),
  (4, signal.SIGSTOP, 3),
]
HEARTBEAT = 10
LONG = "recipe.epochs=400"  # So that a training does not end before the signal.
TOLERANCE = 1e-5
# Weights that are not compared, because the number of a cluster is arbitrary.
CLUSTERS = {"inference/labels", "inference/centres"}

Row = Mapping[str, Any]


def small(kind: str) -> str:
  """Returns the text of the configuration of a small system."""
  name, more = KINDS[kind]
  return SMALL.replace("NAME", name).replace("MORE", more)


def training(config: pathlib.Path, workdir: pathlib.Path, *more: str) -> list[str]:
  """Returns the command that trains in a work directory, with the data beside it."""
  return ["train", str(config), "--workdir", str(workdir), "--data-dir", str(workdir.parent / "data"), *more]


def metrics(workdir: pathlib.Path) -> list[Row]:
  """Returns the metrics of all groups of members, in an order that does not depend on the groups."""
  found = [
    json.loads(line)
    for path in sorted(workdir.rglob("metrics.jsonl"))
    for line in path.read_text().splitlines()
  ]
  assert found, f"{workdir} has no metrics"
  return sorted(found, key=lambda row: (row.get("member", ""), row["step"], row["split"]))


def _weights(workdir: pathlib.Path) -> list[pathlib.Path]:
  found = sorted(path.relative_to(workdir) for path in (workdir / "weights").rglob("weights.npz"))
  assert found, f"{workdir} has no weights"
  return found


def _distances(one: pathlib.Path, other: pathlib.Path) -> Iterator[float]:
  for a, b in zip(metrics(one), metrics(other), strict=True):
    assert a.keys() == b.keys()
    for name, value in a.items():
      if isinstance(value, float):
        yield abs(value - b[name]) / max(1.0, abs(value))
      else:
        assert value == b[name], f"{name}: {value} and {b[name]}"
  assert _weights(one) == _weights(other)
  for path in _weights(one):
    with np.load(one / path) as a, np.load(other / path) as b:
      assert a.keys() == b.keys()
      for name in a.keys() - CLUSTERS:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), f"{path} {name}"
        if a[name].dtype.kind == "f":
          yield float(np.abs(a[name] - b[name]).max() / max(1.0, np.abs(a[name]).max()))
        else:
          np.testing.assert_array_equal(b[name], a[name], err_msg=f"{path} {name}")


def distance(one: pathlib.Path, other: pathlib.Path) -> float:
  """Returns the largest difference between the metrics and weights of two trainings.

  It is relative to the larger of 1 and the size of the metric, or the largest value of the weight array. It is NaN if
  any number is.

  Raises:
    AssertionError: something that must be equal differs.
  """
  return float(np.max(list(_distances(one, other))))


def last_metrics(workdirs: Mapping[int, pathlib.Path]) -> list[dict[str, Any]]:
  """Returns the last metric of each line of the log, usually the whole loss, for each number of processes."""
  logs = {count: metrics(workdir) for count, workdir in workdirs.items()}
  found = []
  for k, row in enumerate(logs[1]):
    name = [name for name, value in row.items() if isinstance(value, float)][-1]
    where = {key: row[key] for key in ("member", "stage", "epoch", "split") if key in row}
    found.append(
      {**where, "metric": name, "values": {str(count): log[k][name] for count, log in logs.items()}}
    )
  return found


def compare(kind: str, folder: pathlib.Path) -> dict[str, Any]:
  """Trains a system on each number of processes."""
  folder.mkdir(parents=True)
  config = folder / "config.py"
  config.write_text(small(kind))
  epochs = ["recipe.epochs=3", *(["recipe.rgb_epochs=3"] if kind == "frozen net" else [])]
  workdirs = {count: folder / str(count) for count in COUNTS}
  for count, workdir in workdirs.items():
    own = ["execution.devices=1"] if count == 1 else []
    processes.run(count, folder / f"log{count}", training(config, workdir, *epochs, *own), "small")
  differences = {str(count): distance(workdirs[1], workdirs[count]) for count in COUNTS[1:]}
  return {
    "kind": kind,
    "system": KINDS[kind][0],
    "metrics": last_metrics(workdirs),
    "differences": differences,
    "lost": int(not all(difference <= TOLERANCE for difference in differences.values())),
  }


def interrupt(
  count: int, number: signal.Signals, process: int, whole: pathlib.Path, folder: pathlib.Path
) -> dict[str, Any]:
  """Takes one process away in the fifth epoch, and resumes on a single process.

  Args:
    count: number of processes.
    number: the signal.
    process: the process that gets the signal.
    whole: work directory of the same training on one process, which was not interrupted.
    folder: a new folder.
  """
  folder.mkdir(parents=True)
  config, workdir = folder / "config.py", folder / "run"
  config.write_text(TOY)
  command = training(config, workdir, LONG)
  often = [*command, "execution.checkpoint_seconds=0.0"]
  started = processes.Started(count, folder / "cut", often, heartbeat=HEARTBEAT)
  started.wait_for(0, "train   5/")
  began = time.monotonic()
  started.signal(process, number)
  seconds = {k: round(end - began, 1) for k, end in sorted(started.ends(without=[process]).items())}
  ended = started.end(without=[process])
  said = {k: ended[k].err.strip().replace(os.uname().nodename, "HOST") for k in seconds}
  (resumed,) = processes.run(1, folder / "resumed", [*command, "--resume"])
  difference = distance(whole, workdir)
  told = [line for line in resumed.out.splitlines() if "not bit-identical from here on" in line]
  missing = f"process {process} (HOST) of {count} is missing"
  named = all(missing in text and "\n" not in text for text in said.values())
  aborted = all(ended[k].code == -signal.SIGABRT for k in said)
  return {
    "processes": count,
    "signal": number.name,
    "process": process,
    "ends": [{"process": k, "seconds": seconds[k], "code": ended[k].code, "says": said[k]} for k in seconds],
    "resumed": told[0] if told else "",
    "difference": difference,
    "lost": int(not (named and aborted and told and difference <= TOLERANCE)),
  }


def main(arguments: Sequence[str] | None = None) -> int:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--out", type=pathlib.Path, required=True, help="a new folder")
  parsed = flags.parse_args(arguments)
  out = parsed.out.absolute()
  out.mkdir(parents=True)
  # The processes compile programs for other devices at the same time, so each would need a cache of its own.
  os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
  found: dict[str, Any] = {"environment": environment(), "heartbeat": HEARTBEAT, "systems": [], "faults": []}
  for k, kind in enumerate(KINDS):
    found["systems"].append(compare(kind, out / f"system{k}"))
    print(kind, found["systems"][-1]["differences"], flush=True)
  whole = out / "whole" / "run"
  whole.parent.mkdir()
  (whole.parent / "config.py").write_text(TOY)
  processes.run(1, out / "whole" / "log", training(whole.parent / "config.py", whole, LONG))
  for k, fault in enumerate(FAULTS):
    found["faults"].append(interrupt(*fault, whole, out / f"fault{k}"))
    print(found["faults"][-1], flush=True)
  (out / "distributed.json").write_text(json.dumps(found, indent=1) + "\n")
  return int(any(row["lost"] for row in [*found["systems"], *found["faults"]]))


if __name__ == "__main__":
  sys.exit(main())
