"""Pictures in folders of classes as a TFDS builder that needs no TensorFlow."""

import dataclasses
from pathlib import Path

from jaxfer.data import stills_builder
from jaxfer.data.datasets.image_folder import scan
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import Still


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set.

  Attributes:
    subject_pattern: regular expression with one group, the person's name, searched in each picture's path below the
      folder of the classes; "" where people are unknown.
  """

  subject_pattern: str = ""


class Builder(stills_builder.Builder):
  """Pictures in folders named as their classes, in folders named as splits or not."""

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """See `scan.scan`."""
    names, stills = scan.scan(source, self.builder_config.subject_pattern, findings)
    self.set_label_names(names)
    return stills
