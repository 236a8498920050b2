"""Optimizers and learning-rate schedules.

This module adds two things to optax: learning rates that may differ between members, and schedules given in epochs.
"""

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
  """Multiplies the update by -hparams[name] * schedule(count). The learning rate is read by name at every step.

  Args:
    name: name of the learning rate in the step's `hparams`.
    schedule: function of the step count that returns a factor of the learning rate.
    others: submodule -> name of its learning rate, if that is another one. The top level of the parameters must then be
      submodules.

  Raises:
    KeyError: during tracing, if the step's `hparams` do not contain the name.
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
  """Returns a factor of the learning rate over `steps` optimizer steps.

  Args:
    name: "constant", or "cosine", which decays from 1 to 0.
    steps: number of optimizer steps of the decay.

  Raises:
    UserError: the name is unknown.
  """
  schedules = {
    "constant": lambda: optax.constant_schedule(1.0),
    "cosine": lambda: optax.cosine_decay_schedule(1.0, max(steps, 1)),
  }
  if name not in schedules:
    raise unknown("schedule", name, schedules)
  return schedules[name]()


def exponential(gamma: float, steps: int) -> Schedule:
  """Returns the factor gamma^e in epoch e = 0, 1, ..., like PyTorch's ExponentialLR stepped once per epoch.

  Args:
    gamma: decay per epoch.
    steps: number of optimizer steps per epoch.
  """
  return optax.exponential_decay(1.0, max(steps, 1), gamma, staircase=True)


def adam(
  rate: str, factor: Schedule, *, clip_norm: float | None = None, weight_decay: float = 0.0
) -> optax.GradientTransformation:
  """Returns Adam with b1 = 0.9, b2 = 0.999 and eps = 1e-8.

  Args:
    rate: name of the learning rate in `hparams`.
    factor: function of the step count. The learning rate is hparams[rate] * factor(count).
    clip_norm: global norm to which the gradients are clipped first; None or 0 does not clip.
    weight_decay: coupled weight decay as in PyTorch: weight_decay * parameter is added to the gradient before its
      moments are computed.
  """
  clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  decay = [optax.add_decayed_weights(weight_decay)] if weight_decay else []
  return optax.chain(*clip, *decay, optax.scale_by_adam(), scale_by_hparam(rate, factor))


def adabelief(rate: str, factor: Schedule, *, weight_decay: float = 1e-2) -> optax.GradientTransformation:
  """Returns AdaBelief as in adabelief-pytorch 0.2.0, with decoupled decay and without rectification.

  This is the optimizer of paper 002, Table 4, with b1 = 0.9 and b2 = 0.999. eps = 1e-16 is added to the second moment
  at every step, where it accumulates, and also to its square root. Every parameter decays by rate * weight_decay,
  including biases, norms and alpha.

  Args:
    rate: name of the learning rate in `hparams`.
    factor: function of the step count. The learning rate is hparams[rate] * factor(count).
    weight_decay: decay as a multiple of the learning rate.
  """
  belief = optax.scale_by_belief(0.9, 0.999, eps=1e-16, eps_root=1e-16)
  return optax.chain(belief, optax.add_decayed_weights(weight_decay), scale_by_hparam(rate, factor))


def multi_step(milestones: Sequence[int], steps: int, gamma: float = 0.1) -> Schedule:
  """Returns a factor that is multiplied by gamma at each milestone, like PyTorch's MultiStepLR stepped once per epoch.

  Args:
    milestones: epochs, counted from 0.
    steps: number of optimizer steps per epoch.
    gamma: factor applied at each milestone.
  """
  return optax.piecewise_constant_schedule(1.0, {epoch * max(steps, 1): gamma for epoch in milestones})


def adamw(
  rate: str, factor: Schedule, others: Mapping[str, str], *, weight_decay: float = 1e-2
) -> optax.GradientTransformation:
  """Returns AdamW as in PyTorch, with b1 = 0.9, b2 = 0.999 and eps = 1e-8.

  Args:
    rate: name of the learning rate in `hparams`.
    factor: function of the step count. The learning rate is hparams[rate] * factor(count).
    others: submodule -> name of its learning rate in `hparams`, if that is another one.
    weight_decay: decay as a multiple of the learning rate. It applies to every parameter.
  """
  decay = optax.add_decayed_weights(weight_decay)
  return optax.chain(optax.scale_by_adam(), decay, scale_by_hparam(rate, factor, others))


def sgd(
  rate: str, factor: Schedule, *, momentum: float = 0.9, weight_decay: float = 5e-4
) -> optax.GradientTransformation:
  """Returns SGD with momentum as in PyTorch.

  Args:
    rate: name of the learning rate in `hparams`.
    factor: function of the step count. The learning rate is hparams[rate] * factor(count).
    momentum: decay of the accumulated gradient.
    weight_decay: coupled weight decay: weight_decay * parameter is added to the gradient. BatchNorm's parameters do not
      decay.
  """
  decay = optax.add_decayed_weights(weight_decay, mask=not_of_norms)
  return optax.chain(decay, optax.trace(momentum), scale_by_hparam(rate, factor))


def not_of_norms(params: Any) -> Any:
  """Returns a tree of bools that are False for BatchNorm's parameters and True for all others.

  A module counts as a norm if it has a scale, or if a bias is its only parameter.
  """
  flat = traverse_util.flatten_dict(params)
  held: dict[tuple[str, ...], set[str]] = {}
  for *module, leaf in flat:
    held.setdefault(tuple(module), set()).add(leaf)
  norms = {module for module, leaves in held.items() if "scale" in leaves or leaves == {"bias"}}
  return traverse_util.unflatten_dict({path: path[:-1] not in norms for path in flat})
