"""The kinds of published checkpoints that can be imported, with the model and the tensor names of each.

`arm` is a checkpoint of the RGB network in the released code of paper 002. `torchvision_resnet18` and
`torchvision_resnet50` are torchvision's. `adaface` is a Lightning checkpoint of AdaFace's code. Its head (`head.*`,
with one column per person of its training set and the averages of the margin) is left out. `insightface` is a state
dict of InsightFace's code.
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

# Name in the metadata of converted weights -> model.
MODELS: dict[str, type[nn.Module]] = {"ArmNet": ArmNet, "FaceResNet": FaceResNet, "ResNet": ResNet}
_RAF_DB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Importer:
  """How to read one kind of checkpoint.

  Attributes:
    model: name of the model in `MODELS`.
    attributes: function that returns the attributes of the model for the shapes of the tensors.
    key: function that returns the name of a tensor in the checkpoint. It takes jaxfer's name, with dots and PyTorch's
      leaf names, such as "trunk.conv1.weight", and the attributes of the model.
    input_size: function that returns the edge of the images in pixels for the shapes of the tensors.
    anchor: name of a tensor that is not the end of any other name. The text before it in a file is the prefix of all
      names.
    label_names: function that returns the labels for the number of classes, or None if they are unknown.
    pictures: "colour_order", and "mean" and "std" of the channels in that order, for values in [0, 1].
    output: "logits", or "embedding" for the embedding of an aligned face of exactly `input_size`.
    ones: names of tensors that stay 1 in training and that jaxfer's model does not have. Other values are refused.
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
  """Returns the length of an axis of a tensor, or `default` if the tensor has no such axis.

  With the published length as the default, the later comparison can report the missing tensor.
  """
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
  """Returns the input size.

  The dense layer has (2 m - 3)^2 inputs for an m x m map, and the trunk halves the size five times.
  """
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
  """Returns the importer of a Face-ResNet.

  `blocks` is a regular expression that matches the name of one tensor per block. `stem` and `fc` are the names of the
  kernels of the first convolution and the dense layer.
  """

  def size(shapes: Shapes) -> int:
    """Returns the input size. The dense layer has channels x (size / 16)^2 inputs; with too few, the size is 112."""
    return 16 * (math.isqrt(_edge(shapes, fc, 1, 512 * 49) // _edge(shapes, fc, 0, 512)) or 7)

  def attributes(shapes: Shapes) -> dict[str, Any]:
    count = sum(re.fullmatch(blocks, name) is not None for name in shapes)
    depths = {sum(each): depth for depth, each in BLOCKS.items()}
    if count and count not in depths:
      said = " and ".join(f"{each} (depth {depth})" for each, depth in depths.items())
      raise UserError(f"a face network with {count} blocks, but the known ones have {said}")
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
  """Returns AdaFace's name of a tensor. Its blocks are numbered consecutively through all stages."""
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
