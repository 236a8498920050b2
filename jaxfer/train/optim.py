"""Optimizers by name, and the two pieces that optax lacks here: a rate that members may differ in, epochs as steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from jaxfer.errors import unknown

Schedule = Callable[[jax.Array], jax.Array]


def scale_by_hparam(
  name: str, schedule: Schedule, others: Mapping[str, str] | None = None
) -> optax.GradientTransformationExtraArgs:
  """Multiplies the update by -hparams[name] * schedule(count): a learning rate that is read by name at every step.

  Args:
    name: of the rate in the step's `hparams`.
    schedule: factor by the count of steps.
    others: submodule -> name of a rate of its own, for parameters in submodules.

  Raises:
    KeyError: at tracing, where the step's `hparams` has no such number.
  """

  def update(updates, state, params=None, *, hparams: Mapping[str, jax.Array], **extra: Any):
    del params, extra

    def scale(tree, name):
      rate = -hparams[name] * schedule(state.count)
      return jax.tree.map(lambda u: (rate * u).astype(u.dtype), tree)

    if others:
      scaled = {module: scale(tree, others.get(module, name)) for module, tree in updates.items()}
    else:
      scaled = scale(updates, name)
    return scaled, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32)), update
  )


def schedule(name: str, steps: int) -> Schedule:
  """A factor of the learning rate over `steps` optimizer steps: "constant" or "cosine" (from 1 to 0)."""
  schedules = {
    "constant": lambda: optax.constant_schedule(1.0),
    "cosine": lambda: optax.cosine_decay_schedule(1.0, max(steps, 1)),
  }
  if name not in schedules:
    raise unknown("schedule", name, schedules)
  return schedules[name]()


def exponential(gamma: float, steps: int) -> Schedule:
  """gamma^e in epoch e = 0, 1, ... of so many steps: PyTorch's ExponentialLR, stepped once an epoch."""
  return optax.exponential_decay(1.0, max(steps, 1), gamma, staircase=True)


def adam(
  rate: str, factor: Schedule, *, clip_norm: float | None = None, weight_decay: float = 0.0
) -> optax.GradientTransformation:
  """Adam (b1 0.9, b2 0.999, eps 1e-8) with rate hparams[rate] * factor(count), after clipping to a global norm.

  `weight_decay` is PyTorch's, coupled: decay * parameter is part of the gradient, before its moments are taken.
  """
  clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  decay = [optax.add_decayed_weights(weight_decay)] if weight_decay else []
  return optax.chain(*clip, *decay, optax.scale_by_adam(), scale_by_hparam(rate, factor))


def adabelief(rate: str, factor: Schedule, *, weight_decay: float = 1e-2) -> optax.GradientTransformation:
  """AdaBelief as adabelief-pytorch 0.2.0 has it, decoupled and not rectified (paper 002, Table 4).

  b1 0.9, b2 0.999; eps 1e-16 both in the second moment, where it adds up, and beside its root. Every parameter decays
  by rate * weight_decay, biases, norms and alpha too.
  """
  belief = optax.scale_by_belief(0.9, 0.999, eps=1e-16, eps_root=1e-16)
  return optax.chain(belief, optax.add_decayed_weights(weight_decay), scale_by_hparam(rate, factor))


def multi_step(milestones: Sequence[int], steps: int, gamma: float = 0.1) -> Schedule:
  """A factor gamma at each of these epochs, from 0, of so many steps: PyTorch's MultiStepLR, stepped once an epoch."""
  return optax.piecewise_constant_schedule(1.0, {epoch * max(steps, 1): gamma for epoch in milestones})


def adamw(
  rate: str, factor: Schedule, others: Mapping[str, str], *, weight_decay: float = 1e-2
) -> optax.GradientTransformation:
  """AdamW as PyTorch has it (b1 0.9, b2 0.999, eps 1e-8): every parameter decays by rate * weight_decay."""
  decay = optax.add_decayed_weights(weight_decay)
  return optax.chain(optax.scale_by_adam(), decay, scale_by_hparam(rate, factor, others))


def sgd(
  rate: str, factor: Schedule, *, momentum: float = 0.9, weight_decay: float = 5e-4
) -> optax.GradientTransformation:
  """PyTorch's SGD with momentum; the decay is coupled, part of the gradient, and spares BatchNorm's parameters."""
  decay = optax.add_decayed_weights(weight_decay, mask=not_of_norms)
  return optax.chain(decay, optax.trace(momentum), scale_by_hparam(rate, factor))


def not_of_norms(params: Any) -> Any:
  """Where parameters are none of BatchNorm's: bools in the same tree. A norm has a scale, or nothing but a bias."""
  flat = traverse_util.flatten_dict(params)
  held: dict[tuple[str, ...], set[str]] = {}
  for *module, leaf in flat:
    held.setdefault(tuple(module), set()).add(leaf)
  norms = {module for module, leaves in held.items() if "scale" in leaves or leaves == {"bias"}}
  return traverse_util.unflatten_dict({path: path[:-1] not in norms for path in flat})
