"""Trains and evaluates a run of any system: loads the data, trains every fold, and pools the accuracy over folds."""

import dataclasses
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
from jaxfer.errors import UserError
from jaxfer.report import grids, pages, plots, tables
from jaxfer.study import given, inputs, record
from jaxfer.study.task import Task, folds_of, options_of, seen, split_of, task_of
from jaxfer.systems.system import ALONE, Prediction, pooled_confusion, pooled_scores
from jaxfer.train import groups, members, memory, trainer, weights
from jaxfer.train.checkpoint import exists
from jaxfer.train.stage import Variables

# Number of classes above which no confusion matrix is written. That of CASIA-WebFace's 10,572 people would take a GB.
MANY = 200


@dataclasses.dataclass(frozen=True)
class Run:
  """The trainings of a config: a single one, or one per fold if the config has folds and does not choose one.

  Attributes:
    tasks: name of a training -> its task. A single training has the name "".
    splits: name of a training -> its split of the records.
    training: all trainings, as members of one `Training`.
    notes: log lines that describe the weights that the trainings start from.
  """

  tasks: Mapping[str, Task]
  splits: Mapping[str, folds.Split]
  training: members.Training
  notes: Sequence[str]


def prepare(config: RunConfig, data: records.Records, *, trains: bool = True) -> Run:
  """Builds the model and splits the records. Nothing is compiled yet.

  Args:
    config: config of the run.
    data: records, as returned by `seen`.
    trains: whether the run will be trained. If so, the weights that it starts from are read.
  """
  return set_up(task_of(config, data), trains=trains)


def set_up(task: Task, *, trains: bool = True) -> Run:
  """Splits the records of a task; `trains` is as in `prepare`."""
  config = task.config
  tasks = {
    name: dataclasses.replace(task, config=fold) for name, fold in fold_configs(config, task.records).items()
  }
  initial, notes = None, []
  if trains and config.init_from:
    given_weights = weights.load_weights(pathlib.Path(config.init_from))
    initial, note = task.taken_over(*given_weights, config.init_from)
    notes.append(note)
  if trains:
    task.check_start(initial)
  training, splits = training_of(tasks, dict.fromkeys(tasks, initial), config.init_from or "")
  return Run(tasks, splits, training, notes)


def training_of(
  tasks: Mapping[str, Task], initial: Mapping[str, Variables | None], origin: str
) -> tuple[members.Training, dict[str, folds.Split]]:
  """Makes one training of tasks that differ only in folds, seeds and numeric hyperparameters.

  If the members have different numbers of steps per epoch, the schedule of the longest one applies to all.

  Args:
    tasks: member name -> task.
    initial: member name -> variables that replace initial ones, or None.
    origin: description of where `initial` comes from.

  Returns:
    (training, splits), where the splits map member names to the members' splits of the records.
  """
  first = next(iter(tasks.values()))
  splits = {name: split_of(one.config, one.records) for name, one in tasks.items()}
  plans = {name: one.plan(np.flatnonzero(splits[name].train)) for name, one in tasks.items()}
  steps = max(plan.steps for plan in plans.values())
  stages, _ = first.stages(steps)
  own = [
    members.Member(
      name,
      one.config.seed,
      plans[name],
      one.stages(steps)[1],
      validation=one.in_order(np.flatnonzero(splits[name].validation)),
      test=one.in_order(np.flatnonzero(splits[name].test)),
      initial=initial[name],
      origin=origin,
    )
    for name, one in tasks.items()
  ]
  evaluation = members.Evaluation(first.outputs, first.judge, first.test_batch, first.system.batch_dependent)
  record = {
    # The initial weights are identified by their digest and not by their folder.
    "config": {
      name: {**configuration.identity(one.config), "init_from": None} for name, one in tasks.items()
    },
    "data": first.records.fingerprint,
  }
  training = members.Training(
    stages, own, first.init, first.data, first.config.execution, evaluation, record, revision()
  )
  return training, splits


