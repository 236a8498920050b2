"""Work directories. Only one command works in a directory at a time, and a directory holds only one kind of content."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import re
import socket
from collections.abc import Callable, Iterator

from jaxfer import files
from jaxfer.errors import UserError

RUN, STUDY = "config.json", "study.json"  # Files that mark a folder of `jaxfer train` or of `jaxfer study`.
LOCK = ".lock"

# Name of a file or folder -> content of the folder that holds it. The first name that exists decides.
_KINDS = {
  STUDY: "a study",
  RUN: "a run",
  "members.json": "the trainings of a study's row",
  "result.json": "the result of a study's row",
  "weights.json": "weights",
  "weights.npz": "weights",
  "dataset_info.json": "a prepared data set",
  "key.csv": "a test for people",
  "checkpoints": "the checkpoints of a training",
  "metrics.jsonl": "the metrics of a training",
  "evaluation.json": "an evaluation",
  "predictions.csv": "predictions",
  "rows": "the rows of a study",
  "table.json": "the table of a study",
  "report.html": "a report",
}
# For a run and a study: the names of the folders that belong to it, and a key of its record, which distinguishes the
# record from other files of the same name.
_PARTS = {
  RUN: (re.compile(r"group\d+|checkpoints|digests|best|weights"), "recipe"),
  STUDY: (re.compile(r"rows|sources"), "rows"),
}
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def kind(folder: pathlib.Path) -> tuple[str, str] | None:
  """Returns the content of a folder, in words, and the file that shows it; None if it holds nothing of jaxfer's."""
  return next(((words, name) for name, words in _KINDS.items() if os.path.lexists(folder / name)), None)


def owner(folder: pathlib.Path) -> tuple[str, pathlib.Path] | None:
  """Returns the run, study or prepared data set that a folder is a part of, in words, and its folder; None if none."""
  folder = pathlib.Path(os.path.realpath(folder))
  for parent in folder.parents:
    if (parent / "dataset_info.json").is_file():
      return _KINDS["dataset_info.json"], parent
    for name, (parts, _) in _PARTS.items():
      if parts.fullmatch(folder.relative_to(parent).parts[0]) and _is_ours(parent / name):
        return _KINDS[name], parent
  return None


def _is_ours(record: pathlib.Path) -> bool:
  """Returns whether a file is the record of a run or study; other programs also write files named config.json."""
  try:
    tree = json.loads(record.read_bytes())
  except (OSError, ValueError, RecursionError):
    return False
  return isinstance(tree, dict) and _PARTS[record.name][1] in tree


def check(folder: pathlib.Path, own: str | None, fix: str) -> None:
  """Refuses a folder that holds other content than expected, or that is a part of something else.

  Args:
    folder: the folder; it need not exist.
    own: the content that the folder may hold, `RUN` or `STUDY`; None if it must hold nothing of jaxfer's.
    fix: what the user can do; the end of the error message.

  Raises:
    UserError: the folder holds other content, which the message names.
  """
  if (part := owner(folder)) is not None:
    raise UserError(f"{folder} is a part of {part[0]}, {part[1]}: {fix}")
  if (found := kind(folder)) is not None and found[1] != own:
    raise UserError(f"{folder} holds {found[0]} ({found[1]}): {fix}")
  # `folder` may be that of one configuration of a data set, of the data set, or of all data sets.
  for below in ("*", "*/*", "*/*/*"):
    if (data := next(folder.glob(f"{below}/dataset_info.json"), None)) is not None:
      raise UserError(f"{folder} holds prepared data ({data.relative_to(folder)}): {fix}")


def check_data_dir(folder: pathlib.Path) -> None:
  """Raises `UserError` if a folder for prepared data is a run or a study, or lies within one."""
  part = owner(folder)
  found = next((_KINDS[name] for name in _PARTS if _is_ours(folder / name)), None)
  if part is not None or found is not None:
    what = f"holds {found}" if part is None else f"is a part of {part[0]}, {part[1]}"
    raise UserError(f"data folder {folder} {what}: choose another --data-dir, or set JAXFER_DATA_DIR")


