"""Measures the cost of different ways to run the engine's step.

`dispatch`: a stage with one tiny dense layer, so that the time is that of the call itself, with `pmap` and with `jit`.
`driver`: a chunk of steps of the two-stream conv-RNN (including augmentation), as one program (`scan`) or one per step
(`steps`), with both backends. `dtype`: the same in bfloat16 and float32. `donation`: the step with and without donating
its state. Times are for a whole chunk; samples per second count all its steps.
"""

import dataclasses
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import harness
from jaxfer.systems.two_stream_conv_rnn import SYSTEM
from jaxfer.systems.two_stream_conv_rnn.model import TwoStreamConvRNN
from jaxfer.train import placement
from jaxfer.train.stage import Context, LossOut, Stage, Update
from jaxfer.train.state import State, begin
from jaxfer.train.step import planned_step

_WAYS: tuple[tuple[Literal["pmap", "jit"], Literal["scan", "steps"]], ...] = (
  ("jit", "steps"),
  ("pmap", "steps"),
  ("jit", "scan"),
  ("pmap", "scan"),
)


@dataclasses.dataclass(frozen=True)
class Setup:
  """A stage, its initial variables, resident data and hyperparameters, and the size of a chunk."""

  stage: Stage
  variables: Any
  data: dict[str, np.ndarray]
  hparams: dict[str, float]
  batch: int
  steps: int

  @property
  def rows(self) -> np.ndarray:
    """Returns the plan of the chunk, [steps, batch]."""
    n = len(self.data["label"])
    return np.random.default_rng(1).integers(0, n, (self.steps, self.batch)).astype(np.int32)


def tiny(steps: int) -> Setup:
  """Returns a stage with one dense layer on 8 numbers."""
  net = nn.Dense(4)
  rng = np.random.default_rng(0)
  data = {"x": rng.standard_normal((16, 8), np.float32), "label": np.zeros(16, np.int32)}

  def loss(variables, batch, keys, context):
    del keys, context
    y: Any = net.apply({"params": variables["params"]["dense"]}, batch["x"])
    return LossOut(loss={"loss": (jnp.square(y).sum(), jnp.asarray(y.size, jnp.float32))})

  stage = Stage("tiny", (Update("net", loss, ("dense",), optax.sgd(1e-3)),), 1)
  variables = {"params": {"dense": net.init(jax.random.key(0), data["x"])["params"]}}
  return Setup(stage, variables, data, {}, 8, steps)


def two_stream(quick: bool, platform: str, dtype: str, steps: int) -> Setup:
  """Returns the two-stream net with its recipe, on random clips."""
  features: tuple[int, ...]
  if quick:
    n, time, size, batch, features = 8, 2, 8, 4, (4, 4)
  elif platform == "cpu":
    n, time, size, batch, features = 32, 8, 32, 8, (8, 16, 32)
  else:
    n, time, size, batch, features = 512, 16, 64, 64, (16, 32, 64, 128)
  model = TwoStreamConvRNN(features=features, dtype=jnp.dtype(dtype))
  rng = np.random.default_rng(0)
  data = {
    "frames": rng.integers(0, 256, (n, time, size, size, 3), np.uint8),
    "flow": rng.integers(-3000, 3000, (n, time, size, size, 2), np.int16),
    "label": rng.integers(0, 7, n).astype(np.int32),
  }
  (stage,), hparams = SYSTEM.recipe(model, steps)
  clips = [jnp.zeros((1, time, size, size, channels)) for channels in (3, 2)]
  return Setup(stage, model.init(jax.random.key(0), *clips), data, hparams, batch, steps)


def chunk(setup: Setup, backend: Literal["pmap", "jit"], driver: Literal["scan", "steps"]) -> harness.Program:
  """Returns a program of the engine's trainer on one device."""
  devices = placement.Placement(tuple(jax.devices()[:1]), backend=backend, alone=True)
  run = devices.trainer(setup.stage, driver)
  data, hparams, key = (
    devices.place(setup.data),
    devices.stack([setup.hparams]),
    devices.stack([jax.random.key(0)]),
  )
  planned = devices.lay({"row": setup.rows[:, None]}, np.ones((setup.steps, 1), bool))

  def fresh() -> State:
    return devices.start(setup.stage, devices.stack([setup.variables]))

  state = fresh()
  trainable, frozen = state.trainable, state.frozen

  def go(trainable):
    return run(trainable, frozen, data, key, hparams, *planned)

  def call():
    nonlocal trainable
    trainable, results = go(trainable)
    jax.block_until_ready((trainable, results))

  def result():
    _, (metrics, _) = go(fresh().trainable)
    return losses_of(metrics)

  return harness.Program(call, result)


def losses_of(metrics: Any) -> dict[str, np.ndarray]:
  """Returns metric sums by step, from one array of `scan` or a list of `steps`."""
  return {name: np.asarray([np.asarray(x).item() for x in total]) for name, (total, _) in metrics.items()}


def single(setup: Setup, *, donate: bool) -> harness.JaxProgram:
  """Returns one planned step under jit, with or without donation."""
  state = jax.jit(functools.partial(begin, setup.stage))(setup.variables)
  plan = {"row": setup.rows[0], "position": np.arange(setup.batch, dtype=np.int32)}

  def run(trainable, frozen, data, plan, key, hparams):
    state, active = State(trainable, frozen), jnp.ones((), bool)
    return planned_step(setup.stage, state, data, plan, active, key, Context(hparams), reject=False)

  def named(out):
    return {name: np.asarray(total) for name, (total, _) in out[1].items()}

  hparams = {name: np.float32(value) for name, value in setup.hparams.items()}
  arguments = (state.trainable, state.frozen, setup.data, plan, jax.random.key(0), hparams)
  return harness.JaxProgram(run, *arguments, named=named, stepping=donate)


def main() -> None:
  arguments = harness.parser(__doc__).parse_args()
  session = harness.session("train_step", arguments)
  steps = 2 if session.quick else 8

  def case(name: str, setup: Setup, dtype: str, tolerance: float, steps: int) -> harness.Case:
    shapes = {key: list(array.shape) for key, array in setup.data.items()}
    settings = {"data": shapes, "batch": setup.batch, "steps": steps}
    return harness.Case(name, settings, {"samples": setup.batch * steps}, tolerance, dtype, budget=60.0)

  def compare_ways(name: str, setup: Setup, dtype: str, tolerance: float) -> None:
    contenders = [
      harness.Contender(f"jaxfer_{backend}_{driver}", functools.partial(chunk, setup, backend, driver))
      for backend, driver in _WAYS
    ]
    session.measure(
      case(name, setup, dtype, tolerance, steps),
      contenders,
      lambda: chunk(setup, "jit", "steps").result(),
      "losses of jit, steps",
    )

  compare_ways("dispatch", tiny(steps), "float32", 1e-5)
  # With Adam, rounding differences between two orders of summation grow from step to step.
  full = two_stream(session.quick, session.platform, "float32", steps)
  compare_ways("driver/float32", full, "float32", 1e-2)
  compare_ways(
    "driver/bfloat16", two_stream(session.quick, session.platform, "bfloat16", steps), "bfloat16", 0.1
  )
  session.measure(
    case("donation/float32", full, "float32", 1e-2, 1),
    [
      harness.Contender("jaxfer_donated", functools.partial(single, full, donate=True)),
      harness.Contender("jaxfer_kept", functools.partial(single, full, donate=False)),
    ],
    lambda: single(full, donate=False).result(),
    "loss without donation",
  )
  harness.finish(session)


if __name__ == "__main__":
  main()
