"""What is trained side by side: members, which share stages and data and differ in seeds, rows and numbers."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfer import files
from jaxfer.config import Execution
from jaxfer.data.plan import Plan
from jaxfer.errors import UserError
from jaxfer.train import weights
from jaxfer.train.best import selects
from jaxfer.train.group import Identity
from jaxfer.train.placement import Outputs
from jaxfer.train.stage import Stage, Variables

_NOTHING = np.zeros(0, np.int32)


@dataclasses.dataclass(frozen=True)
class Member:
  """One training among others.

  Attributes:
    name: unique; in rows of metrics and messages. A training alone has none.
    seed: of its parameters and every draw on the device.
    plan: the batches of the rows it may train on, in the order of its own seed.
    hyper: numbers that the stages read by name; the same names for all members.
    watched: rows judged after each epoch.
    tested: rows whose outputs are asked for at the end.
    start: submodules, or parts of them, that take the place of the initial ones, such as pre-trained ones; the same for
      all members, or None for all. What is one object for all members is held once for as long as no stage trains it.
    origin: where `start` is from, in words.
  """

  name: str
  seed: int
  plan: Plan
  hyper: Mapping[str, float]
  watched: np.ndarray = dataclasses.field(default_factory=lambda: _NOTHING)
  tested: np.ndarray = dataclasses.field(default_factory=lambda: _NOTHING)
  start: Variables | None = None
  origin: str = ""


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """How members are judged.

  Attributes:
    outputs: see `placement.Outputs`; plan has "row" and "real", [rows] each, False in rows that only complete a batch.
    judge: (outputs, rows), both on the host -> numbers by name, for watched rows, and for tested ones at the end of
      stages that are to be judged.
    batch_size: rows of a call and member.
    shuffled: give the tested rows' outputs a second time, in batches of rows in a random order (the same for all).
  """

  outputs: Outputs
  judge: Callable[[np.ndarray, np.ndarray], Mapping[str, float]]
  batch_size: int
  shuffled: bool = False


@dataclasses.dataclass(frozen=True)
class Training:
  """Members of the same stages on the same data, and how they are carried out.

  Attributes:
    stages: the same for all, schedules included: those count a member's own steps.
    members: of equal batch size. Where all have the same seed and plan, a batch is drawn once for all of them. A
      training alone is one member without a name.
    init: typed key -> variables.
    data: arrays, [n, ...] each, that are resident on the devices; or a `Stream`, for members one after another.
    execution: driver, steps per call, checkpoints, devices, and how the members run.
    evaluation: of validation and test rows; None for none.
    record: what else the members follow from, as JSON; resuming with another is refused.
    revision: see `Identity`.
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
  """A member at its end.

  Attributes:
    member: which.
    variables: on the host; of a failed member those before the step that was not finite.
    failed: where its loss or gradient was not finite, or None.
    history: its rows of metrics, as in metrics.jsonl.
    outputs: [tested rows, ...]; None where no evaluation was given.
    shuffled: the same from batches in a random order; None where that was not asked for.
  """

  member: Member
  variables: Variables
  failed: str | None
  history: list[dict[str, Any]]
  outputs: np.ndarray | None
  shuffled: np.ndarray | None = None


def check(training: Training) -> None:
  """Refuses members that do not fit together; raises `UserError`."""
  members = training.members
  if not members:
    raise UserError("0 members: a study needs at least one training")
  names, first = [m.name for m in members], members[0]
  if repeated := [name for name in names if names.count(name) > 1]:
    raise UserError(f"two members are called '{repeated[0]}': give each a name of its own")
  for m in members:
    if m.plan.batch_size != first.plan.batch_size:
      raise UserError(
        f"member '{m.name}' has batch_size={m.plan.batch_size}, '{first.name}' {first.plan.batch_size}: "
        "another shape is another call"
      )
    if set(m.hyper) != set(first.hyper):
      raise UserError(
        f"member '{m.name}' sets {', '.join(sorted(m.hyper)) or 'nothing'}, '{first.name}' "
        f"{', '.join(sorted(first.hyper)) or 'nothing'}: give all the same hyper numbers"
      )
    if submodules(m) != submodules(first):
      raise UserError(
        f"member '{m.name}' starts from given {', '.join(submodules(m)) or 'nothing'}, '{first.name}' from "
        f"{', '.join(submodules(first)) or 'nothing'}: give all the same submodules"
      )
  selecting = [stage.name for stage in training.stages if selects(stage)]
  blind = [m for m in members if training.evaluation is None or not len(m.watched)]
  if selecting and blind:
    who = f"member '{blind[0].name}' has" if blind[0].name else "there are"
    raise UserError(
      f"stage '{selecting[0]}' takes its best epoch by rows held back, and {who} none: give split.validation=0.1, or "
      "select=last"
    )


def submodules(member: Member) -> list[str]:
  """The names of the submodules that a member is given to start from."""
  return sorted(member.start["params"]) if member.start is not None else []


def digest(plan: Plan) -> str:
  """Tells a plan from others."""
  rows = hashlib.sha256(np.ascontiguousarray(plan.rows, np.int64).tobytes()).hexdigest()
  return f"{rows[:16]} {plan.batch_size} {plan.remainder} {list(plan.seed)}"


def identity_of(training: Training) -> Identity:
  """What checkpoints of a training must have been trained from."""
  stages, members, record, revision = training.stages, training.members, training.record, training.revision
  digests = {id(m.start): weights.digest(m.start) for m in members if m.start is not None}
  starts = {m.name: digests.get(id(m.start)) for m in members}
  now = {
    "record": json.loads(files.to_json(record)),
    "starts": starts,
    "stages": [[stage.name, stage.epochs] for stage in stages],
    **{
      f"member {m.name}": {"seed": m.seed, "plan": digest(m.plan), "hyper": files.plain(m.hyper)}
      for m in members
    },
  }

  def differences(before):
    other = {m.origin for m in members if before.get("starts", {}).get(m.name) != starts[m.name]}
    keys = sorted({*before, *now} - {"starts"})
    return [f"the weights of {origin}" for origin in sorted(other)] + [
      key for key in keys if before.get(key) != now.get(key)
    ]

  return Identity(now, differences, revision)
