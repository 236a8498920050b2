"""InsightFace's verification sets (lfw.bin, agedb_30.bin, ...): pairs of faces, and whether they show one person.

Each is a pickle of (list of JPEG bytes, two per pair; list of bool). `unpickle` reads it without running any code.
"""

import dataclasses
from pathlib import Path

import numpy as np

from jaxfer.data import unpickle

NUM_PAIRS = {"lfw": 6000, "agedb_30": 6000, "calfw": 6000, "cplfw": 6000, "cfp_fp": 7000, "cfp_ff": 7000}


@dataclasses.dataclass(frozen=True)
class Pairs:
  """The n pairs of a verification set.

  Attributes:
    images: 2 n encoded pictures; pair i consists of images 2 i and 2 i + 1.
    same: bool [n], whether both images of a pair show the same person.
  """

  images: tuple[bytes, ...]
  same: np.ndarray

  def __len__(self) -> int:
    return len(self.same)


def read_pairs(path: Path) -> Pairs:
  """Reads a .bin.

  Raises:
    ValueError: the pickle holds anything else (nothing in it is run), or the two lists do not match.
    OSError: the file cannot be read.
  """
  size = path.stat().st_size
  if size > unpickle.MAX_BYTES:
    raise ValueError(f"{size} bytes: at most {unpickle.MAX_BYTES} are read")
  value = unpickle.loads(path.read_bytes())
  if not (isinstance(value, tuple | list) and len(value) == 2):
    raise ValueError("expected a pair of lists: pictures, and whether each pair shows one person")
  images, same = value
  if not isinstance(images, list | tuple) or not isinstance(same, list | tuple | np.ndarray):
    raise ValueError("expected a pair of lists: pictures, and whether each pair shows one person")
  encoded = tuple(image.tobytes() if isinstance(image, np.ndarray) else image for image in images)
  if not all(isinstance(image, bytes) for image in encoded):
    raise ValueError("a picture is not bytes")
  flags = same.ravel().tolist() if isinstance(same, np.ndarray) else list(same)
  if not all(isinstance(flag, bool | int) and flag in (0, 1) for flag in flags):
    raise ValueError("an entry of the second list is neither True nor False")
  if len(encoded) != 2 * len(flags) or not flags:
    raise ValueError(f"{len(encoded)} pictures for {len(flags)} pairs: expected two each")
  return Pairs(encoded, np.array(flags, bool))
