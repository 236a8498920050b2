"""The data that a chunk of steps gathers from: all of them, resident on the devices, or a window of just its rows.

A window is a small resident array: the planned columns are rewritten to positions in it, and the step, the drivers, the
samplers and all keys are the same. So resident and streamed trainings draw the same batches.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

import numpy as np

from jaxfer.data.stream import Stream
from jaxfer.train.placement import Columns, Placement

T = TypeVar("T")


def placed(placement: Placement, data: Mapping[str, Any]) -> Mapping[str, Any]:
  """The data on every device; a `Stream` stays on the host."""
  return data if isinstance(data, Stream) else placement.place(data)


def prefetch(
  placement: Placement, data: Mapping[str, Any], plans: Sequence[Columns]
) -> Generator[tuple[Mapping[str, Any], Columns]]:
  """Yields for each plan the placed data to gather from, and its columns as positions in them.

  Args:
    placement: where windows go.
    data: `placed`.
    plans: columns as `window` takes them, all of one shape, so that a step compiles once. Of a `Stream` the next
      plan's window is read and sent while this one's is in use.
  """
  if not isinstance(data, Stream):
    yield from ((data, plan) for plan in plans)
    return
  laid = [window(plan, placement.shards) for plan in plans]
  windows = data.windows([rows.reshape(-1) for rows, _ in laid])
  yield from zip(
    _ahead(lambda: placement.place_window(next(windows)), len(laid)), (at for _, at in laid), strict=True
  )


def _ahead(make: Callable[[], T], count: int) -> Generator[T]:
  """Calls `make` so many times, one call ahead, in a thread."""
  with futures.ThreadPoolExecutor(1) as worker:
    coming = worker.submit(make) if count else None
    for left in reversed(range(count)):
      assert coming is not None
      made, coming = coming.result(), worker.submit(make) if left else None
      yield made
      del made  # Or its memory would be held while the one after the next is made.


def window(plan: Columns, blocks: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Which rows a plan touches, and the plan as positions among them.

  Args:
    plan: columns [..., batch] of row numbers; those of booleans say something of the rows and stay as they are.
    blocks: parts of a batch, of equal length, whose rows are to lie apart, as those of different devices.

  Returns:
    Rows [blocks, m], and columns [..., batch] whose entries count within the rows of their block.
  """
  rows, columns, start = [], {}, 0
  for name, column in plan.items():
    if column.dtype == bool:
      columns[name] = column
      continue
    parts = column.reshape(-1, blocks, column.shape[-1] // blocks)
    rows.append(np.moveaxis(parts, 1, 0).reshape(blocks, -1))
    steps, _, length = parts.shape
    at = start + np.arange(steps * length, dtype=np.int32).reshape(steps, 1, length)
    columns[name] = np.broadcast_to(at, parts.shape).reshape(column.shape)
    start += steps * length
  return np.concatenate(rows, axis=1), columns
