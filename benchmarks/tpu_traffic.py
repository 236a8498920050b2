"""Counts the bytes that operations of a compiled TPU program transfer from and to HBM, including layout padding."""

import dataclasses
import functools
import math
import re

from benchmarks.tpu_hlo import Computation, Module, Operation, Run

_ARRAY = re.compile(
  r"\b(?P<dtype>[a-z]+[0-9]*(?:e\d+m\d+\w*)?)\[(?P<shape>[\d,]*)\](?:\{(?P<layout>[^}]*)\})?"
)


def hbm_bytes(module: Module, run: Run) -> int:
  """Returns the bytes that an operation transfers from and to HBM in all its executions, including layout padding."""
  operation = run.operation
  if operation.opcode in ("tuple", "get-tuple-element", "bitcast", "parameter", "constant", "copy-done",
                          "slice-done", "async-done", "while", "optimization-barrier"):  # fmt: skip
    return 0
  if operation.opcode == "custom-call" and not operation.is_pallas:
    return 0  # It only names buffers; operations that compute (sorts, ...) do not occur in our programs.
  if operation.opcode in ("copy-start", "slice-start"):
    # An asynchronous copy between the two memories transfers its data through HBM once.
    arrays = _arrays(operation.type)
    moved = min(a.bytes for a in arrays[:2])
    return run.trips * moved * sum(a.in_hbm for a in arrays[:2])
  inner = module.computations[operation.called("calls")[0]] if operation.opcode == "fusion" else None
  total = 0
  for k, name in enumerate(operation.operands):
    arrays = _arrays(run.computation.operations[name].type)
    if sum(a.in_hbm for a in arrays):
      whole = sum(a.bytes for a in arrays if a.in_hbm)
      total += whole if inner is None else min(whole, _read(module, inner, inner.parameters[k], whole))
  total += _written(module, operation, inner)
  return run.trips * total


def _read(module: Module, fused: Computation, parameter: str, whole: int) -> int:
  """Returns the bytes of a fusion's parameter that it reads: only slices if nothing else is read."""
  total = 0
  for user in fused.users[parameter]:
    if user.opcode in ("dynamic-slice", "slice", "gather"):
      total += sum(a.bytes for a in _arrays(user.type))
    elif user.opcode == "bitcast":
      total += _read(module, fused, user.name, whole)
    elif user.opcode == "dynamic-update-slice" and user.operands[0] == parameter:
      continue  # Written in place.
    elif user.opcode == "fusion":
      inner = module.computations[user.called("calls")[0]]
      total += _read(module, inner, inner.parameters[user.operands.index(parameter)], whole)
    else:
      return whole
  return min(total, whole)


def _written(module: Module, operation: Operation, fused: Computation | None) -> int:
  """Returns the bytes of the results in HBM; for a buffer that is updated in place, only those of the update."""
  arrays = _arrays(operation.type)
  results: list[Operation | None] = [None] * len(arrays)
  if fused is not None:
    root = fused.operations[fused.root]
    roots = root.operands if root.opcode == "tuple" else (root.name,)
    if len(roots) == len(arrays):
      results = [module.behind(fused, name) for name in roots]
  total = 0
  for array, result in zip(arrays, results, strict=True):
    if not array.in_hbm:
      continue
    if result is not None and fused is not None and result.opcode == "dynamic-update-slice":
      total += sum(a.bytes for a in _arrays(fused.operations[result.operands[1]].type))
    else:
      total += array.bytes
  return total


@dataclasses.dataclass(frozen=True)
class _Array:
  bytes: int
  in_hbm: bool


@functools.lru_cache(maxsize=100_000)
def _arrays(type_: str) -> tuple[_Array, ...]:
  """Returns the arrays of a type: bytes with the padding of their tiles, and whether they are in HBM."""
  found = []
  for array in _ARRAY.finditer(type_):
    bits = re.search(r"\d+", array["dtype"])
    size = 1 if bits is None else max(1, int(bits[0]) // 8)
    shape = [int(n) for n in array["shape"].split(",") if n]
    layout = array["layout"] or ""
    order, _, rest = layout.partition(":")
    minor = [shape[int(k)] for k in order.split(",") if k] if order else shape[::-1]
    tile = re.match(r"T\(([\d,]+)\)", rest)
    if tile:
      for k, unit in enumerate(reversed([int(n) for n in tile[1].split(",")])):
        if k < len(minor):
          minor[k] = math.ceil(minor[k] / unit) * unit
    found.append(_Array(size * math.prod(minor), "S(" not in rest))
  return tuple(found)
