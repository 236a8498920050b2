"""A folder of weights: what another run starts from, and what `jaxfer.load` reads.

`weights.npz` holds every variable under its path, such as "params/trunk/conv1/kernel" (no pickles); `weights.json`
says what they are, and the SHA-256 of the other file, so that a changed byte is noticed.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from jaxfer.errors import UserError

FORMAT = 1
_ARRAYS, _META = "weights.npz", "weights.json"


def save_weights(folder: pathlib.Path, variables: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
  """Writes a folder of weights, over an older one if there is one.

  Args:
    folder: made if it does not exist.
    variables: collections of nested arrays, as Flax has them; of bools, integers or floats.
    meta: what JSON can hold; "format" and "sha256" are added.

  Raises:
    UserError: an array of another type, such as bfloat16, which a .npz cannot hold.
  """
  arrays = {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(variables, sep="/").items()}
  for path, array in arrays.items():
    if array.dtype.kind not in "biuf":
      raise UserError(
        f"{path} is {array.dtype}: weights are stored as bools, integers or floats; use float32"
      )
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  partial = folder / f"{_ARRAYS}.partial"
  with partial.open("wb") as file:
    np.savez(file, **arrays)  # type: ignore[arg-type]
  described = {**meta, "format": FORMAT, "sha256": hashlib.sha256(partial.read_bytes()).hexdigest()}
  text = json.dumps(described, indent=2, allow_nan=False) + "\n"
  partial.replace(folder / _ARRAYS)
  (folder / _META).write_text(text, encoding="utf-8")


def digest(variables: Mapping[str, Any]) -> str:
  """SHA-256 of arrays: their paths, shapes, dtypes and bytes, whatever file holds them.

  Args:
    variables: collections of nested arrays on the host, as `load_weights` returns them.
  """
  found = hashlib.sha256()
  for path, leaf in sorted(traverse_util.flatten_dict(variables, sep="/").items()):
    array = np.asarray(leaf)
    found.update(f"{path} {array.shape} {array.dtype.str}\n".encode())
    found.update(array.tobytes())
  return found.hexdigest()


def load_weights(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads what `save_weights` wrote.

  Returns:
    (variables as nested dicts of numpy arrays, meta)

  Raises:
    UserError: a file is missing, damaged, or of another format; names it.
  """
  folder = pathlib.Path(folder)
  path = folder / _META
  try:
    meta = json.loads(path.read_text(encoding="utf-8"))
    form, digest = meta["format"], meta["sha256"]
  except OSError as error:
    raise UserError(f"{path}: {error.strerror}; {folder} is no folder of weights") from None
  except (ValueError, KeyError, TypeError):
    raise UserError(f"{path} is damaged: write {folder} again") from None
  if form != FORMAT:
    raise UserError(f"{path} has format {form}, this version reads {FORMAT}: use the jaxfer that wrote it")
  path = folder / _ARRAYS
  try:
    changed = hashlib.sha256(path.read_bytes()).hexdigest() != digest
  except OSError as error:
    raise UserError(f"{path}: {error.strerror}; write {folder} again") from None
  if changed:
    raise UserError(f"{path} has changed since it was written: write {folder} again")
  with np.load(path, allow_pickle=False) as arrays:
    return traverse_util.unflatten_dict(dict(arrays), sep="/"), meta
