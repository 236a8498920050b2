"""CK+ (Lucey et al. 2010) as a TFDS builder that needs no TensorFlow: 327 labelled sequences of 118 people.

Each example has T frames of a square face crop, from onset to peak, and the Farneback flow between them, computed after
cropping and resampling (our choice). Unlabelled sequences are counted but not written.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfer.data import flow, stills_builder
from jaxfer.data.datasets.ckplus import frames, scan
from jaxfer.data.encode import png
from jaxfer.data.prepare import Count, Findings
from jaxfer.errors import UserError
from jaxfer.ranges import Frames, StoredSize


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """The options of the data set.

  Attributes:
    num_frames: T, number of frames per sequence, 1 to 10,000.
    image_size: S, edge of the crop in pixels, 16 to 4096.
    source: the distributor's folder, or one above it.
    boxes: csv of face boxes (`frames.read_boxes`); they take precedence over landmarks.
    skip_bad: whether to leave out sequences with a bad file instead of stopping.
  """

  num_frames: Frames = 16
  image_size: StoredSize = 64
  source: str = dataclasses.field(default="", metadata={"in_name": False})
  boxes: str = dataclasses.field(default="", metadata={"in_name": False})
  skip_bad: bool = dataclasses.field(default=False, metadata={"in_name": False})


class Builder(tfds.core.GeneratorBasedBuilder):
  """Reads the distributor's folders. `findings` has the counts and problems once all examples have been generated."""

  VERSION = tfds.core.Version("1.0.0")

  findings: Findings

  def _info(self) -> tfds.core.DatasetInfo:
    length, size = self.builder_config.num_frames, self.builder_config.image_size
    image = tfds.features.Image(shape=(size, size, 3), encoding_format="png")
    features = {
      "key": tfds.features.Text(),
      "subject": tfds.features.Text(),
      "label": tfds.features.ClassLabel(names=list(scan.LABELS)),
      "frames": tfds.features.Sequence(image, length=length),
      "flow": tfds.features.Tensor(shape=(length, size, size, 2), dtype=np.int16, encoding="zlib"),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      features=tfds.features.FeaturesDict(features),
      homepage="http://www.pitt.edu/~emotion/ck-spread.htm",
      metadata=tfds.core.MetadataDict(
        flow=", ".join(
          ["Farneback (OpenCV 4)", *(f"{name} {value}" for name, value in flow.FARNEBACK.items())]
        ),
        crop=f"{frames.MARGIN} of the box beyond the landmarks",
      ),
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    del dl_manager  # Nothing may be downloaded.
    return {"train": self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
    config, findings = self.builder_config, Findings()
    self.findings = findings
    boxes = frames.read_boxes(config.boxes) if config.boxes else {}
    tree = scan.scan(Path(config.source), findings)
    damaged = frames.check_headers(tree.frames, tree.labelled, findings)
    damaged |= frames.contradicting(tree.sequences, findings)
    sound = [sequence for sequence in tree.sequences if sequence.key not in damaged]
    written: Counter[int] = Counter()
    for example in frames.read_sequences(sound, boxes, config.num_frames, config.image_size, findings):
      written[example.sequence.label] += 1
      yield (
        example.sequence.key,
        {
          "key": example.sequence.key,
          "subject": example.sequence.subject,
          "label": example.sequence.label,
          "frames": [png(frame) for frame in example.frames],
          "flow": example.flow,
        },
      )
    findings.counts.append(Count("written", written.total(), scan.NUM_LABELLED))
    counts = [written[i] for i in range(len(scan.LABELS))]
    stills_builder.check_classes(config.source, counts, scan.LABELS, (), findings)
    findings.finish(config.skip_bad)
    if not written:
      raise UserError(f"source {config.source}: none of the labelled sequences can be used")
    stills_builder.check_several(config.source, [scan.LABELS[i] for i in written])
