"""Runs the stages of a training: epochs, metrics, checkpoints, resume, signals."""

import contextlib
import dataclasses
import json
import pathlib
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxfer import config as configuration
from jaxfer.data.plan import Plan, chunks
from jaxfer.errors import Interrupted, UserError
from jaxfer.train.checkpoint import Checkpoints, exists
from jaxfer.train.parallel import Parallel
from jaxfer.train.progress import Progress
from jaxfer.train.stage import PyTree, Stage, Variables
from jaxfer.train.state import State, begin, variables_of


@dataclasses.dataclass(frozen=True)
class Training:
  """What is trained.

  Attributes:
    stages: in order; a repeated stage stands here as often as it runs.
    init: typed key -> variables.
    data: resident arrays, [n, ...] each.
    plan: the batches of training rows.
    hyper: numbers that the stages read by name.
    watch: (variables, placed data) -> rows of metrics such as {"split": "validation", "accuracy": 0.8},
      asked for after each epoch.
  """

  stages: tuple[Stage, ...]
  init: Callable[[jax.Array], Variables]
  data: Mapping[str, np.ndarray]
  plan: Plan
  hyper: Mapping[str, float]
  watch: Callable[[Variables, Mapping[str, jax.Array]], list[dict[str, Any]]] | None = None


@dataclasses.dataclass
class _Position:
  """Where a training stands: `step` batches of `epoch` of `stage` are done, with these sums of metrics so far."""

  stage: int = 0
  epoch: int = 0
  step: int = 0
  done: int = 0
  sums: dict[str, list[float]] = dataclasses.field(default_factory=dict)


def driver_of(settings: configuration.Execution, platform: str) -> str:
  """The driver that "auto" stands for on a platform: XLA on CPU runs convolutions in loops slowly."""
  if settings.driver != "auto":
    return settings.driver
  return "steps" if platform == "cpu" else "scan"


def initial_key(seed: int) -> jax.Array:
  """The key of a run's every draw on the device."""
  return jax.random.key(seed)


def _template(training: Training, stage: int, key: jax.Array) -> State:
  """Shapes of the state in a stage."""

  def make(key):
    return begin(training.stages[stage], training.init(key))

  return jax.eval_shape(make, key)


def restore_variables(
  training: Training, parallel: Parallel, workdir: pathlib.Path
) -> tuple[Variables, dict]:
  """The variables and meta data of the newest checkpoint of a work directory.

  Raises:
    UserError: there is none, or it is damaged.
  """
  with contextlib.closing(Checkpoints(workdir)) as checkpoints:
    state, meta = _restore(checkpoints, training, parallel, workdir)
  return variables_of(state["state"]), meta


def _restore(checkpoints, training, parallel, workdir):
  number = checkpoints.latest()
  if number is None:
    raise UserError(
      f"{workdir} holds no whole checkpoint yet: train again without --resume in an empty directory"
    )
  meta = checkpoints.meta(number)
  key = initial_key(0)
  stage = min(meta["position"]["stage"], len(training.stages) - 1)
  template = parallel.abstract({"state": _template(training, stage, key), "key": jax.eval_shape(lambda: key)})
  return checkpoints.restore(number, template), meta


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
  """Collects SIGTERM and SIGINT instead of dying of them; a second one of a kind acts as usual."""
  caught: list[int] = []
  previous: dict[int, Any] = {}

  def handle(number, frame):
    del frame
    caught.append(number)
    signal.signal(number, previous[number])

  for number in (signal.SIGTERM, signal.SIGINT):
    with contextlib.suppress(ValueError):  # Not the main thread: signals are not ours to handle.
      previous[number] = signal.signal(number, handle)
  try:
    yield caught
  finally:
    for which, handler in previous.items():
      signal.signal(which, handler)


class _Log:
  """Appends rows to a JSON-lines file, cut back to where a resumed training stood."""

  def __init__(self, path: pathlib.Path, size: int):
    path.touch()
    self._file = path.open("r+")
    self._file.truncate(size)
    self._file.seek(size)

  @property
  def size(self) -> int:
    return self._file.tell()

  def write(self, rows: list[dict[str, Any]]) -> None:
    self._file.writelines(json.dumps(row) + "\n" for row in rows)
    self._file.flush()

  def close(self) -> None:
    self._file.close()


