"""Measures how fast batches of pictures reach the device as float32 in [-1, 1], from different places.

A call takes several batches of one index plan, the same records for every contender, and waits for each. The contenders
are:

- `jaxfer_resident`: uint8 pictures on the device, gathered there.
- `jaxfer_streamed`: PNG files in array_record, read and decoded by Grain's threads window by window, and sent while the
  previous window is in use, as in a training.
- `jaxfer_streamed_memory`: the same for uint8 pictures in host memory.
- `host_uint8`, `host_float32`: the host gathers a batch on request, optionally converts it, and sends it.
- `torch_dataloader` (a peer): PyTorch's DataLoader over the same PNG files, with one worker process per core.

The pictures are drawn once, to runs/benchmarks/data. Augmentation is not included, because ours is part of the step.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, machine, torch_peer
from jaxfer.data import records, stream
from jaxfer.data.plan import Plan
from jaxfer.train import placement, prefetch

DATA = pathlib.Path("runs/benchmarks/data")
WINDOW = 4  # Batches per window.


@dataclasses.dataclass(frozen=True)
class Problem:
  """Pictures and a plan.

  Attributes:
    options: options of the data set `synthetic_faces`.
    rows: indices of the records of each batch, [batches, batch].
    image: uint8 [n, S, S, 3] in host memory.
  """

  options: dict[str, Any]
  rows: np.ndarray
  image: np.ndarray


def problem(subjects: int, size: int, batch: int, batches: int) -> Problem:
  """Draws 21 pictures of each subject once, and plans the first batches of an epoch."""
  options = {"num_subjects": subjects, "image_size": size}
  image = records.load("synthetic_faces", DATA, **options).arrays["image"]
  plan = Plan(np.arange(len(image)), batch, "drop", [0]).epoch(0, 0)[:batches]
  assert len(plan) % WINDOW == 0, f"{len(plan)} batches are no whole windows"
  return Problem(options, plan, image)


def opened(options: dict[str, Any]) -> stream.Column:
  """Returns the same pictures on disk."""
  column = stream.open_records(records.prepared("synthetic_faces", DATA, options)).arrays["image"]
  assert isinstance(column, stream.Column)
  return column


def scaled(images: Any) -> Any:
  """Scales uint8 to [-1, 1], on the host or on the device."""
  return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def program(batches: Callable[[], Iterator[Any]]) -> harness.Program:
  """Waits for every batch; the first and the last are compared."""

  def call() -> list[Any]:
    kept: list[Any] = []
    for batch in batches():
      # At most two batches are held, as in a training.
      kept = [*kept[:1], jax.block_until_ready(batch)]
    return kept

  def result() -> dict[str, Any]:
    first, last = call()
    return {"first": first, "last": last}

  return harness.Program(call, result)


def ours(data: Any, plan: np.ndarray) -> harness.Program:
  """Provides resident arrays or a `Stream` as in a training on one device."""
  spread = placement.Placement((jax.devices()[0],), streamed=isinstance(data, stream.Stream))
  placed = prefetch.placed(spread, data)
  shape = data["image"].shape[1:]
  # A window has leading axes for the members and shards, here one of each.
  gather = jax.jit(lambda data, rows: scaled(data["image"].reshape(-1, *shape)[rows]))
  plans = [{"row": part} for part in plan.reshape(-1, WINDOW, 1, plan.shape[1])]  # Of one member.

  def batches() -> Iterator[jax.Array]:
    for held, columns in prefetch.prefetch(spread, placed, plans):
      for rows in columns["row"][:, 0]:
        yield gather(held, rows)

  return program(batches)


def from_host(image: np.ndarray, plan: np.ndarray, *, convert: bool) -> harness.Program:
  """Gathers a batch on the host, optionally converts it there, and sends it."""
  run = jax.jit(lambda images: images if convert else scaled(images))

  def batches() -> Iterator[jax.Array]:
    for rows in plan:
      yield run(jax.device_put(scaled(image[rows]) if convert else image[rows]))

  return program(batches)


class Pictures:
  """The pictures on disk as a data set for PyTorch; each worker opens them separately."""

  def __init__(self, options: dict[str, Any]):
    self._options = options
    self._column: stream.Column | None = None

  def __len__(self) -> int:
    return len(self._opened())

  def __getitem__(self, row: int) -> np.ndarray:
    return self._opened()[row]

  def _opened(self) -> stream.Column:
    if self._column is None:
      self._column = opened(self._options)
    return self._column

  def __getstate__(self) -> dict[str, Any]:
    return {"_options": self._options, "_column": None}


def torch_dataloader(session: harness.Session, problem: Problem) -> harness.Program:
  """DataLoader with the plan as its batch sampler, persistent workers, and pinned batches if there is a GPU."""
  torch = torch_peer.begin(session)
  library: Any = torch.library
  rows: Sequence[list[int]] = problem.rows.tolist()
  loader = library.utils.data.DataLoader(
    Pictures(problem.options),
    batch_sampler=rows,
    num_workers=machine.threads(),
    persistent_workers=True,
    pin_memory=torch.device == "cuda",
    multiprocessing_context="spawn",  # A fork of a process with JAX's threads may hang.
  )

  def batches() -> Iterator[Any]:
    for images in loader:
      batch = images.to(torch.device, non_blocking=True).float() / 127.5 - 1
      torch.wait()
      yield batch

  made = program(batches)
  numpy = lambda found: {name: torch.numpy(batch) for name, batch in found.items()}  # noqa: E731
  return dataclasses.replace(made, result=lambda: numpy(made.result()))


def main() -> None:
  session = harness.session("input_pipeline", harness.parser(__doc__).parse_args())
  cpu = session.platform == "cpu"
  subjects, size, batch, batches = (8, 40, 8, 8) if session.quick else (200, 100, 64 if cpu else 128, 32)
  given = problem(subjects, size, batch, batches)
  count = len(given.image)

  def reference() -> harness.Arrays:
    return {
      "first": scaled(jnp.asarray(given.image[given.rows[0]])),
      "last": scaled(jnp.asarray(given.image[given.rows[-1]])),
    }

  session.measure(
    harness.Case(
      name=f"png-n{count}-s{size}-b{batch}x{batches}",
      settings={
        "images": count,
        "size": size,
        "batch": batch,
        "batches": batches,
        "batches_a_window": WINDOW,
      },
      work={"samples": batch * batches},
      tolerance=1e-6,
      budget=60.0,
    ),
    [
      harness.Contender("jaxfer_resident", functools.partial(ours, {"image": given.image}, given.rows)),
      harness.Contender(
        "jaxfer_streamed", lambda: ours(stream.Stream({"image": opened(given.options)}), given.rows)
      ),
      harness.Contender(
        "jaxfer_streamed_memory", lambda: ours(stream.Stream({"image": given.image}), given.rows)
      ),
      harness.Contender("host_uint8", functools.partial(from_host, given.image, given.rows, convert=False)),
      harness.Contender("host_float32", functools.partial(from_host, given.image, given.rows, convert=True)),
      *session.peer("torch_dataloader", functools.partial(torch_dataloader, session, given)),
    ],
    reference,
    "the same rows, converted on the device",
  )
  harness.finish(session)


if __name__ == "__main__":
  main()
