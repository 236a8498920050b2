"""Reads files of a tar archive without unpacking: an uncompressed archive holds them one after another."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from jaxfer.data.stills import Span


class _Bounded:
  """A part of a file that `tarfile` reads, without room for more bytes than are left, whatever a header asks for."""

  def __init__(self, stream: BinaryIO, end: int):
    self._stream, self._end = stream, end
    self.seek, self.tell = stream.seek, stream.tell

  def read(self, size: int = -1) -> bytes:
    """Reads up to `size` bytes, or all that are left."""
    left = max(0, self._end - self._stream.tell())
    return self._stream.read(left if size < 0 else min(size, left))


def members(archive: Path, within: Span | None = None) -> Iterator[Span]:
  """Yields the files of a tar archive, named by their paths in it, in the archive's order.

  Args:
    archive: an uncompressed .tar.
    within: an archive inside it, as yielded by this function (ImageNet's training pictures are a tar of tars).

  Raises:
    ValueError: the file is not such an archive, or is damaged.
    OSError: the file cannot be read.
  """
  try:
    with archive.open("rb") as stream:
      size = stream.seek(0, 2)
      end = size if within is None else within.offset + within.length
      stream.seek(0 if within is None else within.offset)
      bounded: Any = _Bounded(stream, end)
      with tarfile.open(fileobj=bounded, mode="r:") as tar:
        last = -1
        for member in tar:
          # A header with a negative size leads back to an earlier one, again and again.
          if member.size < 0 or member.offset <= last:
            raise ValueError(f"{member.name[:80]} has a negative size")
          last = member.offset
          if member.issparse():
            raise ValueError(f"{member.name[:80]} is a sparse file: pack the archive again without --sparse")
          if not member.isreg():
            continue
          if member.offset_data + member.size > end:
            raise ValueError(f"{member.name[:80]} is cut short: the archive ends before it")
          yield Span(archive, member.offset_data, member.size, member.name)
          tar.members = []  # type: ignore[attr-defined]  # It keeps all it has seen, a million of them.
  # The last three come from extended headers: from thousands in a row, and from fields that are damaged.
  except (tarfile.TarError, EOFError, OverflowError, RecursionError, LookupError, TypeError) as error:
    raise ValueError(f"not a whole, uncompressed tar archive ({error})") from None
