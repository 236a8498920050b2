"""Files of PyTorch and safetensors, written by hand from nested dicts of arrays."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np

# Storage classes (other types are stored as bytes), and the names of types in safetensors.
STORAGES = {
  "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
  "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
  "uint8": "ByteStorage", "bool": "BoolStorage",
}  # fmt: skip
CODES = {
  "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
  "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2": "F8_E5M2", "float8_e5m2fnuz": "F8_E5M2FNUZ",
  "float8_e8m0fnu": "F8_E8M0", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint64": "U64",
  "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


class Opcodes(bytes):
  """A part of a pickle that is written unchanged."""


def body(value, storages):
  """Returns opcodes that build a value, and appends the bytes of its arrays to `storages`."""
  if isinstance(value, Opcodes):
    return value
  if isinstance(value, dict):
    items = b"".join(body(key, storages) + body(item, storages) for key, item in value.items())
    return b"}(" + items + b"u"
  if isinstance(value, list):
    return b"](" + b"".join(body(item, storages) for item in value) + b"e"
  if isinstance(value, str):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
  if isinstance(value, np.ndarray):
    return _tensor(value, storages)
  return pickle.dumps(value, 2)[2:-1]  # Without the protocol and the final opcode.


def _tensor(array, storages):
  kind = array.dtype.name
  storage = f"ctorch\n{STORAGES[kind]}\n" if kind in STORAGES else "ctorch.storage\nUntypedStorage\n"
  count = array.size if kind in STORAGES else array.nbytes
  parts = [
    b"(",
    body("storage", ()),
    storage.encode(),
    body(str(len(storages)), ()),
    body("cpu", ()),
    body(count, ()),
  ]
  data = array.tobytes()
  storages.append((count, data))
  strides = [stride // array.itemsize for stride in np.zeros(array.shape, array.dtype).strides]
  shape = [b"(" + b"".join(body(int(n), ()) for n in numbers) + b"t" for numbers in (array.shape, strides)]
  hooks = b"ccollections\nOrderedDict\n)R"
  version, dtype = (b"2", b"") if kind in STORAGES else (b"3", f"ctorch\n{kind}\n".encode())
  function = b"ctorch._utils\n_rebuild_tensor_v" + version + b"\n"
  return (
    function
    + b"("
    + b"".join(parts)
    + b"tQ"
    + body(0, ())
    + b"".join(shape)
    + b"\x89"
    + hooks
    + dtype
    + b"tR"
  )


def zipped(value, **extra):
  """Returns a file as `torch.save` writes it since PyTorch 1.6."""
  storages, stream = [], io.BytesIO()
  pickled = b"\x80\x02" + body(value, storages) + b"."
  with zipfile.ZipFile(stream, "w") as file:
    file.writestr("archive/data.pkl", pickled)
    for key, (_, data) in enumerate(storages):
      file.writestr(f"archive/data/{key}", data)
    for name, data in extra.items():
      file.writestr(f"archive/{name}", data)
  return stream.getvalue()


def legacy(value, protocol=1001, little_endian=True):
  """Returns a file in the older format, which `_use_new_zipfile_serialization=False` still writes."""
  storages = []
  pickled = b"\x80\x02" + body(value, storages) + b"."
  machine = {"protocol_version": protocol, "little_endian": little_endian, "type_sizes": {"int": 4}}
  head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, protocol, machine)]
  keys = pickle.dumps([str(key) for key in range(len(storages))], 2)
  return b"".join([*head, pickled, keys, *(struct.pack("<q", count) + data for count, data in storages)])


def safetensors(arrays):
  """Returns a safetensors file."""
  header, data = {"__metadata__": {"format": "pt"}}, b""
  for name, array in arrays.items():
    end = len(data) + array.nbytes
    code = CODES[array.dtype.name]
    header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [len(data), end]}
    data += array.tobytes()
  return framed(header) + data


def framed(header):
  """Returns the beginning of a safetensors file."""
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack("<Q", len(text)) + text
