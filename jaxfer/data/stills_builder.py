"""The TFDS builder that all sets of stills share; imported by builder modules alone, as it imports TFDS.

A set's builder module:

```python
@dataclasses.dataclass
class Config(stills_builder.Config):
  label_source: str = "filename"              # Its own options, and other defaults of the common ones.

class Builder(stills_builder.Builder):
  VERSION = tfds.core.Version("1.0.0")
  LABELS = ("anger", ...)                     # Or define label_names(self), where they depend on the options;
                                              # or leave it out and have scan call self.set_label_names(names).
  HOMEPAGE = "http://..."
  LANDMARKS = 37                              # Where stills carry landmarks: how many.

  def extras(self):                           # Further features; each still gives their values in `extras`.
    return {"pose": tfds.features.Text(), "ratings": tfds.features.Tensor(shape=(6,), dtype=np.float32)}

  def scan(self, source, findings):
    return scan.scan(source, self.builder_config.label_source, findings)
```

Features written: key, subject, label, image, split, `landmarks` (float32 [K, 2], NaN where a still has none) where
LANDMARKS (or num_landmarks()) says K, and the extras. `scan` counts what it found against what it expected; "written"
is counted here.
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
  """The options of every set of stills.

  Attributes:
    image_size: S, 16 to 4096, edge of the written picture in pixels.
    channels: 3 (RGB) or 1 (grey).
    crop: "auto", "detector", "template", "middle" or "whole"; see `jaxfer.data.stills`.
    detector: "centerface", "cascade" or the path of YuNet's ONNX file; "" for the best that is installed.
    source: the distributor's folder.
    skip_bad: leave bad files out instead of stopping.
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
  """Scans, reads, writes; `findings` says what the source was like once the examples have been drawn."""

  VERSION = tfds.core.Version("1.0.0")
  LABELS: Sequence[str] = ()
  HOMEPAGE = ""
  LANDMARKS = 0

  findings: Findings

  @abc.abstractmethod
  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """Walks the distributor's tree and fills `findings`. Raises UserError where nothing of the set is there."""

  def label_names(self) -> Sequence[str]:
    """The class names under the options in `self.builder_config`; empty where only the scan knows them."""
    return self.LABELS

  def extras(self) -> Mapping[str, Any]:
    """Further features by name."""
    return {}

  def may_lack(self) -> Sequence[str]:
    """Classes that a whole copy need not have under the options; without any other the import stops."""
    return ()

  def num_landmarks(self) -> int:
    """K of the feature `landmarks` under the options; 0 where it is not written."""
    return self.LANDMARKS

  def crop(self, stills: Sequence[Still]) -> str:
    """How faces are cut out: the option, unless a set lets what it found decide."""
    del stills
    return self.builder_config.crop

  def set_label_names(self, names: Sequence[str]) -> None:
    """Gives the class names that `scan` found; a prepared copy brings its own."""
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
  """Enters every class of which nothing could be written as bad: a class that is missing is not harmless."""
  for name, count in zip(names, counts, strict=True):
    if not count and name not in may_lack:
      findings.bad.append(Problem(source, f"nothing of class '{name}' in this copy"))


def check_several(source: str, written: Sequence[str]) -> None:
  """Raises UserError where a single class was written: any net would be right every time."""
  if len(written) < 2:
    raise UserError(
      f"source {source}: all of its usable pictures are of class '{written[0]}': a classifier needs two"
    )
