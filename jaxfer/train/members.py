"""Members: trainings that share their stages and data, and differ in seeds, training examples and hyperparameters."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfer.config import Execution
from jaxfer.data.plan import Plan
from jaxfer.errors import UserError
from jaxfer.train.best import selects
from jaxfer.train.placement import Outputs
from jaxfer.train.stage import Stage, Variables

_NOTHING = np.zeros(0, np.int32)


@dataclasses.dataclass(frozen=True)
class Member:
  """One of the trainings that are trained together.

  Attributes:
    name: unique name, used in metric rows and messages. A single training has the name "".
    seed: seed of the initial parameters and of every random draw on the device.
    plan: the batches of its training examples, in an order that its seed determines.
    hparams: hyperparameters that the stages read by name. All members have the same names.
    validation: indices of the validation examples, which are evaluated after each epoch.
    test: indices of the test examples, whose outputs are computed at the end.
    initial: submodules, or parts of them, that replace the initial ones, such as pre-trained ones. Either all members
      have the same submodules here, or all have None. Variables that all members share (the same object) are stored
      once until a stage trains them.
    origin: a description of where `initial` comes from.
  """

  name: str
  seed: int
  plan: Plan
  hparams: Mapping[str, float]
  validation: np.ndarray = dataclasses.field(default_factory=lambda: _NOTHING)
  test: np.ndarray = dataclasses.field(default_factory=lambda: _NOTHING)
  initial: Variables | None = None
  origin: str = ""


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """How members are evaluated.

  Attributes:
    outputs: see `placement.Outputs`. The plan has the columns "row" and "real", each [batch_size]. "row" holds indices
      of examples; "real" is False for examples that only fill up a batch.
    evaluate: function of (outputs, indices), both on the host, that returns metric name -> value. It is called for the
      validation examples after each epoch, and for the test examples at the end of stages with `evaluated`.
    batch_size: number of examples per call and member.
    shuffled: whether to compute the outputs of the test examples a second time, in batches of a random order. Members
      with equally many test examples use the same order.
    validation: whether to compute the outputs of the validation examples at the end.
  """

  outputs: Outputs
  evaluate: Callable[[np.ndarray, np.ndarray], Mapping[str, float]]
  batch_size: int
  shuffled: bool = False
  validation: bool = False


@dataclasses.dataclass(frozen=True)
class Training:
  """Members with the same stages and data, and the options for running them.

  Attributes:
    stages: the stages of all members. Schedules count a member's own steps.
    members: members of equal batch size. If all have the same seed and plan, each batch is drawn once for all of them.
      A single training is one member with the name "".
    init: function of a typed key that returns initial variables.
    data: arrays [n, ...], which become resident on the devices; or a `Stream`, with which members train in turn.
    execution: driver, steps per call, checkpoints, devices, and how members run.
    evaluation: how validation and test examples are evaluated; None evaluates nothing.
    record: everything else that determines the results, as JSON. Resuming with a different record is refused.
    revision: see `identity.Identity`.
  """

  stages: tuple[Stage, ...]
  members: Sequence[Member]
  init: Callable[[jax.Array], Variables]
  data: Mapping[str, np.ndarray]
  execution: Execution = dataclasses.field(default_factory=Execution)
  evaluation: Evaluation | None = None
  record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  revision: str = "unknown"


@dataclasses.dataclass(frozen=True)
class Result:
  """The result of a member's training.

  Attributes:
    member: the member.
    variables: its variables at the end, on the host. A failed member has those from before the step that was not
      finite.
    failed: stage, epoch and step in which its loss or gradient was not finite, or None.
    history: its metric rows, as in metrics.jsonl.
    outputs: outputs [test examples, ...], in the order of `member.test`. None without an evaluation.
    shuffled: outputs like `outputs`, computed in batches of a random order. None unless the evaluation asks for them.
    validation: outputs [validation examples, ...], in the order of `member.validation`. None unless the evaluation asks
      for them.
  """

  member: Member
  variables: Variables
  failed: str | None
  history: list[dict[str, Any]]
  outputs: np.ndarray | None
  shuffled: np.ndarray | None = None
  validation: np.ndarray | None = None


def check(training: Training) -> None:
  """Checks that members can be trained together.

  Raises:
    UserError: there are no members, two have the same name, they differ in batch size, in the names of their
      hyperparameters or in the submodules they start from, or a stage selects its best epoch and a member has no
      validation examples.
  """
  members = training.members
  if not members:
    raise UserError("0 members: a study needs at least one training")
  names, first = [m.name for m in members], members[0]
  if repeated := [name for name in names if names.count(name) > 1]:
    raise UserError(f"two members are called '{repeated[0]}': give each a different name")
  for m in members:
    if m.plan.batch_size != first.plan.batch_size:
      raise UserError(
        f"member '{m.name}' has batch_size={m.plan.batch_size}, '{first.name}' {first.plan.batch_size}: "
        "give all the same batch_size"
      )
    if set(m.hparams) != set(first.hparams):
      raise UserError(
        f"member '{m.name}' sets {', '.join(sorted(m.hparams)) or 'nothing'}, '{first.name}' "
        f"{', '.join(sorted(first.hparams)) or 'nothing'}: give all the same hyperparameters"
      )
    if submodules(m) != submodules(first):
      raise UserError(
        f"member '{m.name}' is given {', '.join(submodules(m)) or 'nothing'} to start from, '{first.name}' "
        f"{', '.join(submodules(first)) or 'nothing'}: give all the same submodules"
      )
  selecting = [stage.name for stage in training.stages if selects(stage)]
  blind = [m for m in members if training.evaluation is None or not len(m.validation)]
  if selecting and blind:
    who = f"member '{blind[0].name}' has" if blind[0].name else "there are"
    raise UserError(
      f"stage '{selecting[0]}' selects its best epoch on validation examples, and {who} none: give "
      "split.validation=0.1, or select=last"
    )


def submodules(member: Member) -> list[str]:
  """Returns the names of the submodules that a member is given to start from."""
  return sorted(member.initial["params"]) if member.initial is not None else []
