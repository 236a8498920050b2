"""Feeds hostile files to every parser and counts what happens.

  python -m tests.hostile --out runs/hostile [--inputs 10000] [--only KIND ...] [--seed 0]

Each kind of file has a generator, which damages valid files or writes attacks, and the reader that jaxfer uses for it.
A reader may return, or refuse the file with one of its documented errors. Everything else is a failure: another
exception, a crash of the process, no progress for `_PATIENCE` seconds, a forbidden call or write that the audit hook
sees, or memory that grows by more than `_MEMORY` bytes. The counts are written to OUT/hostile.json, and the failing
files to OUT/failures. The exit code is 1 if there is a failure.

No reader extracts an archive. All members are read in place, so a hostile name cannot lead to another file. Config
files are Python and run with the rights of the user, as documented. Only `config.json` and the values on the command
line are tested here. Videos are not covered, because FFmpeg decodes them.
"""

import argparse
import datetime
import json
import pathlib
import platform
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from jaxfer.errors import UserError
from tests.hostile_kinds import KINDS, Kind

ROOT = pathlib.Path(__file__).parents[1]
# Seconds without progress after which the process is killed. The slowest inputs take seconds.
_PATIENCE = 120
# Bytes by which the process may grow. Pictures of up to 64 megapixels are decoded (`data.decode`), and up to 256 MiB of
# a member of an archive are read.
_MEMORY = 1 << 30
_STEP = 100  # Number of inputs between two lines of progress.
# Audit events of a reader that executes or changes something. `open` is checked by its mode.
_FORBIDDEN = (
  "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "os.link", "os.mkdir", "os.remove",
  "os.rename", "os.rmdir", "os.symlink", "os.truncate", "pickle.find_class", "shutil.unpack_archive", "socket.connect",
  "subprocess.Popen", "urllib.Request",
)  # fmt: skip
_WRITING = set("wax+")


class _Watch:
  """Records forbidden events while a reader runs. Audit hooks cannot be removed, so one hook serves all readers."""

  def __init__(self) -> None:
    self.active = False
    self.seen: list[str] = []
    sys.addaudithook(self._hook)

  def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
    if self.active and (
      event in _FORBIDDEN
      or (event == "open" and isinstance(arguments[1], str) and _WRITING & set(arguments[1]))
    ):
      self.seen.append(f"{event} {arguments}"[:200])


_watch: _Watch | None = None


def feed(kind: Kind, seed: int, folder: pathlib.Path) -> tuple[str, str]:
  """Makes one input and reads it.

  Returns:
    (outcome, reason). The outcome is "read", "refused" or "failed". The reason is "" unless the outcome is "failed".
  """
  global _watch
  _watch = _watch or _Watch()
  path = kind.write(random.Random(f"{kind.name} {seed}"), folder)
  _watch.seen.clear()
  _watch.active = True
  try:
    kind.read(path)
    outcome, why = "read", ""
  except (UserError, *kind.errors) as error:
    outcome, why = "refused", ""
    place = str(path.parent if kind.in_folder else path)
    if UserError not in kind.errors and isinstance(error, UserError) and place not in str(error):
      outcome, why = "failed", f"the message does not name the file: {error}"
    elif "\n" in str(error).strip():
      outcome, why = "failed", f"the message has several lines: {error}"
  except Exception as error:
    outcome, why = "failed", f"{type(error).__name__}: {error}"[:300]
  finally:
    _watch.active = False
  if _watch.seen:
    outcome, why = "failed", f"the reader did {_watch.seen[0]}"
  return outcome, why