def check_writable(folder: pathlib.Path) -> None:
  """Makes a folder if it does not exist, and writes a file there as a test; raises `UserError` if either fails."""
  files.make_folder(folder)
  probe = folder / ".probe.partial"
  try:
    probe.write_bytes(bytes(4096))
  except OSError as error:
    raise files.unwritable(folder, error) from error
  finally:
    with contextlib.suppress(OSError):
      probe.unlink()


@contextlib.contextmanager
def fresh(folder: pathlib.Path) -> Iterator[None]:
  """Context manager that makes a folder for new content; raises `UserError` if that is impossible.

  The folder may exist if it is empty. If it was made here and nothing was written to it, it is removed again.
  """
  fix = "give a new folder"
  with explained(folder):
    check(folder, None, fix)
    if folder.is_dir() and not all(files.clutter(path.name) for path in folder.iterdir()):
      raise UserError(f"{folder} exists and is not empty: {fix}")
    made = not folder.exists()
    check_writable(folder)
    try:
      files.remove_partial(folder)
      yield
    finally:
      if made:
        with contextlib.suppress(OSError):
          folder.rmdir()


@contextlib.contextmanager
def hold(
  folder: pathlib.Path,
  own: str,
  data_dir: pathlib.Path,
  log: Callable[[str], None],
  fix: str = "choose another --workdir",
) -> Iterator[None]:
  """Context manager that reserves a work directory for one command.

  The folder is made and checked, and a file is written there as a test, before anything else happens. A lock of the
  operating system (flock on the file `.lock`, which names the process that holds it) keeps other commands out. The lock
  ends with the process, even if the process is killed. On a file system without such locks, the command logs a line and
  goes on. A failure to write in the folder, by whatever library, becomes a `UserError`. A folder that was made here and
  stays empty is removed.

  Args:
    folder: the work directory.
    own: the content that it may hold, `RUN` or `STUDY`.
    data_dir: the folder of prepared data, which must be a different folder.
    log: called with the line about missing locks.
    fix: see `check`.

  Raises:
    UserError: the folder holds something else, is in use, or cannot be written.
  """
  with explained(folder):
    if os.path.realpath(folder) == os.path.realpath(data_dir):
      raise UserError(f"{folder} is the folder of prepared data: {fix}")
    check(folder, own, fix)
    made = not folder.exists()
    check_writable(folder)
    try:
      with _locked(folder, log):
        files.remove_partial(folder)
        yield
    finally:
      if made:
        with contextlib.suppress(OSError):
          folder.rmdir()


@contextlib.contextmanager
def _locked(folder: pathlib.Path, log: Callable[[str], None]) -> Iterator[None]:
  path = folder / LOCK
  while True:
    # The file is not truncated, because it may hold the name of another process.
    with path.open("a+", encoding="utf-8") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise UserError(
          f"{folder} is in use by {holder}: wait for it to end, stop it, or choose another --workdir"
        ) from None
      except OSError as error:
        if error.errno not in _UNSUPPORTED:
          raise
        log(
          f"{folder} is on a file system without locks ({error.strerror}): do not run a second command in it "
          "at the same time"
        )
      try:
        if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
          continue
      except FileNotFoundError:
        continue  # The other process removed the file after we opened it and before we locked it.
      file.truncate(0)
      file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
      file.flush()
      try:
        yield
      finally:
        with contextlib.suppress(OSError):
          path.unlink()
      return


@contextlib.contextmanager
def explained(folder: pathlib.Path) -> Iterator[None]:
  """Context manager that turns a failure to write in a folder into a `UserError`."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    cause = files.disk_error(error)
    inside = cause is not None and os.path.abspath(cause.filename or folder).startswith(
      os.path.abspath(folder)
    )
    if cause is None or not inside:
      raise
    raise files.unwritable(cause.filename or folder, cause) from error
