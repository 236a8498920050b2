"""Nagoya University's expressions of elderly people (paper 004) as a TFDS builder that needs no TensorFlow."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfer.data import stills_builder
from jaxfer.data.datasets.nagoya import scan
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import Still
from jaxfer.ranges import StoredSize


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set; by default 112 x 112 pixels in RGB, as paper 004's face networks take.

  Attributes:
    crop: as for all stills; "" selects "template" if every picture has landmarks, else "auto".
    subject_pattern: for class folders, a regular expression with one group for the person's name.
    ratings: csv `path,rater,emotion` of the raters' answers, one per line.
  """

  image_size: StoredSize = 112
  crop: str = ""
  subject_pattern: str = ""
  ratings: str = dataclasses.field(default="", metadata={"in_name": False})

  def __post_init__(self) -> None:
    chosen = self.crop
    self.crop = chosen or "auto"
    super().__post_init__()
    self.crop = chosen


class Builder(stills_builder.Builder):
  """Nine expressions of 111 people, aged 73 years on average: the strongest frame of each film of the front camera.

  `votes` counts the raters' answers in the order of `scan.ANSWERS`, zero if there are none; `method` is how the
  expression was elicited.
  """

  LABELS = scan.LABELS
  HOMEPAGE = "https://www.nii.ac.jp/dsc/idr/"

  def extras(self) -> Mapping[str, Any]:
    """The method of elicitation and the votes."""
    votes = tfds.features.Tensor(shape=(len(scan.ANSWERS),), dtype=np.int32)
    return {"method": tfds.features.Text(), "votes": votes}

  def crop(self, stills: Sequence[Still]) -> str:
    """Aligns to the template of five points if all pictures have landmarks."""
    pointed = all(still.points is not None for still in stills)
    return self.builder_config.crop or ("template" if pointed else "auto")

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """See `scan.scan`."""
    config = self.builder_config
    return scan.scan(source, config.subject_pattern, config.ratings, findings)
