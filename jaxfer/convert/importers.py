"""Published checkpoints brought into our variables: where each of their tensors goes.

PyTorch's layouts become ours: convolutions OIHW -> HWIO, dense layers [out, in] -> [in, out], BatchNorm's names;
`num_batches_tracked` is known and dropped (files older than PyTorch 0.4.1 lack it), and so is `n_averaged` of averaged
models. The ARM map is flattened row by row
on both sides and has one channel, so `fc` needs no permutation; nor does that of the face nets, which flatten in the
same order. What a checkpoint does not have (ARM's `affinity`)
stays as the model initialises it. Sizes follow from the shapes; everything else must fit exactly.
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
  """Shapes of a model's variables, for images of `size` pixels; traced once for all checkpoints of one net."""
  module = MODELS[model](**attributes)
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)


def torch_name(importer: Importer, path: str, attributes: Mapping[str, Any]) -> str:
  """The checkpoint's name of our variable, such as "params/trunk/layer1/block0/downsample_bn/scale".

  Args:
    importer: of `IMPORTERS`.
    path: of the variable.
    attributes: of the model; face nets need "depth".
  """
  *modules, leaf = path.split("/")[1:]
  name = ".".join([*modules, _LEAVES.get(leaf, leaf)])
  name = re.sub(r"\.block(\d+)", r".\1", name)
  name = name.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
  return importer.key(name, attributes)


def from_torch(array: np.ndarray) -> np.ndarray:
  """OIHW -> HWIO, [out, in] -> [in, out]; vectors stay. Converts every float dtype to float32; contiguous."""
  axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
  return np.ascontiguousarray(array if axes is None else array.transpose(axes), np.float32)


def variables_of(name: str, checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Any]]:
  """Puts a checkpoint's tensors where our model has them.

  Args:
    name: of `IMPORTERS`.
    checkpoint: as `checkpoint.read` gives it.

  Returns:
    (variables, float32; meta: importer, model, attributes, source, colours, sizes, labels, what was unwrapped and left
    out, version)

  Raises:
    UserError: tensors are missing, unexpected, of another shape, or hold values that no trained net has; names all.
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
      f"{checkpoint.path} holds values that no trained net has: {unsound}; the training failed or the file is "
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
  """Returns the prefix of the model's tensors, such as "model."; "" if the anchor is missing."""
  found = [name.removesuffix(importer.anchor) for name in names if f".{name}".endswith(f".{importer.anchor}")]
  if len(found) > 1:
    raise UserError(
      f"it holds {len(found)} nets, with the prefixes {', '.join(map(repr, sorted(found)))}: save one of them alone"
    )
  return found[0] if found else ""


def _of_model(
  importer: Importer, prefix: str, tensors: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
  """The model's tensors by their names without prefix, and what stands beside them."""
  left_out = [name for name in tensors if not name.startswith(prefix)]
  own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
  for name in set(importer.ones) & set(own):
    if (own.pop(name) != 1).any():
      raise UserError(f"{name} is not 1 throughout, as its training leaves it: our model has no such scale")
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
  """Converts the file `source` by the importer `name` into the folder `out`, which `jaxfer.load` reads.

  Returns:
    What was read, in lines.

  Raises:
    UserError: `out` holds something already or cannot be written; else see `read` and `variables_of`.
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
