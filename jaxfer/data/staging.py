"""Temporary folders to which a data set is written before it is renamed; those of killed runs are removed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxfer.errors import UserError

_PREFIX = ".incomplete-"
_LOCK = "lock"  # A file in the folder, locked while its process lives. The system unlocks it however the process ends.
_REPLACED = "replaced"  # The earlier copy, while a new one replaces it.


@contextlib.contextmanager
def staging(root: Path) -> Iterator[Path]:
  """Makes a hidden folder in `root` and removes it at the end, with the folders of runs that were killed.

  Raises:
    UserError: `root` cannot be written.
  """
  try:
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".starting-", dir=root))
    lock = (folder / _LOCK).open("w")
    with contextlib.suppress(OSError):  # On a file system without locks, no folder is removed.
      fcntl.flock(lock, fcntl.LOCK_EX)
    # The folder is locked before it gets its final name.
    folder = folder.rename(root / f"{_PREFIX}{folder.name.removeprefix('.starting-')}")
  except OSError as error:
    raise UserError(
      f"data folder {root} cannot be written ({error.strerror}): choose another, or set JAXFER_DATA_DIR"
    ) from error
  try:
    _remove_left(root, folder)
    yield folder
  finally:
    _put_back(root, folder)
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()


def put(built: Path, final: Path, folder: Path, replace: bool) -> None:
  """Renames the data set built in the staging `folder` to its final place.

  An earlier copy is moved to the staging folder first; if the process is killed in between, it is moved back later.

  Raises:
    OSError: there is an earlier copy and `replace` is False, or a folder cannot be renamed.
  """
  if replace and final.exists():
    aside = folder / _REPLACED / built.relative_to(folder)
    aside.parent.mkdir(parents=True)
    final.rename(aside)
  built.rename(final)


def _remove_left(root: Path, own: Path) -> None:
  """Removes the folders whose processes are dead."""
  for left in root.glob(f"{_PREFIX}*"):
    if left == own or not left.is_dir():
      continue
    try:
      with (left / _LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _put_back(root, left)
        shutil.rmtree(left, ignore_errors=True)
    except FileNotFoundError:  # The folder has no lock file yet, or is being removed.
      shutil.rmtree(left, ignore_errors=True)
    except OSError:
      continue  # Its process is alive, or belongs to another user.


def _put_back(root: Path, folder: Path) -> None:
  """Renames an earlier copy back to its place, unless a new one is there."""
  aside = folder / _REPLACED
  for info in list(aside.rglob("dataset_info.json")):
    final = root / info.parent.relative_to(aside)
    if not final.exists():
      os.rename(info.parent, final)
