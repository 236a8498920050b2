"""The state of a training: what a stage moves, and the rest, which stays bit for bit as it was."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from jaxfer.errors import unknown
from jaxfer.train.stage import PyTree, Stage, Variables


@flax.struct.dataclass
class Trainable:
  """What a stage's updates may change; the step returns it, and its buffers are donated.

  Attributes:
    variables: collection -> submodule -> tree, for the submodules that the stage's updates name.
    optimizers: update's name -> state of its optimizer.
    step: own steps within the stage, int32.
    finite: False after the first step that was not finite; nothing moves from then on.
  """

  variables: Variables
  optimizers: dict[str, PyTree]
  step: jax.Array
  finite: jax.Array


@flax.struct.dataclass
class State:
  """`trainable`, and `frozen`: the variables of all other submodules."""

  trainable: Trainable
  frozen: Variables


def split(variables: Variables, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
  """Splits every collection into the submodules of `names` and the others.

  Raises:
    UserError: a name that is no submodule of the parameters.
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
  """The union of both, leaf by leaf; `other` wins where both have one."""

  def union(a: Any, b: Any) -> Any:
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
      return b
    return {**a, **{name: union(a[name], b[name]) if name in a else b[name] for name in b}}

  merged: dict[str, Any] = union(one, other)
  return merged


def subset(params: PyTree, names: tuple[str, ...]) -> dict[str, PyTree]:
  """The parameters of the submodules of `names`."""
  return {name: params[name] for name in names}


def begin(stage: Stage, variables: Variables) -> State:
  """The state at the start of a stage: variables carried over, optimizers fresh."""
  trainable, frozen = split(variables, stage.trainable)
  optimizers = {u.name: u.optimizer.init(subset(trainable["params"], u.trainable)) for u in stage.updates}
  return State(Trainable(trainable, optimizers, jnp.zeros((), jnp.int32), jnp.ones((), bool)), frozen)


def variables_of(state: State) -> dict[str, Any]:
  """All variables of a state, ready for `apply`."""
  return merge(state.frozen, state.trainable.variables)


def with_hparams(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
  """The optimizer, accepting the `hparams` that the step passes to every one."""
  return optax.with_extra_args_support(optimizer)
