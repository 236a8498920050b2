"""Pictures in one folder per class as a TFDS builder that needs no TensorFlow."""

import dataclasses
from pathlib import Path

from jaxfer.data import stills_builder
from jaxfer.data.datasets.image_folder import scan
from jaxfer.data.datasets.image_folder.layout import LAYOUTS
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import Still
from jaxfer.errors import unknown


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set.

  Attributes:
    subject_pattern: regular expression with one group for the person's name, searched in each picture's path below
      the folder of the classes; "" if the people are unknown.
    layout: "class" if the folders in the source are the classes, "split/class" if they are the splits; "auto"
      detects the layout, and raises an error if it is ambiguous.
  """

  subject_pattern: str = ""
  layout: str = dataclasses.field(default="auto", metadata={"in_name": False})

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.layout not in LAYOUTS:
      raise unknown("option layout of data set 'image_folder'", self.layout, LAYOUTS)


class Builder(stills_builder.Builder):
  """Pictures in folders named after their classes, optionally inside folders named after splits."""

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """See `scan.scan`."""
    config = self.builder_config
    names, stills = scan.scan(source, config.subject_pattern, findings, config.layout)
    self.set_label_names(names)
    return stills
