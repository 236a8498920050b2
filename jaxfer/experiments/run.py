"""Trains a configured run and judges it, whatever the system: data, folds, training, accuracy pooled over folds."""

import dataclasses
import math
import pathlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import jaxfer
from jaxfer import config as configuration
from jaxfer import files, folders, metrics
from jaxfer.config import RunConfig
from jaxfer.data import folds, records, stream
from jaxfer.data.plan import evaluation
from jaxfer.errors import UserError
from jaxfer.experiments import given, profiling, record
from jaxfer.experiments.task import Task, folds_of, options_of, seen, split_of, task_of
from jaxfer.report import grids, pages, plots, tables
from jaxfer.systems.system import ALONE, Prediction, pooled_confusion, pooled_scores
from jaxfer.train import feed, loop, placement, weights
from jaxfer.train.checkpoint import exists
from jaxfer.train.stage import Variables

MANY = 200  # Classes; the confusion matrix of CASIA-WebFace's 10,572 people would take a GB.


@dataclasses.dataclass(frozen=True)
class Setup(Task):
  """A run made ready: everything that training and evaluation share."""

  split: folds.Split
  devices: placement.Placement
  devices_line: str
  predict: Callable[[Variables, Mapping[str, jax.Array], np.ndarray], np.ndarray]
  start: Variables | None
  start_line: str

  def training(self) -> loop.Training:
    """The stages over the training rows."""
    plan = self.plan(np.flatnonzero(self.split.train))
    stages, hyper = self.stages(plan.steps)

    def judge_of(side, mask):
      rows = np.flatnonzero(mask)

      def judge(variables, data):
        return [{"split": side, **self.judge(self.predict(variables, data, rows), rows)}]

      return judge if len(rows) else None

    watch, judge = judge_of("validation", self.split.validation), judge_of("test", self.split.test)
    return loop.Training(stages, self.init, self.data, plan, hyper, self.start, watch, judge)


def prepare(config: RunConfig, data: records.Records, *, trains: bool = True) -> Setup:
  """Builds the model, splits the people and takes the devices; nothing is compiled yet.

  Args:
    config: of the run.
    data: as `seen` gives them.
    trains: whether it is to be trained, so that the weights it starts from are read.
  """
  return set_up(task_of(config, data), trains=trains)


def set_up(task: Task, *, trains: bool = True) -> Setup:
  """Splits the people of a task and takes the devices; `trains` as in `prepare`."""
  config = task.config
  batch, execution = task.test_batch, config.execution
  # As many devices as divide batches of both kinds.
  devices, line = placement.choose(execution.backend, math.gcd(config.batch_size, batch), execution.devices)
  devices = dataclasses.replace(devices, streamed=isinstance(task.data, stream.Stream))
  compiled = devices.evaluator(task.outputs)

  def predict(variables, data, rows):
    """Outputs of rows on the host, computed batch by batch in the order of `Task.in_order`.

    `variables` are stacked, those of one member.
    """
    order = task.in_order(rows)
    _, numbers = task.stages(1)
    hyper = devices.stack([{name: np.float32(value) for name, value in numbers.items()}])
    parts: list[jax.Array] = []
    for held, plan in feed.feed(devices, data, evaluation(order, batch)):
      jax.block_until_ready(parts[-1:])  # Or every window of streamed data would lie on the device at once.
      parts.append(compiled(variables, hyper, held, {name: column[None] for name, column in plan.items()}))
    outputs = np.concatenate(jax.device_get(parts), axis=1)[0, : len(rows)]
    # Back to the order asked for.
    place = np.empty(len(rows), int)
    place[np.argsort(rows, kind="stable")] = np.argsort(order, kind="stable")
    return outputs[place]

  fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
  split = split_of(config, task.records)
  start, start_line = None, ""
  if trains and config.init_from:
    start, start_line = task.taken_over(
      *weights.load_weights(pathlib.Path(config.init_from)), config.init_from
    )
  if trains:
    task.check_start(start)
  return Setup(
    **fields,
    split=split,
    devices=devices,
    devices_line=line,
    predict=predict,
    start=start,
    start_line=start_line,
  )


def keep(folder: pathlib.Path, task: Task, variables: Variables) -> None:
  """Writes a training's variables to a folder, for others to start from."""
  meta = {
    "config": configuration.identity(task.config),
    "data": task.records.fingerprint,
    "label_names": list(task.records.label_names),
    **task.system.input_spec(task.model),
    "revision": revision(),
  }
  weights.save_weights(folder, jax.device_get(variables), meta)


