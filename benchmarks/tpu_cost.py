"""Computes the cost of a compiled TPU program by two measures; nothing is run.

`cycles`: XLA's model, `estimated_cycles` of every operation times its number of executions. XLA has no estimate for a
Pallas kernel; its cost is max(bundles of its schedule with loops multiplied out, its operands and results over the HBM
bandwidth).

`schedule_cycles`: the second rule for every operation, including XLA's fusions. If the vector unit or memory bounds an
operation, XLA's model is far above it. The `cycles` of a Pallas kernel therefore look better than those of a fusion
should; compare programs with and without Pallas kernels by `schedule_cycles`.
"""

import collections
import dataclasses
from collections.abc import Hashable, Mapping, Sequence

from benchmarks import tpu_hlo, tpu_layers, tpu_schedule, tpu_traffic

_TOP = 3


@dataclasses.dataclass(frozen=True)
class Chip:
  """A chip's published rates (Google Cloud TPU documentation, "TPU v5e" and "TPU v6e").

  Attributes:
    name: name in a topology, such as "v5e".
    kind: JAX's name of the device.
    matmul: peak of the matrix units in bfloat16, FLOP/s; JAX's default precision rounds float32 products to it too.
    bandwidth: bandwidth of HBM in bytes/s.
    hbm: bytes that the compiler lets a program use.
    clock: cycles/s.
  """

  name: str
  kind: str
  matmul: float
  bandwidth: float
  hbm: float
  clock: float


CHIPS = {
  chip.name: chip
  for chip in (
    # The clocks follow from the peak: four matrix units of 128 x 128 make 2**17 FLOP a cycle (v5p: eight, 2**18), four
    # of 256 x 256 2**19.
    Chip("v5e", "TPU v5 lite", 197e12, 819e9, 16 * 2**30, 1.5e9),
    Chip("v6e", "TPU v6 lite", 918e12, 1640e9, 31.5 * 2**30, 1.75e9),
    Chip("v5p", "TPU v5", 459e12, 2765e9, 95 * 2**30, 1.75e9),
    # One of the two cores of a chip, which the compiler calls a device.
    Chip("v4", "TPU v4", 137.5e12, 614e9, 16 * 2**30, 1.05e9),
  )
}


@dataclasses.dataclass(frozen=True)
class Line:
  """An operation of the program: name, kind (`Module.kind`), origin in JAX, number of executions, and both measures."""

  name: str
  kind: str
  source: str
  trips: int
  cycles: int
  schedule_cycles: int


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of one call on one device.

  Attributes:
    cycles: see the module docstring.
    schedule_cycles: likewise.
    bundles: bundles of all schedules, with loops multiplied out, without the time of HBM.
    hbm_bytes: bytes read and written by all operations, counting each operand once per execution.
    kinds: cycles by kind of operation.
    bounds: `schedule_cycles` by the bound of operations: "memory" if HBM takes longer than the bundles, else the kind.
    operations: the most expensive operations by cycles.
    layers: "cycles", "schedule_cycles" and "flops" of each layer of a net (`tpu_layers`).
    unread_loops: number of loops in schedules of XLA's fusions that cannot be read and count as one iteration (copies
      at the edge of an array).
    units: for each Pallas kernel, the share of each unit's slots that its bundles fill (`tpu_schedule.Count`).
    unscheduled: operations that cost cycles but have no schedule, and no equal operation has one; their bundles are not
      counted.
  """

  cycles: int
  schedule_cycles: int
  bundles: int
  hbm_bytes: int
  kinds: Mapping[str, int]
  bounds: Mapping[str, int]
  operations: tuple[Line, ...]
  layers: Mapping[str, Mapping[str, float]]
  unread_loops: int
  unscheduled: int
  units: Mapping[str, Mapping[str, float]]


def cost(module: tpu_hlo.Module, schedules: Mapping[str, str], chip: Chip) -> Cost:
  """Computes the cost of a program.

  Args:
    module: the program of one device.
    schedules: operation's name -> text of its final schedule.
    chip: chip for which it was compiled.

  Raises:
    tpu_hlo.Unreadable: the number of iterations of a loop in the program or in a Pallas kernel cannot be read, or a
      Pallas kernel has no schedule.
  """
  runs = list(module.runs())
  counts: dict[Hashable, tpu_schedule.Count] = {}
  for run in runs:
    if run.operation.name in schedules:
      counts[module.likeness(run)] = tpu_schedule.count(schedules[run.operation.name])
  lines, layers, bundles, hbm, unread, unscheduled = [], [], 0, 0, 0, 0
  units: dict[str, Mapping[str, float]] = {}
  kinds: collections.Counter[str] = collections.Counter()
  bounds: collections.Counter[str] = collections.Counter()
  for run in runs:
    operation, kind = run.operation, module.kind(run.operation)
    count = counts.get(module.likeness(run))
    moved = tpu_traffic.hbm_bytes(module, run)
    unscheduled += count is None and bool(operation.cycles)
    if kind == "pallas":
      if count is None:
        raise tpu_hlo.Unreadable(f"Pallas kernel {operation.name}: the dump holds no schedule of it")
      if count.unread:
        raise tpu_hlo.Unreadable(
          f"Pallas kernel {operation.name}: trips of the loop at {count.unread[0]} unknown"
        )
      units[operation.name] = count.units
    own = run.trips * count.bundles if count else 0
    # Copies that run in parallel with other work cost no cycles; their bytes are in `hbm_bytes`.
    waits = 0 if operation.opcode in ("copy-start", "slice-start") else moved / chip.bandwidth * chip.clock
    scheduled = max(own, round(waits))
    cycles = scheduled if kind == "pallas" else run.trips * (operation.cycles or 0)
    lines.append(Line(operation.name, kind, operation.source, run.trips, cycles, scheduled))
    layers.append((tpu_layers.origin(module, run), cycles, scheduled, tpu_layers.flops(module, run)))
    bundles, hbm = bundles + own, hbm + moved
    kinds[kind] += cycles
    bounds["memory" if waits > own else kind] += scheduled
    unread += len(count.unread) if count else 0
  top = tuple(sorted(lines, key=lambda line: -line.cycles)[:_TOP])
  total = sum(line.cycles for line in lines), sum(line.schedule_cycles for line in lines)
  per_layer = tpu_layers.by_layer(layers)
  return Cost(*total, bundles, hbm, dict(kinds), dict(bounds), top, per_layer, unread, unscheduled, units)


def largest_batch(points: Sequence[tuple[int, float]], limit: float) -> tuple[int, float]:
  """Returns the batch at which a line through two (batch, bytes) reaches the limit, rounded down, and bytes per sample.

  Raises:
    ValueError: memory does not grow with the batch.
  """
  (first, low), (second, high) = points
  slope = (high - low) / (second - first)
  if slope <= 0:
    raise ValueError(f"memory does not grow from batch {first} to {second}")
  return int(first + (limit - low) / slope), slope
