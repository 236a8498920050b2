"""Converts published checkpoints to jaxfer's variables.

PyTorch's layouts and names are converted to Flax's: OIHW -> HWIO for convolutions, [out, in] -> [in, out] for dense
layers, and the names of BatchNorm's variables. `num_batches_tracked`, which files older than PyTorch 0.4.1 lack, and
`n_averaged` of averaged models are dropped. `fc` needs no permutation: the ARM map has one channel and is flattened row
by row in both, and the face networks flatten in the same order in both. Variables that a checkpoint does not have
(ARM's `affinity`) keep their initial values. Sizes are taken from the shapes of the tensors. Everything else must match
exactly.
"""

import functools
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

import jaxfer
from jaxfer import folders
from jaxfer.convert.checkpoint import Checkpoint, read
from jaxfer.convert.published import IMPORTERS, MODELS, Importer
from jaxfer.errors import UserError, unknown
from jaxfer.train.weights import save_weights, unsound_values

_LEAVES = {
  "kernel": "weight", "scale": "weight", "slope": "weight", "mean": "running_mean", "var": "running_var",
}  # fmt: skip


@functools.lru_cache(8)
def _template(model: str, size: int, **attributes: Any) -> Any:
  """Returns the shapes of a model's variables for images of edge `size`. Models are traced once and cached."""
  module = MODELS[model](**attributes)
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)


def torch_name(importer: Importer, path: str, attributes: Mapping[str, Any]) -> str:
  """Returns the name that one of jaxfer's variables has in the checkpoint.

  Args:
    importer: a value of `IMPORTERS`.
    path: path of the variable, such as "params/trunk/layer1/block0/downsample_bn/scale".
    attributes: attributes of the model; face networks need "depth".
  """
  *modules, leaf = path.split("/")[1:]
  name = ".".join([*modules, _LEAVES.get(leaf, leaf)])
  name = re.sub(r"\.block(\d+)", r".\1", name)
  name = name.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
  return importer.key(name, attributes)


def from_torch(array: np.ndarray) -> np.ndarray:
  """Converts an array to Flax's layout and to contiguous float32.

  OIHW becomes HWIO, [out, in] becomes [in, out], and vectors keep their shape.
  """
  axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
  return np.ascontiguousarray(array if axes is None else array.transpose(axes), np.float32)


def variables_of(name: str, checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Any]]:
  """Converts the tensors of a checkpoint to the variables of the model.

  Args:
    name: a key of `IMPORTERS`.
    checkpoint: result of `checkpoint.read`.

  Returns:
    (variables, meta): the variables are float32. The metadata are the importer, model, attributes, source, colour
    order, sizes, labels, the entries that were unwrapped and left out, and the version of jaxfer.

  Raises:
    UserError: tensors are missing, unexpected, of another shape, or hold values that no trained model has. The message
      names all of them.
  """
  if name not in IMPORTERS:
    raise unknown("importer", name, IMPORTERS)
  importer = IMPORTERS[name]
  try:
    prefix = _prefix(importer, checkpoint.tensors)
    tensors, left_out = _of_model(importer, prefix, checkpoint.tensors)
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    attributes, size = importer.attributes(shapes), importer.input_size(shapes)
    template = _template(importer.model, size, **attributes)
  except UserError as error:
    raise UserError(f"{checkpoint.path}: {error}") from None
  flat = traverse_util.flatten_dict(template, sep="/")
  sources = {
    path: torch_name(importer, path, attributes) for path in flat if not path.startswith("affinity/")
  }
  expected = {key: _torch_shape(flat[path].shape) for path, key in sources.items()}
  under = f" (prefix '{prefix}', {len(left_out)} tensors without it)" if prefix else ""
  _compare(f"{checkpoint.path} does not fit '{name}'{under}", tensors, expected)
  if unsound := unsound_values({key: tensors[key] for key in expected}):
    raise UserError(
      f"{checkpoint.path} holds values that no trained model has: {unsound}; the training failed or the file is "
      "damaged: give another checkpoint"
    )
  fresh = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in flat.items() if path not in sources}
  converted = {path: from_torch(tensors[key]) for path, key in sources.items()}
  meta = {
    "importer": name,
    "model": importer.model,
    "attributes": attributes,
    "source": {"file": checkpoint.path.name, "sha256": checkpoint.sha256},
    "input_size": size,
    **importer.pictures,
    "output": importer.output,
    "label_names": importer.label_names(attributes.get("num_classes", 0)),
    "unwrapped": [*checkpoint.unwrapped, *([prefix] if prefix else [])],
    "left_out": [*checkpoint.left_out, *left_out],
    "jaxfer": jaxfer.__version__,
  }
  return traverse_util.unflatten_dict({**converted, **fresh}, sep="/"), meta


def _prefix(importer: Importer, names: Iterable[str]) -> str:
  """Returns the prefix of the names of the model's tensors, such as "model."; "" if the anchor is missing."""
  found = [name.removesuffix(importer.anchor) for name in names if f".{name}".endswith(f".{importer.anchor}")]
  if len(found) > 1:
    raise UserError(
      f"it holds {len(found)} models, with the prefixes {', '.join(map(repr, sorted(found)))}: save one of them alone"
    )
  return found[0] if found else ""


def _of_model(
  importer: Importer, prefix: str, tensors: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Splits the tensors into those of the model, by their names without prefix, and the names of all others."""
  left_out = [name for name in tensors if not name.startswith(prefix)]
  own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
  for name in set(importer.ones) & set(own):
    if (own.pop(name) != 1).any():
      raise UserError(
        f"{name} is not all ones, as after normal training: jaxfer's model does not have this scale"
      )
    left_out.append(name)
  return own, left_out


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(shape), range(len(shape)))
  return tuple(shape[axis] for axis in axes)


def _compare(said: str, tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
  dropped = {
    key.replace("running_var", "num_batches_tracked") for key in expected if key.endswith("running_var")
  } | {"n_averaged"}
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
    listed = "; ".join(f"{len(keys)} {kind}: {', '.join(keys)}" for kind, keys in faults.items() if keys)
    raise UserError(f"{said}: {listed}")


def convert(name: str, source: pathlib.Path, out: pathlib.Path) -> str:
  """Converts the file `source` with the importer `name` and writes the folder `out`, which `jaxfer.load` reads.

  Returns:
    A summary of the conversion, in several lines.

  Raises:
    UserError: `out` is not empty or cannot be written. Other errors are those of `read` and `variables_of`.
  """
  out = pathlib.Path(out)
  with folders.fresh(out):
    checkpoint = read(source)
    variables, meta = variables_of(name, checkpoint)
    save_weights(out, variables, meta)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  labels = f" ({', '.join(meta['label_names'])})" if meta["label_names"] else ", names unknown"
  gives = f"classes     {meta['attributes'].get('num_classes')}{labels}"
  if meta["output"] == "embedding":
    gives = f"embedding   {variables['params']['fc']['bias'].size}, of aligned faces"
  around = f", unwrapped from {' and '.join(meta['unwrapped'])}" if meta["unwrapped"] else ""
  return "\n".join([
    f"source      {source} (sha256 {checkpoint.sha256})",
    f"tensors     {len(checkpoint.tensors)}{around}",
    f"model       {meta['model']}({', '.join(f'{k}={v}' for k, v in meta['attributes'].items())})",
    f"parameters  {parameters:,}",
    gives,
    f"pictures    {meta['colour_order']}, {meta['input_size']} px",
    *([f"left out    {', '.join(meta['left_out'])}"] if meta["left_out"] else []),
    f"written to  {out}",
  ])  # fmt: skip
