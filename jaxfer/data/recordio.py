"""MXNet's RecordIO as InsightFace ships faces in it: train.rec and train.idx (data/README.md, section 10).

A record is u32 magic, u32 (part << 29 | length), the payload, and padding to 4 bytes. A payload that holds the magic
itself on a 4-byte boundary is cut there into parts 1, 2, ..., 2, 3 and loses it; whole payloads are part 0. An image's
payload begins with a header of its own, `IfQQ` = (flag, label, id, id2); if the flag is above 0 the label is that
many float32 instead, which follow. Little endian throughout.
"""

import dataclasses
import functools
import io
import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

MAGIC = 0xCED7230A
MAX_LENGTH = 64 << 20  # Of a payload; the format itself allows 512 MiB, and a face takes a few KiB.
MAX_LABELS = 4096
_MAX_PARTS = 1 << 16  # Of a payload; an encoded image holds the magic about once in 16 GiB.

_FRAME = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)


@dataclasses.dataclass(frozen=True)
class Header:
  """What a record says before its image.

  Attributes:
    labels: one number, or as many as its flag says.
    id: the record's own number.
    size: bytes of the image after it; 0 where there is none.
  """

  labels: tuple[float, ...]
  id: int
  size: int


class Reader:
  """An open .rec; every read names its offset. To be used in a `with`."""

  def __init__(self, path: Path):
    self.path = path

  def __enter__(self) -> "Reader":
    with self.path.open("rb") as stream:
      self.size = stream.seek(0, io.SEEK_END)
      self._bytes: mmap.mmap | bytes = b""
      if self.size:  # Nothing cannot be mapped.
        self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return self

  def __exit__(self, *_: object) -> None:
    if isinstance(self._bytes, mmap.mmap):
      self._bytes.close()

  def payload(self, offset: int) -> tuple[bytes, int]:
    """Returns a record's payload, its parts joined, and the offset of the next record.

    Raises:
      ValueError: no record at the offset, one cut short, or one above `MAX_LENGTH`.
    """
    parts, next_offset = self._parts(offset)
    return _MAGIC_BYTES.join(self._bytes[start : start + length] for start, length in parts), next_offset

  def header(self, offset: int) -> tuple[Header, int]:
    """Returns what `parse` says of a record, and the offset of the next; reads no image.

    Raises:
      ValueError: as `payload` and `parse`.
    """
    parts, next_offset = self._parts(offset)
    start, length = parts[0]
    total = sum(length for _, length in parts) + 4 * (len(parts) - 1)
    if len(parts) > 1:  # The cut may lie inside the header.
      return parse(self.payload(offset)[0])[0], next_offset
    return _parse_header(
      self._bytes[start : start + min(length, _HEADER.size + 4 * MAX_LABELS)], total
    ), next_offset

  def offsets(self) -> Iterator[int]:
    """Yields where each record begins, from the first on.

    Raises:
      ValueError: as `payload`.
    """
    offset = 0
    while offset < self.size:
      yield offset
      offset = self._parts(offset)[1]

  def _parts(self, offset: int) -> tuple[list[tuple[int, int]], int]:
    """Where the parts of a record's payload lie, (start, length) each, and the offset of the next record."""
    parts: list[tuple[int, int]] = []
    total = 0
    while True:
      if not 0 <= offset <= self.size - _FRAME.size:
        raise ValueError(f"no record at byte {offset} of {self.size}")
      magic, word = _FRAME.unpack(self._bytes[offset : offset + _FRAME.size])
      part, length = word >> 29, word & (1 << 29) - 1
      if magic != MAGIC:
        raise ValueError(f"no record at byte {offset}: it begins with {magic:#010x}, not {MAGIC:#010x}")
      if part not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
        raise ValueError(f"record at byte {offset} is part {part} of another")
      start = offset + _FRAME.size
      offset = start + (length + 3) // 4 * 4
      total += length + 4
      if start + length > self.size:
        raise ValueError(
          f"the file ends {start + length - self.size} bytes early, in a record at byte {start - 8}"
        )
      if total > MAX_LENGTH or len(parts) == _MAX_PARTS:
        raise ValueError(f"record of more than {MAX_LENGTH} bytes or {_MAX_PARTS} parts at byte {start - 8}")
      parts.append((start, length))
      if part in (_WHOLE, _LAST):
        return parts, min(offset, self.size)


def parse(payload: bytes) -> tuple[Header, bytes]:
  """Takes a payload apart into its header and the image's bytes.

  Raises:
    ValueError: a payload too short for its header, above `MAX_LABELS` labels, or a label that is no number.
  """
  header = _parse_header(payload, len(payload))
  return header, payload[len(payload) - header.size :]


def _parse_header(start: bytes, total: int) -> Header:
  if len(start) < _HEADER.size:
    raise ValueError(f"a record of {total} bytes: its header alone takes {_HEADER.size}")
  flag, label, id_, _ = _HEADER.unpack_from(start)
  if flag > MAX_LABELS or _HEADER.size + 4 * flag > total:
    raise ValueError(f"a record of {total} bytes that says it has {flag} labels")
  labels = struct.unpack_from(f"<{flag}f", start, _HEADER.size) if flag else (label,)
  if not all(map(math.isfinite, labels)):
    raise ValueError(f"a record whose label is {labels[0]}")
  return Header(labels, id_, total - _HEADER.size - 4 * flag)


@dataclasses.dataclass(frozen=True)
class Image:
  """The encoded image of one record of a .rec; a place of bytes for `stills.Still`."""

  path: Path
  offset: int
  name: str

  def read(self) -> bytes:
    """Returns the encoded image. Raises OSError or ValueError."""
    with Reader(self.path) as reader:
      return parse(reader.payload(self.offset)[0])[1]

  def __str__(self) -> str:
    return f"{self.path} ({self.name})"


def read_index(path: Path) -> dict[int, int]:
  """Reads a .idx: a line `key<tab>offset` a record.

  Raises:
    ValueError: a line that is not so, or a key that occurs twice.
  """
  index: dict[int, int] = {}
  with path.open("rb") as stream:
    for number, line in enumerate(iter(functools.partial(stream.readline, 128), b""), 1):
      words = line.split()
      if len(words) != 2 or not all(word.isdigit() and len(word) < 19 for word in words):
        raise ValueError(f"line {number} is {line[:40]!r}: expected a key, a tab and an offset")
      key, offset = map(int, words)
      if key in index:
        raise ValueError(f"line {number} repeats key {key}")
      index[key] = offset
  return index
