"""JAFFE (Lyons et al. 1998) as a TFDS builder that needs no TensorFlow: 213 pictures of ten people."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from jaxfer.data import stills_builder
from jaxfer.data.datasets.jaffe import scan
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import Still
from jaxfer.errors import unknown
from jaxfer.ranges import Channels, Range


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set; by default, the middle square of each picture in grey, as in paper 000.

  Attributes:
    label_source: "filename" for the posed emotion, "ratings" for the emotion with the highest rating, which paper 000
      seems to use.
    neutral_below: with label_source=ratings, a picture is neutral if none of its six mean ratings (1 to 5) reaches this
      value; neutrality itself was not rated.
  """

  channels: Channels = 1
  crop: str = "middle"
  label_source: str = "filename"
  neutral_below: Annotated[float, Range(1, 5)] = 3.0

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.label_source not in scan.LABEL_SOURCES:
      raise unknown("option label_source of data set 'jaffe'", self.label_source, scan.LABEL_SOURCES)


class Builder(stills_builder.Builder):
  """Ten Japanese women, seven posed emotions, with mean ratings of six emotions by 60 people."""

  LABELS = scan.LABELS
  HOMEPAGE = "https://zenodo.org/records/14974867"

  def may_lack(self) -> Sequence[str]:
    """All classes: an emotion need not be the strongest one of any picture."""
    return self.LABELS if self.builder_config.label_source == "ratings" else ()

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """See `scan.scan`."""
    config = self.builder_config
    return scan.scan(source, config.label_source, config.neutral_below, findings)
