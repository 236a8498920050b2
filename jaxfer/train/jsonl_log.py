"""The log of metrics: rows appended to a JSON-lines file."""

import contextlib
import os
import pathlib
from typing import Any

from jaxfer import files


class Log:
  """Appends rows to a JSON-lines file, cut back to where a resumed training stood.

  Attributes:
    lost: bytes that the file is shorter than it was there, as when it was removed or cut; its whole lines are kept.
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
    """Brings what was written to the disk; returns the size of the file in bytes."""
    os.fsync(self._file.fileno())
    return self._file.tell()

  def write(self, rows: list[dict[str, Any]]) -> None:
    """Appends rows, one line each; raises `UserError` where the disk is full."""
    try:
      self._file.write("".join(files.to_json(row, None) + "\n" for row in rows).encode())
      self._file.flush()
    except OSError as error:
      raise files.unwritable(self._path, error) from error

  def close(self) -> None:
    """Closes the file."""
    with contextlib.suppress(OSError):  # Only of a write that has failed, and raised, before.
      self._file.close()
