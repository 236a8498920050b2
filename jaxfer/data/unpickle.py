"""Reads pickles of plain data without importing or calling anything that they name.

A pickle is read as described in `pickles`. It may contain containers, strings, bytes, numbers, and numpy arrays of
numbers or strings. Arrays are assembled by this module from the parts in the pickle. For anything else, the error names
the type.
"""

import io
import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxfer import pickles

MAX_BYTES = 1 << 30
_DEPTH = 5  # Maximum nesting of containers.
# Maximum size of an array of strings, each of which takes as much space as the longest.
_CHARACTERS = 1 << 20

# Also the opcodes of protocols 0 and 1, of bytearrays, and of strings and bytes longer than 4 GiB.
_OPCODES = pickles.OPCODES | {
  "INT", "LONG", "LONG4", "FLOAT", "STRING", "UNICODE", "LIST", "DICT", "POP", "PUT", "GET", "BINUNICODE8", "BINBYTES8",
  "BYTEARRAY8",
}  # fmt: skip
_DTYPE = ("b", "i", "u", "f", "S", "U")


class _Global(pickles.Sealed):
  """A placeholder for a function or class in the pickle. Calling it returns a description of the call."""

  def __init__(self, name: str):
    self.name = name

  def __call__(self, *arguments: Any) -> Any:
    if self.name == "encode":
      text, encoding = arguments
      if encoding != "latin1":
        raise ValueError(f"the pickle encodes text as {str(encoding)[:20]!r}: expected latin1")
      return _of(text, str).encode("latin-1")
    if self.name == "ndarray":
      raise ValueError("the pickle calls numpy.ndarray: only plain data are read")
    return _Array(self.name, arguments)


class _Array:
  """An array or dtype as described in the pickle, which `_array` and `_dtype` turn into the real one."""

  def __init__(self, kind: str, arguments: tuple[Any, ...]):
    self.kind, self.arguments, self.state = kind, arguments, None

  def __setstate__(self, state: Any) -> None:
    self.state = state


# The names of numpy's functions depend on its version. Python 2 had no bytes, so it writes them as encoded text.
_GLOBALS = {
  "numpy.core.multiarray._reconstruct": "array",
  "numpy._core.multiarray._reconstruct": "array",
  "numpy.core.numeric._frombuffer": "frombuffer",
  "numpy._core.numeric._frombuffer": "frombuffer",
  "numpy.core.multiarray.scalar": "scalar",
  "numpy._core.multiarray.scalar": "scalar",
  "numpy.ndarray": "ndarray",
  "numpy.dtype": "dtype",
  "_codecs.encode": "encode",
}


class _Unpickler(pickle.Unpickler):
  def find_class(self, module: str, name: str) -> _Global:
    full = f"{module}.{name}"
    if full not in _GLOBALS:
      raise ValueError(f"the pickle names {full[:80]}: only plain data are read, nothing is called")
    return _Global(_GLOBALS[full])


def loads(data: bytes) -> Any:
  """Reads a pickle of plain data, of any protocol.

  Args:
    data: at most `MAX_BYTES`.

  Returns:
    Lists, tuples, dicts, str, bytes, numbers, None, and numpy arrays of bools, numbers or texts. The strings of
    Python 2 are bytes.

  Raises:
    ValueError: the data are not a complete pickle, or contain something else, which the message names.
  """
  if len(data) > MAX_BYTES:
    raise ValueError(f"a pickle of {len(data)} bytes: at most {MAX_BYTES} are read")
  try:
    pickles.check(data, _OPCODES, "plain data")
    # Names are not translated from Python 2, and its strings are read as bytes.
    value = _Unpickler(io.BytesIO(data), fix_imports=False, encoding="bytes").load()
    return _plain(value, iter(range(len(data))))
  except ValueError:
    raise
  except pickles.UNSOUND as error:
    raise ValueError(f"not a valid pickle ({type(error).__name__}: {str(error)[:80]})") from None


def _of(value: Any, kind: Any) -> Any:
  if not isinstance(value, kind):
    raise ValueError(f"not a valid pickle ({type(value).__name__} for {getattr(kind, '__name__', kind)})")
  return value


def _plain(value: Any, budget: Iterator[int], depth: int = 0) -> Any:
  """Returns the value with all arrays assembled, also those within containers.

  A list can contain another list many times, which contains a third one many times, and so on. Without the budget,
  which is the number of bytes, a few hundred such lists would take hours.
  """
  if next(budget, None) is None or depth > _DEPTH or isinstance(value, _Global):
    raise ValueError("not a valid pickle (neither numbers, texts nor short lists of them)")
  if isinstance(value, _Array):
    return _array(value)
  if isinstance(value, bytearray):
    return bytes(value)
  if isinstance(value, list | tuple):
    return type(value)(_plain(item, budget, depth + 1) for item in value)
  if isinstance(value, dict):
    return {_plain(key, budget, depth + 1): _plain(item, budget, depth + 1) for key, item in value.items()}
  return value


def _array(value: _Array) -> Any:
  if value.kind == "scalar":
    dtype, data = value.arguments
    return np.frombuffer(_of(data, bytes), _dtype(dtype), count=1)[0].item()
  if value.kind == "frombuffer":
    data, dtype, shape, order = value.arguments
    data = bytes(_of(data, bytes | bytearray))
  elif value.kind == "array":
    _, shape, dtype, fortran, data = _of(value.state, tuple)
    order = "F" if fortran else "C"
  else:
    raise ValueError(f"the pickle holds a {value.kind}: only plain data are read")
  sound = len(_of(shape, tuple)) <= pickles.MAX_DIMENSIONS and all(
    type(edge) is int and edge >= 0 for edge in shape
  )
  if order not in ("C", "F") or not sound:
    raise ValueError("the pickle holds an array with an invalid shape")
  if isinstance(data, list):  # The elements of an array of objects; numpy adds only the shape.
    if len(data) != math.prod(shape) or not all(isinstance(item, str | int | float) for item in data):
      raise ValueError("the pickle holds an array of objects other than texts and numbers")
    longest = max((len(item) for item in data if isinstance(item, str)), default=0)
    if longest * len(data) > _CHARACTERS:
      raise ValueError(
        f"the pickle holds an array of {len(data)} texts of up to {longest} characters: too large"
      )
    return np.array(data).reshape(shape, order=order)
  kind = _dtype(dtype)
  if len(_of(data, bytes)) != math.prod(shape) * kind.itemsize:
    raise ValueError(f"the pickle holds an array of {len(data)} bytes for the shape {str(shape)[:40]}")
  return np.frombuffer(data, kind).reshape(shape, order=order)


def _dtype(value: Any) -> np.dtype:
  described = _of(value, _Array)
  code = described.arguments[0] if described.kind == "dtype" else None
  code = code.decode("latin-1") if isinstance(code, bytes) else code
  order = described.state[1] if isinstance(described.state, tuple) and len(described.state) > 1 else "|"
  order = order.decode("latin-1") if isinstance(order, bytes) else order
  if not (
    isinstance(code, str) and code[:1] in _DTYPE and code[1:].isdecimal() and order in ("<", ">", "|", "=")
  ):
    raise ValueError(f"the pickle holds an array of type {str(code)[:20]}: expected bools, numbers or texts")
  return np.dtype(order.replace("|", "=") + code if code[:1] in "iufU" else code)
