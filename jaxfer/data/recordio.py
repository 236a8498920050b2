"""Reads MXNet's RecordIO as InsightFace uses it for faces: train.rec and train.idx (data/README.md, section 10).

A record consists of u32 magic, u32 (part << 29 | length), the payload, and padding to 4 bytes. A payload that contains
the magic on a 4-byte boundary is split there into parts 1, 2, ..., 2, 3 without the magic; whole payloads are part 0.
The payload of an image begins with a header `IfQQ` = (flag, label, id, id2). If the flag is above 0, that many float32
labels follow the header and replace its label. Everything is little endian.
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
MAX_LENGTH = 64 << 20  # Limit per payload; the format allows 512 MiB, but a face takes only a few KiB.
MAX_LABELS = 4096
_MAX_PARTS = 1 << 16  # Of a payload; an encoded image holds the magic about once in 16 GiB.

_FRAME = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)


@dataclasses.dataclass(frozen=True)
class Header:
  """Header of a record.

  Attributes:
    labels: one number, or as many as the flag states.
    id: number of the record.
    size: number of bytes of the image after the header; 0 if there is none.
  """

  labels: tuple[float, ...]
  id: int
  size: int


class Reader:
  """An open .rec file, as a context manager; every read takes an offset."""

  def __init__(self, path: Path):
    self.path = path

  def __enter__(self) -> "Reader":
    with self.path.open("rb") as stream:
      self.size = stream.seek(0, io.SEEK_END)
      self._bytes: mmap.mmap | bytes = b""
      if self.size:  # An empty file cannot be mapped.
        self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return self

  def __exit__(self, *_: object) -> None:
    if isinstance(self._bytes, mmap.mmap):
      self._bytes.close()

  def payload(self, offset: int) -> tuple[bytes, int]:
    """Returns a record's payload, its parts joined, and the offset of the next record.

    Raises:
      ValueError: there is no record at the offset, or it is cut short or longer than `MAX_LENGTH`.
    """
    parts, next_offset = self._parts(offset)
    return _MAGIC_BYTES.join(self._bytes[start : start + length] for start, length in parts), next_offset

  def header(self, offset: int) -> tuple[Header, int]:
    """Returns the header of a record and the offset of the next record, without reading the image.

    Raises:
      ValueError: as in `payload` and `parse`.
    """
    parts, next_offset = self._parts(offset)
    start, length = parts[0]
    total = sum(length for _, length in parts) + 4 * (len(parts) - 1)
    if len(parts) > 1:  # The payload may be split inside the header.
      return parse(self.payload(offset)[0])[0], next_offset
    return _parse_header(
      self._bytes[start : start + min(length, _HEADER.size + 4 * MAX_LABELS)], total
    ), next_offset

  def offsets(self) -> Iterator[int]:
    """Yields the offset of each record.

    Raises:
      ValueError: as in `payload`.
    """
    offset = 0
    while offset < self.size:
      yield offset
      offset = self._parts(offset)[1]

  def _parts(self, offset: int) -> tuple[list[tuple[int, int]], int]:
    """Returns (start, length) of each part of a record's payload, and the offset of the next record."""
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
  """Splits a payload into its header and the bytes of the image.

  Raises:
    ValueError: the payload is too short for its header, has more than `MAX_LABELS` labels, or a label is not finite.
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
  """The encoded image of one record of a .rec; a source of bytes for `stills.Still`."""

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
  """Reads a .idx file, which has one line `key<tab>offset` per record.

  Raises:
    ValueError: a line has another form, or a key occurs twice.
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
