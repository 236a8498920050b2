"""Reads files that `torch.save` wrote, in both of its formats, without PyTorch and without running any code in them.

`torch.load` unpickles, and a pickle can call any function. Here each pickle is read as described in `pickles`, and
`find_class` knows only the few names below. Any other name becomes a `_Foreign`, which accepts all arguments and keeps
none of them, because Lightning's checkpoints hold hyperparameters and callbacks as objects of many classes next to the
weights. Where weights are expected, a `_Foreign` is refused, and the message names its class.

PyTorch 1.6 and later write a zip archive with `NAME/data.pkl`, and `NAME/data/KEY` for each storage. The older format
has five consecutive pickles (magic number, protocol, machine, the object, the keys of the storages), and then for each
key the number of its elements (int64) and the elements.
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

import numpy as np

from jaxfer import pickles
from jaxfer.convert.dtypes import DTYPES, STORAGES, unsupported
from jaxfer.convert.kinds import Refused, archive_refusal

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_OPCODES = pickles.OPCODES | {"BINPERSID"}  # Tensors refer to their storages with BINPERSID.
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")  # The second is the beginning of an empty archive.
_BIG_ENDIAN = (
  "it has the byte order of a big-endian machine: save it again on a little-endian one, such as x86 or ARM"
)
_AGAIN = "download or save it again"
_STRANGERS = 200  # Maximum number of unknown classes, since each needs memory; checkpoints name far fewer.
# Exceptions that pickles and archives raise if they are cut short or changed.
_UNSOUND = (*pickles.UNSOUND, zipfile.BadZipFile, struct.error, NotImplementedError, OSError, RuntimeError)


class _Dict(pickles.Sealed, dict):
  """A placeholder for an OrderedDict."""


@dataclasses.dataclass(frozen=True)
class _Storage(pickles.Sealed):
  """A contiguous array in the file with its key. `dtype` is PyTorch's name of the dtype, or "bytes" if untyped."""

  dtype: str
  key: str
  count: int
  itemsize: int


@dataclasses.dataclass(frozen=True)
class _Tensor(pickles.Sealed):
  """A view of a storage. Offset and strides are in elements of `dtype`."""

  storage: _Storage
  dtype: np.dtype
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Unreadable(pickles.Sealed):
  """A tensor of an unsupported kind. `why` is the message, which also says what to do."""

  why: str


class _Foreign(pickles.Sealed):
  """A placeholder for an unknown class, which becomes a subclass with its `name`, and for instances of the class."""

  name: str

  def __new__(cls, *arguments: Any) -> "_Foreign":
    del arguments
    return super().__new__(cls)

  def __init__(self, *arguments: Any):
    pass

  def _drop(self, *arguments: Any) -> None:
    pass

  append = extend = __setitem__ = _drop  # Methods that pickles of unknown list and dict classes call.


def foreign(item: Any) -> str | None:
  """Returns the name of the class that a `_Foreign` in the result of `loads` replaces; None for other items."""
  if isinstance(item, type):
    return item.name if issubclass(item, _Foreign) else None
  return item.name if isinstance(item, _Foreign) else None


def is_tensor(item: Any) -> bool:
  """Returns whether an item in the result of `loads` is a tensor, supported or not."""
  return isinstance(item, _Tensor | _Unreadable)


class _Name(pickles.Sealed):
  """A known name in the pickle: that of a storage class, of a dtype or of a function."""

  def __init__(self, name: str):
    self.name = name

  def __call__(self, *arguments: Any) -> Any:
    if self.name not in _CALLS:
      raise Refused(f"a damaged pickle (it calls {self.name})")
    return _CALLS[self.name](*arguments)


def _tensor(
  storage: Any, offset: Any, shape: Any, strides: Any, *more: Any, dtype: str = ""
) -> _Tensor | _Unreadable:
  """Stands for `torch._utils._rebuild_tensor`. Version 2 adds requires_grad, hooks, and the flags of some tensors.

  Raises:
    Refused: the tensor reaches beyond its storage or repeats elements (strides of 0), which weights never do.
  """
  numbers = (offset, *shape, *strides)
  sound = len(shape) <= pickles.MAX_DIMENSIONS and all(type(n) is int and 0 <= n < 1 << 62 for n in numbers)
  if not isinstance(storage, _Storage) or not sound:
    raise Refused("a damaged pickle (a tensor with an invalid storage, shape or strides)")
  dtype = dtype or storage.dtype
  if dtype not in DTYPES:
    return _Unreadable(unsupported(dtype))
  if flags := [str(name) for flags in more[2:3] for name, is_set in flags.items() if is_set]:
    return _Unreadable(
      f"it is a view with the flag {flags[0][:20]!r}, which is not supported: save its .resolve_neg()"
    )
  count = storage.count * storage.itemsize // DTYPES[dtype].itemsize
  last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
  if math.prod(shape) and (offset + last >= count or math.prod(shape) > count):
    raise Refused(
      f"a tensor of shape {tuple(shape)} reaches beyond its {count} numbers, or repeats them: save its .clone()"
    )
  return _Tensor(storage, DTYPES[dtype], offset, tuple(shape), tuple(strides))


