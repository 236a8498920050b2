"""Folders that a data set is written to before it is renamed; what killed runs left of them is removed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxfer.errors import UserError

_PREFIX = ".incomplete-"
_LOCK = "lock"  # A file in the folder, locked as long as its process lives. The system unlocks it, whatever kills it.
_REPLACED = "replaced"  # The earlier copy, while a new one takes its place.


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
    with contextlib.suppress(OSError):  # A file system without locks: then nobody's folder can be removed.
      fcntl.flock(lock, fcntl.LOCK_EX)
    folder = folder.rename(
      root / f"{_PREFIX}{folder.name.removeprefix('.starting-')}"
    )  # It is locked before it is seen.
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
  """Renames what was built in the staging `folder` to its final place.

  An earlier copy there goes to the staging folder first; if this is interrupted in between, it comes back.

  Raises:
    OSError: there is an earlier copy and it is not to be replaced, or a folder cannot be renamed.
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
    except FileNotFoundError:  # Made before folders were locked, or half removed.
      shutil.rmtree(left, ignore_errors=True)
    except OSError:
      continue  # Its process lives, or it is another user's.


def _put_back(root: Path, folder: Path) -> None:
  """Renames an earlier copy back to its place, unless a new one has taken it."""
  aside = folder / _REPLACED
  for info in list(aside.rglob("dataset_info.json")):
    final = root / info.parent.relative_to(aside)
    if not final.exists():
      os.rename(info.parent, final)