def _peak() -> int:
  """Returns the peak resident memory of this process so far, in bytes."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def work(kind: Kind, seed: int, count: int, folder: pathlib.Path) -> None:
  """Feeds `count` inputs, and prints one line of JSON with the counts so far after every `_STEP` inputs."""
  feed(kind, seed, folder)  # The first input also imports modules and fills caches, which is not growth.
  before = _peak()
  counts, slowest = dict.fromkeys(("read", "refused", "failed"), 0), 0.0
  failures: list[list[Any]] = []
  for number in range(count):
    start = time.monotonic()
    outcome, why = feed(kind, seed + number, folder)
    slowest = max(slowest, time.monotonic() - start)
    if outcome != "failed" and _peak() - before > _MEMORY:
      outcome, why = "failed", f"{(_peak() - before) >> 20} MiB of memory"
      before = _peak()
    counts[outcome] += 1
    if outcome == "failed":
      failures.append([seed + number, why])
    if number % _STEP == _STEP - 1 or number == count - 1:
      row = {**counts, "peak_mib": (_peak() - before) >> 20, "slowest_seconds": round(slowest, 2)}
      print(json.dumps({"next": seed + number + 1, "row": row, "failures": failures}), flush=True)


def supervise(kind: Kind, seed: int, count: int, log: Callable[[str], None] = print) -> dict[str, Any]:
  """Feeds `count` inputs in a separate process, which is started again if an input stops it.

  Returns:
    A row of the report: "kind", "tried", "read", "refused", "failed", "peak_mib" (growth of memory), "slowest_seconds"
    (of one input) and "failures" (lists of the seed and the reason).
  """
  total = dict.fromkeys(("read", "refused", "failed"), 0)
  total |= {"peak_mib": 0, "slowest_seconds": 0.0}
  failures: list[list[Any]] = []
  first, end = seed, seed + count
  while first < end:
    with tempfile.TemporaryDirectory() as folder:
      command = [
        sys.executable,
        "-m",
        "tests.hostile",
        "--work",
        kind.name,
        str(first),
        str(end - first),
        folder,
      ]
      process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
      last = _last_line(process)
    for name in ("read", "refused", "failed"):
      total[name] += last["row"][name]
    for name in ("peak_mib", "slowest_seconds"):
      total[name] = max(total[name], last["row"][name])
    failures += last["failures"]
    first = last["next"] if last["next"] else first
    if first < end:  # One of the next inputs stopped the process. All of them count as failed.
      lost = min(_STEP, end - first)
      total["failed"] += lost
      failures.append([first, f"the process ended with {process.returncode} within {lost} inputs"])
      first += lost
  row = {"kind": kind.name, "tried": count, **total}
  log(f"{kind.name}: " + ", ".join(f"{name} {value}" for name, value in row.items() if name != "kind"))
  return {**row, "failures": failures}


def _last_line(process: subprocess.Popen) -> dict[str, Any]:
  """Returns the last line of progress of a process. Kills it if no line arrives for `_PATIENCE` seconds."""
  nothing = {"read": 0, "refused": 0, "failed": 0, "peak_mib": 0, "slowest_seconds": 0.0}
  last: dict[str, Any] = {"next": 0, "row": nothing, "failures": []}
  assert process.stdout
  with selectors.DefaultSelector() as selector:
    selector.register(process.stdout, selectors.EVENT_READ)
    while selector.select(_PATIENCE):
      if not (line := process.stdout.readline()):
        break
      last = json.loads(line)
    else:
      process.kill()
  process.wait()
  return last


def _environment() -> dict[str, str]:
  commit = subprocess.run(
    ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True
  )
  processor = next(
    (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")),
    platform.machine(),
  )
  return {
    "date": datetime.date.today().isoformat(),
    "python": platform.python_version(),
    "processor": processor,
    "commit": commit.stdout.strip(),
  }


def _cpuinfo() -> list[str]:
  try:
    return pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return []


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", type=pathlib.Path)
  parser.add_argument("--inputs", type=int, default=10_000, help="number of inputs of each kind")
  parser.add_argument("--only", nargs="+", choices=list(KINDS), metavar="KIND")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.work:
    name, seed, count, folder = arguments.work
    work(KINDS[name], int(seed), int(count), pathlib.Path(folder))
    return 0
  if not arguments.out:
    parser.error("--out is required")
  rows = [supervise(KINDS[name], arguments.seed, arguments.inputs) for name in arguments.only or KINDS]
  arguments.out.mkdir(parents=True, exist_ok=True)
  for row in rows:
    for seed, why in row["failures"][:10]:
      kind = KINDS[row["kind"]]
      folder = arguments.out / "failures" / f"{kind.slug}-{seed}"
      shutil.rmtree(folder, ignore_errors=True)
      folder.mkdir(parents=True)
      kind.write(random.Random(f"{kind.name} {seed}"), folder)
      print(f"{kind.name}, seed {seed}: {why}")
  kept = [{name: value for name, value in row.items() if name != "failures"} for row in rows]
  report = {"environment": _environment(), "seed": arguments.seed, "rows": kept}
  (arguments.out / "hostile.json").write_text(json.dumps(report, indent=2) + "\n")
  return int(any(row["failed"] for row in rows))


if __name__ == "__main__":
  sys.exit(main())
