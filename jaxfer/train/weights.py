"""Folders of weights, from which another run can start and which `jaxfer.load` reads.

`weights.npz` contains every variable under its path, such as "params/trunk/conv1/kernel", without pickles.
`weights.json` describes them, and contains the SHA-256 of `weights.npz`, so that a changed byte is detected.
"""

import hashlib
import io
import os
import pathlib
import struct
import tokenize
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from jaxfer import files
from jaxfer.errors import UserError

FORMAT = 1
_ARRAYS, _META = "weights.npz", "weights.json"
_KINDS = "biuf"  # Bools, integers and floats.
_VARIANCES = ("running_var", "/var")
# Exceptions that reading a damaged or foreign .npz file may raise.
_UNSOUND = (
  OSError,
  EOFError,
  ValueError,
  TypeError,
  AttributeError,
  LookupError,
  MemoryError,
  RuntimeError,
  OverflowError,
  struct.error,
  tokenize.TokenError,  # From the header of an array.
  zipfile.BadZipFile,
)


def save_weights(folder: pathlib.Path, variables: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
  """Writes a folder of weights, and replaces older weights in it.

  Args:
    folder: the folder, created if it does not exist.
    variables: collections of nested arrays, as in Flax, of bools, integers or floats.
    meta: metadata that JSON can hold. The keys "format" and "sha256" are added.

  Raises:
    UserError: an array has another type, such as bfloat16, which a .npz file cannot hold, or the folder cannot be
      written.
  """
  arrays = {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(variables, sep="/").items()}
  for path, array in arrays.items():
    if array.dtype.kind not in _KINDS:
      raise UserError(
        f"{path} is {array.dtype}: weights are stored as bools, integers or floats; use float32"
      )
  folder = pathlib.Path(folder)
  files.make_folder(folder)
  files.write_atomic(folder / _ARRAYS, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
  digest = hashlib.sha256((folder / _ARRAYS).read_bytes()).hexdigest()
  files.write_json(folder / _META, {**meta, "format": FORMAT, "sha256": digest})


def digest(variables: Mapping[str, Any]) -> str:
  """Returns the SHA-256 of the paths, shapes, dtypes and bytes of arrays. It does not depend on the file format.

  Args:
    variables: collections of nested arrays on the host, as `load_weights` returns them.
  """
  found = hashlib.sha256()
  for path, leaf in sorted(traverse_util.flatten_dict(variables, sep="/").items()):
    array = np.asarray(leaf)
    found.update(f"{path} {array.shape} {array.dtype.str}\n".encode())
    found.update(array.tobytes())
  return found.hexdigest()


def load_weights(folder: pathlib.Path, *, sound: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads a folder that `save_weights` wrote.

  Args:
    folder: the folder of weights.
    sound: whether to refuse values that no trained net has, see `unsound_values`. NaN is allowed in an array of the
      collection `affinity` that has no flag beside it, where it marks a mean that was never written; see
      `amend.flagged`.

  Returns:
    (variables as nested dicts of numpy arrays, metadata)

  Raises:
    UserError: a file is missing, damaged, or has the format of another version or program, or `sound` is True and the
      values are unsound. The message names the file.
  """
  folder = pathlib.Path(folder)
  path = folder / _META
  if not os.path.lexists(path):
    raise UserError(f"{path}: No such file or directory; {folder} is not a folder of weights")
  meta = files.read_json(path, f"write {folder} again", ["format", "sha256"])
  form, digest = meta["format"], meta["sha256"]
  if form != FORMAT:
    raise UserError(f"{path} has format {form}, this version reads {FORMAT}: use the jaxfer that wrote it")
  path = folder / _ARRAYS
  try:
    data = path.read_bytes()
  except OSError as error:
    raise UserError(f"{path}: {error.strerror}; write {folder} again") from None
  if hashlib.sha256(data).hexdigest() != digest:
    raise UserError(f"{path} has changed since it was written: write {folder} again")
  try:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      # `np.savez` stores without compression. A compressed entry could be a thousand times as large as the file.
      if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise ValueError("a compressed archive")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
      arrays = dict(file)
    if foreign := [array.dtype for array in arrays.values() if array.dtype.kind not in _KINDS]:
      raise TypeError(foreign[0])
    variables = traverse_util.unflatten_dict(arrays, sep="/")
  except _UNSOUND:
    raise UserError(f"{path} is damaged, or from another program: write {folder} again") from None
  trained = {
    name: array
    for name, array in arrays.items()
    if not name.startswith("affinity/") or f"{name}_written" in arrays
  }
  if sound and (said := unsound_values(trained)):
    raise UserError(
      f"{path} holds values that no trained net has: {said}; the training failed: give other weights"
    )
  return variables, meta


def unsound_values(arrays: Mapping[str, np.ndarray]) -> str:
  """Describes the arrays that contain values which no trained net has.

  Such values are NaN, infinity, numbers beyond float32's range, and negative variances of BatchNorm. A net with any of
  them predicts NaN or nonsense without an error.

  Args:
    arrays: name -> array. Variances are recognized by their names, which may be jaxfer's or PyTorch's. Arrays may have
      any dtype, but only floats are checked.

  Returns:
    Every such array with the number of values of each kind, such as "fc.weight (1 NaN, 2 infinite of 28)"; "" if there
    are none.
  """
  found = []
  for name, array in arrays.items():
    if array.dtype.kind not in "fV":  # "V" is bfloat16 or float8.
      continue
    values = array if array.dtype.itemsize >= 4 else array.astype(np.float32)
    finite = np.isfinite(values)
    counts = {
      "NaN": np.isnan(values),
      "infinite": np.isinf(values),
      "beyond float32": finite & (np.abs(values) > np.finfo(np.float32).max),
      "negative": finite & (values < 0) & name.endswith(_VARIANCES),
    }
    said = [f"{np.count_nonzero(those)} {kind}" for kind, those in counts.items() if those.any()]
    if said:
      found.append(f"{name} ({', '.join(said)} of {array.size})")
  return ", ".join(found)
