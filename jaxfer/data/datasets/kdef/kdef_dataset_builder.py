"""KDEF (Lundqvist, Flykt and Oehman 1998) as a TFDS builder that needs no TensorFlow."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from jaxfer.data import stills_builder
from jaxfer.data.datasets.kdef import scan
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import Still
from jaxfer.errors import unknown
from jaxfer.ranges import Channels


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set; by default, the middle square of each picture in grey, as in paper 000.

  Attributes:
    angle: "straight", "half" (profile, both sides), "full" (profile, both sides) or "all".
  """

  channels: Channels = 1
  crop: str = "middle"
  angle: str = "straight"

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.angle not in scan.ANGLES:
      raise unknown("option angle of data set 'kdef'", self.angle, scan.ANGLES)


class Builder(stills_builder.Builder):
  """Seven emotions of 70 people, each posed in two sessions and photographed from five angles."""

  LABELS = scan.LABELS
  HOMEPAGE = "https://www.kdef.se"

  def extras(self) -> Mapping[str, Any]:
    """Session "A" or "B", and the angle's code."""
    return {"session": tfds.features.Text(), "angle": tfds.features.Text()}

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """See `scan.scan`."""
    return scan.scan(source, self.builder_config.angle, findings)
