"""Still pictures of a distribution: where each lies, decoding, checks, the face's place, and the builder they share.

An importer of stills is a `scan` function: it walks and parses the distributor's tree, fills the findings and returns
one `Still` a picture. Everything after that is the same for all sets and is here.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxfer.data.align import Square


class Bytes(Protocol):
  """Where the encoded bytes of a picture lie; picklable, and `str()` of it names the place in messages."""

  def read(self) -> bytes:
    """Returns the encoded picture (JPEG, PNG, TIFF, ...). Raises OSError or ValueError."""


@dataclasses.dataclass(frozen=True)
class File:
  """A file of its own."""

  path: Path

  def read(self) -> bytes:
    return self.path.read_bytes()

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
    with self.path.open("rb") as stream:
      stream.seek(self.offset)
      data = stream.read(self.length)
    if len(data) < self.length:
      raise ValueError(f"the file ends {self.length - len(data)} bytes early")
    return data

  def __str__(self) -> str:
    return f"{self.path} ({self.name})"


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
  """

  key: str
  subject: str
  label: int
  source: Bytes
  square: Square | None = None
  points: np.ndarray | None = None
  split: str = ""
  extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)