def run(
  training: Training,
  config: configuration.RunConfig,
  parallel: Parallel,
  workdir: pathlib.Path,
  *,
  resume: bool = False,
  revision: str = "unknown",
) -> Variables:
  """Trains, or goes on with a training, and returns the variables at its end.

  Writes to `workdir`: `metrics.jsonl`, a row an epoch and split, the same numbers however often the training was
  stopped; `timing.jsonl`; `checkpoints/`.

  Raises:
    UserError: the directory holds a run and `resume` is not asked for, or one of another configuration; a checkpoint
      is damaged; the loss or a gradient is not finite (names stage, epoch and step).
    Interrupted: SIGTERM or SIGINT came; the state is saved.
  """
  settings = config.execution
  if exists(workdir) and not resume:
    raise UserError(f"{workdir} already holds a run: go on with --resume, or choose another --workdir")
  workdir.mkdir(parents=True, exist_ok=True)
  with contextlib.closing(Checkpoints(workdir, settings.keep)) as checkpoints:
    return _Loop(training, config, parallel, workdir, checkpoints, revision).run(resume)


class _Loop:
  """The state of `run`, one training long."""

  def __init__(self, training, config, parallel, workdir, checkpoints, revision):
    self.training, self.config, self.parallel = training, config, parallel
    self.workdir, self.checkpoints, self.revision = workdir, checkpoints, revision
    self.driver = driver_of(config.execution, parallel.platform)
    # What the order of floating-point operations depends on, beside the configuration.
    self.arithmetic = {
      "driver": self.driver,
      "backend": parallel.backend,
      "devices": len(parallel.devices),
      "platform": parallel.platform,
      "steps_per_call": config.execution.steps_per_call,
    }
    self.position = _Position()
    self.trainers: dict[Stage, Callable] = {}

  def run(self, resume: bool) -> Variables:
    training = self.training
    key = self.parallel.place(initial_key(self.config.seed))
    state, sizes = None, {"metrics": 0, "timing": 0}
    notes = []
    if resume and self.checkpoints.latest() is not None:
      saved, meta = _restore(self.checkpoints, training, self.parallel, self.workdir)
      notes = self._check(meta)
      state, key = self.parallel.begin(lambda state: state, saved["state"]), saved["key"]
      self.position, sizes = _Position(**meta["position"]), meta["sizes"]
    total = sum(stage.epochs for stage in training.stages) * training.plan.steps
    self.metrics = _Log(self.workdir / "metrics.jsonl", sizes["metrics"])
    self.timing = _Log(self.workdir / "timing.jsonl", sizes["timing"])
    self.data = self.parallel.place(training.data)
    self.hyper = self.parallel.place({name: np.float32(value) for name, value in training.hyper.items()})
    self.key, self.saved = key, time.monotonic()
    with (
      contextlib.closing(self.metrics),
      contextlib.closing(self.timing),
      _signals() as self.caught,
      Progress(total, self.position.done) as self.progress,
    ):
      for note in notes:
        self.progress.say(note)
      if state is None:
        make = jax.jit(training.init)(jax.random.fold_in(key, zlib.crc32(b"init")))
        state = self.parallel.begin(lambda v: begin(training.stages[0], v), make)
      while self.position.stage < len(training.stages):
        state = self._stage(state)
        self.position = dataclasses.replace(self.position, stage=self.position.stage + 1, epoch=0, step=0)
        if self.position.stage < len(training.stages):
          stage = training.stages[self.position.stage]
          state = self.parallel.begin(lambda v, stage=stage: begin(stage, v), variables_of(state))
      self._save(state)
      self.checkpoints.wait()
    return variables_of(state)

  def _check(self, meta) -> list[str]:
    before = configuration.from_json(json.dumps(meta["config"]))
    if keys := configuration.differences(before, self.config):
      raise UserError(
        f"{self.workdir} was trained with another configuration ({', '.join(keys)} differ): resume with the same, "
        "or choose another --workdir"
      )
    changed = [
      f"{k} {meta['arithmetic'][k]} -> {v}" for k, v in self.arithmetic.items() if meta["arithmetic"][k] != v
    ]
    line = "resumed at stage {stage}, epoch {epoch}, step {step}".format(**meta["position"])
    return [f"{line}: not bit-identical from here on ({', '.join(changed)})" if changed else line]

  def _save(self, state: State) -> None:
    tree = dataclasses.asdict(self.config)
    meta = {
      "position": dataclasses.asdict(self.position),
      "sizes": {"metrics": self.metrics.size, "timing": self.timing.size},
      "config": tree,
      "revision": self.revision,
      "arithmetic": self.arithmetic,
    }
    # The end of a stage and the start of the next have the same steps behind them.
    number = self.position.done + self.position.stage
    self.checkpoints.save(number, {"state": state, "key": self.key}, meta)
    self.saved = time.monotonic()

  def _stage(self, state: State) -> State:
    stage, steps = self.training.stages[self.position.stage], self.training.plan.steps
    chunk = self.trainers.setdefault(stage, self.parallel.trainer(stage, self.driver))
    stage_key = jax.random.fold_in(self.key, self.position.stage)
    moving, still = state.moving, state.still
    while self.position.epoch < stage.epochs:
      rows = self.training.plan.epoch(self.position.stage, self.position.epoch)
      started, first_step, pending = time.monotonic(), self.position.step, None
      for first, end in chunks(steps, self.position.step, self.config.execution.steps_per_call):
        planned = np.arange(first, end)
        moving, results = chunk(
          moving, still, self.data, stage_key, self.hyper, {"row": rows[planned % steps]}, planned < steps
        )
        # The metrics of the chunk before are fetched while this one runs.
        self._absorb(stage, pending)
        pending = first, min(end, steps) - first, results
        due = time.monotonic() - self.saved > self.config.execution.checkpoint_seconds
        if end >= steps or due or self.caught:
          self._absorb(stage, pending)
          pending = None
          if end >= steps:
            self._end_epoch(stage, State(moving, still), time.monotonic() - started, steps - first_step)
          if due or self.caught:
            self._save(State(moving, still))
          if self.caught:
            self.checkpoints.wait()
            raise Interrupted(self.caught[0])
    return State(moving, still)

  def _absorb(self, stage: Stage, pending: tuple[int, int, PyTree] | None) -> None:
    """Adds up the metrics of a chunk that was called, step by step, and stops where one was not finite."""
    if pending is None:
      return
    first, count, results = pending
    metrics, alive = jax.device_get(results)
    for k in range(count):
      if not alive[k]:
        raise UserError(
          f"loss or gradient is not finite in stage '{stage.name}', epoch {self.position.epoch + 1}, "
          f"step {first + k + 1}: lower the learning rate, or look at the data; the last checkpoint is from before"
        )
      for name, (total, weight) in metrics.items():
        sums = self.position.sums.setdefault(name, [0.0, 0.0])
        sums[0] += float(total[k])
        sums[1] += float(weight[k])
    self.position.step = first + count
    self.position.done += count
    self.progress.advance(stage.name, count)

  def _end_epoch(self, stage: Stage, state: State, seconds: float, steps: int) -> None:
    position = self.position
    where = {"stage": stage.name, "epoch": position.epoch + 1, "step": position.done}
    # One update needs no prefix.
    prefix = f"{stage.updates[0].name}/" if len(stage.updates) == 1 else ""
    means = {name.removeprefix(prefix): s / w for name, (s, w) in position.sums.items() if w}
    rows: list[dict[str, Any]] = [{**where, "split": "train", **means}]
    if self.training.watch is not None:
      rows += [{**where, **row} for row in self.training.watch(variables_of(state), self.data)]
    self.metrics.write(rows)
    examples = steps * self.training.plan.batch_size / seconds
    self.timing.write([{**where, "seconds": round(seconds, 3), "examples_per_second": round(examples, 2)}])
    self.position = dataclasses.replace(position, epoch=position.epoch + 1, step=0, sums={})
    self.progress.epoch(stage.name, position.epoch + 1, stage.epochs, rows)
