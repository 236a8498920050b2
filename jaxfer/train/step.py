"""The training step, a pure function. Devices, seeds, epochs and logging are added by the modules that call it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxfer.train.stage import Batch, Context, LossOut, PyTree, Stage, Sums, Update, Variables
from jaxfer.train.state import (
  AVERAGE,
  State,
  Trainable,
  kept_variables,
  merge,
  moved_average,
  subset,
  with_hparams,
)


def _all_devices(tree, axis_name):
  return tree if axis_name is None else lax.psum(tree, axis_name)


def _ratio(total: jax.Array, weight: jax.Array) -> jax.Array:
  """Returns total / weight, or 0 without a gradient if the weight is 0."""
  return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1), 0)


def _finite(gradients: PyTree) -> jax.Array:
  """Returns whether all gradients are finite: [] bool.

  Each array is summed over all axes but the last. The squares of these sums must be finite too, because optimizers
  square gradients. Large values that cancel in a sum are not found. XLA compiles this to fewer and faster kernels than
  the norm of all gradients.
  """
  sums = [leaf.sum(tuple(range(leaf.ndim - 1))) for leaf in map(jnp.atleast_1d, jax.tree.leaves(gradients))]
  return jnp.isfinite(jnp.square(jnp.concatenate(sums))).all()


def step(
  stage: Stage,
  state: State,
  batch: Batch,
  keys: jax.Array,
  context: Context,
  active: jax.Array | None = None,
  *,
  reject: bool = True,
) -> tuple[Trainable, Sums]:
  """Applies the stage's updates, in order, to one batch.

  Args:
    stage: the stage, a static argument.
    state: the state of the training.
    batch: arrays [batch, ...] of this device's examples.
    keys: typed keys [batch], one per example.
    context: the member's hyperparameters, and the name of the mapped axis if there is one.
    active: [] bool, whether the step takes place. If it is False, or if an earlier step was not finite, nothing changes
      and every metric has weight 0. None: the step takes place.
    reject: whether a step whose loss or gradient is not finite leaves everything but `finite` unchanged. This costs
      time, because no parameter can change before all gradients are known. A training that ends with an error at such
      a step does not need it.

  Returns:
    (trainable, metrics). The metrics are (sum, weight) pairs over all devices, named "update/term". If a loss or a
    gradient is not finite, `trainable.finite` is False.
  """
  trainable, finite = state.trainable, jnp.ones((), bool)
  metrics: dict[str, tuple[jax.Array, jax.Array]] = {}
  for position, update in enumerate(stage.updates):
    update_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, position)

    params = subset(trainable.variables["params"], update.trainable)
    with jax.named_scope(update.name):
      variables = merge(state.frozen, trainable.variables)
      gradient = jax.value_and_grad(_objective, has_aux=True)
      (_, out), grads = gradient(params, variables, update, batch, update_keys, context)
      grads = _all_devices(grads, context.axis_name)
      sums = _all_devices({**out.loss, **out.metrics}, context.axis_name)
      with jax.named_scope("optimizer"):
        changes, optimizer = with_hparams(update.optimizer).update(
          grads, trainable.optimizers[update.name], params, hparams=context.hparams
        )
        params = optax.apply_updates(params, changes)
    finite &= _finite(grads) & jnp.isfinite(sum(sums[name][0] for name in out.loss))
    metrics |= {f"{update.name}/{name}": pair for name, pair in sums.items()}
    trainable = dataclasses.replace(
      trainable,
      variables=merge(trainable.variables, {"params": params, **out.collections}),
      optimizers={**trainable.optimizers, update.name: optimizer},
    )
    context = dataclasses.replace(context, aux=lax.stop_gradient(out.aux))
  trainable = dataclasses.replace(trainable, step=state.trainable.step + 1)
  if stage.ema:
    with jax.named_scope("average"):
      moved = moved_average(kept_variables(trainable), trainable.variables, stage.ema, trainable.step)
    trainable = dataclasses.replace(trainable, optimizers={**trainable.optimizers, AVERAGE: moved})
  moves = finite if reject else None
  if active is not None:
    active &= state.trainable.finite
    moves = active & finite if reject else active
    finite = jnp.where(active, finite, state.trainable.finite)
    metrics = jax.tree.map(lambda a: jnp.where(active, a, 0), metrics)
  if moves is not None:
    trainable = jax.tree.map(lambda new, old: jnp.where(moves, new, old), trainable, state.trainable)
  return dataclasses.replace(trainable, finite=finite), metrics


def _objective(
  params: PyTree, variables: Variables, update: Update, batch: Batch, keys: jax.Array, context: Context
) -> tuple[Any, LossOut]:
  """Returns this device's share of an update's loss, and the outputs of its loss function."""
  out = update.loss(merge(variables, {"params": params}), batch, keys, context)
  weights = {name: weight for name, (_, weight) in out.loss.items()}
  weights = _all_devices(lax.stop_gradient(weights), context.axis_name)
  return sum(_ratio(total, weights[name]) for name, (total, _) in out.loss.items()), out


def example_keys(stage_key: jax.Array, step: jax.Array, positions: jax.Array) -> jax.Array:
  """Returns the keys [batch] of the examples at `positions` in the global batch of a stage's `step`."""
  key = jax.random.fold_in(stage_key, step)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)


def draw(
  stage: Stage,
  data: Mapping[str, jax.Array],
  plan: Mapping[str, jax.Array],
  stage_key: jax.Array,
  step: jax.Array,
) -> tuple[Batch, jax.Array]:
  """Samples the batch of a stage's `step` on the device.

  Returns:
    (batch, keys [batch] of its examples); see `planned_step` for the arguments.
  """
  keys = example_keys(stage_key, step, plan["position"])
  columns = {name: column for name, column in plan.items() if name != "position"}
  with jax.named_scope("sample"):
    return stage.sample(data, columns, keys), keys


def planned_step(
  stage: Stage,
  state: State,
  data: Mapping[str, jax.Array],
  plan: Mapping[str, jax.Array],
  active: jax.Array,
  stage_key: jax.Array,
  context: Context,
  *,
  reject: bool = True,
) -> tuple[Trainable, Sums]:
  """Draws the keys, samples the batch on the device, and applies the step to it.

  Args:
    stage: the stage, a static argument.
    state: the state of the training.
    data: resident arrays [n, ...].
    plan: columns [batch]: "row" and the stage's other columns, and "position", the positions in the global batch.
    active: [] bool, whether the step takes place.
    stage_key: typed key of the stage.
    context: see `step`.
    reject: see `step`.

  Returns:
    (trainable, metrics), see `step`.
  """
  batch, keys = draw(stage, data, plan, stage_key, state.trainable.step)
  return step(stage, state, batch, keys, context, active, reject=reject)