def revision() -> str:
  """The version, and the commit where this is a checkout."""
  root = pathlib.Path(jaxfer.__file__).parent
  try:
    commit = subprocess.run(
      ["git", "-C", root, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return jaxfer.__version__
  return f"{jaxfer.__version__}+{commit}"


def load_data(config: RunConfig, data_dir: pathlib.Path) -> records.Records:
  """Reads the configured data set, or opens it where it is too big; a synthetic one is generated on first use."""
  options_of("data", config.data)
  host = stream.host_memory()
  room = None if host is None else int(host * placement.SHARE)
  limit = {"resident": None, "streamed": 0, "auto": room}[config.execution.placement]
  return stream.load(config.data.name, data_dir, config.data.options, limit)


def fold_dirs(
  config: RunConfig, workdir: pathlib.Path, data: records.Records
) -> dict[pathlib.Path, RunConfig]:
  """The work directory of each training of a config: itself, or one a fold where no fold is chosen."""
  if count := folds_of(config, data):
    return {
      workdir / f"fold{k}": dataclasses.replace(config, split=dataclasses.replace(config.split, fold=k))
      for k in range(count)
    }
  return {workdir: config}


def train(
  config: RunConfig,
  workdir: pathlib.Path,
  data_dir: pathlib.Path,
  *,
  resume: bool = False,
  profile: pathlib.Path | None = None,
  say: Callable[[str], None] = print,
) -> dict[str, Any]:
  """Trains a config (every fold of it), then judges it; returns `evaluate`'s result.

  Args:
    config: what to train.
    workdir: for metrics, checkpoints and figures.
    data_dir: the folder of prepared data.
    resume: whether to go on with the run in `workdir`.
    profile: a folder for a trace of one chunk of steps of the (first fold's) training; None records none.
    say: takes the lines for the reader.

  Raises:
    UserError, Interrupted: see `loop.run`; also where `workdir` holds something else, is in use or cannot be written
      (`folders.hold`), where it was begun with another configuration or on other data, and where `profile` is asked
      for and the training ends before its second chunk of steps.
  """
  configuration.check(config, options_of)
  with folders.hold(workdir, folders.RUN, data_dir, say):
    data = _begin(config, workdir, data_dir, resume)
    _train_folds(config, workdir, data, resume, profile, say)
    return _evaluate(config, workdir, data, say)


def _begin(config: RunConfig, workdir: pathlib.Path, data_dir: pathlib.Path, resume: bool) -> records.Records:
  """Loads the data, and writes down what the run is begun from, unless the folder was begun from something else."""
  begun = [path for path in (workdir, *workdir.glob("fold*")) if exists(path)]
  if begun and not resume:
    raise UserError(f"{workdir} already holds a run: go on with --resume, or choose another --workdir")
  before = record.config_of(workdir) if (workdir / folders.RUN).exists() else config
  # Where nothing is trained yet, such as after a refusal, another configuration may take the place of the first.
  if begun and (keys := configuration.differences(before, config)):
    raise UserError(
      f"{workdir} was begun with another configuration ({', '.join(keys)} differ): go on with the same, "
      "or choose another --workdir"
    )
  data = load_data(config, data_dir)
  given.check(workdir, {"init_from": config.init_from}, begin=not begun)
  record.check_data(workdir, config.data, data, begin=not begun)
  files.write_atomic(workdir / folders.RUN, configuration.to_json(config) + "\n")
  return seen(config, data)


def _train_folds(
  config: RunConfig,
  workdir: pathlib.Path,
  data: records.Records,
  resume: bool,
  profile: pathlib.Path | None,
  say: Callable[[str], None],
) -> None:
  for k, (folder, fold) in enumerate(fold_dirs(config, workdir, data).items()):
    setup = prepare(fold, data)
    if k == 0:
      size = sum(
        a.size for a in jax.tree.leaves(jax.eval_shape(setup.training().init, jax.random.key(0))["params"])
      )
      say(
        f"{config.model.name}: {size:,} parameters, {config.dtype}; {setup.devices_line}; {config.data.name}: "
        f"{len(data)} records, {setup.placement}"
      )
      for note in data.notes:
        say(note)
    if setup.start_line:
      say(setup.start_line)
    sides = folds.describe(data.subjects, data.arrays["label"], data.label_names, setup.split)
    say(sides if folder == workdir else f"{folder.name}: {sides}")
    if profile is not None and k == 0:
      devices = profiling.profiled(setup.devices, profile)
      loop.run(setup.training(), fold, devices, folder, resume=resume, revision=revision())
      say(devices.line())
    else:
      loop.run(setup.training(), fold, setup.devices, folder, resume=resume, revision=revision())


def evaluate(
  workdir: pathlib.Path, data_dir: pathlib.Path, *, say: Callable[[str], None] = print
) -> dict[str, Any]:
  """Judges a trained run on its test side; over folds the counts are pooled.

  Accuracy is that of `metrics.score`, in a study as here. Where a protocol has several trials, accuracy, counts and
  confusion matrix are means over the trials, and `predictions.csv` has what most trials say, in a column of that name,
  and the share of the trials that are right.

  Writes `evaluation.json`, `predictions.csv`, `confusion.txt`, the figures `confusion.png`, `curves.png`,
  `examples.png` (a tested record of each class) and those of the system (of the first fold), and `report.html` to
  `workdir`; and the weights to a folder `weights` beside each training's checkpoints. Above `MANY` classes, people or
  ImageNet's objects, nothing that stands for each class or pair of them is drawn, and "confusion" is None.

  Returns:
    The contents of `evaluation.json`; what is NaN here, such as the recall of a class without records, is null there.

  Raises:
    UserError: no run there, or an unfinished one; the data are not those of the training; or as `folders.hold`.
  """
  if folders.kind(workdir) is None:
    raise UserError(f"{workdir} holds no run: there is no config.json in it")
  with folders.hold(workdir, folders.RUN, data_dir, say, "give the folder of a run"):
    config = record.config_of(workdir)
    data = load_data(config, data_dir)
    record.check_data(workdir, config.data, data, begin=False)
    return _evaluate(config, workdir, seen(config, data), say)


def _evaluate(
  config: RunConfig, workdir: pathlib.Path, data: records.Records, say: Callable[[str], None]
) -> dict[str, Any]:
  """See `evaluate`."""
  classes = len(data.label_names)
  tested: list[tuple[np.ndarray, Mapping[str, Prediction]]] = []  # The labels and readings of each fold.
  lines: list[tuple[str, ...]] = []  # Rows of predictions.csv.
  histories: list[list[dict[str, Any]]] = []  # Rows of metrics of each fold.
  by_fold: dict[str, float] = {}
  remarks: list[str] = []
  apart = True
  figures: Mapping[str, str] = {}
  examples: dict[
    int, tuple[int, int]
  ] = {}  # Class -> the first tested record of it, and what it was taken for.
  for folder, fold in fold_dirs(config, workdir, data).items():
    setup = prepare(fold, data, trains=False)
    if not exists(folder):
      raise UserError(f"{folder} is not trained yet: go on with `jaxfer train ... --resume`")
    variables, meta = loop.restore_variables(setup.training(), setup.devices, folder)
    if meta["position"]["stage"] < len(setup.training().stages):
      raise UserError(f"{folder} is not trained to its end yet: go on with `jaxfer train ... --resume`")
    keep(folder / "weights", setup, variables)
    rows = np.flatnonzero(setup.split.test)
    if not by_fold:
      figures = setup.system.figures(setup, variables, np.flatnonzero(setup.split.train), rows, workdir)
    outputs = setup.predict(setup.devices.stack([variables]), feed.placed(setup.devices, setup.data), rows)
    if not np.isfinite(outputs).all():
      raise UserError(f"{folder}: the trained net gives outputs that are not finite")
    histories.append(history := _history(folder, setup, say))
    said = setup.system.warnings(setup.model, history, outputs)
    remarks += said if folder == workdir else [f"{folder.name}: {line}" for line in said]
    readings = setup.read(outputs, rows)
    first = next(iter(readings.values()))
    tested.append((np.asarray(setup.data["label"][rows]), readings))
    name = folder.name if folder != workdir else str(config.split.fold or 0)
    by_fold[name] = setup.score(first.correct, rows).accuracy
    trained = setup.split.train | setup.split.validation
    apart &= not len(np.intersect1d(data.subjects[trained], data.subjects[rows]))
    for row, guess, share in zip(rows, first.predicted, first.correct, strict=True):
      label = int(data.arrays["label"][row])
      examples.setdefault(label, (int(row), int(guess)))
      names = data.label_names[label], data.label_names[guess]
      shares = (f"{share:g}",) if first.trials > 1 else ()
      lines.append((data.keys[row], str(data.subjects[row]), *names, name, *shares))
  score, *others = pooled_scores(tested, classes)
  confusion = pooled_confusion(tested, classes) if classes <= MANY else None
  published = setup.published()
  low, high = metrics.wilson_interval(score.correct, score.count)
  result = {
    "accuracy": score.accuracy,
    "correct": score.correct,
    "count": score.count,
    "trials": first.trials,
    "interval_95": [low, high],
    "chance": 1 / int((score.support > 0).sum()),
    "unseen": "people" if apart and not folds.anonymous(data.subjects) else "records",
    "batches": f"in batches of {setup.test_batch}, in order" if setup.system.batch_dependent else "",
    "average_accuracy": score.average_accuracy,
    "recall": dict(zip(data.label_names, score.recall.tolist(), strict=True)),
    "accuracy_by_fold": by_fold,
    "read_otherwise": {name: other.accuracy for name, other in zip(list(readings)[1:], others, strict=True)},
    "confusion": confusion,
    "label_names": list(data.label_names),
    "published": published,
    "source": setup.system.citation if published else "",
    "papers_data": setup.system.on_papers_data(config.data),
    "data": {"name": config.data.name, **config.data.options, "fingerprint": data.fingerprint},
    "revision": revision(),
  }
  _write_report(workdir, result, lines, histories)
  if confusion is not None:
    _draw_examples(workdir, data, examples)
  pages.write_run(workdir, result, setup.devices_line, figures)
  _say_result(result, say)
  for line in remarks:
    say(line)
  return result


def _history(folder: pathlib.Path, setup: Setup, say: Callable[[str], None]) -> list[dict[str, Any]]:
  """The rows of metrics of a training; says which are missing, since curves and remarks follow from them."""
  path = folder / "metrics.jsonl"
  rows, damage = files.read_rows(path)
  trained = sum(row.get("split") == "train" for row in rows)
  epochs = sum(stage.epochs for stage in setup.training().stages)
  if damage or trained != epochs:
    say(
      f"{path} {damage or 'has lost rows'}: it holds {trained} of {epochs} epochs, and curves and remarks leave the "
      "others out"
    )
  return rows


def _write_report(
  workdir: pathlib.Path,
  result: dict[str, Any],
  lines: Sequence[Sequence[str]],
  histories: Sequence[Sequence[Mapping[str, Any]]],
) -> None:
  names = result["label_names"]
  files.write_json(workdir / "evaluation.json", result)
  several = ("predicted_by_most_trials", "fold", "share_right")
  header = ["key", "subject", "label", *(several if result["trials"] > 1 else ("predicted", "fold"))]
  files.write_atomic(workdir / "predictions.csv", files.csv_text(header, lines))
  if result["confusion"] is not None:
    table = tables.text(*tables.confusion_table(result["confusion"], names))
    files.write_atomic(workdir / "confusion.txt", table)
    title = f"{result['data']['name']}: {pages.counts(result)} ({result['accuracy']:.1%})"
    plots.confusion_png(result["confusion"], names, workdir / "confusion.png", title)
  rows = [{**row, "fold": k} for k, history in enumerate(histories) for row in history]
  if rows:
    plots.learning_curves_png(rows, workdir / "curves.png")


def _draw_examples(
  workdir: pathlib.Path, data: records.Records, examples: Mapping[int, tuple[int, int]]
) -> None:
  chosen = [examples[label] for label in sorted(examples)]
  rows = [row for row, _ in chosen]
  pictures = data.arrays["frames"][rows] if "frames" in data.arrays else data.arrays["image"][rows][:, None]
  names = [
    data.label_names[label] + ("" if label == guess else f"\ntaken for {data.label_names[guess]}")
    for label, (_, guess) in sorted(examples.items())
  ]
  grids.rows_png(pictures, names, workdir / "examples.png", "One tested record of each class")


def _say_result(result: dict[str, Any], say: Callable[[str], None]) -> None:
  low, high = result["interval_95"]
  say("")
  if result["confusion"] is None:
    classes = len(result["label_names"])
    say(f"{classes} classes: above {MANY} no confusion matrix and no example of each is written")
  else:
    say(tables.text(*tables.confusion_table(result["confusion"], result["label_names"]), digits=3).rstrip())
  say("")
  counts = f"{round(result['correct'], 1)} of {result['count']}"
  counts += f", the mean of {result['trials']} trials" if result["trials"] > 1 else ""
  say(
    f"accuracy {result['accuracy']:.4f} ({counts}, 95 % interval {low:.3f} to {high:.3f}, chance "
    f"{result['chance']:.3f}) on {result['unseen']} that the training never saw"
    + (f", {result['batches']}" if result["batches"] else "")
  )
  if len(result["accuracy_by_fold"]) > 1:
    values = list(result["accuracy_by_fold"].values())
    say(f"pooled over {len(values)} folds; folds on their own {min(values):.3f} to {max(values):.3f}")
  for name, accuracy in result["read_otherwise"].items():
    batches = "" if name.endswith(ALONE) or not result["batches"] else f", {result['batches']}"
    say(f"the same net read otherwise, {name}{batches}: {accuracy:.4f}")
  for name, accuracy in result["published"].items():
    comparable = "" if result["papers_data"] else " (other data than the paper's)"
    say(f"published, {name}: {accuracy:.4f}{comparable}; {result['source']}")
