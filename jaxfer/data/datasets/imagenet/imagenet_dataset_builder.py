"""ImageNet (ILSVRC 2012) for the pre-training of paper 004, without TensorFlow.

Each picture is cropped to the largest square in the middle and resampled to 224 pixels. The usual test crop (shorter
side resampled to 256, then the middle 224 pixels) shows 7/8 of that square; `image_size=256` and a crop in training and
testing give it exactly. Some files are CMYK and one is a PNG; all are written as RGB. Labels follow the sorted WordNet
ids, as in torchvision.
"""

import dataclasses
from pathlib import Path

import tensorflow_datasets as tfds

from jaxfer.data import stills_builder
from jaxfer.data.datasets.imagenet import scan
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import Still
from jaxfer.ranges import StoredSize


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set.

  Attributes:
    val_labels: file with the classes of a flat val folder (`scan.read_labels`); "" searches for one beside it.
  """

  image_size: StoredSize = 224
  crop: str = "middle"
  val_labels: str = dataclasses.field(default="", metadata={"in_name": False})


class Builder(stills_builder.Builder):
  """ImageNet: 1.28 million training and 50,000 validation pictures of a thousand classes."""

  VERSION = tfds.core.Version("1.0.0")
  HOMEPAGE = "https://image-net.org"

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """Lists the pictures; the classes found are the class names."""
    stills, classes = scan.scan(source, self.builder_config.val_labels, findings)
    self.set_label_names(classes)
    return stills
