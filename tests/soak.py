"""Trains for a long time, and checks that memory, open files, threads, arrays, programs and time per step do not grow.

  python -m tests.soak --out runs/soak [--minutes 30] [--trainings 40] [--only training|study]

Two processes run one after the other. The first trains a small run for the given time, and saves a checkpoint every
five seconds. The second runs a study with the given number of trainings, each of which compiles its own programs. Each
process samples its own measures: the training every five seconds, the study whenever a training begins.

The first third of the samples is warm-up and is ignored. For each measure, the median of the last third is compared
with that of the middle third. Some measures are amounts held at the time of a sample: resident memory, open files,
threads, JAX arrays and loaded programs. The others are costs of a step or training: CPU seconds and compiled programs.

CPU seconds do not count the time spent waiting for a core, but other programs on the same machine also slow the cores
down. Each sample therefore times a fixed computation, and CPU seconds are scaled to the median of these times.

`ALLOWED` has the share by which each measure may grow. The figures are written to OUT/soak.json. The exit code is 1 if
a measure grows by more.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxfer import config as configuration
from jaxfer.config import Row
from jaxfer.errors import Interrupted
from jaxfer.study import run, study
from tests.faults import ROOT, STUDY, TRAIN
from tests.reliability import environment

# Share by which each measure may grow from the middle third to the last. A pool may have one thread more for minutes.
ALLOWED = {
  "resident_mib": 0.02, "open_files": 0.0, "threads": 0.02, "arrays": 0.0, "programs": 0.0,
  "cpu_seconds": 0.1, "compiled": 0.0,
}  # fmt: skip
COSTS = (
  "cpu_seconds",
  "compiled",
)  # Counted from the start of the process. The others are amounts at the time of a sample.
_SECONDS = 5.0  # Time between two samples of the training, and between two of its checkpoints.

Sample = dict[str, float]


class Sampler:
  """Takes samples of this process.

  Attributes:
    samples: the samples taken so far.
  """

  def __init__(self) -> None:
    self.samples: list[Sample] = []
    self._began, self._compiled = time.monotonic(), 0
    jax.monitoring.register_event_duration_secs_listener(self._count)

  def _count(self, event: str, duration: float, **details: Any) -> None:
    del duration, details
    self._compiled += event == "/jax/core/compile/backend_compile_duration"

  def _reference(self) -> float:
    """Returns the CPU seconds that a fixed computation takes in this thread."""
    began, total = time.thread_time(), 0
    for number in range(300_000):
      total += number % 7
    return time.thread_time() - began

  def take(self, done: int) -> None:
    """Adds a sample. `done` is the number of steps or trainings that are done."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    self.samples.append(
      {
        "seconds": round(time.monotonic() - self._began, 2),
        "done": done,
        "resident_mib": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 2),
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "arrays": len(jax.live_arrays()),
        "programs": len(jax.devices()[0].client.live_executables()),
        "cpu_seconds": round(time.process_time(), 3),
        "reference_seconds": round(self._reference(), 5),
        "compiled": self._compiled,
      }
    )


