"""The state of a training: the variables that a stage trains, and the frozen ones, which stay bit for bit the same."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from jaxfer.errors import unknown
from jaxfer.train.stage import PyTree, Stage, Variables

SNAPSHOT = "snapshot"  # Collection of parameters as they were at the start of a stage, see `Stage.snapshot`.
AVERAGE = "average of the variables"  # A key of `Trainable.optimizers` beside the names of the updates.


@flax.struct.dataclass
class Trainable:
  """The part of the state that a stage's updates may change. The step returns it, and its buffers are donated.

  Attributes:
    variables: collection -> submodule -> tree, for the submodules that the stage trains.
    optimizers: update name -> optimizer state. A stage with `ema` also has the moving average of `variables` here,
      under `AVERAGE`.
    step: [] int32, number of steps that the training has taken within the stage.
    finite: [] bool, False after the first step whose loss or gradient was not finite. No later step changes anything.
  """

  variables: Variables
  optimizers: dict[str, PyTree]
  step: jax.Array
  finite: jax.Array


@flax.struct.dataclass
class State:
  """The whole state of a training.

  Attributes:
    trainable: the part that the stage trains.
    frozen: the variables of all other submodules.
  """

  trainable: Trainable
  frozen: Variables


def split(variables: Variables, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
  """Splits every collection into the submodules in `names` and the others.

  Returns:
    (the collections restricted to `names`, the collections with all other submodules)

  Raises:
    UserError: a name is not a submodule of the parameters.
  """
  for name in names:
    if name not in variables["params"]:
      raise unknown("submodule to train", name, variables["params"])
  inside, outside = {}, {}
  for collection, tree in variables.items():
    inside[collection] = {name: sub for name, sub in tree.items() if name in names}
    outside[collection] = {name: sub for name, sub in tree.items() if name not in names}
  return inside, outside


def merge(one: Variables, other: Variables) -> dict[str, Any]:
  """Returns the union of two trees of variables. If both contain a leaf, that of `other` is taken."""

  def union(a: Any, b: Any) -> Any:
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
      return b
    return {**a, **{name: union(a[name], b[name]) if name in a else b[name] for name in b}}

  merged: dict[str, Any] = union(one, other)
  return merged


def subset(params: PyTree, names: tuple[str, ...]) -> dict[str, PyTree]:
  """Returns the parameters of the submodules in `names`."""
  return {name: params[name] for name in names}


def with_snapshot(stage: Stage, variables: Variables) -> Variables:
  """Returns the variables with copies of the parameters that the stage keeps from its start; see `Stage.snapshot`."""
  if not stage.snapshot:
    return variables
  copies = jax.tree.map(jnp.copy, subset(variables["params"], stage.snapshot))
  return merge(variables, {SNAPSHOT: copies})


def begin(stage: Stage, variables: Variables) -> State:
  """Returns the state at the start of a stage: the given variables, its snapshot, and fresh optimizers."""
  trainable, frozen = split(with_snapshot(stage, variables), stage.trainable)
  optimizers = {u.name: u.optimizer.init(subset(trainable["params"], u.trainable)) for u in stage.updates}
  if stage.ema:
    optimizers[AVERAGE] = jax.tree.map(jnp.copy, trainable)  # A copy, because the step donates both buffers.
  return State(Trainable(trainable, optimizers, jnp.zeros((), jnp.int32), jnp.ones((), bool)), frozen)


def variables_of(state: State) -> dict[str, Any]:
  """Returns all variables of a state as they are evaluated and kept: averaged, if the stage averages them."""
  return merge(state.frozen, kept_variables(state.trainable))


def kept_variables(trainable: Trainable) -> Variables:
  """Returns the moving average of the variables, or the variables themselves if the stage keeps no average."""
  average: Variables = trainable.optimizers.get(AVERAGE, trainable.variables)
  return average


def with_variables(trainable: Trainable, make: Callable[[], Variables]) -> Trainable:
  """Replaces the variables, and their average if there is one, by the results of separate calls of `make`."""
  optimizers = trainable.optimizers
  if AVERAGE in optimizers:
    optimizers = {**optimizers, AVERAGE: make()}
  return dataclasses.replace(trainable, variables=make(), optimizers=optimizers)


def moved_average(average: Variables, variables: Variables, decay: float, step: jax.Array) -> Variables:
  """Returns the moving average after a step, without the bias towards its start.

  After step t the average of x_1, ..., x_t weighs x_i with decay^(t - i), as `optax.ema` with `debias` does. Values
  that are not floats, such as counters, take their newest value.

  Args:
    average: the average before the step.
    variables: the variables after the step.
    decay: decay of the weights, in (0, 1).
    step: [] number of the step, from 1.
  """
  decay32 = jnp.float32(decay)
  share = (1 - decay32) / (1 - decay32 ** step.astype(jnp.float32))

  def move(new: jax.Array, old: jax.Array) -> jax.Array:
    if not jnp.issubdtype(new.dtype, jnp.inexact):
      return new
    return jnp.asarray(optax.incremental_update(new, old, share)).astype(new.dtype)

  return jax.tree.map(move, variables, average)


def with_hparams(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
  """Returns an optimizer that accepts `hparams`, which the step passes to every optimizer."""
  return optax.with_extra_args_support(optimizer)
