"""RAF-DB (Li, Deng and Du 2017), basic or compound, as a TFDS builder that needs no TensorFlow."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfer.data import stills_builder
from jaxfer.data.datasets.raf_db import annotations, scan
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import Still
from jaxfer.errors import unknown
from jaxfer.ranges import StoredSize


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set.

  Attributes:
    subset: "basic" (seven emotions) or "compound" (eleven).
    image: "aligned", the distributor's 100 x 100 pixels, or "original".
    crop: as for all stills; "" uses aligned pictures whole and crops faces from original ones ("auto").
  """

  image_size: StoredSize = 100
  crop: str = ""
  subset: str = "basic"
  image: str = "aligned"

  def __post_init__(self) -> None:
    if self.subset not in scan.LABELS:
      raise unknown("option subset of data set 'raf_db'", self.subset, scan.LABELS)
    if self.image not in scan.IMAGES:
      raise unknown("option image of data set 'raf_db'", self.image, scan.IMAGES)
    self.crop = self.crop or ("whole" if self.image == "aligned" else "auto")
    super().__post_init__()


class Builder(stills_builder.Builder):
  """Pictures of unknown people from the web, rated by about 40 people each, with 37 landmarks.

  `landmarks` are in pixels of the written picture (pixel i covers i to i + 1): `kernels.heatmap.draw` takes them with
  `frame` = image_size. `order` is the index of the picture in the distributor's list.
  """

  VERSION = tfds.core.Version("1.1.0")  # 1.0.0 had no gender, race and age.
  HOMEPAGE = "http://www.whdeng.cn/RAF/model1.html"
  LANDMARKS = annotations.NUM_LANDMARKS

  def label_names(self) -> Sequence[str]:
    """The classes of the subset."""
    return scan.LABELS[self.builder_config.subset]

  def extras(self) -> Mapping[str, Any]:
    """The index in the list, and gender, race and age group, "" if the copy has no manual annotation."""
    attributes = {name: tfds.features.Text() for name in annotations.ATTRIBUTES}
    return {"order": tfds.features.Scalar(np.int32), **attributes}

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """See `scan.scan`."""
    return scan.scan(source, self.builder_config.subset, self.builder_config.image, findings)
