"""Drawn objects as a TFDS builder that needs no TensorFlow: shapes with textures, in place of ImageNet."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfer.data.encode import png
from jaxfer.data.synthetic import objects
from jaxfer.ranges import Channels, Count, Range, Seed, StoredSize

_CHUNK = 256  # Number of pictures drawn at once.
_GROUPS = 20  # Number of groups that a split by people keeps whole.


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """The options of the data set.

  Attributes:
    num_classes: number of pairs of a shape and a texture, 2 to 100.
    images_per_class: pictures per class; a larger number does not change the first pictures.
    image_size: S >= 16, edge in pixels.
    channels: 1 (grey) or 3 (RGB).
    seed: seed of colours, places, backgrounds and everything else except the classes.
  """

  num_classes: Annotated[int, Range(2, objects.MAX_CLASSES)] = 100
  images_per_class: Count = 100
  image_size: StoredSize = 64
  channels: Channels = 3
  seed: Seed = 0


class Builder(tfds.core.GeneratorBasedBuilder):
  """Draws the pictures and writes them as PNG.

  `subject` is one of twenty groups that are unrelated to the pictures. The pictures of each class are assigned to the
  groups in turn, so a split by people takes a part of every class.
  """

  VERSION = tfds.core.Version("2.0.0")  # 1.0.0 was drawn in float32, and differed between machines.

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    shape = config.image_size, config.image_size, config.channels
    features = {
      "key": tfds.features.Text(),
      "subject": tfds.features.Text(),
      "label": tfds.features.ClassLabel(names=list(objects.class_names(config.num_classes))),
      "image": tfds.features.Image(shape=shape, encoding_format="png"),
    }
    return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    return {"train": self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
    config = self.builder_config
    total = config.num_classes * config.images_per_class
    for start in range(0, total, _CHUNK):
      label, number = np.divmod(np.arange(start, min(start + _CHUNK, total)), config.images_per_class)
      images = objects.draw(label, number, config.image_size, config.channels, config.seed)
      for k, i, image in zip(label.tolist(), number.tolist(), images, strict=True):
        key = f"{k:03d}_{i:05d}"
        example = {"key": key, "subject": f"G{i % _GROUPS:02d}", "label": k, "image": png(image)}
        yield key, example
