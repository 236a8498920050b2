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
from jaxfer.train.drive import drive, restored
from jaxfer.train.feed import feed, placed
from jaxfer.train.groups import arrange, begun_groups, part_of, read
from jaxfer.train.members import Evaluation, Member, Result, Training
from jaxfer.train.placement import Placement
from jaxfer.train.stage import Variables
from jaxfer.train.state import State, variables_of


def train(
  training: Training,
  workdir: pathlib.Path,
  *,
  resume: bool = False,
  limit_bytes: int | None = None,
  profile: pathlib.Path | None = None,
  say: Callable[[str], None] = print,
) -> list[Result]:
  """Trains all members, or goes on with them, and returns how each ended, in their order.

  Writes to `workdir`: `members.json`, which says who trains with whom; and for each group, in `workdir` itself where
  there is but one and in a folder `group0`, ... otherwise: `metrics.jsonl`, a row per epoch, split and member, the same
  numbers however often the training was stopped; `timing.jsonl`; `checkpoints/`.

  Args:
    training: what to train.
    workdir: of this training alone.
    resume: go on with what `workdir` holds.
    limit_bytes: memory that a group may take on a device; None asks the device, which a CPU does not tell.
    profile: a folder for a trace of one chunk of steps; None records none.
    say: prints a line.

  Raises:
    UserError: members that do not fit together; `workdir` holds a training and `resume` is not asked for, or another
      one; a checkpoint is damaged; the loss or a gradient of a training alone is not finite (names stage, epoch and
      step); or `profile` is asked for and the training ends before its second chunk of steps.
    Interrupted: SIGTERM or SIGINT came; the state is saved.
  """
  before = begun_groups(training, workdir, resume)
  layout = arrange(training, before, limit_bytes, say)
  if before is None:
    files.make_folder(workdir)
    files.write_json(workdir / "members.json", {"identity": layout.identity.record, "groups": layout.groups})
  members, groups, placement = training.members, layout.groups, layout.placement
  if profile is not None:
    placement = profiling.profiled(placement, profile)
  how = f"; {len(groups)} groups of up to {max(map(len, groups))}" if len(groups) > 1 else ""
  count = f"{len(members)} trainings" if len(members) > 1 else "1 training"
  say(f"{count} on {placement.description}{how}")
  whole = dataclasses.replace(layout.whole, data=placed(placement, training.data))
  results, started = [], time.monotonic()
  for number, group in enumerate(groups):
    folder = layout.folder(workdir, number)
    evaluate = _Evaluate(training.evaluation, placement, whole.data, [members[k] for k in group])
    own = part_of(whole, group)
    if training.evaluation is not None:
      watched = any(len(member.watched) for member in evaluate.members)
      own = dataclasses.replace(own, watch=evaluate.watch if watched else None, judge=evaluate.judge)
    state, failed = drive(own, training.execution, placement, folder, layout.identity)
    rows, damage = files.read_rows(folder / "metrics.jsonl")
    if damage and members[0].name:  # A training alone has said so, and goes on.
      raise UserError(f"{folder / 'metrics.jsonl'} {damage}: remove {folder} to train again")
    results += evaluate.results(state, failed, rows)
    if number + 1 < len(groups):
      left = (time.monotonic() - started) / (number + 1) * (len(groups) - number - 1)
      say(f"{len(results)} of {len(members)} trainings done, {left:.0f} s left")
  if isinstance(placement, profiling.Profiled):
    say(placement.line())
  return results


