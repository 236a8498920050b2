"""Runs all benchmarks on a machine, most important first, in slices of a few minutes.

`python -m benchmarks.device_day --minutes 9 --continue --out DIR` measures for nine minutes and can be called again
until nothing is left; README.md says how to use it on a fresh GPU machine and on a TPU. It needs JAX, Flax, Optax,
Orbax and chex; PyTorch and scikit-learn are compared if they are installed.

Each part runs in a separate process and writes its records as it measures. A part is stopped when its share or the
slice ends. The next slice continues with the first case that is not recorded. If a golden is wrong
(benchmarks/goldens.py), nothing else is measured, unless `--despite-goldens` is given.

DIR holds at most eight files of at most 16 MB: the results (JSON lines, README.md), `state.json`, `summary.txt`,
`log.txt` and the table of choices.
"""

import argparse
import ctypes
import datetime
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from benchmarks import day_plan, day_summary, harness, machine, on_file, records
from benchmarks.day_plan import PARTS, Part, State

FILES, BYTES = 8, 16 * 10**6
OUT = pathlib.Path("runs/device_day")
CHOICES = machine.ROOT / "jaxfer" / "kernels" / "conv" / "choices.json"
# Seconds: between two checks of a part, for a part to end by itself, for a slice to end.
_BEAT, _GRACE, _ENDING = (5.0, 3.0, 5.0)


class Process(Protocol):
  """A part that runs."""

  def wait(self, seconds: float) -> int | None:
    """Waits for the end of the part; returns the exit code, or None if it is still running."""

  def stop(self) -> None:
    """Ends the part and its child processes."""

  def last_line(self) -> str:
    """Returns the last line that the part printed."""


class Child:
  """A part in a separate process group, which ends whenever this process ends (on Linux)."""

  def __init__(self, command: Sequence[str], log: "Log"):
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    self._last = ""
    self._process = subprocess.Popen(
      command, cwd=machine.ROOT, env=environment, process_group=0, text=True, errors="replace",
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_end_with_parent,
    )  # fmt: skip
    self._reader = threading.Thread(target=self._read, args=(log,), daemon=True)
    self._reader.start()

  def _read(self, log: "Log") -> None:
    assert self._process.stdout is not None
    for line in self._process.stdout:
      self._last = line.strip() or self._last
      log.write(line)

  def wait(self, seconds: float) -> int | None:
    """See `Process`."""
    try:
      code = self._process.wait(seconds)
    except subprocess.TimeoutExpired:
      return None
    self._reader.join(_GRACE)
    return code

  def stop(self) -> None:
    """See `Process`."""
    for kind in (signal.SIGTERM, signal.SIGKILL):  # Its child processes may outlive it, and need the second.
      try:
        os.killpg(self._process.pid, kind)
      except ProcessLookupError:
        return
      self.wait(_GRACE)

  def last_line(self) -> str:
    """See `Process`."""
    return self._last


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
  if _LIBC is not None:
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Log:
  """Writes the output of the parts to the terminal, and to a file of limited size."""

  def __init__(self, path: pathlib.Path, limit: int = BYTES - 10**6):
    path.parent.mkdir(parents=True, exist_ok=True)
    self._path, self._room = path, limit - (path.stat().st_size if path.exists() else 0)

  def write(self, line: str) -> None:
    """Prints and stores a line."""
    print(line, end="", flush=True)
    self._room -= len(line.encode())
    if self._room > 0:
      with self._path.open("a") as file:
        file.write(line)


