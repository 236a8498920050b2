"""Still pictures of a distribution: what an importer says of each, and where its bytes lie.

An importer of stills is a folder `datasets/<name>/` with a `scan` that walks and parses the distributor's tree (it
decodes nothing), fills the findings and returns one `Still` a picture. All after that is common:

- `stills_builder.Config` and `stills_builder.Builder` are the bases of the set's own `Config` and `Builder`;
- `reading.read` reads the stills in processes: `decode.decode` checks them, `detect.get` finds the faces that the
  distributor does not place, `align` brings them to size.

Pixel i covers i to i + 1: where a distributor's (0, 0) is the middle of the first pixel, add 0.5. An EXIF rotation is
applied before; squares and points are of the upright picture.

How faces are cut out, option `crop`:

- "auto": the square about the distributor's points, else its square, else the detector's, else the middle;
- "detector": the largest face that the detector finds, else as "auto", for data sets that one detector is to cut alike;
- "template": points (two, three or five) by a similarity to the 112-pixel template, at any size; a picture without
  points gets them from the detector, and is bad where it gives none;
- "middle": the largest square in the middle;
- "whole": all of the picture, its aspect changed where it is not square.
"""

import dataclasses
import functools
import lzma
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxfer.data.align import Square

# Name of the class of pictures to which their distributor gives no label. It contradicts no other label.
UNLABELLED = "unlabelled"

_LARGEST = 256 << 20  # Bytes; no picture has more.
# What a damaged archive raises: KeyError for a name that is not there, RuntimeError for a password, and so on.
_UNSOUND_ZIP = (
  zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, LookupError, ValueError, RuntimeError, OverflowError,
  EOFError,
)  # fmt: skip


class Bytes(Protocol):
  """Where the encoded bytes of a picture lie; picklable, and `str()` of it names the place in messages."""

  def read(self) -> bytes:
    """Returns the encoded picture (JPEG, PNG, TIFF, ...). Raises OSError or ValueError."""


@dataclasses.dataclass(frozen=True)
class File:
  """A file of its own."""

  path: Path

  def read(self) -> bytes:
    """See `Bytes`."""
    with self.path.open("rb") as stream:
      return _bounded(stream.read(_LARGEST + 1))

  def __str__(self) -> str:
    return str(self.path)


@dataclasses.dataclass(frozen=True)
class Span:
  """A part of a larger file, such as a record of a .rec."""

  path: Path
  offset: int
  length: int
  name: str

  def read(self) -> bytes:
    """See `Bytes`."""
    with self.path.open("rb") as stream:
      stream.seek(self.offset)
      data = _bounded(stream.read(min(self.length, _LARGEST + 1)))
    if len(data) < self.length:
      raise ValueError(f"the file ends {self.length - len(data)} bytes early")
    return data

  def __str__(self) -> str:
    return f"{self.path} ({self.name})"


@dataclasses.dataclass(frozen=True)
class Member:
  """A file in a zip archive that the distributor left packed."""

  archive: Path
  name: str

  def read(self) -> bytes:
    """See `Bytes`."""
    try:
      with _open_zip(self.archive, self.archive.stat().st_mtime_ns).open(self.name) as stream:
        return _bounded(stream.read(_LARGEST + 1))
    except _UNSOUND_ZIP as error:
      raise ValueError(f"cannot be unpacked ({error})") from None

  def __str__(self) -> str:
    return f"{self.archive}/{self.name}"


def zip_names(archive: Path) -> list[str]:
  """Returns the names in a zip archive. Raises OSError, or ValueError for a damaged one."""
  try:
    with zipfile.ZipFile(archive) as packed:
      return packed.namelist()
  except _UNSOUND_ZIP as error:
    raise ValueError(str(error) or type(error).__name__) from None


@functools.lru_cache(maxsize=8)
def _open_zip(path: Path, changed: int) -> zipfile.ZipFile:
  """Kept open: the directory of an archive is read once, not once a member."""
  del changed  # A new time is another archive.
  return zipfile.ZipFile(path)


def _bounded(data: bytes) -> bytes:
  if len(data) > _LARGEST:
    raise ValueError(f"more than {_LARGEST >> 20} MiB: not a picture of a face")
  return data


@dataclasses.dataclass(frozen=True)
class Still:
  """A picture with what its distributor says of it.

  Attributes:
    key: of the record; unique in the set.
    subject: the person's name; where people are unknown, a name of the picture's own.
    label: index into the set's class names.
    source: where the bytes lie.
    square: the face, as the distributor gives it; None where it does not.
    points: [2, 2], [3, 2] or [5, 2] (x, y) in pixels of the picture: the eyes; eyes and middle of the mouth; or eyes,
      nose tip and corners of the mouth, each pair from image-left to image-right. None where not given.
    split: "train", "validation" or "test" as distributed, or "".
    extras: further features by name, as the builder declares them.
    landmarks: [K, 2], points to be kept, in pixels of the picture; they move with the crop and are written as the
      feature `landmarks` in pixels of the crop, where the builder has `LANDMARKS`. None where not given.
    where: what names the picture and its face, for messages: "list.csv, line 3, box 10,20 30 x 40". "" for nothing.
  """

  key: str
  subject: str
  label: int
  source: Bytes
  square: Square | None = None
  points: np.ndarray | None = None
  split: str = ""
  extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  landmarks: np.ndarray | None = None
  where: str = ""
