"""Computes the costs of each layer of a network in a compiled TPU program: cycles, and FLOPs of the matrix unit."""

import collections
import math
import re
from collections.abc import Iterable, Iterator, Mapping

from benchmarks import tpu_hlo

# Parts of an operation's origin that name something inside a layer, not a layer.
_INSIDE = {"Conv", "ConvTranspose", "body", "closed_call", "cond", "conv", "conv_transpose", "while"}
OTHER = "other"


def layer(source: str) -> str:
  """Returns the layer that an operation comes from, such as "trunk/layer1/block0/conv1".

  Args:
    source: origin of the operation in JAX (`Operation.source`). It contains the path of the module within the function
      that JAX differentiates.

  Returns:
    The path of the module; "optimizer" for an operation of the optimizer, and `OTHER` for one that no module makes.
  """
  parts = source.split("/")[:-1]  # The last part is the primitive.
  if "optimizer" in parts:
    return "optimizer"
  start = max((k + 1 for k, part in enumerate(parts) if "jvp(" in part), default=len(parts))
  path: list[str] = []
  for part in parts[start:]:
    if part in _INSIDE or "(" in part:
      break
    # The outermost module can be a private class, which is no layer.
    path += [part] * (not part.startswith("_"))
  return "/".join(path) or OTHER


def _products(
  module: tpu_hlo.Module, computation: tpu_hlo.Computation, operation: tpu_hlo.Operation
) -> Iterator[tuple[tpu_hlo.Computation, tpu_hlo.Operation]]:
  """Yields the convolutions and matrix products in an operation, each with the computation that contains it."""
  if operation.opcode in ("convolution", "dot"):
    yield computation, operation
  for name in operation.called("calls"):
    inner = module.computations[name]
    for one in inner.operations.values():
      yield from _products(module, inner, one)


def _sizes(type_: str) -> list[int]:
  found = re.match(r"\w+\[([\d,]*)\]", type_)
  return [int(size) for size in found[1].split(",") if size] if found else []


def _flops(computation: tpu_hlo.Computation, product: tpu_hlo.Operation) -> float:
  """Returns two FLOPs per multiplication. Padding counts, but the zeros between pixels of a dilated input do not."""
  kernel = _sizes(computation.operations[product.operands[1]].type)
  multiplications = math.prod(_sizes(product.type))
  if product.opcode == "dot":
    contracted = re.search(r"rhs_contracting_dims=\{([\d,]*)\}", product.attributes)
    axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
    return 2.0 * multiplications * math.prod(kernel[axis] for axis in axes)
  labels = re.search(r"dim_labels=\w+_(\w+)->", product.attributes)
  if labels is None:
    raise tpu_hlo.Unreadable(f"convolution {product.name}: it has no dim_labels")
  summed = math.prod(size for size, label in zip(kernel, labels[1], strict=True) if label != "o")
  spread = re.search(r"lhs_dilate=([\dx]+)", product.attributes)
  zeros = math.prod(map(int, spread[1].split("x"))) if spread else 1
  return 2.0 * multiplications * summed / zeros


def flops(module: tpu_hlo.Module, run: tpu_hlo.Run) -> float:
  """Returns the FLOPs of the convolutions and matrix products in an operation, over all its executions.

  Raises:
    tpu_hlo.Unreadable: the axes of a convolution cannot be read.
  """
  found = _products(module, run.computation, run.operation)
  return run.trips * sum(_flops(computation, product) for computation, product in found)


def origin(module: tpu_hlo.Module, run: tpu_hlo.Run) -> str:
  """Returns the layer of an operation. A fusion that contains a convolution belongs to the convolution's layer."""
  for _, product in _products(module, run.computation, run.operation):
    if product.source:
      return layer(product.source)
  return layer(run.operation.source)


def by_layer(costs: Iterable[tuple[str, int, int, float]]) -> dict[str, Mapping[str, float]]:
  """Sums costs (layer, cycles, schedule cycles, FLOPs) of operations by layer. Layers without costs are left out."""
  totals: dict[str, collections.Counter[str]] = {}
  for name, cycles, schedule_cycles, work in costs:
    total = totals.setdefault(name, collections.Counter())
    total.update({"cycles": cycles, "schedule_cycles": schedule_cycles, "flops": work})
  return {name: dict(total) for name, total in totals.items() if any(total.values())}
