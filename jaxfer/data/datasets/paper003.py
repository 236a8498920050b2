"""The stills of paper 003: frames of MUG, CK+ and RAVDESS.

Training uses equally spaced frames of every sequence. Recognition uses some around the middle (MUG) or the last ones
(CK+, without contempt), and none of RAVDESS. The paper trains on 29,085 images of 195 people and recognises 2,037. It
does not say how many frames of a sequence it takes, and counts more people than MUG distributes. Ten frames of each of
the 3,067 sequences (1,462 of MUG, 593 of CK+, 1,012 sung ones of RAVDESS) are 30,670, which fits its number and seven
test people. With the spoken clips there would be 45,070.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import tensorflow_datasets as tfds

from jaxfer.data.datasets.ckplus import scan as ckplus
from jaxfer.data.datasets.ravdess import scan as ravdess
from jaxfer.data.mixed import Mixture, Part
from jaxfer.data.stills import UNLABELLED
from jaxfer.errors import unknown
from jaxfer.ranges import Channels, Range, StoredSize

IMAGE_SIZES = (64, 128)  # Image sizes that the rows of Table 3 read.
_PUBLISHED = {
  "training": "29085 of 195 people, and 7 others who are tested",
  "recognition": "2037, 1842 of the people who train and 195 of those who are tested",
}
LABELS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """The options of the mixture.

  Attributes:
    image_size: S, edge of the pictures in pixels.
    channels: 3 (RGB) or 1 (grey).
    crop: "detector" crops all three sets with one detector, as in the paper; other values as for all stills.
    use: "training", "recognition" or "both"; with "both", `split_of` trains on the one and tests on the other.
    num_frames: number of equally spaced frames per sequence, for training.
    channel: channel of RAVDESS for training: "song" as in the paper, "speech" or "both".
  """

  image_size: StoredSize = 64
  channels: Channels = 3
  crop: str = "detector"
  use: str = "both"
  num_frames: Annotated[int, Range(2, 10_000)] = 10
  channel: str = "song"

  def __post_init__(self) -> None:
    if self.channel not in (*ravdess.CHANNELS, "both"):
      raise unknown("option channel of data set 'paper003'", self.channel, (*ravdess.CHANNELS, "both"))
    if self.use not in ("both", "training", "recognition"):
      raise unknown("option use of data set 'paper003'", self.use, ("both", "training", "recognition"))


def mixture(config: Config) -> Mixture:
  """Returns the mixture of the data sets."""
  common = {"image_size": config.image_size, "channels": config.channels, "crop": config.crop}
  both = config.use == "both"
  parts: list[Part] = []
  if config.use != "recognition":
    parts += _training(config, common, "training" if both else "")
  if config.use != "training":
    parts += _recognition(common, "recognition" if both else "")
  # Training uses identities only, so no picture is dropped because of its class.
  labels = LABELS if config.use == "recognition" else (*LABELS, "calm", "contempt", UNLABELLED)
  return Mixture(labels, tuple(parts), "paper 003", published=_PUBLISHED if both else {})


def _training(config: Config, common: Mapping[str, Any], purpose: str) -> tuple[Part, ...]:
  """Equally spaced frames. Sequences with fewer frames than `num_frames` give fewer than expected."""
  spaced = {**common, "frames": f"equal:{config.num_frames}"}
  labelled = zip(ckplus.LABELS, ckplus.CLASS_COUNTS, strict=True)
  sequences = {**dict(labelled), UNLABELLED: ckplus.NUM_SEQUENCES - ckplus.NUM_LABELLED}
  channels = ravdess.CHANNELS if config.channel == "both" else (config.channel,)
  clips = {
    name: sum(ravdess.COUNTS[channel][i] for channel in channels) for i, name in enumerate(ravdess.LABELS)
  }

  def images(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: config.num_frames * count for name, count in counts.items()}

  options = {**spaced, "contempt": True, "unlabelled": True}
  return (
    Part("mug", "mug", spaced, purpose=purpose),
    Part("ckplus_stills", "ck", options, None, images(sequences), purpose, "ckplus"),
    Part("ravdess", "ravdess", {**spaced, "channel": config.channel}, None, images(clips), purpose),
  )


def _recognition(common: Mapping[str, Any], purpose: str) -> tuple[Part, ...]:
  """Frames at the peak."""
  labelled = zip(ckplus.LABELS, ckplus.CLASS_COUNTS, strict=True)
  expected = {name: 3 * count for name, count in labelled if name != "contempt"}
  return (
    Part("mug", "mug", {**common, "frames": "middle:5"}, purpose=purpose),
    Part("ckplus_stills", "ck", {**common, "frames": "last:3"}, None, expected, purpose, "ckplus"),
  )