class Day:
  """A day on one machine.

  Args:
    arguments: arguments of the command line.
    environment: environment of the machine (`machine.environment`).
    launch: function that starts a command.
    clock: function that returns seconds.
    parts: parts of the day.
  """

  def __init__(
    self,
    arguments: argparse.Namespace,
    environment: dict[str, Any],
    launch: Callable[[Sequence[str]], Process],
    clock: Callable[[], float] = time.monotonic,
    parts: Sequence[Part] = PARTS,
  ):
    self.arguments, self.launch, self.clock, self.parts = arguments, launch, clock, parts
    self.out: pathlib.Path = arguments.out
    run = on_file.run_of(environment, arguments.quick)
    self.state = State(self.out / "state.json", run)
    date = datetime.datetime.now(datetime.UTC).date()
    kept = sorted(self.out.glob(f"{run['device']}-*.jsonl"))
    self.results = kept[-1] if kept else self.out / f"{run['device']}-{date}.jsonl"
    self.notes: list[str] = []

  def command(self, part: Part) -> list[str]:
    """Returns the command that runs a part."""
    device = [f"--device={self.arguments.device}"] if self.arguments.device else []
    quick = ["--quick"] if self.arguments.quick else []
    own = part.arguments(self.arguments.device)
    return [sys.executable, "-m", *own, *device, *quick, f"--output={self.results.resolve()}"]

  def slice(self, deadline: float) -> None:
    """Runs parts until the deadline, or until nothing is left; always writes the summary."""
    if self.arguments.device == "tpu":
      self.notes.append("PyTorch and scikit-learn are not compared on a TPU.")
    if self.state.other:
      self.notes.append("state.json was of another device, commit or JAX version: all parts are open again.")
    self.state.slices += 1
    self.take_choices()
    try:
      self.turns(deadline)
    finally:
      self.fit()
      print(self.summarise(), flush=True)

  def turns(self, deadline: float) -> None:
    """Runs parts until the deadline, or until nothing is left."""
    over: set[str] = set()
    while turn := day_plan.next_turn(self.parts, self.state, deadline - self.clock(), over):
      part, seconds = turn
      if not part.gate and not self.arguments.despite_goldens and day_plan.barred(self.parts, self.state):
        self.notes.append(
          "Stopped: a golden is wrong (see Failures). --despite-goldens measures all the same."
        )
        break
      self.run(part, seconds)
      if part.gate or self.state.of(part)["status"] == "failed":
        over.add(part.name)
      self.keep_choices(part)
      self.summarise()

  def run(self, part: Part, seconds: float) -> None:
    """Runs a part for at most `seconds`."""
    print(f"== {part.name}, {seconds:.0f} s at most", flush=True)
    self.state.set(part, "running")
    start = self.clock()
    process, code, before = self.launch(self.command(part)), None, start
    try:
      while code is None and (left := start + seconds - self.clock()) > 0:
        code = process.wait(min(_BEAT, left))
        now = self.clock()
        self.state.spend(part, now - before)
        before = now
    finally:
      if code is None:
        process.stop()
        self.state.set(part, "stopped")
    if code is not None:
      reason = f"exit code {code}, after the line: {process.last_line()[:200]}"
      self.state.set(part, *(("failed", reason) if code else ("done",)))

  def take_choices(self) -> None:
    """Copies the table of choices that this day has measured to the checkout, which may be a fresh copy."""
    kept = self.out / CHOICES.name
    if self.state.parts and kept.exists():
      shutil.copyfile(kept, CHOICES)

  def keep_choices(self, part: Part) -> None:
    """Copies the table of choices to the folder of the results."""
    if "--write" in part.flags:
      shutil.copyfile(CHOICES, self.out / CHOICES.name)

  def summarise(self) -> str:
    """Writes the summary, and returns it."""
    text = day_summary.text(self.parts, self.state, self.results, self.notes)
    (self.out / "summary.txt").write_text(text)
    return text

  def fit(self) -> None:
    """Enforces the limits of the folder: if results are too long, replaced records are removed."""
    if self.results.exists() and self.results.stat().st_size > BYTES:
      last = records.latest(records.read(self.results)).values()
      fresh = self.results.with_suffix(".new")
      records.append(fresh, last)
      fresh.replace(self.results)
    files = [path for path in self.out.rglob("*") if path.is_file()]
    if len(files) > FILES:
      self.notes.append(f"{self.out} holds {len(files)} files, more than {FILES}.")
    self.notes += [f"{path} is over {BYTES // 10**6} MB." for path in files if path.stat().st_size > BYTES]

  @property
  def failed(self) -> bool:
    """Whether a part has failed."""
    return any(self.state.of(part)["status"] == "failed" for part in self.parts)


def environment_of(device: str | None) -> dict[str, Any]:
  """Returns device, versions and commit, found in a separate process, so that this one does not occupy the device."""
  platforms = {"JAX_PLATFORMS": harness.PLATFORMS[device]} if device else {}
  done = subprocess.run(
    [sys.executable, "-m", "benchmarks.machine"],
    cwd=machine.ROOT, env={**os.environ, **platforms}, capture_output=True, text=True, check=False,
  )  # fmt: skip
  if done.returncode:
    sys.exit(f"JAX finds no device here: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
  found = json.loads(done.stdout.splitlines()[-1])
  harness.check_device(device, found["platform"])
  return found


def flags() -> argparse.ArgumentParser:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--minutes", type=float, default=9.0, help="length of this slice (default 9)")
  parser.add_argument(
    "--continue", dest="resume", action="store_true", help="go on with the day in --out, or begin it"
  )
  parser.add_argument("--out", type=pathlib.Path, default=OUT, help=f"folder of results (default {OUT})")
  parser.add_argument("--device", choices=list(harness.PLATFORMS), help="default: the one that JAX chooses")
  parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything works")
  parser.add_argument("--despite-goldens", action="store_true", help="go on although a golden is wrong")
  parser.add_argument("--list", action="store_true", help="print the parts and stop")
  return parser


def main() -> None:
  begun, arguments = time.monotonic(), flags().parse_args()
  if arguments.list:
    for part in PARTS:
      print(f"{part.name:<24}{part.minutes:4g} min  {' '.join(part.arguments(arguments.device))}")
    return
  if not arguments.resume and any(arguments.out.glob("*.jsonl")):
    sys.exit(f"{arguments.out} holds results: go on with --continue, or give another --out")
  arguments.out.mkdir(parents=True, exist_ok=True)
  signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
  environment = environment_of(arguments.device)
  log = Log(arguments.out / "log.txt")
  day = Day(arguments, environment, lambda command: Child(command, log))
  day.slice(begun + 60 * arguments.minutes - _ENDING)
  sys.exit(1 if day.failed else 0)


if __name__ == "__main__":
  main()
