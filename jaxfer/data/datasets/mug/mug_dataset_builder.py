"""MUG (Aifanti et al. 2010) as stills: frames of its sequences (paper 003), or the manually annotated images.

Sequences run from neutral over the apex back to neutral, at 19 frames per second. Paper 003 trains on equally spaced
frames (`frames="equal:10"`) and evaluates on "some around the centre" (the default; we take the centre and two frames
on each side). Neutral sequences are included under their label. A person is one subject in all sessions.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfer.data import frame_rules, stills_builder
from jaxfer.data.datasets.mug import scan
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import Still
from jaxfer.errors import unknown
from jaxfer.ranges import StoredSize

_PARTS = ("sequences", "manual")


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set.

  Attributes:
    part: "sequences" or "manual".
    frames: which frames of a sequence, see `frame_rules`; all manually annotated stills are taken.
    nsg: whether to keep the takes marked "nsg" (not so good).
  """

  image_size: StoredSize = 128
  part: str = "sequences"
  frames: str = "middle:5"
  nsg: bool = False

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.part not in _PARTS:
      raise unknown("option part of data set 'mug'", self.part, _PARTS)
    frame_rules.parse(self.frames)


class Builder(stills_builder.Builder):
  """MUG: the public sequences of 52 people, from neutral over an expression back to neutral; seven classes."""

  VERSION = tfds.core.Version("1.0.0")
  LABELS = scan.LABELS
  HOMEPAGE = "https://mug.ee.auth.gr/fed"

  def extras(self) -> Mapping[str, Any]:
    """The take of a still, and the number of the still in it."""
    return {"sequence": tfds.features.Text(), "frame": tfds.features.Scalar(dtype=np.int32)}

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """Lists the chosen part."""
    config = self.builder_config
    if config.part == "manual":
      return scan.scan_manual(source, findings)
    return scan.scan_sequences(source, config.frames, config.nsg, findings)
