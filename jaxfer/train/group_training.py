"""Trains one group of members: its stages, epochs, metrics, checkpoints and resume."""

import contextlib
import dataclasses
import pathlib
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfer import config as configuration
from jaxfer import files
from jaxfer.data.plan import chunks
from jaxfer.errors import Interrupted, UserError
from jaxfer.train import processes
from jaxfer.train.best import Best, on_host, selects
from jaxfer.train.checkpoint import Checkpoints
from jaxfer.train.group import Group, Position, initial_key, restored
from jaxfer.train.identity import Identity
from jaxfer.train.jsonl_log import Log, Unwritten
from jaxfer.train.placement import Placement
from jaxfer.train.prefetch import placed, prefetch
from jaxfer.train.progress import Progress, averaged, title
from jaxfer.train.signals import caught_signals
from jaxfer.train.stage import PyTree, Stage
from jaxfer.train.state import State, kept_variables, merge, variables_of, with_variables


class GroupTraining:
  """Trains a group. It owns the group's state, and the metrics and checkpoints in the group's folder.

  Use it as a context manager. On entry it restores the newest checkpoint in the folder, or starts from the beginning
  if there is none. On exit it closes its files. In between, call `epoch` until `ended` is True, and then `finish`.
  If SIGTERM or SIGINT arrives, `epoch` saves the state and raises `Interrupted`.

  Attributes:
    state: the state of all members.
    position: how far they have trained.
    data: the placed data.
  """

  def __init__(
    self,
    group: Group,
    execution: configuration.Execution,
    placement: Placement,
    workdir: pathlib.Path,
    identity: Identity,
  ):
    assert not placement.alone or group.names is None  # A member that fails keeps its variables.
    self.group, self.execution, self.placement = group, execution, placement
    self.workdir, self.identity = workdir, identity
    # What the order of floating-point operations depends on, besides the configuration.
    self.arithmetic = {
      "driver": execution.driver,
      **placement.arithmetic,
      "steps_per_call": execution.steps_per_call,
    }
    self.position, self.best = Position(), Best(workdir)
    self._programs: dict[Stage, Callable] = {}
    self._votes = processes.Votes()

  def __enter__(self) -> "GroupTraining":
    self.workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
      self.checkpoints = stack.enter_context(
        contextlib.closing(Checkpoints(self.workdir, self.execution.keep))
      )
      notes = self.checkpoints.discard_unfinished() + self.checkpoints.discard_damaged()
      restored_state, sizes, more = self._restore()
      notes += more
      self.metrics = stack.enter_context(contextlib.closing(self._log("metrics", sizes)))
      self.timing = stack.enter_context(contextlib.closing(self._log("timing", sizes)))
      self.data = placed(self.placement, self.group.data)
      self.hparams = self.placement.stack_hparams(self.group.hparams)
      self.saved = time.monotonic()
      self.caught = stack.enter_context(caught_signals())
      total = sum(stage.epochs for stage in self.group.stages) * self.group.steps
      self.progress = stack.enter_context(Progress(total, self.position.done, title(self.group.names)))
      for note in (*notes, *processes.decided(self._check_log)):
        self.progress.log(note)
      self.state = self._initial() if restored_state is None else restored_state
      self._pass_ended_stages()
      self._open = stack.pop_all()
    return self

  def __exit__(self, *error: Any) -> None:
    self._open.__exit__(*error)

  def _log(self, name: str, sizes: Mapping[str, int]) -> Log | Unwritten:
    """Opens a log of process 0, cut back to its size at the checkpoint."""
    log = processes.alone(lambda: Log(self.workdir / f"{name}.jsonl", sizes[name]), None)
    return log or Unwritten()

  def _restore(self) -> tuple[State | None, dict[str, int], list[str]]:
    """Returns the newest checkpoint's state (or None), the sizes of the log files at that time, and lines to print."""
    number = self.checkpoints.latest()
    if number is None:
      metrics = self.workdir / "metrics.jsonl"
      cut = processes.decided(lambda: metrics.exists() and metrics.stat().st_size > 0)
      note = f"{self.workdir} holds no checkpoint: the training starts from the beginning"
      return None, {"metrics": 0, "timing": 0}, [note] if cut else []
    saved, meta = restored(self.checkpoints, self.group, self.placement, self.workdir)
    notes = self._check(meta)
    self.position = Position(**meta["position"])
    self.position.sums = {name: np.asarray(sums) for name, sums in self.position.sums.items()}
    self.best.load(number, self.position.best)
    return self.placement.adopt(saved), meta["sizes"], notes

  def _initial(self) -> State:
    """Returns the state at the start of the first stage."""
    variables = self.placement.init(self.group.init, self._keys(zlib.crc32(b"init")))
    if self.group.starts:
      variables = merge(variables, self.placement.stack(self.group.starts))
    return self.placement.start(self.group.stages[0], variables)

  @property
  def ended(self) -> bool:
    """Whether all stages have been trained."""
    return self.position.stage == len(self.group.stages)

  @property
  def failed(self) -> dict[int, str]:
    """The failed members: member number -> stage, epoch and step in which the member was not finite."""
    return {int(member): where for member, where in self.position.failed.items()}

  def finish(self) -> None:
    """Saves the final state and waits until it is on disk."""
    self._save()
    self.checkpoints.wait()

  def _pass_ended_stages(self) -> None:
    """Advances to the next stage with epochs left to train, and selects the variables of each stage that ended."""
    stages = self.group.stages
    while not self.ended and self.position.epoch >= stages[self.position.stage].epochs:
      self.state = self._selected()
      following = self.position.stage + 1
      self.position = dataclasses.replace(self.position, stage=following, epoch=0, step=0, best={})
      self.best.clear()
      if not self.ended:
        self.state = self.placement.start(stages[following], variables_of(self.state))

  def _keys(self, number: int) -> jax.Array:
    """Returns one key per member, each folded with `number`."""
    return self.placement.stack([jax.random.fold_in(initial_key(seed), number) for seed in self.group.seeds])

  def _check(self, meta) -> list[str]:
    if keys := self.identity.differences(meta["config"]):
      raise UserError(
        f"{self.workdir} was trained with another configuration ({', '.join(keys)} differ): resume with the same, "
        "or choose another --workdir"
      )
    changed = [
      f"{k} {meta['arithmetic'][k]} -> {v}"
      for k, v in self.arithmetic.items()
      if meta["arithmetic"].get(k, v) != v
    ]
    line = "resumed at stage {stage}, epoch {epoch}, step {step}".format(**meta["position"])
    return [f"{line}: not bit-identical from here on ({', '.join(changed)})" if changed else line]

  def _check_log(self) -> list[str]:
    """Describes the metric rows that were lost since the checkpoint.

    A study raises `UserError` instead, because its table is computed from all of them.
    """
    path = self.workdir / "metrics.jsonl"
    _, damage = files.read_rows(path)
    lost = f"has lost {self.metrics.lost} bytes since the checkpoint was saved"
    what = " and ".join([*([lost] if self.metrics.lost else []), *([damage] if damage else [])])
    if what and self.group.names is not None:
      raise UserError(f"{path} {what}: put it back from a copy, or remove {self.workdir} to train again")
    return [f"{path} {what}: curves and warnings will lack those epochs"] if what else []

  def _save(self) -> None:
    position = dataclasses.asdict(self.position)
    meta = {
      "position": position | {"sums": {name: sums.tolist() for name, sums in self.position.sums.items()}},
      "sizes": {"metrics": self.metrics.sync(), "timing": self.timing.sync()},
      "config": self.identity.record,
      "revision": self.identity.revision,
      "arithmetic": self.arithmetic,
    }
    # `done` is the same at the end of a stage and at the start of the next, so the stage tells the two apart.
    number = self.position.done + self.position.stage
    oldest = self.checkpoints.oldest(number)
    processes.alone(lambda: self.best.save(number, oldest), None)
    self.checkpoints.save(number, self.state, meta)
    self.saved = time.monotonic()

  def _planned(self, drawn: list[dict[str, np.ndarray]], first: int, end: int) -> dict[str, np.ndarray]:
    """Returns the columns [steps, members, batch] of an epoch's steps first to end - 1."""
    at = np.arange(first, end)
    return {
      name: np.stack([member[name][at % len(member[name])] for member in drawn], axis=1) for name in drawn[0]
    }

  def _active(self, first: int, end: int) -> np.ndarray:
    """Returns which members take part in an epoch's steps first to end - 1, as bools [steps, members]."""
    active = np.stack([np.arange(first, end) < plan.steps for plan in self.group.plans], axis=1)
    active[:, [int(member) for member in self.position.failed]] = False
    return active

  def epoch(self) -> None:
    """Trains the rest of the current epoch and then evaluates the members.

    Raises:
      UserError: the loss or a gradient of a single training (a group without names) is not finite.
      Interrupted: SIGTERM or SIGINT arrived. The state has been saved.
    """
    group, number = self.group, self.position.stage
    stage = group.stages[number]
    if stage not in self._programs:
      self._programs[stage] = self.placement.trainer(stage, self.execution.driver)
    chunk, keys, frozen = self._programs[stage], self._keys(number), self.state.frozen
    drawn = [plan.columns(number, self.position.epoch, stage.columns) for plan in group.plans]
    started, first_step, pending = time.monotonic(), self.position.step, None
    calls = chunks(group.steps, first_step, self.execution.steps_per_call)
    planned = [self._planned(drawn, *call) for call in calls]
    with contextlib.closing(prefetch(self.placement, self.data, planned, self.placement.same_batches)) as fed:
      for (first, end), (data, columns) in zip(calls, fed, strict=True):
        active, results = self._active(first, end), None
        if active.any():
          columns, gates = self.placement.lay(columns, active)
          trainable, results = chunk(self.state.trainable, frozen, data, keys, self.hparams, columns, gates)
          self.state = State(trainable, frozen)
        # Fetch the metrics of the previous chunk while this one runs.
        self._absorb(stage, pending)
        pending = first, min(end, group.steps) - first, active, results
        stop, due = self._asked()
        if end >= group.steps or due or stop:
          self._absorb(stage, pending)
          pending = None
          if end >= group.steps:
            self._end_epoch(stage, time.monotonic() - started, first_step)
          if due or stop:
            self._save()
          if stop:
            self.checkpoints.wait()
            raise Interrupted(stop)
    self._pass_ended_stages()

  def _asked(self) -> tuple[int, int]:
    """Returns the signal that asks for a stop, or 0, and whether a checkpoint is due, or 0. All processes agree."""
    own = int(time.monotonic() - self.saved > self.execution.checkpoint_seconds)
    stop, due = self._votes.turn((self.caught[0] if self.caught else 0, own))
    return stop, due

  def _absorb(self, stage: Stage, pending: tuple[int, int, np.ndarray, PyTree] | None) -> None:
    """Adds the metrics of a chunk to the sums, step by step, and advances the position.

    A step in which a member was not finite does not count for that member.
    """
    if pending is None:
      return
    first, count, active, results = pending
    members = active.shape[1]
    if results is not None:
      metrics, all_finite = jax.device_get(results)
      for k in np.flatnonzero(active.any(1)):
        finite = np.reshape(all_finite[k], -1)[:members]
        for member in np.flatnonzero(~finite):
          self._fail(stage, int(member), int(first + k + 1))
        for name, pair in metrics.items():
          step = np.stack([np.reshape(part[k], -1)[:members].astype(np.float64) for part in pair])
          self.position.sums[name] = self.position.sums.get(name, 0.0) + np.where(finite, step, 0.0)
    self.position.step = first + count
    self.position.done += count
    self.progress.advance(stage.name, count)

  def _fail(self, stage: Stage, member: int, step: int) -> None:
    where = f"stage '{stage.name}', epoch {self.position.epoch + 1}, step {step}"
    if self.group.names is None:
      raise UserError(
        f"loss or gradient is not finite in {where}: lower the learning rate, or check the data; "
        "the last checkpoint was saved before that step"
      )
    if str(member) not in self.position.failed:
      self.position.failed[str(member)] = where
      self.progress.log(f"{self.group.names[member]} failed: not finite in {where}; the others continue")

  def _end_epoch(self, stage: Stage, seconds: float, first_step: int) -> None:
    group, position = self.group, self.position
    # Metric names need no prefix if the stage has a single update.
    prefix = f"{stage.updates[0].name}/" if len(stage.updates) == 1 else ""
    evaluators = [
      group.validate,
      group.test if stage.evaluated and position.epoch + 1 == stage.epochs else None,
    ]
    evaluated = [
      evaluate(variables_of(self.state), self.data) for evaluate in evaluators if evaluate is not None
    ]
    rows: list[dict[str, Any]] = []
    for member, plan in enumerate(group.plans):
      if str(member) in position.failed:
        continue
      step = position.done // group.steps * plan.steps
      where = {"stage": stage.name, "epoch": position.epoch + 1, "step": step}
      if group.names is not None:
        where = {"member": group.names[member], **where}
      sums = {name: (float(s[member]), float(w[member])) for name, (s, w) in position.sums.items()}
      means = {name.removeprefix(prefix): s / w for name, (s, w) in sums.items() if w}
      rows += [{**where, "split": "train", **means}]
      rows += [{**where, **row} for each in evaluated for row in each[member]]
    self.metrics.write(rows)
    if selects(stage):
      self._keep_best(rows)
    trained = sum(plan.batch_size * max(plan.steps - first_step, 0) for plan in group.plans)
    where = {"stage": stage.name, "epoch": position.epoch + 1, "step": position.done}
    rate = {"seconds": round(seconds, 3), "examples_per_second": round(trained / seconds, 2)}
    self.timing.write([{**where, **rate}])
    self.position = dataclasses.replace(position, epoch=position.epoch + 1, step=0, sums={})
    self.progress.epoch(stage.name, position.epoch + 1, stage.epochs, averaged(rows))

  def _members(self, tree: PyTree) -> list[PyTree]:
    """Returns each member's tree as a copy on the host, which stays valid when the device buffers are donated."""
    return [on_host(own) for own in self.placement.unstack(tree, len(self.group.plans))]

  def _keep_best(self, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keeps the variables of the members that reached their highest validation accuracy in this epoch."""
    numbers = {name: member for member, name in enumerate(self.group.names or ())}
    found = {
      numbers[row["member"]] if numbers else 0: row["accuracy"]
      for row in rows
      if row["split"] == "validation" and "accuracy" in row
    }
    better = [member for member, accuracy in found.items() if self.best.better(member, accuracy)]
    if better:
      every = self._members(kept_variables(self.state.trainable))
      for member in better:
        self.best.keep(member, self.position.epoch + 1, found[member], every[member])
      self.position.best = dict(self.best.chosen)

  def _selected(self) -> State:
    """Returns the state at the end of a stage, with each member's best variables if the stage selects them."""
    stage, names = self.group.stages[self.position.stage], self.group.names
    if not selects(stage):
      return self.state
    for member, (epoch, accuracy) in sorted(self.best.chosen.items(), key=lambda item: int(item[0])):
      who = {} if names is None else {"member": names[int(member)]}
      row = {"stage": stage.name, "epoch": epoch, "split": "selected", "accuracy": accuracy}
      self.metrics.write([{**who, **row}])
    ends = self._members(kept_variables(self.state.trainable))
    chosen = [self.best.of(member, end) for member, end in enumerate(ends)]
    trainable = with_variables(self.state.trainable, lambda: self.placement.stack(chosen))
    return dataclasses.replace(self.state, trainable=trainable)
