"""The published checkpoints that we know: which model each one is, and the names of its tensors.

`arm` is the released code of paper 002's RGB net, `torchvision_resnet18` and `torchvision_resnet50` are torchvision's;
`adaface` is a Lightning checkpoint of AdaFace's code, whose head (`head.*`: a column for each person of its training
set, and the averages of the margin) is left out, `insightface` a state dict of InsightFace's.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxfer.errors import UserError
from jaxfer.layers.face_resnet import BLOCKS, FaceResNet
from jaxfer.layers.resnet import ResNet
from jaxfer.systems.elderly_transfer.model import PICTURES
from jaxfer.systems.landmark_fusion.model import ArmNet

# The models that converted weights belong to, by the name in their meta.
MODELS: dict[str, type[nn.Module]] = {"ArmNet": ArmNet, "FaceResNet": FaceResNet, "ResNet": ResNet}
_RAF_DB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Importer:
  """How to read one kind of checkpoint.

  Attributes:
    model: name in `MODELS`.
    attributes: from the shapes of the tensors, the model's attributes.
    key: from our name, with dots and PyTorch's leaf names, such as "trunk.conv1.weight", and the attributes, the
      checkpoint's.
    input_size: from the shapes, side of the pictures, pixels.
    anchor: a tensor's name with which no other name ends. What precedes it in a file is the prefix of all names.
    label_names: from the number of classes, the labels if they are known.
    pictures: "colour_order", and "mean" and "std" of channels in that order, for values of 0 to 1.
    output: "logits", or "embedding" of an aligned face of exactly `input_size`.
    ones: tensors that stay 1 in training, so that our model has none: another value is refused.
  """

  model: str
  attributes: Callable[[Shapes], dict[str, Any]]
  key: Callable[[str, Mapping[str, Any]], str]
  input_size: Callable[[Shapes], int]
  anchor: str
  label_names: Callable[[int], tuple[str, ...] | None] = lambda num_classes: None
  pictures: Mapping[str, Any] = dataclasses.field(default_factory=lambda: PICTURES["imagenet"])
  output: str = "logits"
  ones: tuple[str, ...] = ()


def _edge(shapes: Shapes, name: str, axis: int, default: int) -> int:
  """Length of an axis; the published one where there is none, so that the comparison can say what is missing."""
  shape = shapes.get(name, ())
  return shape[axis] if len(shape) > axis and shape[axis] else default


def _arm_attributes(shapes: Shapes) -> dict[str, Any]:
  return {
    "num_classes": _edge(shapes, "fc.weight", 0, 7),
    "width": _edge(shapes, "features.0.weight", 0, 64) / 64,
    "block": _edge(shapes, "arm.de_albino.weight", 2, 32) // 2,
  }


def _arm_key(name: str, attributes: Mapping[str, Any]) -> str:
  del attributes
  stem = {"trunk.conv1": "features.0", "trunk.bn1": "features.1"}
  name = re.sub(r"^trunk\.(conv1|bn1)(?=\.)", lambda m: stem[m[0]], name)
  return re.sub(r"^trunk\.layer(\d)", lambda m: f"features.{int(m[1]) + 3}", name)


def _arm_size(shapes: Shapes) -> int:
  """The dense layer has (2 m - 3)^2 inputs for a map of m x m, and the trunk halves five times."""
  return 32 * ((math.isqrt(_edge(shapes, "fc.weight", 1, 121)) + 3) // 2)


def _torchvision(depth: int) -> Importer:
  return Importer(
    model="ResNet",
    attributes=lambda shapes: {
      "num_classes": _edge(shapes, "fc.weight", 0, 1000),
      "depth": depth,
      "width": _edge(shapes, "conv1.weight", 0, 64) / 64,
    },
    key=lambda name, attributes: name.removeprefix("trunk."),
    input_size=lambda shapes: 224,
    anchor="layer1.0.conv1.weight",
  )


def _face(
  family: str, blocks: str, stem: str, fc: str, key: Callable[[str, Mapping[str, Any]], str], **settings: Any
) -> Importer:
  """A Face-ResNet; `blocks` matches a tensor of each block, `stem` and `fc` are convolution and dense layer."""

  def size(shapes: Shapes) -> int:
    """The dense layer has channels x (size / 16)^2 inputs; the published size where it has too few for any."""
    return 16 * (math.isqrt(_edge(shapes, fc, 1, 512 * 49) // _edge(shapes, fc, 0, 512)) or 7)

  def attributes(shapes: Shapes) -> dict[str, Any]:
    count = sum(re.fullmatch(blocks, name) is not None for name in shapes)
    depths = {sum(each): depth for depth, each in BLOCKS.items()}
    if count and count not in depths:
      said = " and ".join(f"{each} (depth {depth})" for each, depth in depths.items())
      raise UserError(f"a face net of {count} blocks: there is {said}")
    depth = depths.get(count, 18)
    return {
      "depth": depth,
      "family": family,
      "width": _edge(shapes, stem, 0, 64) / 64,
      "image_size": size(shapes),
    }

  return Importer(
    "FaceResNet", attributes, key, size, pictures=PICTURES[family], output="embedding", **settings
  )


_ADAFACE_STEM = {
  "conv1": "input_layer.0", "bn1": "input_layer.1", "prelu": "input_layer.2",
  "bn2": "output_layer.0", "fc": "output_layer.3", "features": "output_layer.4",
}  # fmt: skip
_ADAFACE_BLOCK = {
  "bn1": "res_layer.0", "conv1": "res_layer.1", "bn2": "res_layer.2", "prelu": "res_layer.3", "conv2": "res_layer.4",
  "bn3": "res_layer.5", "downsample.0": "shortcut_layer.0", "downsample.1": "shortcut_layer.1",
}  # fmt: skip


def _adaface_key(name: str, attributes: Mapping[str, Any]) -> str:
  """Its blocks are numbered through all stages."""
  found = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)\.(\w+)", name)
  if not found:
    layer, _, leaf = name.rpartition(".")
    return f"{_ADAFACE_STEM[layer]}.{leaf}"
  stage, block, layer, leaf = found.groups()
  place = sum(BLOCKS[attributes["depth"]][: int(stage) - 1]) + int(block)
  return f"body.{place}.{_ADAFACE_BLOCK[layer]}.{leaf}"


IMPORTERS: dict[str, Importer] = {
  "adaface": _face(
    "adaface",
    r"body\.\d+\.res_layer\.1\.weight",
    "input_layer.0.weight",
    "output_layer.3.weight",
    _adaface_key,
    anchor="body.0.res_layer.1.weight",
  ),
  "arm": Importer(
    model="ArmNet",
    attributes=_arm_attributes,
    key=_arm_key,
    input_size=_arm_size,
    anchor="features.4.0.conv1.weight",
    label_names=lambda num_classes: _RAF_DB if num_classes == len(_RAF_DB) else None,
  ),
  "insightface": _face(
    "insightface",
    r"layer\d\.\d+\.conv1\.weight",
    "conv1.weight",
    "fc.weight",
    lambda name, attributes: name,
    anchor="layer1.0.conv1.weight",
    ones=("features.weight",),
  ),
  "torchvision_resnet18": _torchvision(18),
  "torchvision_resnet50": _torchvision(50),
}
