"""Reads the parameters of a checkpoint file of PyTorch or safetensors and removes the wrappers around them."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxfer.convert import kinds, safetensors_file, torch_file
from jaxfer.errors import UserError

# Keys under which training programs store a state dict; they may be nested. If several of them hold tensors, the first
# in this order is read. Averaged weights and auxiliary networks come last.
WRAPPERS = (
  "model_state_dict", "state_dict", "model", "module", "net", "network", "backbone", "encoder", "weights", "params",
  "model_ema", "state_dict_ema", "ema_state_dict", "ema", "teacher", "student",
)  # fmt: skip
# Parts of names that DataParallel, torch.compile, FSDP and activation checkpointing add.
_RUNNERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_DEPTH = 3  # Wrappers nested deeper than this are not searched for.


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """The content of a checkpoint file.

  Attributes:
    path: path of the file.
    sha256: SHA-256 digest of the file.
    tensors: PyTorch's name -> array in PyTorch's layout, which may be a strided view.
    unwrapped: wrappers that were removed, outermost first: keys of `WRAPPERS`, then prefixes such as "module.".
    left_out: entries that were ignored: other `WRAPPERS` with tensors, and other values next to the tensors.
  """

  path: pathlib.Path
  sha256: str
  tensors: dict[str, np.ndarray]
  unwrapped: tuple[str, ...]
  left_out: tuple[str, ...] = ()


def read(path: pathlib.Path) -> Checkpoint:
  """Reads a file that `torch.save` or safetensors wrote. The format is recognised by the content, not by the name.

  Raises:
    UserError: the file is missing, damaged or of another format, it has no tensors, or some of its weights are not
      tensors.
  """
  path = pathlib.Path(path)
  try:
    if path.is_dir():
      raise UserError(f"{path} is a directory: {kinds.GIVE}{_inside(path)}")
    if path.exists() and not path.is_file():
      raise UserError(f"{path} is not a regular file: {kinds.GIVE}")
    data = path.read_bytes()
  except OSError as error:
    raise UserError(f"{path}: {error.strerror}: {kinds.GIVE}") from None
  except MemoryError:
    raise UserError(f"{path} does not fit into memory: save the model's state_dict() alone") from None
  unwrapped: tuple[str, ...] = ()
  left_out: tuple[str, ...] = ()
  try:
    if safetensors_file.looks_like(data):
      tensors = safetensors_file.loads(data)
    elif torch_file.looks_like(data):
      tensors, unwrapped, left_out = _torch(data)
    else:
      raise kinds.refusal(path.name, data)
    if not tensors:
      raise kinds.Refused("it holds no tensors: save a state_dict()")
    tensors, runners = _without_runners(tensors)
  except kinds.Refused as error:
    raise UserError(f"{path}: {' '.join(str(error).split())}") from None
  except RecursionError:
    raise UserError(
      f"{path}: its content is nested too deeply: save the model's state_dict() alone"
    ) from None
  return Checkpoint(path, hashlib.sha256(data).hexdigest(), tensors, (*unwrapped, *runners), left_out)


def _inside(folder: pathlib.Path) -> str:
  """Returns a hint that names a weights file in the folder, or "" if there is none."""
  found = sorted(path.name for path in folder.iterdir() if path.suffix in kinds.SUFFIXES)
  return f", such as {found[0]} in it" if found else ""


def _torch(data: bytes) -> tuple[dict[str, np.ndarray], tuple[str, ...], tuple[str, ...]]:
  value, array = torch_file.loads(data)
  unwrapped, left_out = _unwrap(value)
  for name in unwrapped:
    value = value[name]
  if not isinstance(value, dict):
    _refuse_foreign(value)
    raise kinds.Refused(
      f"it holds a {type(value).__name__.strip('_').lower()}, not a dict of tensors: save a state_dict()"
    )
  tensors: dict[str, np.ndarray] = {}
  beside = []
  for name, item in value.items():
    tensor = _array_of(name, item, array)
    if tensor is None:
      beside.append(str(name)[:40])
    elif type(name) is not str:
      raise kinds.Refused(
        f"its entry {str(name)[:40]!r} has a name that is not a string: save a state_dict()"
      )
    else:
      tensors[name] = tensor
  if beside and not tensors:
    raise kinds.Refused(
      f"its entry {beside[0]!r} is not a tensor: save a state_dict() alone, or under {' or '.join(WRAPPERS[:2])}"
    )
  return tensors, unwrapped, (*left_out, *beside)


def _array_of(name: Any, item: Any, array: Callable[[Any], np.ndarray | None]) -> np.ndarray | None:
  """Returns the array of an entry, or None for a plain value. Other objects could be weights, so they are refused."""
  try:
    tensor = array(item)
  except kinds.Refused as error:
    raise kinds.Refused(f"{str(name)[:80]}: {error}") from None
  if tensor is None:
    _refuse_foreign(item)
  return tensor


_Wrapped = tuple[tuple[str, ...], tuple[str, ...]]


def _unwrap(value: Any, depth: int = 0, known: dict[tuple[int, int], _Wrapped] | None = None) -> _Wrapped:
  """Returns the wrappers around the tensors, outermost first, and the other entries, which are ignored.

  A dict that has a tensor with a dot in its name is taken as a state dict, regardless of its other entries.

  Args:
    value: the object in the file.
    depth: number of wrappers around it.
    known: results by identity and depth. A file may hold one large dict under thousands of combinations of wrappers.
  """
  if not isinstance(value, dict) or depth > _DEPTH:
    return (), ()
  known = {} if known is None else known
  if (id(value), depth) not in known:
    known[id(value), depth] = _unwrap_dict(value, depth, known)
  return known[id(value), depth]


def _unwrap_dict(value: dict[Any, Any], depth: int, known: dict[tuple[int, int], _Wrapped]) -> _Wrapped:
  tensors = [str(name) for name, item in value.items() if torch_file.is_tensor(item)]
  if any("." in name for name in tensors):
    return (), ()
  found = [
    name
    for name in WRAPPERS
    if isinstance(value.get(name), dict) and _holds_tensors(value[name], depth, known)
  ]
  if not found:
    return (), ()
  inner, left_out = _unwrap(value[found[0]], depth + 1, known)
  return (found[0], *inner), (*found[1:], *tensors, *left_out)


def _holds_tensors(value: dict[Any, Any], depth: int, known: dict[tuple[int, int], _Wrapped]) -> bool:
  # The wrappers come first, because their result is kept.
  return bool(_unwrap(value, depth + 1, known)[0]) or any(map(torch_file.is_tensor, value.values()))


def _without_runners(tensors: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Removes `_RUNNERS` from all names; returns the tensors and the removed parts, such as "module."."""
  parts = {part for name in tensors for part in name.split(".")[:-1]}
  runners = tuple(f"{runner}." for runner in _RUNNERS if runner in parts)
  bare: dict[str, np.ndarray] = {}
  for name, tensor in tensors.items():
    *modules, leaf = name.split(".")
    key = ".".join([*(part for part in modules if part not in _RUNNERS), leaf])
    if key in bare:
      raise kinds.Refused(
        f"two of its tensors are named {key!r} without {' and '.join(runners)}: save the state_dict() of one model"
      )
    bare[key] = tensor
  return bare, runners


def _refuse_foreign(item: object) -> None:
  name = torch_file.foreign(item)
  if name is not None:
    raise kinds.Refused(
      f"the file names {name}: only tensors and plain containers are read, and nothing is called; "
      "save the model's state_dict() alone"
    )
