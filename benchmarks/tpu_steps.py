"""Training steps of whole systems for `benchmarks.tpu`: ours by the engine, the peer's by a plain jitted optax step.

Both start with a batch on the device; sampling and augmentation are excluded. The peers are:

- two-stream conv-RNN: the same net of `nn.RNN(nn.ConvLSTMCell)`, `nn.max_pool`, `nn.Dense` and `nn.Dropout`;
- VAE: our own losses and optimizers, with `nn.Conv` and `nn.ConvTranspose` in the nets (`convnets_problem.stock`).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks import harness
from benchmarks.convnets_problem import stock
from jaxfer.kernels.conv_recurrence import Implementation
from jaxfer.systems import identity_expression_vae, two_stream_conv_rnn
from jaxfer.systems.identity_expression_vae.model import IdentityExpressionVAE
from jaxfer.systems.two_stream_conv_rnn.model import TwoStreamConvRNN
from jaxfer.train import step as engine
from jaxfer.train.stage import Context, Stage
from jaxfer.train.state import State, Trainable, begin, merge, subset, with_hparams

Make = Callable[[], harness.JaxProgram]
FEATURES, CLASSES = (16, 32, 64, 128), 7


def _by_engine(
  stage: Stage,
  hparams: Mapping[str, float],
  variables: Any,
  batch: Mapping[str, jax.ShapeDtypeStruct],
  step: Callable,
  axis_name: str | None = None,
) -> harness.JaxProgram:
  """`step` of a stage: (trainable, frozen, batch, keys) -> (trainable, metrics), donating the state, from shapes."""
  state = jax.eval_shape(functools.partial(begin, stage), variables)
  context = Context({name: jnp.float32(value) for name, value in hparams.items()}, axis_name=axis_name)

  def train(trainable, frozen, batch, keys):
    return step(stage, State(trainable, frozen), batch, keys, context)

  (rows, *_), *_ = (leaf.shape for leaf in batch.values())
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))
  return harness.JaxProgram(
    train, state.trainable, state.frozen, dict(batch), keys, named=lambda out: out[1], stepping=True
  )


def plain_step(
  stage: Stage, state: State, batch: Any, keys: jax.Array, context: Context
) -> tuple[Trainable, Any]:
  """A stage's updates as written directly with optax, without checks for finite values and without devices."""
  variables = merge(state.frozen, state.trainable.variables)
  params, optimizers, metrics = variables["params"], dict(state.trainable.optimizers), dict[str, Any]()
  for update in stage.updates:

    def objective(moved, update=update, params=params, variables=variables, context=context):
      out = update.loss({**variables, "params": {**params, **moved}}, batch, keys, context)
      return sum(total / weight for total, weight in out.loss.values()), out

    moved = subset(params, update.trainable)
    (_, out), gradients = jax.value_and_grad(objective, has_aux=True)(moved)
    changes, optimizers[update.name] = with_hparams(update.optimizer).update(
      gradients, optimizers[update.name], moved, hparams=context.hparams
    )
    params = {**params, **optax.apply_updates(moved, changes)}
    variables = merge(variables, out.collections)
    metrics |= {f"{update.name}/{name}": pair for name, pair in {**out.loss, **out.metrics}.items()}
    context = Context(context.hparams, jax.lax.stop_gradient(out.aux))
  own = {kind: subset(tree, tuple(state.trainable.variables[kind])) for kind, tree in variables.items()}
  own["params"] = subset(params, tuple(state.trainable.variables["params"]))
  return Trainable(own, optimizers, state.trainable.step + 1, state.trainable.finite), metrics


