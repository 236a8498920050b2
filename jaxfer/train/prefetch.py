"""Provides the data that a chunk of steps gathers from.

Resident data are on the devices as a whole. Streamed data are sent in windows: a window is a small array that contains
only the examples of one chunk. The planned columns are rewritten to positions in the window; the step, the drivers, the
samplers and all keys stay the same. Resident and streamed trainings therefore draw the same batches.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxfer.data.stream import Stream
from jaxfer.train.placement import Columns, Placement

T = TypeVar("T")


def placed(placement: Placement, data: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns the data on every device; a `Stream` stays on the host."""
  return data if isinstance(data, Stream) else placement.place(data)


def prefetch(
  placement: Placement, data: Mapping[str, Any], plans: Sequence[Columns], same: bool = False
) -> Generator[tuple[Mapping[str, Any], Columns]]:
  """Yields for each plan the placed data to gather from, and the plan's columns as positions in these data.

  If the data are a `Stream`, the window of the next plan is read and sent while the current one is in use. Each process
  reads the examples of its own devices only.

  Args:
    placement: where windows are placed.
    data: result of `placed`.
    plans: columns [..., given members, batch]. All plans have the same shapes, so that a step compiles once.
    same: whether all members have the same plan. Its examples are then read once for all of them.
  """
  if not isinstance(data, Stream):
    yield from ((data, plan) for plan in plans)
    return
  laid = [_laid(placement, plan, same) for plan in plans]
  own = [_own(placement, blocks) for blocks, _ in laid]
  windows = data.windows([blocks.reshape(-1) for blocks in own])
  shapes = zip((blocks.shape for blocks, _ in laid), (blocks.shape for blocks in own), strict=True)
  yield from zip(
    _ahead(lambda: _placed_window(placement, next(windows), *next(shapes)), len(laid)),
    (at for _, at in laid),
    strict=True,
  )


def _own(placement: Placement, blocks: np.ndarray) -> np.ndarray:
  """Returns the part of blocks [rows or 1, shards, m] that the devices of this process hold.

  It is a rectangle, because a process has whole rows of the mesh or a part of one row; see `devices.divide`.
  """
  owners = np.array([device.process_index for device in placement.devices])
  own = owners.reshape(placement.rows, placement.shards) == jax.process_index()
  rows = own.any(1) if len(blocks) == placement.rows else np.ones(1, bool)
  return blocks[np.ix_(rows, own.any(0))]


def _placed_window(
  placement: Placement, window: Mapping[str, np.ndarray], blocks: tuple[int, ...], own: tuple[int, ...]
) -> dict[str, jax.Array]:
  """Places the examples of a window on the devices, as [rows or 1, shards, m, ...]; for pmap as [shards, m, ...].

  Args:
    placement: where to place them.
    window: arrays [examples, ...] of this process's blocks.
    blocks: the shape (rows or 1, shards, m) of the indices of all blocks.
    own: the shape of this process's part of them.
  """
  sharding = NamedSharding(placement.mesh, placement.data_spec(same=blocks[0] < placement.rows))
  if placement.backend == "pmap":
    blocks, own = blocks[1:], own[1:]
  return {
    name: jax.make_array_from_process_local_data(
      sharding, array.reshape(*own, *array.shape[1:]), (*blocks, *array.shape[1:])
    )
    for name, array in window.items()
  }


def _laid(placement: Placement, plan: Columns, same: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Returns a plan as `window` does, for the rows of the placement's mesh, or for one row if all have the same."""
  if same:
    return window({name: column[..., :1, :] for name, column in plan.items()}, 1, placement.shards)
  return window(placement.slotted(plan), placement.rows, placement.shards)


def _ahead(make: Callable[[], T], count: int) -> Generator[T]:
  """Calls `make` `count` times in a thread, one call ahead, and yields the results."""
  with futures.ThreadPoolExecutor(1) as worker:
    coming = worker.submit(make) if count else None
    for left in reversed(range(count)):
      assert coming is not None
      made, coming = coming.result(), worker.submit(make) if left else None
      yield made
      del made  # Otherwise its memory would stay in use while the result after the next is made.


def window(plan: Columns, rows: int, shards: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Returns the indices of the examples that a plan uses, and the plan as positions among them.

  Args:
    plan: columns [..., members, batch] of indices. Boolean columns describe examples and are returned unchanged.
    rows: number of equal parts of the members, such as one per row of the device mesh.
    shards: number of equal parts of a batch, such as one per device of a row.

  Returns:
    (indices [rows, shards, m], columns [..., members, batch]). Each part of the members and each part of their batches
    has a block of examples of its own, and the entries of a column are positions within their own block.
  """
  blocks, columns, start = [], {}, 0
  for name, column in plan.items():
    if column.dtype == bool:
      columns[name] = column
      continue
    members, batch = column.shape[-2:]
    parts = column.reshape(-1, rows, members // rows, shards, batch // shards)
    steps, _, slots, _, length = parts.shape
    blocks.append(parts.transpose(1, 3, 0, 2, 4).reshape(rows, shards, -1))
    count = steps * slots * length
    at = start + np.arange(count, dtype=np.int32).reshape(steps, 1, slots, 1, length)
    columns[name] = np.broadcast_to(at, parts.shape).reshape(column.shape)
    start += count
  return np.concatenate(blocks, axis=2), columns
