"""AffectNet (Mollahosseini et al. 2017; AffectNet+ 2024) for the pre-training of paper 004: eight expressions.

The data set was distributed in three forms: `form="2017"`, whole pictures with lists of face boxes and landmarks;
"2021", cropped pictures with npy annotations; "plus", AffectNet+ with json. Cropped pictures are used whole. Whole
pictures are cropped to the square around the face box, or aligned to the 112-pixel template with `crop="template"`.
Paper 004's "450,000" counts all manually annotated pictures; 287,651 of them show one of the eight expressions. Labels
8 to 10 are left out and counted.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfer.data import stills_builder
from jaxfer.data.datasets.affectnet import scan
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import Still
from jaxfer.errors import unknown
from jaxfer.ranges import StoredSize


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set.

  Attributes:
    form: "2017" (csv), "2021" (npy) or "plus" (json).
    crop: "" selects the default of the form: "auto" for 2017, else "whole".
  """

  image_size: StoredSize = 112
  crop: str = ""
  form: str = "2021"

  def __post_init__(self) -> None:
    if self.form not in scan.FORMS:
      raise unknown("option form of data set 'affectnet'", self.form, scan.FORMS)
    self.crop = self.crop or ("auto" if self.form == "2017" else "whole")
    super().__post_init__()


class Builder(stills_builder.Builder):
  """AffectNet: 287,651 training and up to 4,000 validation pictures of eight expressions."""

  VERSION = tfds.core.Version("1.0.0")
  LABELS = scan.LABELS
  HOMEPAGE = "http://mohammadmahoor.com/affectnet/"

  def extras(self) -> Mapping[str, Any]:
    """Valence and arousal, each from -1 to 1; NaN where undefined."""
    return {name: tfds.features.Scalar(dtype=np.float32) for name in ("valence", "arousal")}

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """Lists the pictures of the chosen form."""
    config = self.builder_config
    return scan.scan(source, config.form, config.crop == "template", findings)
