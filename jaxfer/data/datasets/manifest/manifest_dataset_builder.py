"""Pictures listed in a table as a TFDS builder that needs no TensorFlow."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfer.data import stills_builder
from jaxfer.data.datasets.manifest import scan
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import Still
from jaxfer.ranges import OneOf


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set.

  Attributes:
    landmarks: number of points per picture to write as the feature `landmarks`: 2, 3, 5, 37 or 68; 0 writes none. Given
      landmarks place the face in either case.
  """

  landmarks: Annotated[int, OneOf((0, *scan.POINTS))] = 0


class Builder(stills_builder.Builder):
  """Pictures listed in a csv or tsv; see `scan` for its columns."""

  VERSION = tfds.core.Version("1.1.0")  # 1.0.0 had no gender, age and race.

  def num_landmarks(self) -> int:
    """The value of the option `landmarks`."""
    return self.builder_config.landmarks

  def extras(self) -> Mapping[str, Any]:
    """`sequence` and the groups, "" if the table has none, and `frame`, -1 if the table has none."""
    groups = {name: tfds.features.Text() for name in scan.GROUPS}
    return {"sequence": tfds.features.Text(), "frame": tfds.features.Scalar(np.int32), **groups}

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """See `scan.scan`."""
    names, stills = scan.scan(source, self.builder_config.landmarks, findings)
    self.set_label_names(names)
    return stills
