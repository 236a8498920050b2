"""Still pictures of a data set: their description by an importer, and the sources of their bytes.

An importer of stills is a folder `datasets/<name>/` with a function `scan` that walks the distributor's folders without
decoding pictures, fills the findings and returns one `Still` per picture. The rest is common to all importers:

- `stills_builder.Config` and `stills_builder.Builder` are the bases of the set's own `Config` and `Builder`;
- `reading.read` reads the stills in parallel processes: `decode.decode` checks them, `detect.get` finds faces without a
  given position, and `align` crops and resizes them.

Pixel i covers i to i + 1; add 0.5 if a distributor's (0, 0) is the middle of the first pixel. An EXIF rotation is
applied first, so squares and points refer to the upright picture.

The option `crop` determines how faces are cropped:

- "auto": the square around the distributor's points, else its square, else the detector's, else the middle square;
- "detector": the largest face that the detector finds, else as "auto", to crop several data sets in the same way;
- "template": points (two, three or five) are aligned to the 112-pixel template by a similarity, at any size; the
  detector provides missing points, and a picture without points is bad;
- "middle": the largest square in the middle;
- "whole": the whole picture, which changes its aspect ratio if it is not square.
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

# Name of the class of pictures without a label from the distributor. It contradicts no other label.
UNLABELLED = "unlabelled"

_LARGEST = 256 << 20  # Largest size of a file in bytes.
# What a damaged archive may raise: KeyError for a missing name, RuntimeError for a password, and so on.
_UNSOUND_ZIP = (
  zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, LookupError, ValueError, RuntimeError, OverflowError,
  EOFError,
)  # fmt: skip


class Bytes(Protocol):
  """Source of the encoded bytes of a picture. It can be pickled, and `str()` names it in messages."""

  def read(self) -> bytes:
    """Returns the encoded picture (JPEG, PNG, TIFF, ...). Raises OSError or ValueError."""


@dataclasses.dataclass(frozen=True)
class File:
  """A picture in a separate file."""

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
  """Opens an archive and caches it, so that its directory is read once, not once per member."""
  del changed  # Part of the cache key: a new modification time means another archive.
  return zipfile.ZipFile(path)


def _bounded(data: bytes) -> bytes:
  if len(data) > _LARGEST:
    raise ValueError(f"more than {_LARGEST >> 20} MiB: not a picture of a face")
  return data


@dataclasses.dataclass(frozen=True)
class Still:
  """A picture and its description by the distributor.

  Attributes:
    key: key of the record, unique in the data set.
    subject: name of the person; if the people are unknown, a different name for each picture.
    label: index into the class names.
    source: source of the bytes.
    square: the distributor's square around the face; None if not given.
    points: [2, 2], [3, 2] or [5, 2] (x, y) in pixels of the picture: the eyes; eyes and middle of the mouth; or eyes,
      nose tip and corners of the mouth, each pair from image-left to image-right. None if not given.
    split: "train", "validation" or "test" as distributed, or "".
    extras: further features by name, as the builder declares them.
    landmarks: [K, 2], points in pixels of the picture. They are written as the feature `landmarks`, in pixels of the
      crop, if the builder has `LANDMARKS`. None if not given.
    where: names the picture and its face in messages, e.g. "list.csv, line 3, box 10,20 30 x 40"; may be "".
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
