"""Provides the data that a chunk of steps gathers from.

Resident data are on the devices as a whole. Streamed data are sent in windows: a window is a small array that contains
only the examples of one chunk. The planned columns are rewritten to positions in the window; the step, the drivers, the
samplers and all keys stay the same. Resident and streamed trainings therefore draw the same batches.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

import numpy as np

from jaxfer.data.stream import Stream
from jaxfer.train.placement import Columns, Placement

T = TypeVar("T")


def placed(placement: Placement, data: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns the data on every device; a `Stream` stays on the host."""
  return data if isinstance(data, Stream) else placement.place(data)


def prefetch(
  placement: Placement, data: Mapping[str, Any], plans: Sequence[Columns]
) -> Generator[tuple[Mapping[str, Any], Columns]]:
  """Yields for each plan the placed data to gather from, and the plan's columns as positions in these data.

  If the data are a `Stream`, the window of the next plan is read and sent while the current one is in use.

  Args:
    placement: where windows are placed.
    data: result of `placed`.
    plans: columns as `window` takes them. All plans have the same shapes, so that a step compiles once.
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
  """Calls `make` `count` times in a thread, one call ahead, and yields the results."""
  with futures.ThreadPoolExecutor(1) as worker:
    coming = worker.submit(make) if count else None
    for left in reversed(range(count)):
      assert coming is not None
      made, coming = coming.result(), worker.submit(make) if left else None
      yield made
      del made  # Otherwise its memory would stay in use while the result after the next is made.


def window(plan: Columns, blocks: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Returns the indices of the examples that a plan uses, and the plan as positions among them.

  Args:
    plan: columns [..., batch] of indices. Boolean columns describe examples and are returned unchanged.
    blocks: number of equal parts of a batch, such as one per device. Their examples are kept separate.

  Returns:
    (indices [blocks, m], columns [..., batch]). The entries of a column are positions within their own block.
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
