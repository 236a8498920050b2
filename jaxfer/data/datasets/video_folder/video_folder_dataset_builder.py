"""TFDS builder for short videos in folders of classes; it needs PyAV, but not TensorFlow.

Each example has T frames of a video, at equal steps from the first frame to the last. All frames are cropped to one
square around the face in the first frame. The example also has the Farneback flow between the frames, as in `ckplus`.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfer.data import detect, flow, stills_builder, video
from jaxfer.data.datasets.video_folder import scan
from jaxfer.data.encode import png
from jaxfer.data.prepare import Count, Findings, Problem, progress
from jaxfer.errors import UserError, unknown
from jaxfer.ranges import Frames, StoredSize

_CROPS = ("auto", "middle", "whole")


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """The options of the data set.

  Attributes:
    num_frames: number of frames per video T, 1 to 10,000.
    image_size: edge of the written frames in pixels, 16 to 4096.
    crop: "auto" for a square around the largest face, "middle" for the middle square, "whole" for whole frames.
    subject_pattern: regular expression with one group for the person's name, which is searched in the path of each
      video below the source; "" if the people are unknown.
    source: folder of the class folders.
    skip_bad: whether to leave out videos that cannot be read instead of stopping.
  """

  num_frames: Frames = 16
  image_size: StoredSize = 64
  crop: str = "auto"
  subject_pattern: str = ""
  source: str = dataclasses.field(default="", metadata={"in_name": False})
  skip_bad: bool = dataclasses.field(default=False, metadata={"in_name": False})

  def __post_init__(self) -> None:
    if self.crop not in _CROPS:
      raise unknown("option crop", self.crop, _CROPS)


class Builder(tfds.core.GeneratorBasedBuilder):
  """Reads the videos. `findings` has the counts and problems once all examples have been generated."""

  VERSION = tfds.core.Version("1.0.0")

  findings: Findings

  def _info(self) -> tfds.core.DatasetInfo:
    length, size = self.builder_config.num_frames, self.builder_config.image_size
    image = tfds.features.Image(shape=(size, size, 3), encoding_format="png")
    features = {
      "key": tfds.features.Text(),
      "subject": tfds.features.Text(),
      "label": tfds.features.ClassLabel(names=None),
      "frames": tfds.features.Sequence(image, length=length),
      "flow": tfds.features.Tensor(shape=(length, size, size, 2), dtype=np.int16, encoding="zlib"),
    }
    return tfds.core.DatasetInfo(
      builder=self, description=__doc__, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    del dl_manager  # Nothing may be downloaded.
    return {"train": self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
    config, findings = self.builder_config, Findings()
    self.findings = findings
    names, clips = scan.scan(Path(config.source), config.subject_pattern, findings)
    stills_builder.check_label_names(config.source, names)
    self.info.features["label"].names = list(names)
    if config.crop == "auto":
      detect.default()  # If the detector is missing, this raises before any video is read.
    written: Counter[int] = Counter()
    for clip in progress(clips, len(clips), "reading videos"):
      try:
        frames, missing = video.clip(clip.path, config.num_frames, config.image_size, config.crop)
      except (UserError, OSError, ValueError) as error:
        findings.bad.append(Problem(str(clip.path), str(error).removeprefix(f"{clip.path}: ")))
        continue
      if missing:
        findings.odd.append(
          Problem(str(clip.path), "no face in the first frame: the square in the middle was taken")
        )
      written[clip.label] += 1
      yield (
        clip.key,
        {
          "key": clip.key,
          "subject": clip.subject,
          "label": clip.label,
          "frames": [png(frame) for frame in frames],
          "flow": flow.quantize(flow.farneback(frames)),
        },
      )
    findings.counts.append(Count("written", written.total(), len(clips)))
    stills_builder.check_classes(config.source, [written[k] for k in range(len(names))], names, (), findings)
    findings.finish(config.skip_bad)
    if not written:
      raise UserError(f"source {config.source}: none of the {len(clips)} videos can be used")
    stills_builder.check_several(config.source, [names[k] for k in written])
