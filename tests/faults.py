"""Kills a training, a study and a preparation at random moments, resumes them, and compares the results bit for bit.

  python -m tests.faults --out runs/faults [--kills 50] [--seed 0]

A small training is killed with SIGKILL and resumed each time. A small study and a preparation of data are killed a
fifth as often. Every second kill waits until a checkpoint or the prepared data are being written; this ends when ten
kills of a command have come while it was writing. Each command must end with the same result as an undisturbed run: the
metrics and checkpointed arrays of the training, the table of the study, and the prepared data.

The training meets five further faults: in the newest checkpoint one bit is flipped, or a file is truncated; SIGTERM
arrives; the disk is full; the folder is read-only.

The counts are written to OUT/faults.json. Each fault has "lost": 1 if the result differed, else 0. The exit code is 1
if a result is lost.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tests.reliability import environment

ROOT = pathlib.Path(__file__).parents[1]
TRAIN = [
  "configs/quickstart.py", "data.num_subjects=6", "data.num_frames=4", "data.image_size=16", "model.features=(4,)",
  "model.dense=(8, 8)", "recipe.epochs=12", "batch_size=4", "split.test=0.34", "execution.devices=1",
  "execution.steps_per_call=2", "execution.checkpoint_seconds=0",
]  # fmt: skip
STUDY = [
  "configs/stacked_autoencoder/table2_synthetic.py", "--preset", "smoke", "execution.checkpoint_seconds=0",
]  # fmt: skip
_JAXFER = [sys.executable, "-c", "import sys; from jaxfer import cli; sys.exit(cli.main(sys.argv[1:]))"]
_WRITING = 10  # Number of kills for which to wait until the command writes.


class Lost(Exception):
  """The result differs from that of the undisturbed run, or the command ended unexpectedly."""


class NotPermitted(Exception):
  """This machine does not permit the mounts that a fault needs."""


def environment_of(cache: pathlib.Path) -> dict[str, str]:
  """Returns the environment of a process that keeps its compiled programs in `cache`."""
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
  }


def start(arguments: Sequence[str], log: pathlib.Path, cache: pathlib.Path) -> subprocess.Popen:
  """Starts `jaxfer` in its own process, which reuses the compiled programs of earlier processes."""
  with log.open("ab") as file:
    return subprocess.Popen(
      [*_JAXFER, *arguments],
      cwd=ROOT, env=environment_of(cache), stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def run(arguments: Sequence[str], log: pathlib.Path, cache: pathlib.Path, code: int = 0) -> float:
  """Runs `jaxfer` to its end, and returns the seconds. Raises `Lost` if its exit code is not `code`."""
  began = time.monotonic()
  found = start(arguments, log, cache).wait()
  if found != code:
    raise Lost(f"jaxfer {' '.join(arguments)} exits with {found}, expected {code}: see {log}")
  return time.monotonic() - began


def kill(process: subprocess.Popen) -> None:
  """Sends SIGKILL to a process and all its children."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()