def keep(
  folder: pathlib.Path, task: Task, variables: Variables, outputs: np.ndarray, indices: np.ndarray
) -> None:
  """Writes a training to a folder of weights, from which other trainings can start and which `jaxfer.load` reads.

  Args:
    folder: the folder of weights.
    task: what was trained.
    variables: the trained variables.
    outputs: outputs [n, ...] for the test records.
    indices: [n] indices of the test records.
  """
  meta = {
    **inputs.description(task),
    "config": configuration.identity(task.config),
    "data": task.records.fingerprint,
    "label_names": list(task.records.label_names),
    **task.system.input_spec(task.model),
    "revision": revision(),
  }
  state = task.system.inference_state(task.model, outputs, np.asarray(task.data["label"][indices]))
  weights.save_weights(folder, inputs.with_state(jax.device_get(variables), state), meta)


def revision() -> str:
  """Returns the version of jaxfer, followed by the commit if it runs from a Git checkout."""
  root = pathlib.Path(jaxfer.__file__).parent
  try:
    commit = subprocess.run(
      ["git", "-C", root, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return jaxfer.__version__
  return f"{jaxfer.__version__}+{commit}"


def load_data(config: RunConfig, data_dir: pathlib.Path) -> records.Records:
  """Reads the data set of a config. A synthetic data set is generated on first use.

  A data set that is too big for the host's memory, or that the config streams, is only opened.
  """
  options_of("data", config.data)
  host = stream.host_memory()
  room = None if host is None else int(host * memory.SHARE)
  limit = {"resident": None, "streamed": 0, "auto": room}[config.execution.placement]
  return stream.load(config.data.name, data_dir, config.data.options, limit)


def fold_configs(config: RunConfig, data: records.Records) -> dict[str, RunConfig]:
  """Returns the config of each training of a config, by name.

  If the config has folds and does not choose one, there is one training per fold, named "fold0", "fold1", and so on.
  Otherwise there is a single training with the name "".
  """
  if count := folds_of(config, data):
    return {
      f"fold{k}": dataclasses.replace(config, split=dataclasses.replace(config.split, fold=k))
      for k in range(count)
    }
  return {"": config}


def train(
  config: RunConfig,
  workdir: pathlib.Path,
  data_dir: pathlib.Path,
  *,
  resume: bool = False,
  profile: pathlib.Path | None = None,
  say: Callable[[str], None] = print,
) -> dict[str, Any]:
  """Trains a config, including all of its folds, and evaluates it.

  Args:
    config: the config to train.
    workdir: folder for metrics, checkpoints and figures.
    data_dir: folder of the prepared data sets.
    resume: whether to continue the run in `workdir`.
    profile: folder for a trace of one chunk of steps (of the first fold); None records no trace.
    say: called with each line of the log.

  Returns:
    The result, see `evaluate`.

  Raises:
    UserError: as `Trainer.fit` and `folders.hold`; also if the run in `workdir` was begun with another configuration
      or on other data, or if the loss or a gradient of a fold is not finite.
    Interrupted: SIGTERM or SIGINT arrived. The state has been saved.
  """
  configuration.check(config, options_of)
  with folders.hold(workdir, folders.RUN, data_dir, say):
    data = _begin(config, workdir, data_dir, resume)
    run = prepare(config, data)
    _describe(run, data, say)
    results = trainer.Trainer(run.training, workdir, profile=profile, say=say).fit(resume=resume)
    return _evaluate(config, workdir, run, results, say)


def _begin(config: RunConfig, workdir: pathlib.Path, data_dir: pathlib.Path, resume: bool) -> records.Records:
  """Loads the data, and records the configuration, the data and the given weights of the run in its folder.

  Raises:
    UserError: the folder holds a run and `resume` is False, or its run was begun with something else.
  """
  begun = [path for path in (workdir, *workdir.glob("group*")) if exists(path)]
  if begun and not resume:
    raise UserError(f"{workdir} already holds a run: go on with --resume, or choose another --workdir")
  before = record.config_of(workdir) if (workdir / folders.RUN).exists() else config
  # As long as nothing is trained, for example after an error, another configuration may replace the first one.
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


def _describe(run: Run, data: records.Records, say: Callable[[str], None]) -> None:
  """Logs the model, the data and the splits."""
  task = next(iter(run.tasks.values()))
  config = task.config
  shapes = jax.eval_shape(task.init, jax.random.key(0))["params"]
  size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  say(
    f"{config.model.name}: {size:,} parameters, {config.dtype}; {config.data.name}: {len(data)} records, "
    f"{task.placement}"
  )
  for note in (*data.notes, *run.notes):
    say(note)
  for name, split in run.splits.items():
    sides = folds.describe(data.subjects, data.arrays["label"], data.label_names, split)
    say(f"{name}: {sides}" if name else sides)


def evaluate(
  workdir: pathlib.Path, data_dir: pathlib.Path, *, say: Callable[[str], None] = print
) -> dict[str, Any]:
  """Evaluates a trained run on its test records. The counts of all folds are pooled.

  The accuracy is that of `metrics.score`, as in a study. If a protocol has several trials, the accuracy, the counts and
  the confusion matrix are means over the trials. `predictions.csv` then contains, for each record, the class that most
  trials predict and the share of trials that are correct.

  Writes these files to `workdir`: `evaluation.json`, `predictions.csv`, `confusion.txt`, `report.html`, the figures
  `confusion.png`, `curves.png` and `examples.png` (one test record of each class), and the system's own figures for the
  first fold. The weights of the training, or of each fold, are written to the folder `weights`. With more than `MANY`
  classes, such as people or ImageNet's objects, nothing is drawn per class or pair of classes, and "confusion" is None.

  Args:
    workdir: folder of the run.
    data_dir: folder of the prepared data sets.
    say: called with each line of the log.

  Returns:
    The contents of `evaluation.json`. Numbers that are NaN here, such as the recall of a class without records, are
    null in the file.

  Raises:
    UserError: `workdir` holds no run, or an unfinished one, or the data are not those of the training; or as
      `folders.hold`.
  """
  if folders.kind(workdir) is None:
    raise UserError(f"{workdir} holds no run: there is no config.json in it")
  with folders.hold(workdir, folders.RUN, data_dir, say, "give the folder of a run"):
    config = record.config_of(workdir)
    data = load_data(config, data_dir)
    record.check_data(workdir, config.data, data, begin=False)
    # Folds share given weights that stay frozen. These are not in the checkpoints, so they are read again.
    folds_share = config.init_from is not None and folds_of(config, data) > 1
    run = prepare(config, seen(config, data), trains=folds_share)
    return _evaluate(config, workdir, run, trainer.Trainer(run.training, workdir, say=say).restore(), say)


@dataclasses.dataclass
class _Pool:
  """What the trainings of a run came to.

  Attributes:
    tested: the labels and predictions of each training.
    lines: rows of predictions.csv.
    histories: the metric rows of each training.
    by_fold: the accuracy of each training.
    warnings: lines for the reader.
    examples: class -> its first test record, and the class predicted for it.
    apart: whether nobody is both trained on and tested.
    figures: the system's figures of the first training, by file, with their captions.
  """

  tested: list[tuple[np.ndarray, Mapping[str, Prediction]]] = dataclasses.field(default_factory=list)
  lines: list[tuple[str, ...]] = dataclasses.field(default_factory=list)
  histories: list[list[dict[str, Any]]] = dataclasses.field(default_factory=list)
  by_fold: dict[str, float] = dataclasses.field(default_factory=dict)
  warnings: list[str] = dataclasses.field(default_factory=list)
  examples: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)
  apart: bool = True
  figures: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def add(
    self, name: str, task: Task, split: folds.Split, end: members.Result, workdir: pathlib.Path
  ) -> None:
    """Adds a training; raises `UserError` if it was not finite."""
    if end.failed is not None:
      raise UserError(
        f"{name}: loss or gradient is not finite in {end.failed}: lower the learning rate, or check the data"
      )
    assert end.outputs is not None
    keep(workdir / "weights" / name, task, end.variables, end.outputs, end.member.test)
    order = np.argsort(end.member.test)
    rows, outputs = end.member.test[order], end.outputs[order]
    if not self.by_fold:
      self.figures = task.system.figures(task, end.variables, np.flatnonzero(split.train), rows, workdir)
    if not np.isfinite(outputs).all():
      raise UserError(f"{workdir / name}: the trained net's outputs are not finite")
    self.histories.append(end.history)
    said = task.system.warnings(task.model, end.history, outputs)
    self.warnings += [f"{name}: {line}" for line in said] if name else said
    predictions = task.read(outputs, rows)
    self.tested.append((np.asarray(task.data["label"][rows]), predictions))
    trained, subjects = split.train | split.validation, task.records.subjects
    self.apart &= not len(np.intersect1d(subjects[trained], subjects[rows]))
    self._list(name or str(task.config.split.fold or 0), task, rows, next(iter(predictions.values())))

  def _list(self, fold: str, task: Task, rows: np.ndarray, first: Prediction) -> None:
    """Lists the test records with the prediction that counts."""
    data = task.records
    self.by_fold[fold] = task.score(first.correct, rows).accuracy
    for row, guess, share in zip(rows, first.predicted, first.correct, strict=True):
      label = int(data.arrays["label"][row])
      self.examples.setdefault(label, (int(row), int(guess)))
      names = data.label_names[label], data.label_names[guess]
      shares = (f"{share:g}",) if first.trials > 1 else ()
      self.lines.append((data.keys[row], str(data.subjects[row]), *names, fold, *shares))


def _evaluate(
  config: RunConfig,
  workdir: pathlib.Path,
  run: Run,
  results: Sequence[members.Result],
  say: Callable[[str], None],
) -> dict[str, Any]:
  """See `evaluate`."""
  pool = _Pool()
  for name, end in zip(run.tasks, results, strict=True):
    pool.add(name, run.tasks[name], run.splits[name], end, workdir)
  task = next(iter(run.tasks.values()))
  result = _result(config, task, pool)
  _write_report(workdir, result, pool.lines, pool.histories)
  if result["confusion"] is not None:
    _draw_examples(workdir, task.records, pool.examples)
  placed = groups.placement_of(run.training, workdir)
  pages.write_run(workdir, result, placed.description, pool.figures)
  _say_result(result, say)
  for line in pool.warnings:
    say(line)
  return result


def _result(config: RunConfig, task: Task, pool: _Pool) -> dict[str, Any]:
  """The contents of evaluation.json."""
  data, classes = task.records, len(task.records.label_names)
  score, *others = pooled_scores(pool.tested, classes)
  first, *names = pool.tested[0][1]
  published = task.published()
  low, high = metrics.wilson_interval(score.correct, score.count)
  return {
    "accuracy": score.accuracy,
    "correct": score.correct,
    "count": score.count,
    "trials": pool.tested[0][1][first].trials,
    "interval_95": [low, high],
    "chance": 1 / int((score.support > 0).sum()),
    "unseen": "people" if pool.apart and not folds.anonymous(data.subjects) else "records",
    "batches": f"in batches of {task.test_batch}, in order" if task.system.batch_dependent else "",
    "average_accuracy": score.average_accuracy,
    "recall": dict(zip(data.label_names, score.recall.tolist(), strict=True)),
    "accuracy_by_fold": pool.by_fold,
    "read_otherwise": {name: other.accuracy for name, other in zip(names, others, strict=True)},
    "confusion": pooled_confusion(pool.tested, classes) if classes <= MANY else None,
    "label_names": list(data.label_names),
    "published": published,
    "source": task.system.citation if published else "",
    "papers_data": task.system.on_papers_data(config.data),
    "data": {"name": config.data.name, **config.data.options, "fingerprint": data.fingerprint},
    "revision": revision(),
  }


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
  grids.rows_png(pictures, names, workdir / "examples.png", "One test record of each class")


def _say_result(result: dict[str, Any], say: Callable[[str], None]) -> None:
  low, high = result["interval_95"]
  say("")
  if result["confusion"] is None:
    classes = len(result["label_names"])
    say(f"{classes} classes: no confusion matrix and no examples are written for more than {MANY}")
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
    say(f"pooled over {len(values)} folds; single folds {min(values):.3f} to {max(values):.3f}")
  for name, accuracy in result["read_otherwise"].items():
    batches = "" if name.endswith(ALONE) or not result["batches"] else f", {result['batches']}"
    say(f"the same net evaluated otherwise, {name}{batches}: {accuracy:.4f}")
  for name, accuracy in result["published"].items():
    comparable = "" if result["papers_data"] else " (other data than the paper's)"
    say(f"published, {name}: {accuracy:.4f}{comparable}; {result['source']}")
