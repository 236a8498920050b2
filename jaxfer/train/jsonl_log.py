"""The metrics log: rows that are appended to a JSON Lines file."""

import contextlib
import os
import pathlib
from typing import Any

from jaxfer import files


class Unwritten:
  """Stands in for a `Log` in the processes that write none.

  Attributes:
    lost: 0.
  """

  lost = 0

  def sync(self) -> int:
    """Returns 0."""
    return 0

  def write(self, rows: list[dict[str, Any]]) -> None:
    """Drops the rows."""

  def close(self) -> None:
    """Does nothing."""


class Log:
  """Appends rows to a JSON Lines file, which is first cut back to its size at the checkpoint.

  Args:
    path: the file, created if it does not exist.
    size: size in bytes at the checkpoint from which the training resumes; 0 starts an empty file.

  Attributes:
    lost: number of bytes lost since the checkpoint. It is above 0 if the file was removed or shortened; the complete
      lines that remain are kept.

  Raises:
    UserError: the file cannot be written.
  """

  def __init__(self, path: pathlib.Path, size: int):
    self._path = path
    try:
      path.touch()
      self._file = path.open("r+b")
      kept = size
      if path.stat().st_size < size:
        kept = self._file.read().rfind(b"\n") + 1
      self._file.truncate(kept)
      self._file.seek(kept)
    except OSError as error:
      raise files.unwritable(path, error) from error
    self.lost = size - kept

  def sync(self) -> int:
    """Flushes the file to the disk and returns its size in bytes."""
    os.fsync(self._file.fileno())
    return self._file.tell()

  def write(self, rows: list[dict[str, Any]]) -> None:
    """Appends rows, one line each; raises `UserError` if the file cannot be written, for example on a full disk."""
    try:
      self._file.write("".join(files.to_json(row, None) + "\n" for row in rows).encode())
      self._file.flush()
    except OSError as error:
      raise files.unwritable(self._path, error) from error

  def close(self) -> None:
    """Closes the file."""
    with contextlib.suppress(OSError):  # It comes from a write that has already raised it.
      self._file.close()
