"""Compares the speed of the conv-RNN layers (forward, gradient, training step) with other libraries.

The operation `forward` computes the outputs; `gradient` is that of sum(outputs * fixed weights) with respect to
parameters and input; `train_step` minimises the mean squared distance from fixed targets by SGD with momentum 0.9, ours
through the engine (`jaxfer.train.step.step`, jitted, state donated). The cells are ConvLSTM and ConvGRU, plain and
enhanced with temporal gate, temporal skip and spatial skip. A case of several layers is a stream of the two-stream net:
layers with 2 x 2 max pooling between them, then the mean over space and time.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks import choose, harness, records
from benchmarks import conv_rnn_peers as peers
from benchmarks.conv_rnn_problem import ENHANCED, OPERATIONS, SGD, Problem, inputs_of, named, operate, pooled
from jaxfer.kernels.conv_recurrence import IMPLEMENTATIONS, Implementation, Packed, folded_pixels, reference
from jaxfer.layers.conv_rnn import ConvGRU, ConvLSTM
from jaxfer.systems.two_stream_conv_rnn.model import Stream
from jaxfer.train import step as engine
from jaxfer.train.stage import Context, LossOut, Stage, Update
from jaxfer.train.state import begin

LAYERS = {"conv_lstm": ConvLSTM, "conv_gru": ConvGRU}
KINDS: tuple[Literal["conv_lstm", "conv_gru"], ...] = ("conv_lstm", "conv_gru")
REFERENCE = "the plain scan, float32"


class Net(nn.Module):
  """The layer, or the layers as the two-stream net has them; parameters `layer1`, `layer2`, ..."""

  problem: Problem
  implementation: Implementation = "auto"

  @nn.compact
  def __call__(self, x: Any) -> Any:
    """Maps [batch, time, size, size, channels] to the same with features; for several layers to [batch, features].

    For a packed sequence, it returns the packed outputs of a single layer.
    """
    p = self.problem
    switches = {
      **(ENHANCED if p.enhanced else {}),
      "dtype": jnp.dtype(p.dtype),
      "implementation": self.implementation,
    }
    if len(p.features) == 1:
      return LAYERS[p.kind](p.features[0], **switches, name="layer1")(x, packed=isinstance(x, Packed))
    maps = Stream(p.kind, p.features, switches, name="stream")(x, None)
    return maps.astype(jnp.float32).mean((1, 2, 3))


def variables_of(problem: Problem, params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the parameters in the structure of `Net`."""
  return {"params": dict(params) if len(problem.features) == 1 else {"stream": params}}


def reference_net(problem: Problem, params: Mapping[str, Any], x: jax.Array) -> jax.Array:
  """Computes `Net` with the plain scan in float32."""
  for k in range(len(problem.features)):
    if k:
      x = nn.max_pool(x.reshape(-1, *x.shape[2:]), (2, 2), (2, 2)).reshape(*x.shape[:2], *pooled(x))
    x = reference.unroll(problem.cell, params[f"layer{k + 1}"], x)[0]
  return x if len(problem.features) == 1 else x.mean((1, 2, 3))


def reference_result(problem: Problem, inputs: Mapping[str, Any]) -> dict[str, Any]:
  """Computes forward and gradient with the plain scan in full float32 precision."""
  apply = functools.partial(reference_net, problem)
  with jax.default_matmul_precision("highest"):
    run = jax.jit(functools.partial(operate, problem.operation, apply))
    return named(jax.device_get(run(inputs["params"], inputs["x"], inputs["weights"])))


def prepare(
  problem: Problem, inputs: Mapping[str, Any], implementation: Implementation = "auto"
) -> harness.JaxProgram:
  """Prepares our layer."""
  net, single = Net(problem, implementation), len(problem.features) == 1

  def apply(params, x):
    return net.apply(variables_of(problem, params), x)

  x, weights = inputs["x"], inputs["weights"]
  if problem.operation != "train_step":
    x = x.astype(jnp.dtype(problem.dtype))
    run = functools.partial(operate, problem.operation, apply)
    return harness.JaxProgram(run, inputs["params"], x, weights, named=named)

  def loss(variables, batch, keys, context):
    del keys, context
    outputs: Any = net.apply(variables, batch["x"])
    error = jnp.square(outputs.astype(jnp.float32) - batch["targets"])
    return LossOut(loss={"error": (error.sum(), jnp.asarray(error.size, jnp.float32))})

  modules = ("layer1",) if single else ("stream",)
  stage = Stage("train", (Update("net", loss, modules, optax.sgd(**SGD)),), 1)
  state = jax.jit(functools.partial(begin, stage))(variables_of(problem, inputs["params"]))

  def train(trainable, frozen, batch, keys):
    now = dataclasses.replace(state, trainable=trainable, frozen=frozen)
    return engine.step(stage, now, batch, keys, Context({}), reject=False)  # As in a training alone.

  def result(out):
    trainable, metrics = out
    total, count = metrics["net/error"]
    # After the first step, the momentum is the gradient.
    momentum = trainable.optimizers["net"][0].trace
    return named({"params": momentum if single else momentum["stream"], "loss": total / count})

  batch = {"x": x, "targets": weights}
  keys = jax.random.split(jax.random.key(0), problem.batch)
  return harness.JaxProgram(train, state.trainable, state.frozen, batch, keys, named=result, stepping=True)


