"""RAVDESS (Livingstone and Russo 2018) as stills of its clips, for paper 003; needs PyAV.

Paper 003 says that its subjects sing, so its mixture takes `channel="song"`: 23 actors (all but number 18), without
disgust and surprise, although the paper counts 24 actors and eight emotions. It trains on equally spaced frames (the
default) and evaluates on other sets.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfer.data import frame_rules, stills_builder
from jaxfer.data.datasets.ravdess import scan
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import Still
from jaxfer.errors import unknown
from jaxfer.ranges import StoredSize

_CHANNELS = (*scan.CHANNELS, "both")


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set.

  Attributes:
    channel: "speech", "song" or "both".
    frames: which frames of a clip, see `frame_rules`.
  """

  image_size: StoredSize = 128
  channel: str = "both"
  frames: str = "equal:10"

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.channel not in _CHANNELS:
      raise unknown("option channel of data set 'ravdess'", self.channel, _CHANNELS)
    frame_rules.parse(self.frames)


class Builder(stills_builder.Builder):
  """RAVDESS: 24 actors who speak and sing with eight emotions."""

  VERSION = tfds.core.Version("1.0.0")
  LABELS = scan.LABELS
  HOMEPAGE = "https://zenodo.org/records/1188976"

  def extras(self) -> Mapping[str, Any]:
    """The trial of a still, the number of the still in it, and how the trial was acted."""
    texts = {name: tfds.features.Text() for name in ("sequence", "channel", "intensity")}
    return {**texts, "frame": tfds.features.Scalar(dtype=np.int32)}

  def may_lack(self) -> Sequence[str]:
    """Disgust and surprise, which nobody sings."""
    return ("disgust", "surprise") if self.builder_config.channel == "song" else ()

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """Lists the chosen channel."""
    return scan.scan(source, self.builder_config.channel, self.builder_config.frames, findings)
