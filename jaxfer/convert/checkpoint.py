"""The parameters in a checkpoint file of PyTorch or safetensors, whatever they are wrapped in."""

import dataclasses
import hashlib
import pathlib

import numpy as np

from jaxfer.convert import torch_file
from jaxfer.errors import UserError

WRAPPERS = ("model_state_dict", "state_dict")
_PREFIX = "module."  # DataParallel puts it before every name.


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """What a file holds.

  Attributes:
    path: the file.
    sha256: its digest.
    tensors: by PyTorch's names, in PyTorch's layouts; they may be strided views.
    unwrapped: what lay around them, outermost first: one of `WRAPPERS`, "module."; often nothing.
  """

  path: pathlib.Path
  sha256: str
  tensors: dict[str, np.ndarray]
  unwrapped: tuple[str, ...]


def read(path: pathlib.Path) -> Checkpoint:
  """Reads a `.safetensors` file by its library, any other as `torch.save` writes it.

  Raises:
    UserError: no such file, a damaged one, one that names anything but tensors, or no parameters in it.
  """
  path = pathlib.Path(path)
  try:
    data = path.read_bytes()
  except OSError as error:
    raise UserError(f"{path}: {error.strerror}: give a .pth, .pt, .ckpt or .safetensors file") from None
  try:
    tensors, unwrapped = _safetensors(data) if path.suffix == ".safetensors" else _torch(data)
  except ValueError as error:
    raise UserError(f"{path}: {' '.join(str(error).split())}") from None
  if tensors and all(name.startswith(_PREFIX) for name in tensors):
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    unwrapped = (*unwrapped, _PREFIX)
  return Checkpoint(path, hashlib.sha256(data).hexdigest(), tensors, unwrapped)


def _safetensors(data: bytes) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  try:
    import safetensors.numpy
  except ImportError:
    raise UserError("safetensors is not installed: pip install 'jaxfer[convert]'") from None
  try:
    return safetensors.numpy.load(data), ()
  except (safetensors.SafetensorError, KeyError, TypeError) as error:
    raise ValueError(f"not a sound file of safetensors ({str(error)[:80]})") from None


def _torch(data: bytes) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  value, array = torch_file.loads(data)
  unwrapped: tuple[str, ...] = ()
  for name in WRAPPERS:
    if isinstance(value, dict) and isinstance(value.get(name), dict):
      value, unwrapped = value[name], (name,)
      break
  if not isinstance(value, dict):
    _refuse_foreign(value)
    raise ValueError(
      f"it holds a {type(value).__name__.strip('_').lower()}, no dict of tensors: save a state_dict()"
    )
  tensors = {}
  for name, item in value.items():
    tensor = array(item)
    _refuse_foreign(item)
    if type(name) is not str or tensor is None:
      raise ValueError(
        f"its entry {str(name)[:40]!r} is no tensor: save a state_dict() alone, or under {' or '.join(WRAPPERS)}"
      )
    tensors[name] = tensor
  return tensors, unwrapped


def _refuse_foreign(item: object) -> None:
  name = torch_file.foreign(item)
  if name is not None:
    raise ValueError(
      f"the file names {name}: only tensors and plain containers are read, nothing is called; "
      "save the model's state_dict() alone"
    )