def prepare_packed(problem: Problem, inputs: Mapping[str, Any]) -> harness.JaxProgram:
  """Prepares a single layer with the Pallas kernels, with packed input and output, from shapes only."""
  net, variables = Net(problem, "pallas"), variables_of(problem, inputs["params"])
  x = jax.ShapeDtypeStruct(inputs["x"].shape, jnp.dtype(problem.dtype))

  def outputs(x):
    layer = LAYERS[problem.kind](problem.features[0], **(ENHANCED if problem.enhanced else {}), dtype=x.dtype,
                                 implementation="pallas")  # fmt: skip
    return layer.apply({"params": variables["params"]["layer1"]}, x, packed=True)

  layout = jax.eval_shape(outputs, x).layout
  packed = jax.eval_shape(lambda x: Packed(layout.pack(x), layout, problem.channels), x)

  def apply(params, x):
    y: Any = net.apply(variables_of(problem, params), x)
    return y.data

  weights = jax.ShapeDtypeStruct(jax.eval_shape(apply, inputs["params"], packed).shape, jnp.float32)
  run = functools.partial(operate, problem.operation, apply)
  return harness.JaxProgram(run, inputs["params"], packed, weights, named=named)


def measure(session: harness.Session, problem: Problem, budget: float | None) -> None:
  """Measures one case: ours and the requested peers."""
  inputs = inputs_of(problem)
  case = harness.Case(
    name=problem.name,
    settings=dataclasses.asdict(problem),
    work={"samples": problem.batch, "frames": problem.batch * problem.time, "flops": problem.flops},
    tolerance=tolerance(problem, session),
    dtype=problem.dtype,
    budget=budget,
  )
  contenders = [harness.Contender("jaxfer", functools.partial(prepare, problem, inputs))]
  if session.platform == "tpu":  # The implementations that "auto" chooses from.
    for one in implementations(problem.features, problem.size):
      make_one = functools.partial(prepare, problem, inputs, one)
      contenders.append(harness.Contender(f"jaxfer_{one}", make_one))
  for name, make in peers.PEERS.items():
    contenders += session.peer(name, functools.partial(make, problem, inputs, session))
  session.measure(case, contenders, functools.partial(reference_result, problem, inputs), REFERENCE)
  if session.arguments.write and session.platform == "tpu" and not session.quick:
    with contextlib.suppress(records.BadRecords):  # The formulations of convolutions were not measured yet.
      choose.write([session.path])


def implementations(features: tuple[int, ...], size: int) -> list[Implementation]:
  """Returns implementations to measure on a TPU; pixels are folded only if the folded channels fit its 128 lanes."""

  def suits(pixels: int) -> bool:
    divides = all((size >> k) % pixels == 0 for k in range(len(features)))
    return pixels == 1 or (divides and pixels * max(features) <= 128)

  return [name for name in IMPLEMENTATIONS if suits(folded_pixels(name))]


def tolerance(problem: Problem, session: harness.Session) -> float:
  """Returns the tolerance relative to each array's largest value: rounding errors, which grow over the time steps."""
  if problem.dtype == "bfloat16":
    return 0.1
  exact = session.platform == "cpu" or session.arguments.precision == "highest"
  return 1e-4 if exact else 1e-2  # TF32 on GPU.


def problems(platform: str, quick: bool) -> list[Problem]:
  """Returns the default sweep; the first is always the gradient of ConvLSTM [8, 16, 32, 32, 32] -> 32."""
  first = Problem()
  if quick:
    first = dataclasses.replace(first, batch=2, time=3, size=8, channels=4, features=(4,))
  cells = [(kind, enhanced) for enhanced in (False, True) for kind in KINDS]
  every = [
    dataclasses.replace(first, operation=operation, kind=kind, enhanced=enhanced)
    for kind, enhanced in cells
    for operation in OPERATIONS
  ]
  if quick:
    stack = dataclasses.replace(first, operation="train_step", features=(4, 6))
    return _unique([first, *every, stack, dataclasses.replace(first, dtype="bfloat16")])
  if platform == "cpu":
    sweep: list[dict[str, Any]] = [
      {"time": 4},
      {"time": 64},
      {"size": 16},
      {"size": 64},
      {"batch": 1},
      {"batch": 32},
    ]
    sweep += [{"channels": 3, "features": (16,)}, {"channels": 64, "features": (64,)}]
    stack = Problem("train_step", batch=4, size=64, channels=3, features=(16, 32, 64, 128))
    return _unique([first, *every, *(dataclasses.replace(first, **at) for at in sweep), stack])
  stacks = [
    Problem("train_step", kind, enhanced, batch, 16, 64, 3, (16, 32, 64, 128), dtype)
    for dtype in ("bfloat16", "float32")
    for kind, enhanced in cells
    for batch in ((16, 64, 256) if (kind, enhanced) == cells[0] else (64,))
  ]
  layers = [
    Problem("train_step", "conv_lstm", False, 64, 16, 64, features, (features,), "bfloat16")
    for features in (16, 32, 64, 128)
  ]
  both = [dataclasses.replace(p, dtype=dtype) for dtype in ("float32", "bfloat16") for p in every]
  # The most important cases come first, because a run on a borrowed device may be cut short.
  return _unique([first, *stacks, *layers, *both])


def _unique(problems: list[Problem]) -> list[Problem]:
  return list(dict.fromkeys(problems))


if __name__ == "__main__":
  write = "after each case on a TPU, put the choices of recurrences into the table"
  harness.sweep("conv_rnn", __doc__, problems, measure, peers.PEERS, {"--write": write})
