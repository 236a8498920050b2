"""Files that `torch.save` wrote, in both of its formats, read without PyTorch and without running what they say.

`torch.load` unpickles, and a pickle may call anything. Here the opcodes of each pickle are looked over first: only
those that build plain containers, texts and numbers, and memo numbers that the length of the pickle allows. Then
`pickle.Unpickler` runs with a `find_class` that knows the few names below; what it returns are our own objects, which
no opcode can change, and not the classes named. Any other name gives a `_Foreign`, which takes whatever it is given and
keeps nothing: Lightning's checkpoints hold hyper-parameters and callbacks as objects of many classes beside the
weights. Where weights are expected, it is refused by its name.

Formats: a zip archive (PyTorch 1.6 and later: `NAME/data.pkl`, and `NAME/data/KEY` for each storage), and before that
five pickles in a row (magic number, protocol, machine, the object, the storages' keys), then for each key its count of
elements (int64) and the elements.
"""

import dataclasses
import io
import math
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_OPCODES = {
  "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4",
  "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
  "EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_DICT", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM",
  "SETITEMS", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE",
  "NEWOBJ", "BUILD", "BINPERSID",
}  # fmt: skip
_STORAGES = {
  "torch.FloatStorage": np.float32,
  "torch.DoubleStorage": np.float64,
  "torch.HalfStorage": np.float16,
  "torch.BFloat16Storage": ml_dtypes.bfloat16,
  "torch.LongStorage": np.int64,
  "torch.IntStorage": np.int32,
  "torch.ShortStorage": np.int16,
  "torch.CharStorage": np.int8,
  "torch.ByteStorage": np.uint8,
  "torch.BoolStorage": np.bool_,
}
_STRANGERS = 200  # Far more than any checkpoint names; each costs memory.
# What goes wrong in pickles and archives that are cut short or changed.
_UNSOUND = (
  pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, ArithmeticError, AttributeError, LookupError,
  MemoryError, NotImplementedError, OSError, RecursionError, RuntimeError, TypeError,
)  # fmt: skip


class _Sealed:
  """Takes no state from a pickle: hooks, metadata and the like are dropped, nothing is overwritten."""

  def __setstate__(self, state: Any) -> None:
    del state


class _Dict(_Sealed, dict):
  """In place of an OrderedDict."""


@dataclasses.dataclass(frozen=True)
class _Storage(_Sealed):
  """A run of numbers in the file, by its key."""

  dtype: np.dtype
  key: str
  count: int


@dataclasses.dataclass(frozen=True)
class _Tensor(_Sealed):
  """A view of a storage; offset and strides count elements."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _Foreign(_Sealed):
  """In place of a class that we do not know (a subclass of this, by its `name`) and of what it would make."""

  name: str

  def __new__(cls, *arguments: Any) -> "_Foreign":
    del arguments
    return super().__new__(cls)

  def __init__(self, *arguments: Any):
    pass

  def _drop(self, *arguments: Any) -> None:
    pass

  append = extend = __setitem__ = _drop  # What pickles of lists and dicts of other classes ask for.


def foreign(item: Any) -> str | None:
  """The name of the class that stood where `loads` put a `_Foreign`; None of anything else."""
  if isinstance(item, type):
    return item.name if issubclass(item, _Foreign) else None
  return item.name if isinstance(item, _Foreign) else None


class _Name(_Sealed):
  """A name in the pickle: of a type of storage, or of something that can be called."""

  def __init__(self, name: str):
    self.name = name

  def __call__(self, *arguments: Any) -> Any:
    if self.name not in _CALLS:
      raise ValueError(f"not a sound pickle (it calls {self.name})")
    return _CALLS[self.name](*arguments)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
  """`torch._utils._rebuild_tensor`; the later version also says requires_grad and hooks.

  Raises:
    ValueError: it reaches beyond its storage, or repeats it (strides of 0), which no weights need.
  """
  numbers = (offset, *shape, *strides)
  if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in numbers):
    raise ValueError("not a sound pickle (a tensor of no sound storage, shape or strides)")
  last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
  if math.prod(shape) and (offset + last >= storage.count or math.prod(shape) > storage.count):
    raise ValueError(
      f"a tensor of shape {tuple(shape)} reaches beyond its {storage.count} numbers, or repeats them"
    )
  return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> _Tensor:
  if not isinstance(tensor, _Tensor):
    raise ValueError("not a sound pickle (a parameter that is no tensor)")
  return tensor


_CALLS: dict[str, Callable[..., Any]] = {
  "collections.OrderedDict": _Dict,
  "torch._utils._rebuild_tensor": _tensor,
  "torch._utils._rebuild_tensor_v2": _tensor,
  "torch._utils._rebuild_parameter": _parameter,
  "torch.nn.parameter.Parameter": _parameter,
  "torch.Size": tuple,
}


class _Unpickler(pickle.Unpickler):
  """Knows the names above; `storages` are those it met, by key, `strangers` the classes it does not know."""

  def __init__(self, data: bytes):
    super().__init__(io.BytesIO(data), encoding="utf-8")
    self.storages: dict[str, _Storage] = {}
    self.strangers: dict[str, type[_Foreign]] = {}

  def find_class(self, module: str, name: str) -> Any:
    full = f"{module}.{name}"
    if full in _CALLS or full in _STORAGES:
      return _Name(full)
    if full not in self.strangers and len(self.strangers) == _STRANGERS:
      raise ValueError(f"the file names more than {_STRANGERS} classes: save the model's state_dict() alone")
    return self.strangers.setdefault(full, type("_Foreign", (_Foreign,), {"name": full[:100]}))

  def persistent_load(self, pid: Any) -> _Storage:
    kind, name, key, _, count, *view = pid
    if kind != "storage" or not isinstance(name, _Name) or any(v is not None for v in view):
      raise ValueError("not a sound pickle (an unknown kind of storage)")
    if name.name not in _STORAGES or type(key) is not str or type(count) is not int or count < 0:
      raise ValueError("not a sound pickle (a storage of no sound type or size)")
    storage = _Storage(np.dtype(_STORAGES[name.name]), key, count)
    if self.storages.setdefault(key, storage) != storage:
      raise ValueError(f"not a sound pickle (storage {key[:20]} of two types or sizes)")
    return storage


def _check(data: bytes) -> None:
  """Looks the opcodes of a pickle over before it is run."""
  argument: Any
  for opcode, argument, _ in pickletools.genops(data):
    if opcode.name not in _OPCODES:
      raise ValueError(f"the file's pickle uses {opcode.name}: only tensors and plain containers are read")
    if opcode.name == "LONG_BINPUT" and argument > len(data):
      raise ValueError("not a sound pickle (a memo number beyond its length)")


def loads(data: bytes) -> tuple[Any, Callable[[Any], np.ndarray | None]]:
  """Reads the bytes of a `.pth`, `.pt` or `.ckpt` file.

  Args:
    data: the whole file.

  Returns:
    (the object: lists, tuples, dicts, numbers, texts, opaque tensors, and what `foreign` names;
    a function that gives the array of such a tensor, a view that may be strided, and None of anything else)

  Raises:
    ValueError: not such a file, one cut short or changed, or one with opcodes that are not needed.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter(
        "ignore"
      )  # Of what Python thinks of escapes in damaged names, and of doubled entries.
      value, fetch = _zip(data) if data[:4] == b"PK\x03\x04" else _legacy(data)
  except _UNSOUND as error:
    raise ValueError(_unsound(error)) from None
  fetched: dict[str, np.ndarray] = {}

  def array(item: Any) -> np.ndarray | None:
    if not isinstance(item, _Tensor):
      return None
    storage = item.storage
    try:
      if storage.key not in fetched:
        fetched[storage.key] = np.frombuffer(fetch(storage), storage.dtype, storage.count)
    except _UNSOUND as error:
      raise ValueError(_unsound(error)) from None
    strides = [stride * storage.dtype.itemsize for stride in item.strides]
    start = fetched[storage.key][item.offset :]
    return np.lib.stride_tricks.as_strided(start, item.shape, strides, writeable=False)

  return value, array


