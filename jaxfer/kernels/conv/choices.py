"""Chooses the formulation of each operation from `choices.json`, which `python -m benchmarks.choose` writes.

A row of the table is a measured shape and the formulation to use for it. A shape gets the formulation of the nearest
measured shape of the same operation: the distance is logarithmic in channels, features, output pixels and kernel area,
and infinite between shapes with and without a stride. Rows measured inside a loop serve convolutions inside loops, and
the others serve those outside. An operation with only one kind of row uses it for both. Platforms that the table does
not name use the default of each operation.
"""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

TABLE = pathlib.Path(__file__).with_name("choices.json")
# Defaults for platforms without measurements: XLA's own operations, except for transposed convolutions, which are slow
# on both CPU and GPU; the convolutions of n members run as one grouped convolution.
DEFAULTS = {
  "forward": "xla",
  "transpose": "phases",
  "weight_gradient": "xla",
  "forward_members": "grouped",
  "transpose_members": "grouped",
  "weight_gradient_members": "grouped",
  # Implementations of conv-RNN layers without and with gates or skips. Channels and features are those of the layer.
  "recurrence": "scan",
  "enhanced_recurrence": "scan",
}


@dataclasses.dataclass(frozen=True)
class Shape:
  """Properties that a choice may depend on; channels and features are those of the operation's convolution.

  Attributes:
    kernel_size: height and width of the kernel.
    strides: strides in height and width.
    channels: number of channels of the convolution's input.
    features: number of channels of its output.
    pixels: height times width of its output.
    loop: whether the convolution runs inside a loop.
  """

  kernel_size: tuple[int, int]
  strides: tuple[int, int]
  channels: int
  features: int
  pixels: int
  loop: bool = False

  def distance(self, other: "Shape") -> float:
    """Returns the distance between two shapes, in powers of two; infinite if only one has a stride."""
    if (max(self.strides) > 1) != (max(other.strides) > 1):
      return math.inf
    pairs = [(getattr(self, name), getattr(other, name)) for name in ("channels", "features", "pixels")] + [
      (math.prod(self.kernel_size), math.prod(other.kernel_size))
    ]
    return sum(abs(math.log2(a / b)) for a, b in pairs)


@functools.cache
def _table() -> Mapping[str, Any]:
  return json.loads(TABLE.read_text())["platforms"]


@functools.cache
def _rows(platform: str, operation: str) -> tuple[tuple[Shape, str], ...]:
  def shape(row):
    values: dict[str, Any] = {
      field.name: tuple(value) if isinstance(value, list) else value
      for field in dataclasses.fields(Shape)
      if (value := row.get(field.name)) is not None
    }
    return Shape(**values)

  return tuple((shape(row), row["formulation"]) for row in _table()[platform]["choices"].get(operation, []))


def reload() -> None:
  """Reads the table again; programs that are already traced keep their choices."""
  for cached in (_table, _rows, choose):
    cached.cache_clear()


def platforms() -> tuple[str, ...]:
  """Platforms that the table names, such as "cpu" or "cuda"."""
  return tuple(_table())


@functools.cache
def choose(platform: str, operation: str, shape: Shape, among: tuple[str, ...]) -> str:
  """Returns the formulation for an operation on a platform, one of `among`."""
  rows = [(row, name) for row, name in _rows(platform, operation) if name in among]
  rows = [(row, name) for row, name in rows if row.loop == shape.loop] or rows
  near = min(rows, key=lambda at: shape.distance(at[0]), default=None)
  if near is None or math.isinf(shape.distance(near[0])):
    return DEFAULTS[operation]
  return near[1]
