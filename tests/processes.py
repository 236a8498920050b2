"""Runs the command line in several processes on this machine, which exchange arrays through the loopback device.

`python -m tests.processes SYSTEMS SEED ARGUMENTS...` runs `jaxfer ARGUMENTS...` on systems that compile fast. SYSTEMS
is "toy" (the system of `study_toy`) or "small" (those of `small_systems`). SEED draws the records of the toy system;
with "None" its data are missing.
"""

import contextlib
import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parents[1]
# Seconds, far more than a process takes on a busy machine. The limit only keeps a fault from blocking all tests.
PATIENCE = 600


@dataclasses.dataclass(frozen=True)
class Ended:
  """Exit code, standard output and standard error of a process that has ended."""

  code: int
  out: str
  err: str


class Started:
  """Processes that run one command together."""

  def __init__(
    self,
    count: int,
    folder: pathlib.Path,
    arguments: Sequence[str],
    systems: str = "toy",
    *,
    heartbeat: int = 60,
    seeds: Sequence[int | None] = (),
    more: Sequence[Sequence[str]] = (),
  ):
    """Starts the processes.

    Args:
      count: number of processes. A single process is started without the flags for several processes.
      folder: folder for their output. It must not exist.
      arguments: arguments of the command line.
      systems: "toy" or "small".
      heartbeat: value of --heartbeat, in seconds.
      seeds: seed of each process's records. None stands for missing data. If empty, all seeds are 0.
      more: further arguments of each process.
    """
    folder.mkdir(parents=True)
    with contextlib.closing(socket.socket()) as probe:
      probe.bind(("127.0.0.1", 0))
      port = probe.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONUNBUFFERED": "1"}
    self._folder, self._running = folder, list[subprocess.Popen]()
    for k in range(count):
      flags = (
        f"--coordinator 127.0.0.1:{port} --num-processes {count} --process-id {k} --heartbeat {heartbeat}"
      )
      command = [sys.executable, "-m", "tests.processes", systems, str(seeds[k] if seeds else 0), *arguments]
      command += flags.split() if count > 1 else []
      command += more[k] if more else []
      with (folder / f"out{k}").open("wb") as out, (folder / f"err{k}").open("wb") as err:
        started = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err)
      self._running.append(started)

  def wait_for(self, process: int, text: str) -> None:
    """Waits until a process has printed a text or ended."""
    end = time.monotonic() + PATIENCE
    while text not in (self._folder / f"out{process}").read_text() and self._running[process].poll() is None:
      assert time.monotonic() < end, f"process {process} did not print '{text}'"
      time.sleep(0.02)

  def signal(self, process: int, number: signal.Signals) -> None:
    """Sends a signal to a process."""
    self._running[process].send_signal(number)

  def ends(self, without: Sequence[int] = ()) -> dict[int, float]:
    """Waits until all processes have ended, except for those in `without`. Returns when, by the monotonic clock."""
    limit, found = time.monotonic() + PATIENCE, dict[int, float]()
    awaited = [k for k in range(len(self._running)) if k not in without]
    while len(found) < len(awaited):
      for k in awaited:
        if k not in found and self._running[k].poll() is not None:
          found[k] = time.monotonic()
      if time.monotonic() > limit:
        for running in self._running:
          running.kill()
        raise AssertionError(f"of processes {awaited}, only {sorted(found)} have ended")
      time.sleep(0.02)
    return found

  def end(self, without: Sequence[int] = ()) -> list[Ended]:
    """Waits until all processes have ended. Those in `without` are not waited for, but killed at the end."""
    try:
      for k, running in enumerate(self._running):
        if k not in without:
          running.wait(PATIENCE)
    finally:
      for running in self._running:
        running.kill()
        running.wait()
    # The process that writes the last line (`jaxfer.cluster_errors`) ends a moment after the one that it reports.
    time.sleep(0.5)
    return [
      Ended(
        running.returncode, (self._folder / f"out{k}").read_text(), (self._folder / f"err{k}").read_text()
      )
      for k, running in enumerate(self._running)
    ]


def run(count: int, folder: pathlib.Path, arguments: Sequence[str], systems: str = "toy") -> list[Ended]:
  """Runs processes to their end. All of them must succeed."""
  ended = Started(count, folder, arguments, systems).end()
  for k, one in enumerate(ended):
    assert one.code == 0, f"process {k}: {one.err}"
  return ended


def _main() -> int:
  import pytest

  from jaxfer import cli
  from jaxfer.errors import UserError
  from jaxfer.study import trainings
  from tests import small_systems, study_toy

  systems, seed, *arguments = sys.argv[1:]

  def load(config, data_dir):
    if seed == "None":
      raise UserError(f"data set '{config.data.name}' is not prepared in {data_dir}")
    return study_toy.records(int(seed))

  with contextlib.ExitStack() as stack:
    if systems == "small":
      stack.enter_context(small_systems.installed())
    else:
      patch = stack.enter_context(pytest.MonkeyPatch.context())
      study_toy.install(patch)
      patch.setattr(trainings, "load_data", load)
    return cli.main(arguments)


if __name__ == "__main__":
  sys.exit(_main())
