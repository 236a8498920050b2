"""Parametric faces as a TFDS builder that needs no TensorFlow: labelled stills of any number of people."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfer.data.encode import png
from jaxfer.data.synthetic import generate_stills
from jaxfer.data.synthetic.action_units import CLASSES, ORDER
from jaxfer.errors import unknown
from jaxfer.ranges import Channels, Count, Range, Seed, Share, StoredSize


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """The options of the data set.

  Attributes:
    num_subjects: number of people, named S000, S001, ...; a larger number does not change the first people.
    images_per_subject: pictures per person; a multiple of the number of classes shows every class equally often.
    image_size: S >= 16, edge in pixels.
    channels: 1 (grey) or 3 (RGB).
    seed: seed of all random numbers.
    aligned: whether eyes and mouth are placed as in RAF-DB's aligned pictures.
    landmark_noise: standard deviation of the landmarks' errors, in hundredths of the picture's edge; 0 for none.
    studio: whether a person's pictures differ in little but the expression, as in a laboratory.
    age: mean age of the people, 0 to 1 (elderly: wrinkled, sagging, greyer skin, and weaker expressions).
    classes: "seven" of paper 000, or "nine" of paper 004.
  """

  num_subjects: Count = 60
  images_per_subject: Count = 21
  image_size: StoredSize = 64
  channels: Channels = 3
  seed: Seed = 0
  aligned: bool = False
  landmark_noise: Annotated[float, Range(0, 100)] = 0.0
  studio: bool = False
  age: Share = 0.0
  classes: str = "seven"

  def __post_init__(self) -> None:
    if self.classes not in CLASSES:
      raise unknown("option classes of data set 'synthetic_faces'", self.classes, CLASSES)


class Builder(tfds.core.GeneratorBasedBuilder):
  """Draws the stills and writes them as PNG."""

  VERSION = tfds.core.Version("2.0.0")  # 1.0.0 was drawn in float32, and differed between machines.

  def _info(self) -> tfds.core.DatasetInfo:
    size = self.builder_config.image_size
    features = {
      "key": tfds.features.Text(),
      "subject": tfds.features.Text(),
      "label": tfds.features.ClassLabel(names=list(CLASSES[self.builder_config.classes])),
      "image": tfds.features.Image(shape=(size, size, self.builder_config.channels), encoding_format="png"),
      "action_units": tfds.features.Tensor(shape=(len(ORDER),), dtype=np.float32),
      "landmarks": tfds.features.Tensor(shape=(37, 2), dtype=np.float32),
    }
    return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    return {"train": self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
    config = self.builder_config
    arrays = generate_stills(
      config.num_subjects,
      config.images_per_subject,
      config.image_size,
      config.channels,
      config.seed,
      aligned=config.aligned,
      landmark_noise=config.landmark_noise,
      studio=config.studio,
      age=config.age,
      classes=config.classes,
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
          "image": png(arrays["image"][i]),
          "action_units": arrays["action_units"][i],
          "landmarks": arrays["landmarks"][i],
        },
      )
