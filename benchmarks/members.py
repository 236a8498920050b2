"""Measures how much faster n trainings are at once than one after another.

A call is a chunk of steps of n trainings of the two-stream conv-RNN (augmentation included), each with its own
parameters, keys, records and learning rate: `jaxfer_vmap` runs them as one program, `jaxfer_sequential` runs the
program of one training n times. Rates count the samples of all members. CPU uses the sizes of configs/quickstart.py,
GPU those of CK+.

`stack/...`: fine-tuning with the six seeds of paper 000's Table 2; CPU uses the small sizes of the embedded study.

`table1/...`, on GPU: ten folds at once for each of the four models of paper 001's Table 1. From their times, the time
of the whole table is extrapolated and printed in the last line.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.conv_rnn_problem import ENHANCED, Problem
from jaxfer.config import Execution
from jaxfer.systems import stacked_autoencoder, two_stream_conv_rnn
from jaxfer.systems.stacked_autoencoder.model import StackedAutoencoder
from jaxfer.systems.two_stream_conv_rnn.model import TwoStreamConvRNN
from jaxfer.train.memory import bytes_needed
from jaxfer.train.placement import Placement
from jaxfer.train.stage import Stage

MEMBERS, QUICK_MEMBERS = (1, 2, 5, 10, 40), (1, 2, 3)
# CK+ has 327 sequences in ten folds, of which a training reads nine; the recipe has 100 epochs.
FOLDS, TRAIN_ROWS, EPOCHS = 10, 295, 100
MODELS = (("conv_gru", False), ("conv_lstm", False), ("conv_gru", True), ("conv_lstm", True))


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Shapes of a training: `rows` resident clips [frames, size, size], and the steps of a chunk."""

  rows: int
  frames: int
  size: int
  batch: int
  features: tuple[int, ...]
  steps: int


QUICK = Sizes(8, 2, 4, 2, (2,), 2)
CPU = Sizes(64, 8, 24, 8, (8, 16, 32), 2)
CKPLUS = Sizes(327, 16, 64, 16, (16, 32, 64, 128), 8)
# Stacks have one frame.
SEEDS = 6
QUICK_STACK = Sizes(8, 1, 4, 2, (4, 3), 2)
CPU_STACK = Sizes(1000, 1, 24, 20, (256, 128, 64, 32), 32)
STACK = Sizes(1541, 1, 64, 20, (1000, 500, 250, 100), 32)


def flops(sizes: Sizes, cell: Any, enhanced: bool, members: int) -> float:
  """Returns the FLOP of the convolutions of a chunk for all members and both streams, by formula."""
  streams = (
    Problem("train_step", cell, enhanced, sizes.batch, sizes.frames, sizes.size, channels, sizes.features)
    for channels in (3, 2)
  )
  return members * sizes.steps * sum(stream.flops for stream in streams)


