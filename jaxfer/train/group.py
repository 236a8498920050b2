"""Groups of members that train side by side, and how far a group has trained."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxfer.data.plan import Plan
from jaxfer.errors import UserError
from jaxfer.train.checkpoint import Checkpoints
from jaxfer.train.placement import Placement
from jaxfer.train.stage import Stage, Variables
from jaxfer.train.state import State, begin, with_snapshot


@dataclasses.dataclass(frozen=True)
class Group:
  """Members that train side by side, with the same stages and data. A single training is a group of one member.

  Attributes:
    stages: the stages in order. A stage that runs several times is listed several times.
    init: function of a typed key that returns one member's initial variables, without those that all members share.
    data: arrays [n, ...], on the host or placed, which become resident on the devices; or a `Stream` of such arrays.
    seeds: one seed per member, from which its keys are derived.
    plans: one plan per member. A member with fewer steps per epoch than `steps` pauses at the end of each epoch.
    hparams: one mapping per member, hyperparameter name -> value.
    steps: number of steps per epoch, at least that of the longest plan.
    validate: function of (variables, placed data) that returns a list of validation metric rows for each member. It is
      called after each epoch. None skips validation.
    test: function like `validate` that returns test metric rows. It is called at the end of stages with `evaluated`.
    starts: one tree per member whose submodules replace those of `init`, such as pre-trained ones. If empty, nothing
      is replaced.
    names: one name per member, used in metric rows. A named member whose loss or gradient is not finite is marked as
      failed, and the other members continue. None stands for a single training, which raises an error in that case.
  """

  stages: tuple[Stage, ...]
  init: Callable[[jax.Array], Variables]
  data: Mapping[str, Any]
  seeds: Sequence[int]
  plans: Sequence[Plan]
  hparams: Sequence[Mapping[str, float]]
  steps: int
  validate: Callable[[Variables, Mapping[str, jax.Array]], Sequence[list[dict[str, Any]]]] | None = None
  test: Callable[[Variables, Mapping[str, jax.Array]], Sequence[list[dict[str, Any]]]] | None = None
  starts: Sequence[Variables] = ()
  names: Sequence[str] | None = None


@dataclasses.dataclass
class Position:
  """How far a group has trained.

  Attributes:
    stage: index of the current stage, or the number of stages once all are trained.
    epoch: index of the current epoch within the stage.
    step: number of steps done in this epoch.
    done: number of steps done since the start of the training.
    sums: metric name -> array [2, members] of the weighted sums and the weights over this epoch's steps so far.
    failed: member number, as a string -> stage, epoch and step in which its loss or gradient was not finite.
    best: member number, as a string -> (epoch from 1, validation accuracy) of its best epoch in this stage.
  """

  stage: int = 0
  epoch: int = 0
  step: int = 0
  done: int = 0
  sums: dict[str, Any] = dataclasses.field(default_factory=dict)
  failed: dict[str, str] = dataclasses.field(default_factory=dict)
  best: dict[str, Any] = dataclasses.field(default_factory=dict)


def initial_key(seed: int) -> jax.Array:
  """Returns the key from which all random draws on the device are derived."""
  return jax.random.key(seed)


def abstract_state(
  group: Group, placement: Placement, number: int, saved: Mapping[str, Any] | None = None
) -> State:
  """Returns the shapes of a group's placed state in the stage with index `number`; see `Placement.abstract`."""

  def make(key):
    variables = group.init(key)
    for stage in group.stages[: number + 1]:
      variables = with_snapshot(stage, placement.joined(stage, variables))
    return begin(group.stages[number], variables)

  return placement.abstract(jax.eval_shape(make, initial_key(0)), saved)


def restored(
  checkpoints: Checkpoints, group: Group, placement: Placement, workdir: pathlib.Path
) -> tuple[State, dict[str, Any]]:
  """Returns the state and the metadata of a group's newest checkpoint.

  Raises:
    UserError: there is no complete checkpoint, or the newest one is damaged.
  """
  number = checkpoints.latest()
  if number is None:
    raise UserError(
      f"{workdir} holds no complete checkpoint yet: train again without --resume in an empty directory"
    )
  meta = checkpoints.meta(number)
  stage = min(meta["position"]["stage"], len(group.stages) - 1)
  return checkpoints.restore(number, abstract_state(group, placement, stage, meta["arithmetic"])), meta
