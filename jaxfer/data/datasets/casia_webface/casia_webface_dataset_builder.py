"""CASIA-WebFace (Yi et al. 2014) for the pre-training of paper 004; each person is a class.

Records are written as RGB. InsightFace's train.rec decodes to RGB. By default, AdaFace's converter writes its folders
with red and blue swapped; `channel_order="bgr"` corrects that. AdaFace's models take BGR: the order is changed where a
model reads its input, not here. `form="records"` holds faces that are already aligned to the 112-pixel template, so
they are used whole. `form="folders"` holds the original 250 x 250 pictures, in which a detector finds the faces.
"""

import dataclasses
from pathlib import Path

import tensorflow_datasets as tfds

from jaxfer.data import stills_builder
from jaxfer.data.datasets.casia_webface import scan
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import Still
from jaxfer.errors import unknown
from jaxfer.ranges import StoredSize

_FORMS = {"records": "whole", "folders": "auto"}


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set.

  Attributes:
    form: "records" (train.rec) or "folders".
    channel_order: channel order of the source's pictures, "rgb" or "bgr".
    crop: "" selects the default of the form: "whole" for records, "auto" for folders.
  """

  image_size: StoredSize = 112
  crop: str = ""
  form: str = "records"
  channel_order: str = "rgb"

  def __post_init__(self) -> None:
    if self.form not in _FORMS:
      raise unknown("option form of data set 'casia_webface'", self.form, _FORMS)
    if self.channel_order not in ("rgb", "bgr"):
      raise unknown("option channel_order of data set 'casia_webface'", self.channel_order, ("rgb", "bgr"))
    self.crop = self.crop or _FORMS[self.form]
    super().__post_init__()


class Builder(stills_builder.Builder):
  """CASIA-WebFace: half a million pictures of about 10,570 people."""

  VERSION = tfds.core.Version("1.0.0")
  HOMEPAGE = "https://arxiv.org/abs/1411.7923"

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """Lists the pictures of the chosen form; the people found are the classes."""
    config = self.builder_config
    read = scan.scan_records if config.form == "records" else scan.scan_folders
    stills, names = read(source, config.channel_order == "bgr", findings)
    self.set_label_names(names)
    return stills