def _tensor_of_bytes(*arguments: Any) -> _Tensor | _Unreadable:
  """Stands for `_rebuild_tensor_v3`, for dtypes without a storage class. The dtype, e.g. uint16, is an argument."""
  dtype = arguments[6]
  if not isinstance(name := getattr(dtype, "name", None), str):
    raise Refused("a damaged pickle (a tensor with an invalid dtype)")
  return _tensor(*arguments[:6], *arguments[7:], dtype=name.removeprefix("torch."))


def _parameter(tensor: Any, *_: Any) -> _Tensor | _Unreadable:
  if not isinstance(tensor, _Tensor | _Unreadable):
    raise Refused("a damaged pickle (a parameter that is not a tensor)")
  return tensor


def _subclass(rebuild: Any, kind: Any, arguments: Any, state: Any) -> _Tensor | _Unreadable:
  """Stands for `torch._tensor._rebuild_from_type_v2`, which makes buffers and tensors with attributes."""
  del kind, state
  if not isinstance(rebuild, _Name):
    raise Refused("a damaged pickle (a tensor that no function of PyTorch returns)")
  return _parameter(rebuild(*arguments))


def _unreadable(why: str) -> Callable[..., _Unreadable]:
  return lambda *arguments: _Unreadable(why)


_CALLS: dict[str, Callable[..., Any]] = {
  "collections.OrderedDict": _Dict,
  "torch._utils._rebuild_tensor": _tensor,
  "torch._utils._rebuild_tensor_v2": _tensor,
  "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
  "torch._utils._rebuild_parameter": _parameter,
  "torch._utils._rebuild_parameter_with_state": _parameter,
  "torch._tensor._rebuild_from_type_v2": _subclass,
  "torch._utils._rebuild_qtensor": _unreadable(
    "it is quantised, which is not supported: save its .dequantize()"
  ),
  "torch._utils._rebuild_sparse_tensor": _unreadable(
    "it is sparse, which is not supported: save its .to_dense()"
  ),
  "torch._utils._rebuild_nested_tensor": _unreadable("it is a nested tensor, which is not supported"),
  "torch._utils._rebuild_meta_tensor_no_storage": _unreadable(
    "it is on the device 'meta' and has no numbers: load the weights before they are saved"
  ),
  "torch.nn.parameter.Parameter": _parameter,
  "torch.Size": tuple,
}
_TYPES = {f"torch.{name}" for name in DTYPES}


class _Unpickler(pickle.Unpickler):
  """Unpickler that knows the names above.

  Attributes:
    storages: key -> storage, for each storage in the pickle.
    strangers: name -> placeholder, for each unknown class in the pickle.
  """

  def __init__(self, data: bytes):
    super().__init__(io.BytesIO(data), encoding="utf-8")
    self.storages: dict[str, _Storage] = {}
    self.strangers: dict[str, type[_Foreign]] = {}

  def find_class(self, module: str, name: str) -> Any:
    full = f"{module}.{name}"
    if full in _CALLS or full in STORAGES or full in _TYPES:
      return _Name(full)
    if full not in self.strangers and len(self.strangers) == _STRANGERS:
      raise Refused(f"the file names more than {_STRANGERS} classes: save the model's state_dict() alone")
    return self.strangers.setdefault(full, type("_Foreign", (_Foreign,), {"name": full[:100]}))

  def persistent_load(self, pid: Any) -> Any:
    if pid[0] == "module":
      return pid[1]  # For a whole module, the older format stores its class together with the source code.
    kind, name, key, _, count, *view = pid
    if kind != "storage" or not isinstance(name, _Name) or any(v is not None for v in view):
      raise Refused("a damaged pickle (an unknown kind of storage)")
    if name.name not in STORAGES or type(key) is not str or type(count) is not int or count < 0:
      raise Refused("a damaged pickle (a storage with an invalid type or size)")
    dtype, itemsize = STORAGES[name.name]
    storage = _Storage(dtype, key, count, itemsize)
    if self.storages.setdefault(key, storage) != storage:
      raise Refused(f"a damaged pickle (storage {key[:20]} has two types or sizes)")
    return storage


def _check(data: bytes) -> None:
  """Checks the opcodes of a pickle before it is run."""
  try:
    pickles.check(data, _OPCODES, "tensors and plain containers")
  except pickles.Forbidden as error:
    raise Refused(f"{error}; save the model's state_dict() alone") from None


