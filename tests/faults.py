"""Kills a training, a study and a preparation at random moments, resumes them, and compares the bits of the results.

  python -m tests.faults --out runs/faults [--kills 50] [--seed 0]

A small training is killed with SIGKILL, at least 10 times while a checkpoint is being written, and resumed each time; a
small study and a preparation are killed a fifth as often. Each must end with the same bytes as the one that nothing
disturbed: metrics, checkpointed arrays, table, prepared data. Then the newest checkpoint is damaged by one flipped bit
and by truncation, SIGTERM arrives, the disk is full, and the folder is read-only. The counts are written to
OUT/faults.json. If anything is lost, the script stops with an error.
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

ROOT = pathlib.Path(__file__).parents[1]
TRAIN = [
  "configs/quickstart.py", "data.num_subjects=6", "data.num_frames=4", "data.image_size=16", "model.features=(4,)",
  "model.dense=(8, 8)", "recipe.epochs=12", "batch_size=4", "split.test=0.34", "execution.devices=1",
  "execution.steps_per_call=2", "execution.checkpoint_seconds=0",
]  # fmt: skip
STUDY = ["configs/stacked_autoencoder/table2_synthetic.py", "--preset", "smoke"]
_JAXFER = [sys.executable, "-c", "import sys; from jaxfer import cli; sys.exit(cli.main(sys.argv[1:]))"]
_WRITING = 10  # Kills that must fall into the writing of a checkpoint.


class Lost(Exception):
  """A result that differs from that of the process that nothing disturbed, or an unexpected exit."""


def environment_of(cache: pathlib.Path) -> dict[str, str]:
  """The environment of a process that keeps its compiled programs in `cache`."""
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
  }


def start(arguments: Sequence[str], log: pathlib.Path, cache: pathlib.Path) -> subprocess.Popen:
  """Starts `jaxfer` in a process of its own, with the programs of earlier ones."""
  with log.open("ab") as file:
    return subprocess.Popen(
      [*_JAXFER, *arguments],
      cwd=ROOT, env=environment_of(cache), stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def run(arguments: Sequence[str], log: pathlib.Path, cache: pathlib.Path, code: int = 0) -> float:
  """Runs `jaxfer` to its end; returns the seconds. Raises `Lost` if it exits with another code."""
  began = time.monotonic()
  found = start(arguments, log, cache).wait()
  if found != code:
    raise Lost(f"jaxfer {' '.join(arguments)} exits with {found}, expected {code}: see {log}")
  return time.monotonic() - began


def kill(process: subprocess.Popen) -> None:
  """SIGKILL to a process and all its children."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()


