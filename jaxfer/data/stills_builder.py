"""The TFDS builder that all sets of stills share; imported only by builder modules, since it imports TFDS.

The builder module of a data set looks like this:

```python
@dataclasses.dataclass
class Config(stills_builder.Config):
  label_source: str = "filename"              # Further options, and other defaults of common ones.

class Builder(stills_builder.Builder):
  VERSION = tfds.core.Version("1.0.0")
  LABELS = ("anger", ...)                     # Or define label_names(self) if they depend on the options;
                                              # or leave it out and call self.set_label_names(names) in scan.
  HOMEPAGE = "http://..."
  LANDMARKS = 37                              # Number of landmarks, if stills have any.

  def extras(self):                           # Further features; each still has their values in `extras`.
    return {"pose": tfds.features.Text(), "ratings": tfds.features.Tensor(shape=(6,), dtype=np.float32)}

  def scan(self, source, findings):
    return scan.scan(source, self.builder_config.label_source, findings)
```

The features are key, subject, label, image, split, the extras and, if LANDMARKS (or num_landmarks()) is K > 0,
`landmarks` (float32 [K, 2], NaN if a still has none). `scan` adds found and expected counts; this module adds the
count "written".
"""

import abc
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfer.data import reading
from jaxfer.data.prepare import Count, Findings, Problem
from jaxfer.data.stills import Still
from jaxfer.errors import UserError, unknown
from jaxfer.ranges import Channels, StoredSize


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """Options of all sets of stills.

  Attributes:
    image_size: S, edge of the written picture in pixels, 16 to 4096.
    channels: 3 (RGB) or 1 (grey).
    crop: "auto", "detector", "template", "middle" or "whole"; see `jaxfer.data.stills`.
    detector: "centerface", "cascade" or the path of YuNet's ONNX file; "" for the best installed one.
    source: the distributor's folder.
    skip_bad: whether to leave bad files out instead of stopping.
  """

  image_size: StoredSize = 64
  channels: Channels = 3
  crop: str = "auto"
  detector: str = dataclasses.field(default="", metadata={"in_name": False})
  source: str = dataclasses.field(default="", metadata={"in_name": False})
  skip_bad: bool = dataclasses.field(default=False, metadata={"in_name": False})

  def __post_init__(self) -> None:
    if self.crop not in reading.CROPS:
      raise unknown("option crop", self.crop, reading.CROPS)


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Scans, reads and writes. `findings` has the counts and problems once all examples have been generated."""

  VERSION = tfds.core.Version("1.0.0")
  LABELS: Sequence[str] = ()
  HOMEPAGE = ""
  LANDMARKS = 0

  findings: Findings

  @abc.abstractmethod
  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """Lists the stills and fills `findings`. Raises UserError if the source holds nothing of the data set."""

  def label_names(self) -> Sequence[str]:
    """The class names for the options in `self.builder_config`; empty if only the scan knows them."""
    return self.LABELS

  def extras(self) -> Mapping[str, Any]:
    """Further features by name."""
    return {}

  def may_lack(self) -> Sequence[str]:
    """Classes that a complete copy may lack with these options; if any other class is missing, the import stops."""
    return ()

  def num_landmarks(self) -> int:
    """K of the feature `landmarks` with these options; 0 if it is not written."""
    return self.LANDMARKS

  def crop(self, stills: Sequence[Still]) -> str:
    """The crop to use: the option, unless a data set decides by its stills."""
    del stills
    return self.builder_config.crop

  def set_label_names(self, names: Sequence[str]) -> None:
    """Sets the class names that `scan` found; a prepared copy stores them."""
    self.info.features["label"].names = list(names)

  def _info(self) -> tfds.core.DatasetInfo:
    config, names = self.builder_config, self.label_names()
    shape = config.image_size, config.image_size, config.channels
    features: dict[str, Any] = {
      "key": tfds.features.Text(),
      "subject": tfds.features.Text(),
      "label": tfds.features.ClassLabel(names=list(names) or None),
      "image": tfds.features.Image(shape=shape, encoding_format="png"),
      "split": tfds.features.Text(),
      **self.extras(),
    }
    if count := self.num_landmarks():
      features["landmarks"] = tfds.features.Tensor(shape=(count, 2), dtype=np.float32)
    return tfds.core.DatasetInfo(
      builder=self,
      description=type(self).__doc__,
      features=tfds.features.FeaturesDict(features),
      homepage=self.HOMEPAGE,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    del dl_manager  # Nothing may be downloaded.
    return {"train": self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
    config, findings = self.builder_config, Findings()
    self.findings = findings
    stills = self.scan(Path(config.source), findings)
    cut = reading.Cut(config.image_size, config.channels, self.crop(stills), config.detector)
    names = self.info.features["label"].names
    check_label_names(config.source, names)
    stills = storable(stills, findings)
    written: Counter[int] = Counter()
    for still, result in reading.read(stills, cut, findings, names, skip_bad=config.skip_bad):
      example = {
        "key": still.key,
        "subject": still.subject,
        "label": still.label,
        "image": result.image or b"",
        "split": still.split,
        **still.extras,
      }
      if count := self.num_landmarks():
        none = np.full((count, 2), np.nan)
        example["landmarks"] = (none if result.landmarks is None else result.landmarks).astype(np.float32)
      written[still.label] += 1
      yield still.key, example
    findings.counts.append(Count("written", written.total(), len(stills)))
    check_classes(config.source, [written[i] for i in range(len(names))], names, self.may_lack(), findings)
    findings.finish(config.skip_bad)
    if not written:
      raise UserError(f"source {config.source}: none of its {len(stills)} pictures can be used")
    check_several(config.source, [names[i] for i in written])


def storable(stills: Sequence[Still], findings: Findings) -> list[Still]:
  """Returns the stills whose texts can be stored as UTF-8, and enters the others as bad."""
  found = []
  for still in stills:
    texts = (still.key, still.subject, *(text for text in still.extras.values() if isinstance(text, str)))
    try:
      "".join(texts).encode()
      found.append(still)
    except UnicodeError:
      findings.bad.append(Problem(ascii(str(still.source))[1:-1], "its name is not UTF-8"))
  return found


def check_label_names(source: str, names: Sequence[str]) -> None:
  """Raises UserError for a class name that TFDS, which writes one per line, would not read back as it is."""
  for name in names:
    if [name] != name.strip().splitlines() or name != name.encode("utf-8", "replace").decode():
      raise UserError(
        f"source {source}: a class is called {name[:40]!a}: rename it without line breaks or spaces around it, in "
        "UTF-8"
      )


def check_classes(
  source: str, counts: Sequence[int], names: Sequence[str], may_lack: Sequence[str], findings: Findings
) -> None:
  """Reports every class without written records as bad, since a missing class is not harmless."""
  for name, count in zip(names, counts, strict=True):
    if not count and name not in may_lack:
      findings.bad.append(Problem(source, f"nothing of class '{name}' in this copy"))


def check_several(source: str, written: Sequence[str]) -> None:
  """Raises UserError if only one class was written, since any network would always be right."""
  if len(written) < 2:
    raise UserError(
      f"source {source}: all of its usable pictures are of class '{written[0]}': a classifier needs two"
    )
