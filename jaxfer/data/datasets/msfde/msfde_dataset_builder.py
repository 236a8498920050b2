"""MSFDE (Beaupre and Hess 2005) as a TFDS builder that needs no TensorFlow."""

import dataclasses
from pathlib import Path

from jaxfer.data import stills_builder
from jaxfer.data.datasets.msfde import scan
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import Still
from jaxfer.ranges import Channels


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set; by default, the middle square of each picture in grey, as in paper 000.

  Attributes:
    subject_pattern: for class folders, a regular expression with one group for the person's name, searched in each
      picture's path; "" if the people are unknown.
  """

  channels: Channels = 1
  crop: str = "middle"
  subject_pattern: str = ""


class Builder(stills_builder.Builder):
  """Seven posed displays by 32 people of four ethnic groups. The layout is not public: see `scan`."""

  LABELS = scan.LABELS
  HOMEPAGE = "https://www.psychophysiolab.com/msfde/terms.php"

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """See `scan.scan`."""
    return scan.scan(source, self.builder_config.subject_pattern, findings)