def table_total(chunks: Sequence[float], sizes: Sizes) -> float:
  """Extrapolates the cost of a table: for each model, all folds at once, EPOCHS epochs of whole batches.

  Args:
    chunks: seconds of a chunk for each model's folds (or another additive cost, such as FLOP).
    sizes: sizes of the chunk.
  """
  epoch = -(-TRAIN_ROWS // sizes.batch)  # The last batch is filled up.
  return sum(chunks) / sizes.steps * epoch * EPOCHS


@dataclasses.dataclass(frozen=True)
class Bench:
  """A stage of a training, its hyperparameters, its initial variables, and random data for it."""

  sizes: Sizes
  stage: Stage
  hparams: Mapping[str, float]
  init: Callable[[jax.Array], Any]
  data: Mapping[str, np.ndarray]

  @classmethod
  def conv_rnn(cls, sizes: Sizes, cell: Any, enhanced: bool) -> "Bench":
    """Returns the two-stream conv-RNN on clips."""
    rng = np.random.default_rng(0)
    shape = sizes.rows, sizes.frames, sizes.size, sizes.size
    data = {
      "frames": rng.integers(0, 256, (*shape, 3), np.uint8),
      "flow": rng.integers(-3000, 3000, (*shape, 2), np.int16),
      "label": rng.integers(0, 7, sizes.rows).astype(np.int32),
    }
    switches: dict[str, Any] = ENHANCED if enhanced else {}
    model = TwoStreamConvRNN(cell=cell, features=sizes.features, **switches)
    (stage,), hparams = two_stream_conv_rnn.SYSTEM.recipe(model, sizes.steps)
    clips = [jnp.zeros((1, *shape[1:], channels)) for channels in (3, 2)]
    return cls(sizes, stage, hparams, lambda key: model.init(key, *clips), data)

  @classmethod
  def stack(cls, sizes: Sizes) -> "Bench":
    """Returns the fine-tuning of the stacked autoencoders on stills."""
    rng = np.random.default_rng(0)
    shape = sizes.rows, sizes.size, sizes.size, 1
    data = {
      "image": rng.integers(0, 256, shape, np.uint8),
      "label": rng.integers(0, 7, sizes.rows).astype(np.int32),
    }
    model = StackedAutoencoder(num_classes=7, sizes=sizes.features)
    (*_, stage), hparams = stacked_autoencoder.SYSTEM.recipe(model, sizes.steps)
    return cls(sizes, stage, hparams, lambda key: model.init(key, jnp.zeros((1, *shape[1:]))), data)

  def program(self, members: int, *, at_once: bool) -> harness.Program:
    """Returns the program of a chunk for all members."""
    sizes = self.sizes
    placement = Placement(tuple(jax.devices()[:1]), slots=members if at_once else 1)
    driver = Execution().driver
    groups = [list(range(members))] if at_once else [[k] for k in range(members)]
    plan = np.random.default_rng(1).integers(0, sizes.rows, (sizes.steps, members, sizes.batch))
    data, run = placement.place(self.data), placement.trainer(self.stage, driver)

    def prepared(group):
      hparams = [{name: np.float32(v * (1 + 0.1 * k)) for name, v in self.hparams.items()} for k in group]
      columns = {"row": plan[:, group].astype(np.int32)}
      keys = placement.stack([jax.random.key(k) for k in group])
      return keys, placement.stack(hparams), *placement.lay(columns, np.ones((sizes.steps, len(group)), bool))

    inputs = [prepared(group) for group in groups]

    def fresh():
      return [placement.start(self.stage, placement.init(self.init, keys)) for keys, *_ in inputs]

    def go(states):
      return [
        run(trainable, frozen, data, *own) for (trainable, frozen), own in zip(states, inputs, strict=True)
      ]

    states = [(state.trainable, state.frozen) for state in fresh()]
    start = time.perf_counter()
    lowered = placement.lower(
      self.stage, driver, fresh()[0], data, tuple(self.hparams), sizes.batch, sizes.steps
    )
    peak = bytes_needed(lowered.compile())
    facts = {"compile_seconds": time.perf_counter() - start, "memory": {"peak_bytes": peak}}

    def call():
      nonlocal states
      out = go(states)
      states = [(trainable, frozen) for (trainable, _), (_, frozen) in zip(out, states, strict=True)]
      jax.block_until_ready(out)

    def result():
      out = jax.device_get([results for _, results in go([(s.trainable, s.frozen) for s in fresh()])])
      steps = range(sizes.steps)
      losses = [np.stack([metrics["net/loss"][0][k].reshape(-1) for k in steps]) for metrics, _ in out]
      return {"losses": np.concatenate(losses, axis=1)}

    return harness.Program(call, result, facts)


def measure_conv_rnn(
  session: harness.Session, prefix: str, sizes: Sizes, cell: Any, enhanced: bool, members: int, *, both: bool
) -> float | None:
  """Calls `measure` for the two-stream conv-RNN."""
  model = ("enhanced_" if enhanced else "") + cell
  name = f"{prefix}/{model}/m{members}-b{sizes.batch}-t{sizes.frames}-s{sizes.size}/float32"
  bench = Bench.conv_rnn(sizes, cell, enhanced)
  return measure(session, name, model, bench, members, flops(sizes, cell, enhanced, members), both=both)


def measure_stack(session: harness.Session, sizes: Sizes, members: int) -> float | None:
  """Calls `measure` for the stacked autoencoders."""
  widths = (sizes.size**2, *sizes.features, 7)
  products = sum(a * b for a, b in itertools.pairwise(widths))
  # The forward pass, and two products in the backward pass, of which the first layer needs only one.
  work = 2.0 * members * sizes.steps * sizes.batch * (3 * products - widths[0] * widths[1])
  name = f"stack/m{members}-b{sizes.batch}-s{sizes.size}/float32"
  return measure(session, name, "stacked_autoencoder", Bench.stack(sizes), members, work, both=True)


def measure(
  session: harness.Session, name: str, model: str, bench: Bench, members: int, flop: float, *, both: bool
) -> float | None:
  """Measures a case; returns the seconds of a chunk for its first contender."""
  sizes = bench.sizes
  settings: Mapping[str, Any] = {**dataclasses.asdict(sizes), "model": model, "members": members}
  work = {"samples": members * sizes.steps * sizes.batch, "flops": flop}
  # With Adam, rounding differences between two orders of summation grow from step to step.
  case = harness.Case(name, settings, work, 1e-2, budget=15.0)
  ways = {"jaxfer_vmap": True, "jaxfer_sequential": False} if members > 1 else {"jaxfer_sequential": False}
  contenders = [
    harness.Contender(way, functools.partial(bench.program, members, at_once=at_once))
    for way, at_once in ways.items()
    if both or at_once
  ]
  records = session.measure(
    case,
    contenders,
    lambda: bench.program(members, at_once=False).result(),
    "losses of one after another",
  )
  return records[0]["seconds"]["median"] if records[0]["status"] == "ok" else None


def main() -> None:
  arguments = harness.parser(__doc__).parse_args()
  session = harness.session("members", arguments)
  gpu = session.platform != "cpu"
  sizes = QUICK if session.quick else CKPLUS if gpu else CPU
  for members in QUICK_MEMBERS if session.quick else MEMBERS:
    measure_conv_rnn(session, "at_once", sizes, "conv_lstm", True, members, both=True)
  measure_stack(session, QUICK_STACK if session.quick else STACK if gpu else CPU_STACK, SEEDS)
  if gpu or session.quick:
    folds = 2 if session.quick else FOLDS
    chunks = [measure_conv_rnn(session, "table1", sizes, *model, folds, both=False) for model in MODELS]
    done = [seconds for seconds in chunks if seconds is not None]
    if len(done) == len(chunks):
      total = table_total([flops(sizes, *model, folds) for model in MODELS], sizes)
      print(
        f"  Table 1, 4 models x {folds} folds x {EPOCHS} epochs at these sizes: {table_total(done, sizes) / 60:.1f} "
        f"minutes, extrapolated from chunks of {sizes.steps} steps; {total:.2e} FLOP counted",
        flush=True,
      )
  harness.finish(session)


if __name__ == "__main__":
  main()
