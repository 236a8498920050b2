"""Trains members and evaluates them: the one engine of single trainings and of studies."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfer import files
from jaxfer.data.plan import evaluation as evaluation_batches
from jaxfer.errors import UserError
from jaxfer.train import profiling
from jaxfer.train.checkpoint import Checkpoints, exists
from jaxfer.train.group import Group, GroupTraining, restored
from jaxfer.train.groups import Layout, arrange, begun_groups, part_of, read
from jaxfer.train.members import Evaluation, Member, Result, Training
from jaxfer.train.placement import Placement
from jaxfer.train.prefetch import placed, prefetch
from jaxfer.train.stage import Variables
from jaxfer.train.state import State, variables_of


class Trainer:
  """Trains one or many members, and evaluates them at the end.

  `workdir` contains `members.json`, which records how the members are divided into groups. Each group has a folder of
  its own: `workdir` itself if there is only one group, and otherwise a subfolder `group0`, `group1`, and so on. The
  folder of a group contains:

  - `metrics.jsonl`: one row per epoch, split and member. The numbers do not depend on how often the training was
    stopped and resumed.
  - `timing.jsonl`: the duration and the throughput of each epoch.
  - `checkpoints/`: the checkpoints.
  """

  def __init__(
    self,
    training: Training,
    workdir: pathlib.Path,
    *,
    limit_bytes: int | None = None,
    profile: pathlib.Path | None = None,
    say: Callable[[str], None] = print,
  ):
    """Stores the arguments; nothing is trained or written yet.

    Args:
      training: the members to train, and how.
      workdir: folder for this training only.
      limit_bytes: bytes that a group may take on each device. None asks the device. A CPU reports no limit.
      profile: folder for a trace of one chunk of steps; None records no trace.
      say: called with each line of the log.
    """
    self.training, self.workdir, self.say = training, workdir, say
    self._limit_bytes, self._profile = limit_bytes, profile

  def fit(self, *, resume: bool = False) -> list[Result]:
    """Trains all members to the end and evaluates them.

    Args:
      resume: whether to continue the training in `workdir`, if there is one. Otherwise a training there is an error.

    Returns:
      One result per member, in the order of the members.

    Raises:
      UserError: the members do not fit together; `workdir` holds a training and `resume` is False; it holds a different
        training; a checkpoint is damaged; the loss or a gradient of a single training is not finite (the message names
        stage, epoch and step); or a profile was requested and the training ends before its second chunk of steps.
      Interrupted: SIGTERM or SIGINT arrived. The state has been saved.
    """
    training = self.training
    placement, layout = self._arranged(resume)
    groups, results, started = layout.groups, list[Result](), time.monotonic()
    for number in range(len(groups)):
      folder = layout.folder(self.workdir, number)
      group, evaluated = self._group(layout, placement, number)
      with GroupTraining(group, training.execution, placement, folder, layout.identity) as own:
        while not own.ended:
          own.epoch()
        own.finish()
      rows, damage = files.read_rows(folder / "metrics.jsonl")
      if damage and training.members[0].name:  # A single training only logs the damage.
        raise UserError(f"{folder / 'metrics.jsonl'} {damage}: remove {folder} to train again")
      results += evaluated.results(own.state, own.failed, rows)
      if number + 1 < len(groups):
        left = (time.monotonic() - started) / (number + 1) * (len(groups) - number - 1)
        self.say(f"{len(results)} of {len(training.members)} trainings done, {left:.0f} s left")
    if isinstance(placement, profiling.Profiled):
      self.say(placement.line())
    return results

  def restore(self) -> list[Result]:
    """Restores a training that `fit` has finished, and evaluates its members again.

    Returns:
      One result per member, in the order of the members.

    Raises:
      UserError: `workdir` holds no training, the training is not finished, or a checkpoint is damaged.
    """
    before = read(self.workdir)
    if before is None:
      raise UserError(f"{self.workdir} is not trained yet: go on with `jaxfer train ... --resume`")
    layout, results = arrange(self.training, before["groups"]), list[Result]()
    layout = self._placed(layout, layout.placement)
    for number in range(len(layout.groups)):
      folder = layout.folder(self.workdir, number)
      group, evaluated = self._group(layout, layout.placement, number)
      if not exists(folder):
        raise UserError(f"{folder} is not trained yet: go on with `jaxfer train ... --resume`")
      with contextlib.closing(Checkpoints(folder)) as checkpoints:
        state, meta = restored(checkpoints, group, layout.placement, folder)
      if meta["position"]["stage"] < len(self.training.stages):
        raise UserError(f"{folder} is not trained to the end yet: go on with `jaxfer train ... --resume`")
      failed = {int(member): where for member, where in meta["position"]["failed"].items()}
      rows = self._history(folder, len(layout.groups[number]), bool(failed))
      results += evaluated.results(layout.placement.adopt(state), failed, rows)
    return results

  def _arranged(self, resume: bool) -> tuple[Placement, Layout]:
    """Divides the members into groups and records the division, or reads an earlier one. Logs where they run."""
    before = begun_groups(self.training, self.workdir, resume)
    layout = arrange(self.training, before, self._limit_bytes, self.say)
    if before is None:
      files.make_folder(self.workdir)
      record = {"identity": layout.identity.record, "groups": layout.groups}
      files.write_json(self.workdir / "members.json", record)
    placement = layout.placement
    if self._profile is not None:
      placement = profiling.profiled(placement, self._profile)
    count, groups = len(self.training.members), layout.groups
    how = f"; {len(groups)} groups of up to {max(map(len, groups))}" if len(groups) > 1 else ""
    trainings = f"{count} trainings" if count > 1 else "1 training"
    self.say(f"{trainings} on {placement.description}{how}")
    return placement, self._placed(layout, placement)

  def _placed(self, layout: Layout, placement: Placement) -> Layout:
    """Returns the layout with its data on the devices."""
    whole = dataclasses.replace(layout.whole, data=placed(placement, self.training.data))
    return dataclasses.replace(layout, whole=whole)

  def _group(self, layout: Layout, placement: Placement, number: int) -> tuple[Group, "_Evaluate"]:
    """Returns a group, and the object that evaluates its members."""
    numbers, evaluation = layout.groups[number], self.training.evaluation
    members = [self.training.members[k] for k in numbers]
    evaluated = _Evaluate(evaluation, placement, layout.whole.data, members)
    group = part_of(layout.whole, numbers)
    if evaluation is not None:
      watched = any(len(member.validation) for member in members)
      watch = evaluated.watch if watched else None
      group = dataclasses.replace(group, watch=watch, judge=evaluated.judge)
    return group, evaluated

  def _history(self, folder: pathlib.Path, members: int, failed: bool) -> list[dict[str, Any]]:
    """Returns the metric rows of a group, and logs how many epochs are missing."""
    path = folder / "metrics.jsonl"
    rows, damage = files.read_rows(path)
    found = sum(row.get("split") == "train" for row in rows)
    epochs = sum(stage.epochs for stage in self.training.stages) * members
    if damage or (found != epochs and not failed):
      self.say(
        f"{path} {damage or 'has lost rows'}: it holds {found} of {epochs} epochs, and curves and warnings leave "
        "out the others"
      )
    return rows


class _Evaluate:
  """Evaluates the members of a group on their validation and test examples."""

  def __init__(
    self,
    evaluation: Evaluation | None,
    placement: Placement,
    data: Mapping[str, Any],
    members: Sequence[Member],
  ):
    self.evaluation, self.placement, self.data, self.members = evaluation, placement, data, members
    self.hparams = placement.stack(
      [{name: np.float32(value) for name, value in m.hparams.items()} for m in members]
    )

  def watch(self, variables: Variables, data: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """Returns for each member a list with one row of validation metrics, or no row without validation examples."""
    return self._judged("validation", variables, data, [m.validation for m in self.members])

  def judge(self, variables: Variables, data: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """Returns for each member a list with one row of test metrics, or no row without test examples."""
    return self._judged("test", variables, data, [m.test for m in self.members])

  def _judged(self, side, variables, data, rows):
    assert self.evaluation is not None
    outputs = _outputs(self.evaluation, self.placement, variables, self.hparams, data, rows)
    return [
      [{"split": side, **self.evaluation.judge(out, own)}] if len(own) else []
      for out, own in zip(outputs, rows, strict=True)
    ]

  def results(
    self, state: State, failed: Mapping[int, str], history: Sequence[dict[str, Any]]
  ) -> list[Result]:
    """Returns each member's result, computed from the final state of the group."""
    members, own = self.members, variables_of(state)
    outputs: Sequence[np.ndarray | None] = [None] * len(members)
    shuffled: Sequence[np.ndarray | None] = [None] * len(members)
    if self.evaluation is not None:
      tested = [m.test for m in members]
      outputs = _outputs(self.evaluation, self.placement, own, self.hparams, self.data, tested)
      if self.evaluation.shuffled:
        orders = [np.random.default_rng(0).permutation(len(rows)) for rows in tested]
        drawn = [rows[order] for rows, order in zip(tested, orders, strict=True)]
        mixed = _outputs(self.evaluation, self.placement, own, self.hparams, self.data, drawn)
        shuffled = [out[np.argsort(order)] for out, order in zip(mixed, orders, strict=True)]
    return [
      Result(
        member,
        self.placement.whole(variables),
        failed.get(k),
        [row for row in history if row.get("member", "") == member.name],
        outputs[k],
        shuffled[k],
      )
      for k, (member, variables) in enumerate(
        zip(members, self.placement.unstack(own, len(members)), strict=True)
      )
    ]


def _outputs(
  evaluation: Evaluation,
  placement: Placement,
  variables: Variables,
  hparams: Mapping[str, jax.Array],
  data: Mapping[str, jax.Array],
  rows: Sequence[np.ndarray],
) -> list[np.ndarray]:
  """Returns each member's outputs for its own examples. Members may have different numbers of examples."""
  count = -(-max(1, *map(len, rows)) // evaluation.batch_size)
  batches = [evaluation_batches(own, evaluation.batch_size, count) for own in rows]
  compiled = placement.evaluator(evaluation.outputs)
  plans = [
    {name: np.stack([batch[name] for batch in same]) for name in ("row", "real")}
    for same in zip(*batches, strict=True)
  ]
  parts = [compiled(variables, hparams, window, plan) for window, plan in prefetch(placement, data, plans)]
  whole = np.concatenate(jax.device_get(parts), axis=1)
  return [whole[k, : len(own)] for k, own in enumerate(rows)]
