"""`jaxfer export`: writes a model for programs that do not use jaxfer.

Both formats write a folder with `model.json`, which has the names of the classes and describes the inputs:

- "stablehlo": `model.stablehlo`, a program from uint8 images to probabilities. It contains the weights and the
  normalisation, and takes any number of images. `jax.export` and other programs that compile StableHLO can read it.
- "safetensors": `model.safetensors`, the weights under their Flax paths. `jaxfer.load` reads the folder.

README, section 4, shows how to read both.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from jaxfer import files
from jaxfer.convert import safetensors_file
from jaxfer.convert.kinds import Refused
from jaxfer.data import flow as optical_flow
from jaxfer.errors import UserError, unknown
from jaxfer.inference.converted import Converted
from jaxfer.inference.predictor import Predictor
from jaxfer.inference.trained import Trained
from jaxfer.study.inputs import with_state

FORMATS = ("stablehlo", "safetensors")
_PLATFORMS = ("cpu", "cuda", "tpu")
_ABOUT, _PROGRAM, _WEIGHTS = "model.json", "model.stablehlo", "model.safetensors"


def export(model: Predictor, out: pathlib.Path, form: str) -> list[pathlib.Path]:
  """Writes a model to a folder.

  Args:
    model: model returned by `jaxfer.load`.
    out: folder for the files, created if it does not exist. Files of an earlier export are replaced.
    form: one of `FORMATS`.

  Returns:
    The files that were written.

  Raises:
    UserError: the format is unknown or its library is not installed, the model has no classes, or the folder cannot be
      written.
  """
  if form not in FORMATS:
    raise unknown("format", form, FORMATS)
  assert isinstance(model, Trained | Converted)
  about = {"format": form, **description(model)}
  content = _stablehlo(model) if form == "stablehlo" else _safetensors(model)
  path = out / (_PROGRAM if form == "stablehlo" else _WEIGHTS)
  files.make_folder(out)
  files.write_atomic(path, content)
  files.write_json(out / _ABOUT, about)
  return [path, out / _ABOUT]


def description(model: Predictor) -> dict[str, Any]:
  """Returns what a program needs to use a model: its classes, its inputs, and how faces are cut out."""
  spec, names = model.input_spec, model.label_names
  flow = {
    "method": "Farneback (OpenCV 4), between successive frames after cutting out and resizing; the first is zero",
    "parameters": optical_flow.FARNEBACK,
    "unit": f"pixels, clipped to {optical_flow.MAX_DISPLACEMENT:g}, times {optical_flow.INT16_MAX} / "
    f"{optical_flow.MAX_DISPLACEMENT:g}, as int16",
  }
  return {
    "label_names": list(names) if names else [str(k) for k in range(model.num_classes)],
    "inputs": {
      name: {"shape": ["batch", *shape.shape[1:]], "dtype": str(shape.dtype)}
      for name, shape in _shapes(model).items()
    },
    "outputs": {"probabilities": {"shape": ["batch", model.num_classes], "dtype": "float32"}},
    "preparation": {
      **dataclasses.asdict(spec),
      "flow": flow if spec.flow else None,
      "normalisation": "none: the model reads values from 0 to 255 and normalises them itself",
    },
  }


def _shapes(model: Trained | Converted | Predictor) -> dict[str, Any]:
  """Returns an array for each input, whose dtype and trailing axes are those of the input."""
  if isinstance(model, Trained):
    return {name: model.task.records.arrays[name] for name in model.input_names}
  return {"image": np.zeros((0, *model.input_spec.shape), np.uint8)}


def program(model: Trained | Converted) -> Callable[..., jax.Array]:
  """Returns the pure function that is exported: named inputs [batch, ...] -> probabilities [batch, classes]."""
  if isinstance(model, Trained):
    return lambda **inputs: model.program(model.variables, inputs)
  return lambda image: model.program(model.variables, image)


def _stablehlo(model: Trained | Converted) -> bytes:
  try:
    import flatbuffers  # noqa: F401  # What jax.export serializes with.
  except ImportError:
    raise UserError("exporting StableHLO needs flatbuffers: pip install 'jaxfer[export]'") from None
  from jax import export as jax_export

  (batch,) = jax_export.symbolic_shape("batch")
  arguments = {
    name: jax.ShapeDtypeStruct((batch, *shape.shape[1:]), shape.dtype)
    for name, shape in _shapes(model).items()
  }
  exported = jax_export.export(jax.jit(program(model)), platforms=_PLATFORMS)(**arguments)
  return bytes(exported.serialize())


def _safetensors(model: Trained | Converted) -> bytes:
  try:
    from safetensors.numpy import save
  except ImportError:
    raise UserError("exporting safetensors needs safetensors: pip install 'jaxfer[export]'") from None

  state = model.state if isinstance(model, Trained) else {}
  flat = traverse_util.flatten_dict(with_state(model.variables, state), sep="/")
  arrays = {path: np.asarray(leaf, order="C") for path, leaf in flat.items()}
  # The metadata of the format are strings, so what `jaxfer.load` needs is stored as JSON.
  return save(arrays, {"jaxfer": files.to_json(model.meta, None)})


def read_safetensors(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads `model.safetensors` of an export; returns the same as `train.weights.load_weights`.

  Raises:
    UserError: the file is damaged or was not exported by jaxfer.
  """
  import json

  try:
    data = path.read_bytes()
    arrays = safetensors_file.loads(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    meta = json.loads(header["__metadata__"]["jaxfer"])
    if not isinstance(meta, dict):
      raise TypeError("its metadata are not an object")
    return traverse_util.unflatten_dict(arrays, sep="/"), meta
  except OSError as error:
    raise files.unusable(path, error, "read") from None
  except (Refused, ValueError, LookupError, TypeError, RecursionError) as error:
    raise UserError(
      f"{path} is not an export of jaxfer, or is damaged ({error}): export the model again"
    ) from None
