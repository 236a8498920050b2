"""Published checkpoints by name: which model each one is, and where each of its tensors goes.

PyTorch's layouts become ours: convolutions OIHW -> HWIO, dense layers [out, in] -> [in, out], BatchNorm's names;
`num_batches_tracked` is known and dropped (files older than PyTorch 0.4.1 lack it). The ARM map is flattened row by row
on both sides and has one channel, so `fc` needs no permutation. What a checkpoint does not have (ARM's `affinity`)
stays as the model initialises it. Sizes follow from the shapes; everything else must fit exactly.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

import jaxfer
from jaxfer.convert.checkpoint import Checkpoint, read
from jaxfer.errors import UserError, unknown
from jaxfer.layers.resnet import ResNet
from jaxfer.models.landmark_fusion import ArmNet
from jaxfer.train.weights import save_weights

# The models that converted weights belong to, by the name in their meta.
MODELS: dict[str, type[nn.Module]] = {"ArmNet": ArmNet, "ResNet": ResNet}
_RAF_DB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
_INPUT = {
  "colour_order": "RGB",
  "mean": [0.485, 0.456, 0.406],  # Of ImageNet, as all three were trained.
  "std": [0.229, 0.224, 0.225],
}
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Importer:
  """How to read one kind of checkpoint.

  Attributes:
    model: name in `MODELS`.
    attributes: from the shapes of the tensors, the model's attributes.
    key: from our name, with dots and PyTorch's leaf names, such as "trunk.conv1.weight", the checkpoint's.
    input_size: from the shapes, side of the pictures, pixels.
    label_names: from the number of classes, the labels if they are known.
  """

  model: str
  attributes: Callable[[Shapes], dict[str, Any]]
  key: Callable[[str], str]
  input_size: Callable[[Shapes], int]
  label_names: Callable[[int], tuple[str, ...] | None]


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


def _arm_key(name: str) -> str:
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
    key=lambda name: name.removeprefix("trunk."),
    input_size=lambda shapes: 224,
    label_names=lambda num_classes: None,
  )


IMPORTERS: dict[str, Importer] = {
  "arm": Importer(
    model="ArmNet",
    attributes=_arm_attributes,
    key=_arm_key,
    input_size=_arm_size,
    label_names=lambda num_classes: _RAF_DB if num_classes == len(_RAF_DB) else None,
  ),
  "torchvision_resnet18": _torchvision(18),
  "torchvision_resnet50": _torchvision(50),
}


def torch_name(importer: Importer, path: str) -> str:
  """The checkpoint's name of our variable, such as "params/trunk/layer1/block0/downsample_bn/scale"."""
  *modules, leaf = path.split("/")[1:]
  name = ".".join([*modules, _LEAVES.get(leaf, leaf)])
  name = re.sub(r"\.block(\d+)", r".\1", name)
  name = name.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
  return importer.key(name)


def from_torch(array: np.ndarray) -> np.ndarray:
  """OIHW -> HWIO, [out, in] -> [in, out]; vectors stay. float32, contiguous."""
  axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
  return np.ascontiguousarray(array if axes is None else array.transpose(axes), np.float32)


def variables_of(name: str, checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Any]]:
  """Puts a checkpoint's tensors where our model has them.

  Args:
    name: of `IMPORTERS`.
    checkpoint: as `checkpoint.read` gives it.

  Returns:
    (variables, float32; meta: importer, model, attributes, source, colours, sizes, labels, version)

  Raises:
    UserError: missing and unexpected tensors, and those of another shape: all of them.
  """
  if name not in IMPORTERS:
    raise unknown("importer", name, IMPORTERS)
  importer, tensors = IMPORTERS[name], checkpoint.tensors
  shapes = {key: tensor.shape for key, tensor in tensors.items()}
  attributes, size = importer.attributes(shapes), importer.input_size(shapes)
  model = MODELS[importer.model](**attributes)
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  try:
    template = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
  except UserError as error:
    raise UserError(f"{checkpoint.path}: {error}") from None
  flat = traverse_util.flatten_dict(template, sep="/")
  sources = {path: torch_name(importer, path) for path in flat if not path.startswith("affinity/")}
  _compare(name, checkpoint, {key: _torch_shape(flat[path].shape) for path, key in sources.items()})
  fresh = {
    path: np.full(leaf.shape, np.nan, leaf.dtype) for path, leaf in flat.items() if path not in sources
  }
  converted = {path: from_torch(tensors[key]) for path, key in sources.items()}
  meta = {
    "importer": name,
    "model": importer.model,
    "attributes": attributes,
    "source": {"file": checkpoint.path.name, "sha256": checkpoint.sha256},
    "input_size": size,
    **_INPUT,
    "label_names": importer.label_names(attributes["num_classes"]),
    "jaxfer": jaxfer.__version__,
  }
  return traverse_util.unflatten_dict({**converted, **fresh}, sep="/"), meta


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(shape), range(len(shape)))
  return tuple(shape[axis] for axis in axes)


def _compare(name: str, checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]]) -> None:
  tensors = checkpoint.tensors
  dropped = {
    key.replace("running_var", "num_batches_tracked") for key in expected if key.endswith("running_var")
  }
  faults = {
    "missing": sorted(set(expected) - set(tensors)),
    "unexpected": sorted(set(tensors) - set(expected) - dropped),
    "of another shape": [
      f"{key} {list(tensors[key].shape)} (expected {list(shape)})"
      for key, shape in sorted(expected.items())
      if key in tensors and tensors[key].shape != shape
    ],
    "not of floats": [
      f"{key} ({tensors[key].dtype})"
      for key in sorted(set(expected) & set(tensors))
      if not jnp.issubdtype(tensors[key].dtype, jnp.floating)
    ],
  }
  if any(faults.values()):
    said = "; ".join(f"{len(keys)} {kind}: {', '.join(keys)}" for kind, keys in faults.items() if keys)
    raise UserError(f"{checkpoint.path} does not fit '{name}': {said}")


def convert(name: str, source: pathlib.Path, out: pathlib.Path) -> str:
  """Converts the file `source` by the importer `name` into the folder `out`, which `jaxfer.load` reads.

  Returns:
    What was read, in lines.

  Raises:
    UserError: `out` holds something already; else see `read` and `variables_of`.
  """
  out = pathlib.Path(out)
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise UserError(f"{out} exists and is not empty: give a new folder")
  checkpoint = read(source)
  variables, meta = variables_of(name, checkpoint)
  save_weights(out, variables, meta)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  labels = f" ({', '.join(meta['label_names'])})" if meta["label_names"] else ", names unknown"
  around = f", unwrapped from {' and '.join(checkpoint.unwrapped)}" if checkpoint.unwrapped else ""
  return "\n".join([
    f"source      {source} (sha256 {checkpoint.sha256})",
    f"tensors     {len(checkpoint.tensors)}{around}",
    f"model       {meta['model']}({', '.join(f'{k}={v}' for k, v in meta['attributes'].items())})",
    f"parameters  {parameters:,}",
    f"classes     {meta['attributes']['num_classes']}{labels}",
    f"pictures    RGB, {meta['input_size']} px",
    f"written to  {out}",
  ])  # fmt: skip