def restore(training: Training, workdir: pathlib.Path, say: Callable[[str], None] = print) -> list[Result]:
  """The results of a training that `train` brought to its end in `workdir`, evaluated anew.

  Args:
    training: what was trained.
    workdir: as of `train`.
    say: takes a line for each group of which rows of metrics are missing.

  Raises:
    UserError: there is no such training, it has not come to its end, or a checkpoint is damaged.
  """
  before = read(workdir)
  if before is None:
    raise UserError(f"{workdir} is not trained yet: go on with `jaxfer train ... --resume`")
  layout = arrange(training, before["groups"])
  placement, results = layout.placement, []
  whole = dataclasses.replace(layout.whole, data=placed(placement, training.data))
  for number, group in enumerate(layout.groups):
    folder, own = layout.folder(workdir, number), part_of(whole, group)
    if not exists(folder):
      raise UserError(f"{folder} is not trained yet: go on with `jaxfer train ... --resume`")
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
      state, meta = restored(checkpoints, own, placement, folder)
    if meta["position"]["stage"] < len(training.stages):
      raise UserError(f"{folder} is not trained to its end yet: go on with `jaxfer train ... --resume`")
    failed = {int(member): where for member, where in meta["position"]["failed"].items()}
    path = folder / "metrics.jsonl"
    rows, damage = files.read_rows(path)
    found = sum(row.get("split") == "train" for row in rows)
    epochs = sum(stage.epochs for stage in training.stages) * len(group)
    if damage or (found != epochs and not failed):
      say(
        f"{path} {damage or 'has lost rows'}: it holds {found} of {epochs} epochs, and curves and remarks leave the "
        "others out"
      )
    evaluate = _Evaluate(training.evaluation, placement, whole.data, [training.members[k] for k in group])
    results += evaluate.results(placement.adopt(state), failed, rows)
  return results


class _Evaluate:
  """Evaluates the members of a group on their validation and test rows."""

  def __init__(
    self,
    evaluation: Evaluation | None,
    placement: Placement,
    data: Mapping[str, Any],
    members: Sequence[Member],
  ):
    self.evaluation, self.placement, self.data, self.members = evaluation, placement, data, members
    self.hyper = placement.stack(
      [{name: np.float32(value) for name, value in m.hyper.items()} for m in members]
    )

  def watch(self, variables: Variables, data: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """For each member, a row of metrics of its validation rows."""
    return self._judged("validation", variables, data, [m.watched for m in self.members])

  def judge(self, variables: Variables, data: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """For each member, a row of metrics of its test rows."""
    return self._judged("test", variables, data, [m.tested for m in self.members])

  def _judged(self, side, variables, data, rows):
    assert self.evaluation is not None
    outputs = _outputs(self.evaluation, self.placement, variables, self.hyper, data, rows)
    return [
      [{"split": side, **self.evaluation.judge(out, own)}] if len(own) else []
      for out, own in zip(outputs, rows, strict=True)
    ]

  def results(
    self, state: State, failed: Mapping[int, str], history: Sequence[dict[str, Any]]
  ) -> list[Result]:
    """How each member ended, from the state of the group at its end."""
    members, own = self.members, variables_of(state)
    outputs: Sequence[np.ndarray | None] = [None] * len(members)
    shuffled: Sequence[np.ndarray | None] = [None] * len(members)
    if self.evaluation is not None:
      tested = [m.tested for m in members]
      outputs = _outputs(self.evaluation, self.placement, own, self.hyper, self.data, tested)
      if self.evaluation.shuffled:
        orders = [np.random.default_rng(0).permutation(len(rows)) for rows in tested]
        drawn = [rows[order] for rows, order in zip(tested, orders, strict=True)]
        mixed = _outputs(self.evaluation, self.placement, own, self.hyper, self.data, drawn)
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
  hyper: Mapping[str, jax.Array],
  data: Mapping[str, jax.Array],
  rows: Sequence[np.ndarray],
) -> list[np.ndarray]:
  """Outputs for each member's own rows, of which there may be different numbers."""
  count = -(-max(1, *map(len, rows)) // evaluation.batch_size)
  batches = [evaluation_batches(own, evaluation.batch_size, count) for own in rows]
  compiled = placement.evaluator(evaluation.outputs)
  plans = [
    {name: np.stack([batch[name] for batch in same]) for name in ("row", "real")}
    for same in zip(*batches, strict=True)
  ]
  parts = [compiled(variables, hyper, window, plan) for window, plan in feed(placement, data, plans)]
  whole = np.concatenate(jax.device_get(parts), axis=1)
  return [whole[k, : len(own)] for k, own in enumerate(rows)]
