"""Sequences of parametric faces as a TFDS builder that needs no TensorFlow, with exact optical flow."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfer.data.encode import png
from jaxfer.data.synthetic import LABELS, generate_sequences
from jaxfer.data.synthetic.action_units import ORDER
from jaxfer.data.synthetic.timecourse import TIME_COURSES
from jaxfer.errors import unknown
from jaxfer.ranges import Count, Range, Seed, StoredSize


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """The options of the data set.

  Attributes:
    num_subjects: number of people, named S000, S001, ...; a larger number does not change the first people.
    sequences_per_subject: sequences per person; seven show every class once.
    num_frames: number of frames per sequence, T >= 2.
    image_size: S >= 16, edge in pixels.
    time_course: "onset_apex", "onset_apex_offset" or "fleeting" (`data.synthetic.timecourse`).
    seed: seed of all random numbers.
  """

  num_subjects: Count = 40
  sequences_per_subject: Count = 7
  num_frames: Annotated[int, Range(2, 10_000)] = 8
  image_size: StoredSize = 64
  time_course: str = "onset_apex"
  seed: Seed = 0

  def __post_init__(self) -> None:
    if self.time_course not in TIME_COURSES:
      raise unknown("time_course of data set 'synthetic_sequences'", self.time_course, TIME_COURSES)


class Builder(tfds.core.GeneratorBasedBuilder):
  """Draws the sequences and writes frames as PNG, flow as compressed int16."""

  VERSION = tfds.core.Version("2.0.0")  # 1.0.0 was drawn in float32, and differed between machines.

  def _info(self) -> tfds.core.DatasetInfo:
    length, size = self.builder_config.num_frames, self.builder_config.image_size
    image = tfds.features.Image(shape=(size, size, 3), encoding_format="png")
    features = {
      "key": tfds.features.Text(),
      "subject": tfds.features.Text(),
      "label": tfds.features.ClassLabel(names=list(LABELS)),
      "frames": tfds.features.Sequence(image, length=length),
      "flow": tfds.features.Tensor(shape=(length, size, size, 2), dtype=np.int16, encoding="zlib"),
      "action_units": tfds.features.Tensor(shape=(length, len(ORDER)), dtype=np.float32),
      "landmarks": tfds.features.Tensor(shape=(length, 37, 2), dtype=np.float32),
    }
    return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    return {"train": self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
    config = self.builder_config
    arrays = generate_sequences(
      config.num_subjects,
      config.sequences_per_subject,
      config.num_frames,
      config.image_size,
      config.time_course,
      config.seed,
    )
    for i, label in enumerate(arrays["label"]):
      subject = f"S{arrays['subject'][i]:03d}"
      key = f"{subject}_{arrays['take'][i]:03d}"
      yield (
        key,
        {
          "key": key,
          "subject": subject,
          "label": int(label),
          "frames": [png(frame) for frame in arrays["frames"][i]],
          "flow": arrays["flow"][i],
          "action_units": arrays["action_units"][i],
          "landmarks": arrays["landmarks"][i],
        },
      )