class FlaxTwoStream(nn.Module):
  """The two-stream net of plain ConvLSTMs from stock Flax layers only."""

  features: tuple[int, ...]
  dtype: Any

  @nn.compact
  def __call__(self, frames: jax.Array, flow: jax.Array) -> jax.Array:
    """Returns logits [batch, classes] of clips [batch, time, height, width, channels] in training mode."""
    averages = []
    x: Any
    for x in (frames, flow):
      for k, features in enumerate(self.features):
        x = nn.RNN(nn.ConvLSTMCell(features, (3, 3), dtype=self.dtype))(x)
        if k + 1 < len(self.features):
          size = x.shape[2] // 2, x.shape[3] // 2, features
          x = nn.max_pool(x.reshape(-1, *x.shape[2:]), (2, 2), (2, 2)).reshape(*x.shape[:2], *size)
      averages.append(x[:, -1].astype(jnp.float32).mean((1, 2)))
    x = jnp.concatenate(averages, -1)
    for units in (256, 128):
      x = nn.Dropout(0.5, deterministic=False)(nn.relu(nn.Dense(units, dtype=self.dtype)(x)))
    return nn.Dense(CLASSES, dtype=self.dtype)(x).astype(jnp.float32)


def two_stream(
  batch: int, time: int, size: int, features: tuple[int, ...], dtype: str, axis_name: str | None = None
) -> dict[str, Make]:
  """Returns programs of the two-stream conv-RNN's step, by implementation.

  With an `axis_name`, ours sum over it, as the engine does on several devices.
  """
  clips = {
    "frames": jax.ShapeDtypeStruct((batch, time, size, size, 3), jnp.float32),
    "flow": jax.ShapeDtypeStruct((batch, time, size, size, 2), jnp.float32),
    "label": jax.ShapeDtypeStruct((batch,), jnp.int32),
  }
  examples = [jnp.zeros((1, 1, size, size, channels)) for channels in (3, 2)]

  def ours(implementation: Implementation, axis_name: str | None) -> harness.JaxProgram:
    model = TwoStreamConvRNN(
      CLASSES, features=features, dtype=jnp.dtype(dtype), implementation=implementation
    )
    (stage,), hparams = two_stream_conv_rnn.SYSTEM.recipe(model, 1)
    variables = jax.eval_shape(model.init, jax.random.key(0), *examples)
    step = functools.partial(engine.step, reject=False)  # As in a training alone.
    return _by_engine(stage, hparams, variables, clips, step, axis_name)

  def theirs() -> harness.JaxProgram:
    net = FlaxTwoStream(features, jnp.dtype(dtype))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = jax.eval_shape(net.init, keys, *examples)["params"]
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(1e-4))

    def train(state, key, batch):
      params, moments = state

      def loss(params):
        logits = net.apply({"params": params}, batch["frames"], batch["flow"], rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), logits

      (value, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
      changes, moments = optimizer.update(gradients, moments, params)
      accuracy = (logits.argmax(-1) == batch["label"]).mean()
      return (optax.apply_updates(params, changes), moments), {"loss": value, "accuracy": accuracy}

    state = params, jax.eval_shape(optimizer.init, params)
    return harness.JaxProgram(train, state, jax.random.key(0), clips, named=lambda out: out[1], stepping=True)

  return {
    "jaxfer": functools.partial(ours, "auto", axis_name),
    "jaxfer_pallas": functools.partial(ours, "pallas", axis_name),
    "flax": theirs,
  }


def vae(stage: str, batch: int, size: int, width: float, dtype: str) -> dict[str, Make]:
  """Returns programs of a step of paper 003's stage "identity" or "expression", by implementation."""
  other = {"identity": "target", "expression": "partner"}[stage]
  images = {name: jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32) for name in ("image", other)}

  def make(plain: bool) -> harness.JaxProgram:
    model = IdentityExpressionVAE(size, width, dtype=jnp.dtype(dtype))
    stages, hparams = identity_expression_vae.SYSTEM.recipe(model, 1)
    which = next(s for s in stages if s.name == stage)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))

    def with_stock(*arguments):
      with nn.intercept_methods(stock):
        return plain_step(*arguments)

    ours = functools.partial(engine.step, reject=False)
    return _by_engine(which, hparams, variables, images, with_stock if plain else ours)

  return {"jaxfer": lambda: make(False), "flax": lambda: make(True)}
