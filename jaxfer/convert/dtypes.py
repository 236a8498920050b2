"""The dtypes of weights files, in one table for both PyTorch formats and for safetensors.

The readers keep the dtype of the file. `importers.from_torch` converts the weights to float32.
"""

import ml_dtypes
import numpy as np

# PyTorch's name of the dtype, its storage class (None if it is stored as untyped bytes), and safetensors' name.
_TABLE: tuple[tuple[str, str | None, str], ...] = (
  ("float64", "DoubleStorage", "F64"),
  ("float32", "FloatStorage", "F32"),
  ("float16", "HalfStorage", "F16"),
  ("bfloat16", "BFloat16Storage", "BF16"),
  ("float8_e4m3fn", None, "F8_E4M3"),
  ("float8_e4m3fnuz", None, "F8_E4M3FNUZ"),
  ("float8_e5m2", None, "F8_E5M2"),
  ("float8_e5m2fnuz", None, "F8_E5M2FNUZ"),
  ("float8_e8m0fnu", None, "F8_E8M0"),
  ("int64", "LongStorage", "I64"),
  ("int32", "IntStorage", "I32"),
  ("int16", "ShortStorage", "I16"),
  ("int8", "CharStorage", "I8"),
  ("uint64", None, "U64"),
  ("uint32", None, "U32"),
  ("uint16", None, "U16"),
  ("uint8", "ByteStorage", "U8"),
  ("bool", "BoolStorage", "BOOL"),
)
# PyTorch's name -> NumPy dtype. A tensor of any other dtype is refused, and the message names its dtype.
DTYPES: dict[str, np.dtype] = {
  name: np.dtype(getattr(ml_dtypes, name) if hasattr(ml_dtypes, name) else name) for name, _, _ in _TABLE
}
SAFETENSORS: dict[str, str] = {code: name for name, _, code in _TABLE}
# Storage class -> (PyTorch's name of its dtype, bytes per element). Dtypes that are not in `DTYPES` are listed too,
# because the reader of the older format has to skip their storages.
STORAGES: dict[str, tuple[str, int]] = {
  f"torch.{storage}": (name, DTYPES[name].itemsize) for name, storage, _ in _TABLE if storage
} | {
  "torch.storage.UntypedStorage": ("bytes", 1),
  "torch.UntypedStorage": ("bytes", 1),
  "torch.ComplexFloatStorage": ("complex64", 8),
  "torch.ComplexDoubleStorage": ("complex128", 16),
  "torch.QInt8Storage": ("qint8", 1),
  "torch.QUInt8Storage": ("quint8", 1),
  "torch.QInt32Storage": ("qint32", 4),
  "torch.QUInt4x2Storage": ("quint4x2", 1),
  "torch.QUInt2x4Storage": ("quint2x4", 1),
}


def unsupported(kind: str) -> str:
  """Returns the message for a dtype that is not in `DTYPES`, which also says what to do."""
  return f"it is of type {kind}, which is not supported: save it as float32"
