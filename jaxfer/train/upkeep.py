"""What keeps a training safe and on record: signals caught, rows appended."""

import contextlib
import json
import pathlib
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
  """Collects SIGTERM and SIGINT instead of dying of them; a second one of a kind acts as usual."""
  caught: list[int] = []
  previous: dict[int, Any] = {}

  def handle(number, frame):
    del frame
    caught.append(number)
    signal.signal(number, previous[number])

  for number in (signal.SIGTERM, signal.SIGINT):
    with contextlib.suppress(ValueError):  # Not the main thread: signals are not ours to handle.
      previous[number] = signal.signal(number, handle)
  try:
    yield caught
  finally:
    for which, handler in previous.items():
      signal.signal(which, handler)


class Log:
  """Appends rows to a JSON-lines file, cut back to where a resumed training stood."""

  def __init__(self, path: pathlib.Path, size: int):
    path.touch()
    self._file = path.open("r+")
    self._file.truncate(size)
    self._file.seek(size)

  @property
  def size(self) -> int:
    """Bytes written."""
    return self._file.tell()

  def write(self, rows: list[dict[str, Any]]) -> None:
    """Appends rows, a line each."""
    self._file.writelines(json.dumps(row) + "\n" for row in rows)
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
