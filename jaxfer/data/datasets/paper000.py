"""The stills of paper 000 (its Table 1): grey pictures of JAFFE, CK+, MSFDE and KDEF in seven classes.

The paper's counts for JAFFE fit the emotion with the highest rating, not the posed one. Its counts for "CK" fit CK+
without contempt, less four sequences. It uses five emotions of MSFDE, without neutral faces. Full copies of KDEF,
CK+ and MSFDE hold 46, 4 and 1 more pictures than Table 1, and the paper does not say which ones it left out.
"""

import dataclasses
from typing import Annotated

import tensorflow_datasets as tfds

from jaxfer.data.mixed import Mixture, Part
from jaxfer.errors import unknown
from jaxfer.ranges import Channels, Range, Seed, StoredSize

IMAGE_SIZES = (64, 24)  # Table 2: the size of the paper's preset, and that of the small ones.
LABELS = ("happiness", "sadness", "surprise", "anger", "disgust", "fear", "neutral")
_TABLE_1 = {
  "jaffe": (40, 34, 41, 26, 39, 8, 25),
  "ckplus_stills": (69, 28, 83, 44, 57, 24, 0),
  "msfde": (31, 32, 0, 32, 32, 32, 0),
  "kdef": (138, 130, 134, 134, 133, 136, 129),
}


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """The options of the mixture.

  Attributes:
    image_size: S, edge of the pictures in pixels.
    channels: 1 (grey) or 3 (RGB).
    crop: as for all stills; the paper states only that the whole face is visible.
    jaffe_labels: "rated" (the paper's) or "posed".
    neutral_below: with rated labels, a picture of JAFFE is neutral if none of its six mean ratings (1 to 5) reaches
      this number. `jaxfer prepare jaffe` needs the same value.
    counts: "all" takes every picture. "table1" draws as many pictures of each class and data set as Table 1 has. Where
      there are fewer, all are taken. The notes of the data set count both.
    counts_seed: seed of this draw.
  """

  image_size: StoredSize = 64
  channels: Channels = 1
  crop: str = "middle"
  jaffe_labels: str = "rated"
  neutral_below: Annotated[float, Range(1, 5)] = 3.0
  counts: str = "all"
  counts_seed: Seed = 0

  def __post_init__(self) -> None:
    if self.jaffe_labels not in ("rated", "posed"):
      raise unknown("option jaffe_labels of data set 'paper000'", self.jaffe_labels, ("rated", "posed"))
    if self.counts not in ("all", "table1"):
      raise unknown("option counts of data set 'paper000'", self.counts, ("all", "table1"))


def mixture(config: Config) -> Mixture:
  """Returns the mixture of the data sets."""
  common = {"image_size": config.image_size, "channels": config.channels, "crop": config.crop}
  rated = {"label_source": "ratings", "neutral_below": config.neutral_below}
  own = {
    "jaffe": rated if config.jaffe_labels == "rated" else {"label_source": "filename"},
    "ckplus_stills": {"frames": "last:1"},
  }
  parts = []
  for name, counts in _TABLE_1.items():
    expected = dict(zip(LABELS, counts, strict=True))
    taken = {label: label for label, count in expected.items() if count}
    source = "ckplus" if name == "ckplus_stills" else ""
    parts.append(Part(name, name, {**common, **own.get(name, {})}, taken, expected, source=source))
  draw = config.counts_seed if config.counts == "table1" else None
  return Mixture(LABELS, tuple(parts), "paper 000, Table 1", draw_seed=draw)