def digest(path: pathlib.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def untimed(path: pathlib.Path) -> dict[str, Any]:
  """Returns the rows and comparisons of a study's table, without the times."""
  table = json.loads(path.read_text())
  rows = [{k: v for k, v in row.items() if k not in ("seconds", "compile_seconds")} for row in table["rows"]]
  return {"rows": rows, "comparisons": table["comparisons"]}


def arrays(workdir: pathlib.Path) -> dict[str, str]:
  """Returns the SHA-256 of every array in the newest checkpoint."""
  code = (
    "import hashlib, json, sys, jax, numpy as np; import orbax.checkpoint as ocp;"
    "m = ocp.CheckpointManager(sys.argv[1]);"
    "t = m.restore(m.latest_step(), args=ocp.args.Composite(state=ocp.args.StandardRestore()))['state'];"
    "print(json.dumps({jax.tree_util.keystr(k): hashlib.sha256(np.asarray(a).tobytes()).hexdigest()"
    " for k, a in jax.tree_util.tree_flatten_with_path(t)[0]}))"
  )
  found = subprocess.run(
    [sys.executable, "-c", code, str((workdir / "checkpoints").absolute())],
    capture_output=True, text=True, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"},
  )  # fmt: skip
  return json.loads(found.stdout.splitlines()[-1])


def unfinished(folder: pathlib.Path) -> set[str]:
  """Returns the paths that are only partly written in a work directory or a folder of prepared data.

  These are temporary folders of Orbax, checkpoints without their digest, and folders of unfinished imports.
  """
  found = set()
  with contextlib.suppress(FileNotFoundError):  # Another process moves and removes what is listed here.
    found |= {str(path) for path in folder.glob(".incomplete-*")}
    for checkpoints in [folder / "checkpoints", *folder.glob("rows/*/checkpoints")]:
      digests = {path.stem for path in (checkpoints.parent / "digests").glob("*.json")}
      names = os.listdir(checkpoints) if checkpoints.exists() else []
      found |= {
        str(checkpoints / name)
        for name in names
        if "orbax-checkpoint-tmp" in name or (name.isdecimal() and name not in digests)
      }
  return found


class Command:
  """A command that can be run again after it was stopped, and the result that it must have at its end.

  The constructor runs the command undisturbed.

  Attributes:
    arguments: arguments of `jaxfer`.
    folder: folder that the command writes.
    result: reads the result from the folder.
    seconds: how long the command takes.
    expected: result of the undisturbed run.
  """

  def __init__(
    self,
    arguments: Sequence[str],
    folder: pathlib.Path,
    result: Callable[[pathlib.Path], Any],
    compiles: bool = True,
  ):
    self.arguments, self.folder, self.result = list(arguments), folder, result
    self.log, self.cache = folder.with_suffix(".log"), folder.parent / "programs"
    if compiles:  # Later processes find the programs in the cache.
      self.run()
      shutil.rmtree(folder)
    self.seconds = self.run()
    self.expected = result(folder)
    shutil.rmtree(folder)

  def run(self) -> float:
    """Runs the command to its end, and returns the seconds."""
    return run(self.arguments, self.log, self.cache)

  def check(self) -> None:
    """Raises `Lost` if the result in the folder differs from that of the undisturbed run."""
    if (found := self.result(self.folder)) != self.expected:
      raise Lost(f"{self.folder} differs from the undisturbed run: {found}, not {self.expected}")


def disturb(command: Command, kills: int, draw: random.Random) -> dict[str, int]:
  """Kills a command at random moments. Whenever the command ends, checks its result and starts it from the beginning.

  Args:
    command: the command.
    kills: number of kills.
    draw: draws the moments.

  Returns:
    Counts: "kills", how many of them came "while writing", and "ends", how often the command ended with the expected
    result.

  Raises:
    Lost: the result differs, or the command fails.
  """
  counts = {"kills": 0, "while writing": 0, "ends": 0}
  while True:
    # The process that was killed before left these. The next one removes or replaces them.
    left = unfinished(command.folder)
    process, began = start(command.arguments, command.log, command.cache), time.monotonic()
    wait, done = draw.uniform(0, command.seconds), counts["kills"] >= kills
    aimed = counts["while writing"] < _WRITING and counts["kills"] % 2 == 0
    new = set[str]()
    while process.poll() is None and (done or time.monotonic() - began < wait or (aimed and not new)):
      time.sleep(0.002)
      now = unfinished(command.folder)
      left &= now
      new = now - left
    if process.poll() is None:
      kill(process)
      counts["kills"] += 1
      counts["while writing"] += bool(new)
      with command.log.open("a") as file:
        file.write(f"-- killed after {time.monotonic() - began:.2f} s{', while writing' if new else ''}\n")
      continue
    if process.returncode:
      raise Lost(f"jaxfer {' '.join(command.arguments)} exits with {process.returncode}: see {command.log}")
    command.check()
    counts["ends"] += 1
    if done:
      return counts
    shutil.rmtree(command.folder)


def training(out: pathlib.Path) -> Command:
  """Returns the training. Its result is the metrics and the arrays of the newest checkpoint."""
  folder = out / "training"
  arguments = ["train", *TRAIN, "--workdir", str(folder), "--data-dir", str(out / "data"), "--resume"]
  return Command(arguments, folder, lambda f: (digest(f / "metrics.jsonl"), arrays(f)))


def study(out: pathlib.Path) -> Command:
  """Returns the study. Its result is its table without the times."""
  folder = out / "study"
  arguments = ["study", *STUDY, "--workdir", str(folder), "--data-dir", str(out / "data"), "--resume"]
  return Command(arguments, folder, lambda f: untimed(f / "table.json"))


def preparation(out: pathlib.Path, pictures: int = 300) -> Command:
  """Returns the preparation of drawn pictures. Its result is the names of its files and the fingerprint of the data."""
  source, folder = out / "pictures", out / "prepared"
  draw = np.random.default_rng(0)
  for k in range(pictures):
    path = source / f"class{k % 3}" / f"{k}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw.integers(0, 256, (400, 400, 3), np.uint8)).save(path)
  arguments = ["prepare", "image_folder", "crop=whole", "image_size=64", "--source", str(source)]

  def result(folder: pathlib.Path) -> dict[str, Any]:
    # The bytes of the same records differ between processes, because protocol buffers write maps in any order.
    (report,) = folder.rglob("report.json")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    return {"names": names, "fingerprint": json.loads(report.read_text())["fingerprint"]}

  return Command([*arguments, "--data-dir", str(folder)], folder, result, compiles=False)


COMMANDS = {"training": training, "study": study, "preparation": preparation}


def stopped(command: Command, number: int) -> None:
  """Starts the training from the beginning, and sends it a signal once two checkpoints have digests."""
  shutil.rmtree(command.folder, ignore_errors=True)
  process = start(command.arguments, command.log, command.cache)
  while process.poll() is None and len(list((command.folder / "digests").glob("*.json"))) < 2:
    time.sleep(0.005)
  process.send_signal(number)
  if (code := process.wait()) != (128 + number if number == signal.SIGTERM else -number):
    raise Lost(f"the training exits with {code} after signal {number}: see {command.log}")


def flip(path: pathlib.Path) -> None:
  """Flips one bit in the middle of a file."""
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def truncate(path: pathlib.Path) -> None:
  """Cuts a file in half."""
  os.truncate(path, path.stat().st_size // 2)


def damaged(command: Command, harm: Callable[[pathlib.Path], None]) -> str:
  """Damages the largest file of the newest checkpoint. The training must then resume from the checkpoint before it."""
  stopped(command, signal.SIGTERM)
  folders = [path for path in (command.folder / "checkpoints").iterdir() if path.name.isdecimal()]
  newest = max(folders, key=lambda path: int(path.name))
  harm(max(newest.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size))
  before = command.log.stat().st_size
  command.run()
  command.check()
  if f"checkpoint {newest.name} is removed, go on from" not in command.log.read_text()[before:]:
    raise Lost(f"the training does not report that checkpoint {newest.name} is damaged: see {command.log}")
  return "reported; resumed from the checkpoint before, same result"


def terminated(command: Command) -> str:
  """Stops the training with SIGTERM and resumes it."""
  stopped(command, signal.SIGTERM)
  command.run()
  command.check()
  return "state saved; resumed, same result"


# Both scripts run as root in their own mount namespace. $1 is the work directory, and the other arguments are the
# command. They exit with 3 if the command succeeds or dies from a signal, and with 4 if mounting fails.
_FULL = """
mount -t tmpfs -o size=$SIZE tmpfs "$1" || exit 4
"${@:2}"; code=$?
[ $code -ne 0 ] && [ $code -lt 128 ] || exit 3
mount -o remount,size=1g "$1" && "${@:2}" && cp -r "$1" "$1.kept"
"""
_READ_ONLY = """
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 4
"${@:2}"; code=$?
[ $code -ne 0 ] && [ $code -lt 128 ] || exit 3
"""


def in_namespace(command: Command, script: str, **environment: str) -> None:
  """Runs one of the scripts above with the training, in a new mount namespace.

  Raises:
    Lost: the training does not fail as it should, or fails with a traceback.
    NotPermitted: namespaces or mounts are not permitted here.
  """
  shutil.rmtree(command.folder, ignore_errors=True)
  command.folder.mkdir()
  before = command.log.stat().st_size
  with command.log.open("ab") as file:
    code = subprocess.run(
      ["unshare", "-rm", "bash", "-c", script, "bash", str(command.folder), *_JAXFER, *command.arguments],
      cwd=ROOT, env=environment_of(command.cache) | environment, stdout=file, stderr=subprocess.STDOUT, check=False,
    ).returncode  # fmt: skip
  printed = command.log.read_text(errors="replace")[before:]
  if code in (1, 4) and "Operation not permitted" in printed:
    raise NotPermitted("mounting is not permitted")
  if code or "Traceback" in printed:
    raise Lost(f"the script exits with {code}: see {command.log}")


def full_disk(command: Command) -> str:
  """Trains until the disk is full. With more space, the training must resume to the same result."""
  # The space suffices for the first checkpoints only. The training keeps two.
  in_namespace(command, _FULL, SIZE="260k")
  kept = command.folder.with_suffix(".kept")
  shutil.rmtree(command.folder)
  kept.rename(command.folder)
  command.check()
  return "one-line error; resumed with more space, same result"


def read_only(command: Command) -> str:
  """Trains in a work directory that cannot be written. The training must fail with one line."""
  in_namespace(command, _READ_ONLY)
  return "one-line error"


# Faults of the training by name. Each function returns what happened.
FAULTS: dict[str, Callable[[Command], str]] = {
  "flipped bit": lambda command: damaged(command, flip),
  "truncated checkpoint": lambda command: damaged(command, truncate),
  "SIGTERM": terminated,
  "full disk": full_disk,
  "read-only folder": read_only,
}


def outcome(fault: Callable[[], dict[str, Any]]) -> dict[str, Any]:
  """Returns what a fault returned or why it was not run, and "lost": 1 if it lost the result, else 0."""
  try:
    return {**fault(), "lost": 0}
  except Lost as error:
    return {"outcome": str(error), "lost": 1}
  except NotPermitted as error:
    return {"outcome": f"not run: {error}", "lost": 0}


def main(arguments: Sequence[str] | None = None) -> int:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--out", type=pathlib.Path, required=True, help="an empty folder")
  flags.add_argument("--kills", type=int, default=50, help="number of kills of the training")
  flags.add_argument("--only", choices=COMMANDS, help="disturb only this command")
  flags.add_argument("--seed", type=int, default=0, help="seed of the moments")
  parsed = flags.parse_args(arguments)
  out, draw = parsed.out.absolute(), random.Random(parsed.seed)
  out.mkdir(parents=True)
  began, found, where = time.monotonic(), {}, environment()

  def done(name: str, result: dict[str, Any]) -> None:
    found[name] = result
    print(f"{name}: {result}", flush=True)
    record = {"environment": where, "seconds": round(time.monotonic() - began), "faults": found}
    (out / "faults.json").write_text(json.dumps(record, indent=1) + "\n")

  for name, make in COMMANDS.items():
    if parsed.only in (None, name):
      command, kills = make(out), parsed.kills if name == "training" else max(1, parsed.kills // 5)
      done(name, outcome(lambda command=command, kills=kills: disturb(command, kills, draw)))
      for fault, inflict in FAULTS.items() if name == "training" else ():
        done(fault, outcome(lambda command=command, inflict=inflict: {"outcome": inflict(command)}))
  return int(any(result["lost"] for result in found.values()))


if __name__ == "__main__":
  sys.exit(main())