def digest(path: pathlib.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def untimed(path: pathlib.Path) -> dict[str, Any]:
  """The rows and comparisons of a study's table without the times."""
  table = json.loads(path.read_text())
  rows = [{k: v for k, v in row.items() if k not in ("seconds", "compile_seconds")} for row in table["rows"]]
  return {"rows": rows, "comparisons": table["comparisons"]}


def arrays(workdir: pathlib.Path) -> dict[str, str]:
  """The SHA-256 of every array of the newest checkpoint."""
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


def writing(workdir: pathlib.Path) -> bool:
  """Whether a checkpoint is being written: Orbax's temporary folder is there, or a checkpoint without its digest."""
  folder = workdir / "checkpoints"
  try:
    names = os.listdir(folder)
  except FileNotFoundError:
    return False
  digests = {path.stem for path in (workdir / "digests").glob("*.json")}
  return any("orbax-checkpoint-tmp" in name or (name.isdecimal() and name not in digests) for name in names)


class Command:
  """A command that can be run again after it was stopped, and the result that it must end with.

  Attributes:
    arguments: of `jaxfer`.
    folder: what the command writes.
    result: reads the result from the folder.
  """

  def __init__(self, arguments: Sequence[str], folder: pathlib.Path, result: Callable[[pathlib.Path], Any]):
    self.arguments, self.folder, self.result = list(arguments), folder, result
    self.log, self.cache = folder.with_suffix(".log"), folder.parent / "programs"
    self.run()  # Compiles the programs.
    shutil.rmtree(folder)
    self.seconds = self.run()
    self.expected = result(folder)
    shutil.rmtree(folder)

  def run(self) -> float:
    """Runs to the end; returns the seconds."""
    return run(self.arguments, self.log, self.cache)

  def check(self) -> None:
    """Raises `Lost` if the folder holds another result than that of the run that nothing disturbed."""
    if (found := self.result(self.folder)) != self.expected:
      raise Lost(f"{self.folder} has another result than without a disturbance: {found}, not {self.expected}")


def disturb(
  command: Command, kills: int, draw: random.Random, writing: Callable[[], bool] | None = None
) -> dict:
  """Kills a command at random moments; whenever it ends, checks its result and begins again.

  Args:
    command: what is killed.
    kills: how often.
    draw: of the moments.
    writing: whether a checkpoint is being written. If given, ten kills wait for that.

  Returns:
    Counts: "kills", those "while writing" among them, and "ends" with the expected result.
  """
  counts = {"kills": 0, "while writing": 0, "ends": 0}
  while True:
    process, began = start(command.arguments, command.log, command.cache), time.monotonic()
    wait = draw.uniform(0, command.seconds)
    aimed = writing is not None and counts["while writing"] < _WRITING and counts["kills"] % 2 == 1
    done = counts["kills"] >= kills
    while process.poll() is None and (done or time.monotonic() - began < wait):
      time.sleep(0.005)
    while aimed and writing is not None and process.poll() is None and not writing():
      time.sleep(0.0005)
    if process.poll() is None:
      inside = writing is not None and writing()
      kill(process)
      counts["kills"] += 1
      counts["while writing"] += inside
      with command.log.open("a") as file:
        file.write(f"-- killed after {time.monotonic() - began:.2f} s{', while writing' if inside else ''}\n")
      continue
    if process.returncode:
      raise Lost(f"jaxfer {' '.join(command.arguments)} exits with {process.returncode}: see {command.log}")
    command.check()
    counts["ends"] += 1
    if done:
      return counts
    shutil.rmtree(command.folder)


def training(out: pathlib.Path) -> Command:
  """The training; its result are the metrics and the arrays of the newest checkpoint."""
  folder = out / "training"
  arguments = ["train", *TRAIN, "--workdir", str(folder), "--data-dir", str(out / "data"), "--resume"]
  return Command(arguments, folder, lambda f: (digest(f / "metrics.jsonl"), arrays(f)))


def study(out: pathlib.Path) -> Command:
  """The study; its result are the rows of its table, without the times."""
  folder = out / "study"
  arguments = ["study", *STUDY, "--workdir", str(folder), "--data-dir", str(out / "data"), "--resume"]
  return Command(arguments, folder, lambda f: untimed(f / "table.json"))


def preparation(out: pathlib.Path) -> Command:
  """The preparation of a folder of drawn pictures; its result are the names of the files and the fingerprint."""
  source, folder = out / "pictures", out / "prepared"
  draw = np.random.default_rng(0)
  for k in range(300):
    path = source / f"class{k % 3}" / f"{k}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw.integers(0, 256, (400, 400, 3), np.uint8)).save(path)
  arguments = ["prepare", "image_folder", "crop=whole", "image_size=64", "--source", str(source)]

  def result(folder: pathlib.Path) -> dict[str, Any]:
    # The bytes of equal records differ from process to process: protocol buffers write a map in any order.
    (report,) = folder.rglob("report.json")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    return {"names": names, "fingerprint": json.loads(report.read_text())["fingerprint"]}

  return Command([*arguments, "--data-dir", str(folder)], folder, result)


def stopped(command: Command, number: int) -> None:
  """Begins the training anew and sends it a signal after its third checkpoint."""
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


def damaged(command: Command, harm: Callable[[pathlib.Path], None]) -> None:
  """Damages the largest file of the newest checkpoint of a stopped training, which must go on from the one before."""
  stopped(command, signal.SIGTERM)
  folders = [path for path in (command.folder / "checkpoints").iterdir() if path.name.isdecimal()]
  newest = max(folders, key=lambda path: int(path.name))
  harm(max(newest.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size))
  before = command.log.stat().st_size
  command.run()
  command.check()
  if f"checkpoint {newest.name} is removed, go on from" not in command.log.read_text()[before:]:
    raise Lost(f"the training does not say that checkpoint {newest.name} is damaged: see {command.log}")


# Run as root of a namespace of its own: $1 is the work directory, the rest the command. Exits with 3 if the command
# does not fail as it should.
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
  """Runs a script above with the training, in a mount namespace of its own.

  Raises:
    Lost: the training does not fail with an exit code, or fails with a traceback.
    OSError: namespaces or mounts are not permitted here.
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
    raise OSError("mounting is not permitted")
  if code or "Traceback" in printed:
    raise Lost(f"the script exits with {code}: see {command.log}")


def full_disk(command: Command) -> None:
  """The disk is full after some checkpoints; with more space the training resumes to the same result."""
  # The limit leaves room for some of the checkpoints, of which two are kept.
  in_namespace(command, _FULL, SIZE="260k")
  kept = command.folder.with_suffix(".kept")
  shutil.rmtree(command.folder)
  kept.rename(command.folder)
  command.check()


def main() -> int:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--out", type=pathlib.Path, required=True, help="an empty folder")
  flags.add_argument("--kills", type=int, default=50, help="of the training")
  flags.add_argument(
    "--only", choices=["training", "study", "preparation"], help="disturb this command alone"
  )
  flags.add_argument("--seed", type=int, default=0, help="of the moments")
  arguments = flags.parse_args()
  out, draw = arguments.out.absolute(), random.Random(arguments.seed)
  out.mkdir(parents=True)
  began, found = time.monotonic(), {}

  def done(name: str, result: Any) -> None:
    found[name] = result
    print(f"{name}: {result}", flush=True)
    (out / "faults.json").write_text(
      json.dumps(found | {"seconds": round(time.monotonic() - began)}, indent=1)
    )

  if arguments.only in (None, "training"):
    disturb_training(out, arguments.kills, draw, done)
  for name, make in (("study", study), ("preparation", preparation)):
    if arguments.only in (None, name):
      done(name, disturb(make(out), max(1, arguments.kills // 5), draw))
  return 0


def disturb_training(
  out: pathlib.Path, kills: int, draw: random.Random, done: Callable[[str, Any], None]
) -> None:
  """Every fault of the training; `done` receives the name and the outcome of each."""
  trained = training(out)
  done("training", disturb(trained, kills, draw, lambda: writing(trained.folder)))
  for name, harm in (("one flipped bit", flip), ("truncated checkpoint", truncate)):
    damaged(trained, harm)
    done(name, "said, resumed from the checkpoint before, same result")
  stopped(trained, signal.SIGTERM)
  trained.run()
  trained.check()
  done("SIGTERM", "state saved, resumed to the same result")
  for name, check in (
    ("full disk", full_disk),
    ("read-only folder", lambda command: in_namespace(command, _READ_ONLY)),
  ):
    try:
      check(trained)
      done(name, "one-line error" + (", resumed to the same result" if check is full_disk else ""))
    except OSError as error:
      done(name, f"not run: {error}")


if __name__ == "__main__":
  sys.exit(main())