def _unsound(error: BaseException) -> str:
  return f"not a sound file of PyTorch ({type(error).__name__}: {str(error)[:80]})"


def _zip(data: bytes) -> tuple[Any, Callable[[_Storage], bytes | memoryview]]:
  archive = zipfile.ZipFile(io.BytesIO(data))
  entries = archive.infolist()
  # Stored as they are and side by side: so nothing is larger than the file.
  if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > len(
    data
  ):
    raise ValueError("not a sound file of PyTorch (its archive is compressed)")
  (name,) = [e.filename for e in entries if e.filename.count("/") == 1 and e.filename.endswith("/data.pkl")]
  prefix = name.removesuffix("data.pkl")
  if f"{prefix}byteorder" in archive.namelist() and archive.read(f"{prefix}byteorder") != b"little":
    raise ValueError("the file was written on a machine of other byte order: save it again on a usual one")
  pickled = archive.read(name)
  _check(pickled)
  return _Unpickler(pickled).load(), lambda storage: archive.read(f"{prefix}data/{storage.key}")


def _legacy(data: bytes) -> tuple[Any, Callable[[_Storage], bytes | memoryview]]:
  if _MAGIC.to_bytes(10, "little") not in data[:32]:
    raise ValueError("not a file of PyTorch: expected .pth, .pt, .ckpt or .safetensors")
  pickles = _pickles(data)
  next(pickles)
  protocol, machine = next(pickles)[0], next(pickles)[0]
  if protocol != _PROTOCOL or machine["little_endian"] is not True:
    raise ValueError(
      f"a file of PyTorch's protocol {protocol} or of other byte order: save it again with a newer one"
    )
  (value, storages), (keys, _) = next(pickles), next(pickles)
  position = next(pickles)[0]
  parts: dict[str, memoryview] = {}
  for key in keys:
    storage = storages[key]
    size = storage.count * storage.dtype.itemsize
    (count,) = struct.unpack_from("<q", data, position)
    if count != storage.count or position + 8 + size > len(data):
      raise ValueError(f"not a sound file of PyTorch (storage {key[:20]} is cut short)")
    parts[key] = memoryview(data)[position + 8 : position + 8 + size]
    position += 8 + size
  return value, lambda storage: parts[storage.key]


def _pickles(data: bytes) -> Iterator[tuple[Any, Any]]:
  """Yields (object, its storages by key) of five pickles in a row, then (where they end, None)."""
  stream, end = io.BytesIO(data), 0
  for _ in range(5):
    start = end
    for _ in pickletools.genops(stream):
      pass
    end = stream.tell()
    part = data[start:end]
    _check(part)
    unpickler = _Unpickler(part)
    yield unpickler.load(), unpickler.storages
  yield end, None
