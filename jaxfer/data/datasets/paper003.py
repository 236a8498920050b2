"""The stills of paper 003: frames of MUG, CK+ and RAVDESS.

For training, frames at equal spacing of every sequence; for recognition, some about the middle (MUG) or the last ones
(CK+, without contempt), and none of RAVDESS. The paper trains on 29,085 images of 195 people and judges on 2,037. It
does not say how many frames of a sequence it takes, and counts more people than MUG hands out.
"""

import dataclasses
from typing import Annotated

import tensorflow_datasets as tfds

from jaxfer.data.mixed import Mixture, Part
from jaxfer.data.stills import UNLABELLED
from jaxfer.errors import unknown
from jaxfer.ranges import Channels, Range, StoredSize

IMAGE_SIZES = (64, 128)  # Of the rows of Table 3.
LABELS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """The options of the mixture.

  Attributes:
    image_size: S, edge of the pictures in pixels.
    channels: 3 (RGB) or 1 (grey).
    use: "both", or "training" or "recognition" alone. Of both, `split_of` trains on the one and tests the other.
    num_frames: frames of a sequence, at equal spacing, for training.
    channel: of RAVDESS, for training: "speech", "song" or "both".
  """

  image_size: StoredSize = 64
  channels: Channels = 3
  use: str = "both"
  num_frames: Annotated[int, Range(2, 10_000)] = 10
  channel: str = "both"

  def __post_init__(self) -> None:
    if self.use not in ("both", "training", "recognition"):
      raise unknown("option use of data set 'paper003'", self.use, ("both", "training", "recognition"))


def mixture(config: Config) -> Mixture:
  """Its parts."""
  common = {"image_size": config.image_size, "channels": config.channels}
  spaced = {**common, "frames": f"equal:{config.num_frames}"}
  purposes = ("training", "recognition") if config.use == "both" else ("", "")
  judged = (
    Part("mug", "mug", {**common, "frames": "middle:5"}, purpose=purposes[1]),
    Part("ckplus_stills", "ck", {**common, "frames": "last:3"}, purpose=purposes[1], source="ckplus"),
  )
  learned = (
    Part("mug", "mug", spaced, purpose=purposes[0]),
    Part(
      "ckplus_stills",
      "ck",
      {**spaced, "contempt": True, "unlabelled": True},
      purpose=purposes[0],
      source="ckplus",
    ),
    Part("ravdess", "ravdess", {**spaced, "channel": config.channel}, purpose=purposes[0]),
  )
  if config.use == "recognition":
    return Mixture(LABELS, judged, "")
  # Training asks for people alone: no picture need be dropped for its class.
  parts = learned + (judged if config.use == "both" else ())
  return Mixture((*LABELS, "calm", "contempt", UNLABELLED), parts, "")
