"""Trains members and evaluates them: the one engine of single trainings and of studies."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

from jaxfer import files
from jaxfer.errors import UserError
from jaxfer.train import processes, profiling
from jaxfer.train.checkpoint import Checkpoints, exists
from jaxfer.train.evaluator import Evaluator
from jaxfer.train.group import Group, restored
from jaxfer.train.group_training import GroupTraining
from jaxfer.train.groups import Layout, arrange, begun_groups, part_of, read
from jaxfer.train.members import Result, Training
from jaxfer.train.placement import Placement
from jaxfer.train.prefetch import placed


class Trainer:
  """Trains one or many members, and evaluates them at the end.

  `workdir` contains `members.json`, which records how the members are divided into groups. Each group has a separate
  folder: `workdir` itself if there is only one group, and otherwise a subfolder `group0`, `group1`, and so on. The
  folder of a group contains:

  - `metrics.jsonl`: one row per epoch, split and member. The numbers do not depend on how often the training was
    stopped and resumed.
  - `timing.jsonl`: the duration and the throughput of each epoch.
  - `checkpoints/`: the checkpoints.

  If several processes train together (`jax.distributed`), each of them makes the same calls with the same arguments.
  `workdir` must then be a folder that all of them see. Process 0 writes the metrics, and alone has them in its results.

  Attributes:
    description: where the training runs. It is set by `fit` and `restore`.
  """

  def __init__(
    self,
    training: Training,
    workdir: pathlib.Path,
    *,
    limit_bytes: int | None = None,
    profile: pathlib.Path | None = None,
    log: Callable[[str], None] = print,
  ):
    """Stores the arguments; nothing is trained or written yet.

    Args:
      training: the members to train, and how.
      workdir: folder for this training only.
      limit_bytes: bytes that a group may take on each device. None asks the device. A CPU reports no limit.
      profile: folder for a trace of one chunk of steps; None records no trace.
      log: called with each line of the log.
    """
    self.training, self.workdir, self.log = training, workdir, log
    self._limit_bytes, self._profile = limit_bytes, profile
    self.description = ""

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
      group, evaluator = self._group(layout, placement, number)
      with GroupTraining(group, training.execution, placement, folder, layout.identity) as own:
        while not own.ended:
          own.epoch()
        own.finish()
      rows = processes.alone(functools.partial(self._rows, folder), list[dict[str, Any]]())
      results += evaluator.results(own.state, own.failed, rows)
      if number + 1 < len(groups):
        left = (time.monotonic() - started) / (number + 1) * (len(groups) - number - 1)
        self.log(f"{len(results)} of {len(training.members)} trainings done, {left:.0f} s left")
    if isinstance(placement, profiling.Profiled):
      self.log(placement.line())
    return results

  def restore(self) -> list[Result]:
    """Restores a training that `fit` has finished, and evaluates its members again.

    Returns:
      One result per member, in the order of the members.

    Raises:
      UserError: `workdir` holds no training, the training is not finished, or a checkpoint is damaged.
    """
    before = processes.decided(lambda: read(self.workdir))
    if before is None:
      raise UserError(f"{self.workdir} is not trained yet: go on with `jaxfer train ... --resume`")
    layout, results = arrange(self.training, before["groups"]), list[Result]()
    layout = self._placed(layout, layout.placement)
    self.description = layout.placement.description
    for number in range(len(layout.groups)):
      folder = layout.folder(self.workdir, number)
      group, evaluator = self._group(layout, layout.placement, number)
      if not processes.decided(functools.partial(exists, folder)):
        raise UserError(f"{folder} is not trained yet: go on with `jaxfer train ... --resume`")
      with contextlib.closing(Checkpoints(folder)) as checkpoints:
        state, meta = restored(checkpoints, group, layout.placement, folder)
      if meta["position"]["stage"] < len(self.training.stages):
        raise UserError(f"{folder} is not trained to the end yet: go on with `jaxfer train ... --resume`")
      failed = {int(member): where for member, where in meta["position"]["failed"].items()}
      count = len(layout.groups[number])
      history = functools.partial(self._history, folder, count, bool(failed))
      rows = processes.alone(history, list[dict[str, Any]]())
      results += evaluator.results(layout.placement.adopt(state), failed, rows)
    return results

  def _arranged(self, resume: bool) -> tuple[Placement, Layout]:
    """Divides the members into groups and records the division, or reads an earlier one. Logs where they run."""
    before = begun_groups(self.training, self.workdir, resume)
    layout = arrange(self.training, before, self._limit_bytes, self.log)
    if before is None:
      record = {"identity": layout.identity.record, "groups": layout.groups}
      processes.alone(lambda: self._write(record), None)
    placement = layout.placement
    if self._profile is not None and processes.is_first():
      placement = profiling.profiled(placement, self._profile)
    self.description = placement.description
    count, groups = len(self.training.members), layout.groups
    how = f"; {len(groups)} groups of up to {max(map(len, groups))}" if len(groups) > 1 else ""
    trainings = f"{count} trainings" if count > 1 else "1 training"
    self.log(f"{trainings} on {self.description}{how}")
    return placement, self._placed(layout, placement)

  def _write(self, record: dict[str, Any]) -> None:
    files.make_folder(self.workdir)
    files.write_json(self.workdir / "members.json", record)

  def _rows(self, folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the metric rows of a group that has just been trained."""
    rows, damage = files.read_rows(folder / "metrics.jsonl")
    if damage and self.training.members[0].name:  # A single training only logs the damage.
      raise UserError(f"{folder / 'metrics.jsonl'} {damage}: remove {folder} to train again")
    return rows

  def _placed(self, layout: Layout, placement: Placement) -> Layout:
    """Returns the layout with its data on the devices."""
    whole = dataclasses.replace(layout.whole, data=placed(placement, self.training.data))
    return dataclasses.replace(layout, whole=whole)

  def _group(self, layout: Layout, placement: Placement, number: int) -> tuple[Group, Evaluator]:
    """Returns a group, and the object that evaluates its members."""
    numbers, evaluation = layout.groups[number], self.training.evaluation
    members = [self.training.members[k] for k in numbers]
    evaluator = Evaluator(evaluation, placement, layout.whole.data, members)
    group = part_of(layout.whole, numbers)
    if evaluation is not None:
      validated = any(len(member.validation) for member in members)
      validate = evaluator.validate if validated else None
      group = dataclasses.replace(group, validate=validate, test=evaluator.test)
    return group, evaluator

  def _history(self, folder: pathlib.Path, members: int, failed: bool) -> list[dict[str, Any]]:
    """Returns the metric rows of a group, and logs how many epochs are missing."""
    path = folder / "metrics.jsonl"
    rows, damage = files.read_rows(path)
    found = sum(row.get("split") == "train" for row in rows)
    epochs = sum(stage.epochs for stage in self.training.stages) * members
    if damage or (found != epochs and not failed):
      self.log(
        f"{path} {damage or 'has lost rows'}: it holds {found} of {epochs} epochs, and curves and warnings leave "
        "out the others"
      )
    return rows