def looks_like(data: bytes) -> bool:
  """Returns whether a file begins like a PyTorch file: as a zip archive or with the older format's magic number."""
  return data[:4] in _ZIP or _is_legacy(data)


def _is_legacy(data: bytes) -> bool:
  return _MAGIC.to_bytes(10, "little") in data[:32]


def loads(data: bytes) -> tuple[Any, Callable[[Any], np.ndarray | None]]:
  """Reads the bytes of a `.pth`, `.pt` or `.ckpt` file.

  Args:
    data: the whole file.

  Returns:
    (value, array): the object, which consists of lists, tuples, dicts, numbers, strings, opaque tensors, and
    placeholders that `foreign` recognises; and a function that returns the array of an opaque tensor, as a view that
    may be strided, and None for other items. The function raises Refused for an unsupported kind of tensor, such as a
    sparse one.

  Raises:
    Refused: the file has another format, is cut short or changed, or has opcodes that weights do not need.
  """
  try:
    with warnings.catch_warnings():
      # Python warns about escapes in damaged names and about duplicate archive entries.
      warnings.simplefilter("ignore")
      value, fetch = _legacy(data) if _is_legacy(data) else _zip(data)
  except Refused:
    raise
  except _UNSOUND as error:
    raise _unsound(error) from None
  fetched: dict[str, bytes | memoryview] = {}

  def array(item: Any) -> np.ndarray | None:
    if isinstance(item, _Unreadable):
      raise Refused(item.why)
    if not isinstance(item, _Tensor):
      return None
    storage, dtype = item.storage, item.dtype
    try:
      if storage.key not in fetched:
        fetched[storage.key] = fetch(storage)
      held = memoryview(fetched[storage.key])[: storage.count * storage.itemsize]
      if len(held) < storage.count * storage.itemsize:
        raise Refused(f"a damaged PyTorch file (storage {storage.key[:20]} is cut short): {_AGAIN}")
      if not math.prod(item.shape):
        return np.zeros(item.shape, dtype)
      strides = [stride * dtype.itemsize for stride in item.strides]
      return np.ndarray(item.shape, dtype, held, item.offset * dtype.itemsize, strides)
    except Refused:
      raise
    except _UNSOUND as error:
      raise _unsound(error) from None

  return value, array


def _unsound(error: BaseException) -> Refused:
  return Refused(f"a damaged PyTorch file ({type(error).__name__}: {str(error)[:80]}): {_AGAIN}")


def _zip(data: bytes) -> tuple[Any, Callable[[_Storage], bytes | memoryview]]:
  archive = zipfile.ZipFile(io.BytesIO(data))
  entries = archive.infolist()
  names = {e.filename for e in entries}
  found = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
  prefix = found[0].removesuffix("data.pkl") if found else ""
  if len(found) != 1 or f"{prefix}constants.pkl" in names:
    raise archive_refusal(sorted(names))
  if any(e.flag_bits & 1 for e in entries):
    raise Refused("its zip archive is encrypted: save it again with torch.save")
  # The entries must be stored without compression and without overlap, so that none is larger than the file.
  if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > len(
    data
  ):
    raise Refused("its zip archive is compressed, which torch.save never does: save it again with torch.save")
  if f"{prefix}byteorder" in names and archive.read(f"{prefix}byteorder") != b"little":
    raise Refused(_BIG_ENDIAN)
  pickled = archive.read(found[0])
  _check(pickled)
  return _Unpickler(pickled).load(), lambda storage: archive.read(f"{prefix}data/{storage.key}")


def _legacy(data: bytes) -> tuple[Any, Callable[[_Storage], bytes | memoryview]]:
  read = _pickles(data)
  next(read)
  protocol, machine = next(read)[0], next(read)[0]
  if protocol != _PROTOCOL:
    raise Refused(f"a file of PyTorch's protocol {str(protocol)[:20]}: save it again with a newer PyTorch")
  if machine["little_endian"] is not True:
    raise Refused(_BIG_ENDIAN)
  (value, storages), (keys, _) = next(read), next(read)
  position = next(read)[0]
  parts: dict[str, memoryview] = {}
  for key in keys:
    storage = storages[key]
    size = storage.count * storage.itemsize
    (count,) = struct.unpack_from("<q", data, position)
    if count != storage.count or position + 8 + size > len(data):
      raise Refused(f"a damaged PyTorch file (storage {key[:20]} is cut short): {_AGAIN}")
    parts[key] = memoryview(data)[position + 8 : position + 8 + size]
    position += 8 + size
  return value, lambda storage: parts[storage.key]


def _pickles(data: bytes) -> Iterator[tuple[Any, Any]]:
  """Yields (object, key -> storage) for each of five consecutive pickles, then (position of their end, None)."""
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
