"""Pickles of plain data, read as data: nothing named in them is imported or called.

`pickle.load` runs whatever the file says. Here the opcodes are walked (`pickletools.genops`) and only those that build
containers, texts, bytes, numbers and numpy arrays of plain numbers or texts are understood; an array's parts are kept
as what they say and put together by us. Anything else is refused by name.
"""

import math
import pickletools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

MAX_BYTES = 1 << 30
_DEPTH = 5  # Of containers in containers.

_MARK = object()
_PLAIN = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # Python 2: bytes, which genops decodes as Latin 1.
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_SKIPPED = {"PROTO", "FRAME"}
_DTYPE = ("b", "i", "u", "f", "S", "U")


class _Global:
  """A name in the pickle that `_call` understands."""

  def __init__(self, name: str):
    self.name = name


class _Array:
  """An array or dtype under construction: what the pickle says of it."""

  def __init__(self, kind: str, arguments: tuple[Any, ...]):
    self.kind, self.arguments, self.state = kind, arguments, None


# Arrays name their parts by the numpy that wrote them; Python 2 had no bytes and encodes them.
_GLOBALS = {
  "numpy.core.multiarray _reconstruct": "array",
  "numpy._core.multiarray _reconstruct": "array",
  "numpy.core.numeric _frombuffer": "frombuffer",
  "numpy._core.numeric _frombuffer": "frombuffer",
  "numpy.core.multiarray scalar": "scalar",
  "numpy._core.multiarray scalar": "scalar",
  "numpy ndarray": "ndarray",
  "numpy dtype": "dtype",
  "_codecs encode": "encode",
}


def loads(data: bytes) -> Any:
  """Reads a pickle of plain data, of any protocol.

  Args:
    data: at most `MAX_BYTES`.

  Returns:
    Lists, tuples, dicts, str, bytes, numbers, None, and numpy arrays of bools, numbers or texts. The strings of
    Python 2 are bytes.

  Raises:
    ValueError: not a pickle, one cut short, or one that holds anything else, which is named.
  """
  if len(data) > MAX_BYTES:
    raise ValueError(f"a pickle of {len(data)} bytes: at most {MAX_BYTES} are read")
  try:
    return _plain(_walk(data), iter(range(len(data))))
  except (TypeError, IndexError, KeyError, OverflowError, AttributeError, RecursionError) as error:
    raise ValueError(f"not a sound pickle ({type(error).__name__}: {str(error)[:80]})") from None


def _walk(data: bytes) -> Any:
  stack: list[Any] = []
  memo: dict[int, Any] = {}

  def since_mark() -> list[Any]:
    for i in range(len(stack) - 1, -1, -1):
      if stack[i] is _MARK:
        items = stack[i + 1 :]
        del stack[i:]
        return items
    raise ValueError("not a sound pickle (no mark)")

  argument: Any
  for opcode, argument, _ in pickletools.genops(data):
    name = opcode.name
    if name in _NUMBERS or name in _TEXTS:
      stack.append(argument)
    elif name in _BYTES:
      stack.append(bytes(argument))
    elif name in _STRINGS:
      stack.append(argument.encode("latin-1"))
    elif name in _PLAIN:
      stack.append(_PLAIN[name])
    elif name in _EMPTY:
      stack.append(_EMPTY[name]())
    elif name == "MARK":
      stack.append(_MARK)
    elif name == "MEMOIZE":
      memo[len(memo)] = stack[-1]
    elif name in _PUTS:
      memo[argument] = stack[-1]
    elif name in _GETS:
      stack.append(memo[argument])
    elif name in _TUPLES:
      count = _TUPLES[name]
      stack[-count:] = [tuple(stack[-count:])]
    elif name in ("TUPLE", "LIST"):
      items = since_mark()
      stack.append(tuple(items) if name == "TUPLE" else items)
    elif name == "DICT":
      stack.append(_pairs(since_mark()))
    elif name in ("APPEND", "APPENDS"):
      items = [stack.pop()] if name == "APPEND" else since_mark()
      _of(stack[-1], list).extend(items)
    elif name in ("SETITEM", "SETITEMS"):
      items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else since_mark()
      _of(stack[-1], dict).update(_pairs(items))
    elif name == "POP":
      stack.pop()
    elif name == "GLOBAL":
      stack.append(_known(argument))
    elif name == "STACK_GLOBAL":
      attribute, module = stack.pop(), stack.pop()
      stack.append(_known(f"{module} {attribute}"))
    elif name == "REDUCE":
      arguments, function = stack.pop(), stack.pop()
      stack.append(_call(_of(function, _Global), _of(arguments, tuple)))
    elif name == "BUILD":
      state = stack.pop()
      _of(stack[-1], _Array).state = state
    elif name == "STOP":
      (result,) = stack
      return result
    elif name not in _SKIPPED:
      raise ValueError(f"the pickle uses {name}: only plain data are read")
  raise ValueError("not a sound pickle (no end)")


def _of(value: Any, kind: type) -> Any:
  if not isinstance(value, kind):
    raise ValueError(f"not a sound pickle ({type(value).__name__} for {kind.__name__})")
  return value


def _pairs(items: list[Any]) -> dict[Any, Any]:
  return dict(zip(items[::2], items[1::2], strict=True))


def _known(name: str) -> _Global:
  if name not in _GLOBALS:
    raise ValueError(
      f"the pickle names {name.replace(' ', '.')[:80]}: only plain data are read, nothing is called"
    )
  return _Global(_GLOBALS[name])


def _call(function: _Global, arguments: tuple[Any, ...]) -> Any:
  if function.name == "encode":
    text, encoding = arguments
    if encoding != "latin1":
      raise ValueError(f"the pickle encodes text as {str(encoding)[:20]!r}: expected latin1")
    return _of(text, str).encode("latin-1")
  if function.name == "ndarray":
    raise ValueError("the pickle calls numpy.ndarray: only plain data are read")
  return _Array(function.name, arguments)


def _plain(value: Any, budget: Iterator[int], depth: int = 0) -> Any:
  """Puts arrays together, wherever they lie.

  A list may hold another one many times over, and that one a third: without the budget, which is the number of bytes,
  a few hundred of them would keep us busy for hours.
  """
  if next(budget, None) is None or depth > _DEPTH or isinstance(value, _Global) or value is _MARK:
    raise ValueError("not a sound pickle (neither numbers, texts nor short lists of them)")
  if isinstance(value, _Array):
    return _array(value)
  if isinstance(value, list | tuple):
    return type(value)(_plain(item, budget, depth + 1) for item in value)
  if isinstance(value, dict):
    return {key: _plain(item, budget, depth + 1) for key, item in value.items()}
  return value


def _array(value: _Array) -> Any:
  if value.kind == "scalar":
    dtype, data = value.arguments
    return np.frombuffer(_of(data, bytes), _dtype(dtype), count=1)[0].item()
  if value.kind == "frombuffer":
    data, dtype, shape, order = value.arguments
  elif value.kind == "array":
    _, shape, dtype, fortran, data = _of(value.state, tuple)
    order = "F" if fortran else "C"
  else:
    raise ValueError(f"the pickle holds a {value.kind}: only plain data are read")
  if order not in ("C", "F") or not all(type(edge) is int and edge >= 0 for edge in _of(shape, tuple)):
    raise ValueError("the pickle holds an array of no sound shape")
  if isinstance(data, list):  # Of objects: their place in the array is all that numpy adds.
    if len(data) != math.prod(shape) or not all(isinstance(item, str | int | float) for item in data):
      raise ValueError("the pickle holds an array of objects other than texts and numbers")
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
