"""Reads safetensors files.

A file has the length of the header (8 bytes), the header (JSON) and the bytes of the tensors, without gaps. The
safetensors library is not used because its NumPy reader lacks bfloat16 and float8, and because it reports an unknown
dtype as a damaged file.
"""

import json
import math
from typing import Any

import numpy as np

from jaxfer.convert.dtypes import DTYPES, SAFETENSORS, unsupported
from jaxfer.convert.kinds import Refused
from jaxfer.pickles import MAX_DIMENSIONS

_MAX_HEADER = 100_000_000  # Bytes; the limit of the format.


def looks_like(data: bytes) -> bool:
  """Returns whether a file begins like a safetensors file: with a valid header length and an opening brace."""
  return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= _MAX_HEADER


def loads(data: bytes) -> dict[str, np.ndarray]:
  """Reads the bytes of a `.safetensors` file.

  Args:
    data: the whole file; the arrays are views of it.

  Returns:
    The tensors by name, in the dtypes of the file.

  Raises:
    Refused: the file is damaged or cut short, or a tensor has an unsupported dtype, which the message names.
  """
  start = 8 + int.from_bytes(data[:8], "little")
  if start > len(data):
    raise _damaged(f"its header ends at byte {start} of {len(data)}, so the file is cut short")
  try:
    header = json.loads(data[8:start].decode("utf-8"), object_pairs_hook=_unique)
  except (ValueError, RecursionError) as error:
    raise _damaged(f"its header is not JSON: {str(error)[:60]}") from None
  if not isinstance(header, dict):
    raise _damaged("its header is not an object")
  header.pop("__metadata__", None)
  tensors, spans = {}, []
  for name, entry in header.items():
    try:
      code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
      numbers = (*shape, begin, end)
    except (TypeError, KeyError, ValueError):
      raise _damaged(f"the header's entry {name[:40]!r} is incomplete") from None
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
      raise _damaged(f"the header's entry {name[:40]!r} has an invalid shape or offset")
    if not isinstance(code, str) or code not in SAFETENSORS:
      raise Refused(f"{name[:80]}: {unsupported(str(code)[:40])}")
    dtype = DTYPES[SAFETENSORS[code]]
    if end - begin != math.prod(shape) * dtype.itemsize or start + end > len(data):
      raise _damaged(f"{name[:40]!r} of shape {shape} does not fit its {end - begin} bytes, or is cut short")
    tensors[name] = np.frombuffer(data, dtype, math.prod(shape), start + begin).reshape(shape)
    spans.append((begin, end))
  ends = [0, *(end for _, end in sorted(spans))]
  if [begin for begin, _ in sorted(spans)] != ends[:-1] or start + ends[-1] != len(data):
    raise _damaged("its tensors overlap or leave bytes between them or at the end")
  return tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) != len(pairs):
    raise ValueError("it has a name twice")
  return found


def _damaged(why: str) -> Refused:
  return Refused(f"a damaged safetensors file ({why}): download or save it again")