def compared(samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
  """Compares the last third of the samples with the middle third.

  A sample is left out if no step or training was done since the previous sample.

  Returns:
    For each measure, {"middle": value of the middle third, "last": value of the last third, "allowed": the share by
    which it may grow, "grows": whether it grows by more}. "cpu_seconds" and "compiled" are those of one step or
    training.

  Raises:
    ValueError: fewer than nine samples are left.
  """
  pairs = [(old, new) for old, new in itertools.pairwise(samples) if new["done"] > old["done"]]
  if len(pairs) < 9:
    raise ValueError(f"{len(pairs)} samples are too few to compare, at least nine are needed: run for longer")
  third, found = len(pairs) // 3, {}
  speed = statistics.median(sample["reference_seconds"] for sample in samples)
  for name, allowed in ALLOWED.items():
    if name in COSTS:
      values = [(new[name] - old[name]) / (new["done"] - old["done"]) for old, new in pairs]
      if name == "cpu_seconds":
        slowed = [(old["reference_seconds"] + new["reference_seconds"]) / 2 / speed for old, new in pairs]
        values = [value / slower for value, slower in zip(values, slowed, strict=True)]
    else:
      values = [new[name] for _, new in pairs]
    middle, last = statistics.median(values[third:-third]), statistics.median(values[-third:])
    grows = last > middle * (1 + allowed)
    found[name] = {"middle": middle, "last": last, "allowed": allowed, "grows": grows}
  return found


def train(out: pathlib.Path, seconds: float) -> list[Sample]:
  """Trains a small run for `seconds`, stops it with SIGTERM, and returns the samples."""
  overrides = [*TRAIN[1:], f"execution.checkpoint_seconds={_SECONDS}", "recipe.epochs=1000000"]
  config = configuration.override(configuration.load(ROOT / TRAIN[0]), overrides, run.options_of)
  sampler, timing = Sampler(), out / "training/timing.jsonl"

  def watch() -> None:
    while not timing.exists() or not timing.read_text():
      time.sleep(0.1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
      time.sleep(_SECONDS)
      sampler.take(json.loads(timing.read_text().splitlines()[-1])["step"])
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=watch, daemon=True).start()
  with (out / "training.log").open("w") as log, contextlib.redirect_stdout(log):
    try:
      run.train(config, out / "training", out / "data")
    except Interrupted:
      return sampler.samples
  raise RuntimeError(f"the training ended by itself before {seconds:.0f} seconds")


def train_study(out: pathlib.Path, trainings: float) -> list[Sample]:
  """Runs a study of `trainings` trainings one after the other, and returns one sample for the start of each."""
  # The noise rate is a constant in the compiled programs, so each variant compiles its own.
  rows = [Row(f"variant {k}", {"recipe.noise_rate": 0.1 + 0.001 * k}) for k in range(int(trainings))]
  described = dataclasses.replace(configuration.load_study(ROOT / STUDY[0]), rows=tuple(rows), compared=())
  sampler = Sampler()

  def log(line: str) -> None:
    print(line)
    if line.startswith("row "):
      sampler.take(len(sampler.samples))

  with (out / "study.log").open("w") as file, contextlib.redirect_stdout(file):
    study.run(described, "smoke", ["seeds=1"], out / "study", out / "data", log=log)
  return sampler.samples


def in_process(
  part: Callable[[pathlib.Path, float], list[Sample]], out: pathlib.Path, amount: float
) -> list[Sample]:
  """Runs a part in the main thread of a new process, where signals can be caught."""
  spawn = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
    return pool.submit(part, out, amount).result()


def main(arguments: Sequence[str] | None = None) -> int:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--out", type=pathlib.Path, required=True, help="an empty folder")
  flags.add_argument("--minutes", type=float, default=30, help="minutes of the training")
  flags.add_argument("--trainings", type=int, default=40, help="number of trainings in the study")
  flags.add_argument("--only", choices=["training", "study"], help="run only this part")
  parsed = flags.parse_args(arguments)
  out, grown = parsed.out.absolute(), False
  out.mkdir(parents=True)
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # See `jaxfer.cli._quieten_xla`.
  found: dict[str, Any] = {"environment": environment()}
  parts = {"training": (train, 60 * parsed.minutes), "study": (train_study, parsed.trainings)}
  for name, (part, amount) in parts.items():
    if parsed.only in (None, name):
      samples = in_process(part, out, amount)
      measures = compared(samples)
      columns = {measure: [sample[measure] for sample in samples] for measure in samples[0]}
      done = samples[-1]["done"] if name == "training" else amount
      found[name] = {"done": done, "measures": measures, "samples": columns}
      (out / "soak.json").write_text(json.dumps(found) + "\n")
      for measure, values in measures.items():
        grown |= values["grows"]
        print(f"{name}: {measure} {values['middle']:.6g} -> {values['last']:.6g}{' GROWS' * values['grows']}")
  return int(grown)


if __name__ == "__main__":
  sys.exit(main())
