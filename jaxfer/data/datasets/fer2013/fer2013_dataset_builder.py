"""FER2013 (Goodfellow et al. 2013) and FER+ (Barsoum et al. 2016) as a TFDS builder that needs no TensorFlow."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfer.data import stills_builder
from jaxfer.data.datasets.fer2013 import scan, tables
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import Still
from jaxfer.errors import unknown
from jaxfer.ranges import Channels, StoredSize


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set; by default, whole grey pictures at their original 48 x 48 pixels.

  Attributes:
    label_source: "fer2013", or "ferplus" for the majority of FER+'s ten votes.
  """

  image_size: StoredSize = tables.EDGE
  channels: Channels = 1
  crop: str = "whole"
  label_source: str = "fer2013"

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.label_source not in scan.LABELS:
      raise unknown("option label_source of data set 'fer2013'", self.label_source, scan.LABELS)


class Builder(stills_builder.Builder):
  """Pictures of unknown people, found by web search and cropped automatically.

  Labels are noisy, some pictures occur several times, and some show no face. With label_source=ferplus, `votes` are
  the ten counts in the order of `tables.VOTES`.
  """

  HOMEPAGE = "https://github.com/microsoft/FERPlus"

  def label_names(self) -> Sequence[str]:
    """The classes of the chosen labels; their order depends on the label source."""
    return scan.LABELS[self.builder_config.label_source]

  def extras(self) -> Mapping[str, Any]:
    """The votes, if FER+ is chosen."""
    if self.builder_config.label_source != "ferplus":
      return {}
    return {"votes": tfds.features.Tensor(shape=(len(tables.VOTES),), dtype=np.int32)}

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """See `scan.scan`."""
    return scan.scan(source, self.builder_config.label_source, findings)
