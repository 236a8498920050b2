"""Trains and evaluates a config of any system, including all of its folds."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfer import config as configuration
from jaxfer import files, folders
from jaxfer.config import RunConfig
from jaxfer.data import folds, records
from jaxfer.errors import UserError
from jaxfer.report import model_card, pages
from jaxfer.report import run as report
from jaxfer.report import study as scores
from jaxfer.study import evaluation, given, record, together, trainings
from jaxfer.study.evaluation import Evaluated
from jaxfer.study.inputs import description
from jaxfer.study.split import folds_of
from jaxfer.study.task import options_of, relabelled, with_dtype
from jaxfer.train import processes
from jaxfer.train.checkpoint import exists
from jaxfer.train.members import Result
from jaxfer.train.trainer import Trainer


def train(
  config: RunConfig,
  workdir: pathlib.Path,
  data_dir: pathlib.Path,
  *,
  resume: bool = False,
  profile: pathlib.Path | None = None,
  log: Callable[[str], None] = print,
) -> dict[str, Any]:
  """Trains a config, including all of its folds, and evaluates it.

  Args:
    config: the config to train.
    workdir: folder for metrics, checkpoints and figures.
    data_dir: folder of the prepared data sets.
    resume: whether to continue the run in `workdir`.
    profile: folder for a trace of one chunk of steps (of the first fold); None records no trace.
    log: called with each line of the log.

  Returns:
    The result, see `evaluate`. With several processes, those other than process 0 return an empty one.

  Raises:
    UserError: as `Trainer.fit` and `folders.hold`; also if processes that train together differ, if the run in
      `workdir` was begun with another configuration or on other data, or if the loss or a gradient of a fold is not
      finite.
    Interrupted: SIGTERM or SIGINT arrived. The state has been saved.
  """
  configuration.check(config, options_of)
  together.check_program({"": config}, resume=resume)
  with together.hold(workdir, folders.hold(workdir, folders.RUN, data_dir, log)):
    config = with_dtype(config, processes.decided(lambda: _dtype(workdir) if resume else None))
    begun = processes.decided(lambda: _begun(config, workdir, resume))
    data = together.load(config, data_dir)
    processes.alone(lambda: _record(config, workdir, data, begun), None)
    data = relabelled(config, data)
    run = processes.each(lambda: trainings.prepare(config, data))
    _describe(run, data, log)
    trainer = Trainer(run.training, workdir, profile=profile, log=log)
    results = trainer.fit(resume=resume)
    return processes.alone(
      lambda: _evaluate(config, workdir, run, results, trainer.description, log), dict[str, Any]()
    )


def _dtype(workdir: pathlib.Path) -> str | None:
  """Returns the dtype of the run in `workdir`, if there is one."""
  return record.config_of(workdir).dtype if (workdir / folders.RUN).exists() else None


def _begun(config: RunConfig, workdir: pathlib.Path, resume: bool) -> bool:
  """Returns whether the folder holds checkpoints of this run.

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
  return bool(begun)


def _record(config: RunConfig, workdir: pathlib.Path, data: records.Records, begun: bool) -> None:
  """Records the configuration, the data and the given weights of a run in its folder.

  Raises:
    UserError: the run was begun with other data or weights.
  """
  given.check(workdir, {"init_from": config.init_from}, begin=not begun)
  record.check_data(workdir, config.data, data, begin=not begun)
  files.write_atomic(workdir / folders.RUN, configuration.to_json(config) + "\n")


def _describe(run: trainings.Run, data: records.Records, log: Callable[[str], None]) -> None:
  """Logs the model, the data and the splits."""
  task = next(iter(run.tasks.values()))
  config = task.config
  shapes = jax.eval_shape(task.init, jax.random.key(0))["params"]
  size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  log(
    f"{config.model.name}: {size:,} parameters, {config.dtype}; {config.data.name}: {len(data)} records, "
    f"{task.placement}"
  )
  for note in (*data.notes, *run.notes):
    log(note)
  for name, split in run.splits.items():
    sides = folds.describe(data.subjects, data.arrays["label"], data.label_names, split)
    log(f"{name}: {sides}" if name else sides)


def evaluate(
  workdir: pathlib.Path, data_dir: pathlib.Path, *, log: Callable[[str], None] = print
) -> dict[str, Any]:
  """Evaluates a trained run on its test records. The counts of all folds are pooled.

  The accuracy is that of `metrics.score`, as in a study. If a protocol has several trials, the accuracy, the counts and
  the confusion matrix are means over the trials. `predictions.csv` then contains, for each record, the class that most
  trials predict and the share of trials that are correct. Its last columns are the probabilities of the classes.

  Writes these files to `workdir`: `evaluation.json`, `predictions.csv`, `confusion.txt`, `report.html`,
  `model_card.md`, the figures `confusion.png`, `curves.png` and `examples.png` (one test record of each class), and the
  system's own figures for the first fold. The weights of the training, or of each fold, are written to the folder
  `weights`. With more than `trainings.MANY` classes, such as people or ImageNet's objects, nothing is drawn or listed
  per class, and "confusion" and "calibration" are None.

  Args:
    workdir: folder of the run.
    data_dir: folder of the prepared data sets.
    log: called with each line of the log.

  Returns:
    The contents of `evaluation.json`. The recall of a class without test records is None.

  Raises:
    UserError: `workdir` holds no run, or an unfinished one, or the data are not those of the training; or as
      `folders.hold`.
  """
  together.check_program({})
  if processes.decided(lambda: folders.kind(workdir) is None):
    raise UserError(f"{workdir} holds no run: there is no config.json in it")
  holding = folders.hold(workdir, folders.RUN, data_dir, log, "give the folder of a run")
  with together.hold(workdir, holding):
    config = processes.each(lambda: record.config_of(workdir))
    data = together.load(config, data_dir)
    processes.alone(lambda: record.check_data(workdir, config.data, data, begin=False), None)
    # Folds share given weights that stay frozen. These are not in the checkpoints, so they are read again.
    folds_share = config.init_from is not None and folds_of(config, data) > 1
    run = processes.each(lambda: trainings.prepare(config, relabelled(config, data), trains=folds_share))
    trainer = Trainer(run.training, workdir, log=log)
    results = trainer.restore()
    return processes.alone(
      lambda: _evaluate(config, workdir, run, results, trainer.description, log), dict[str, Any]()
    )


def _evaluate(
  config: RunConfig,
  workdir: pathlib.Path,
  run: trainings.Run,
  results: Sequence[Result],
  device: str,
  log: Callable[[str], None],
) -> dict[str, Any]:
  """Evaluates the trainings of a run together, and writes all results; see `evaluate`.

  Raises:
    UserError: a training failed.
  """
  evaluated = []
  for (name, task), result in zip(run.tasks.items(), results, strict=True):
    own = evaluation.evaluate(name, task, result)
    _check_finite(own, workdir)
    trainings.keep(workdir / "weights" / name, task, result.variables, own.inference_state)
    evaluated.append(own)
  contents = _contents(config, evaluated)
  history = [{**line, "fold": k} for k, own in enumerate(evaluated) for line in own.result.history]
  report.write(workdir, contents, [line for own in evaluated for line in _lines(own)], history)
  if contents["confusion"] is not None:
    _write_examples(workdir / "examples.png", evaluated)
  pages.write_run(workdir, contents, device, evaluation.figures(evaluated[0], workdir))
  _write_card(workdir / "model_card.md", run, contents)
  for line in report.lines(contents):
    log(line)
  for line in (line for own in evaluated for line in own.warnings):
    log(line)
  return contents


def _check_finite(own: Evaluated, workdir: pathlib.Path) -> None:
  """Raises `UserError` if a training failed."""
  if own.result.failed is not None:
    raise UserError(
      f"{own.name}: loss or gradient is not finite in {own.result.failed}: lower the learning rate, or check the data"
    )
  if own.failed is not None:
    raise UserError(f"{workdir / own.name}: {own.failed} are not finite")


def _fold(own: Evaluated) -> str:
  """Returns the name of the fold for reports."""
  return own.name or str(own.fold)


def _lines(own: Evaluated) -> list[list[str]]:
  """Returns the rows of predictions.csv for a training."""
  data, first, lines = own.task.records, own.first, []
  every = own.probabilities if len(data.label_names) <= trainings.MANY else np.zeros((len(own.indices), 0))
  for index, predicted, share, probabilities in zip(
    own.indices, first.predicted, first.correct, every, strict=True
  ):
    label = data.label_names[data.arrays["label"][index]]
    shares = [f"{share:g}"] if first.trials > 1 else []
    row = [data.keys[index], str(data.subjects[index]), label, data.label_names[predicted], _fold(own)]
    lines.append([*row, *shares, *(f"{value:.6g}" for value in probabilities)])
  return lines


def _write_examples(path: pathlib.Path, evaluated: Sequence[Evaluated]) -> None:
  """Draws the first test record of each class."""
  data = evaluated[0].task.records
  examples: dict[int, tuple[int, int]] = {}
  for own in evaluated:
    for index, predicted in zip(own.indices, own.first.predicted, strict=True):
      examples.setdefault(int(data.arrays["label"][index]), (int(index), int(predicted)))
  labels = sorted(examples)
  indices = [examples[label][0] for label in labels]
  frames = (
    data.arrays["frames"][indices] if "frames" in data.arrays else data.arrays["image"][indices][:, None]
  )
  names = data.label_names
  report.write_examples(path, frames, [names[k] for k in labels], [names[examples[k][1]] for k in labels])


def _write_card(path: pathlib.Path, run: trainings.Run, contents: Mapping[str, Any]) -> None:
  """Writes the model card of a run."""
  task = next(iter(run.tasks.values()))
  data, model = task.records, task.config.model
  options = ", ".join(f"{name}={value!r}" for name, value in model.options.items())
  splits = {
    name: folds.describe(data.subjects, data.arrays["label"], data.label_names, split)
    for name, split in run.splits.items()
  }
  shapes = {name: f"{shape['dtype']} {shape['shape']}" for name, shape in description(task)["inputs"].items()}
  inputs = {**shapes, **task.system.input_spec(task.model)}
  model_card.write(path, contents, f"{model.name}({options})", splits, inputs)


def _contents(config: RunConfig, evaluated: Sequence[Evaluated]) -> dict[str, Any]:
  """Returns the contents of evaluation.json."""
  first = evaluated[0]
  task, data, pooled = first.task, first.task.records, evaluation.by_seed(evaluated)
  names, found, published = data.label_names, scores.scores(pooled), first.task.published()
  in_order = f"in batches of {task.test_batch}, in order" if task.system.batch_dependent else ""
  others = {name: own.batches for name, own in first.predictions.items() if own is not first.first}
  return {
    "accuracy": found["mean"],
    "correct": found["correct"],
    "count": found["count"],
    "trials": found["trials"],
    "interval_95": found["interval"],
    "chance": found["chance"],
    "unseen": "people"
    if all(own.new_people for own in evaluated) and not folds.anonymous(data.subjects)
    else "records",
    "batches": in_order,
    "average_accuracy": found["average_accuracy"][0][0],
    "calibration": evaluation.calibration(evaluated) if len(names) <= trainings.MANY else None,
    "recall": dict(zip(names, (mean for mean, _ in found["recall"]), strict=True)),
    "accuracy_by_group": evaluation.by_group(evaluated),
    "accuracy_by_fold": {
      _fold(own): task.score(own.first.correct, own.indices).accuracy for own in evaluated
    },
    "other_predictions": {
      name: {
        "accuracy": found["predictions"][name]["accuracy"][0][0],
        "batches": "" if batches else in_order,
      }
      for name, batches in others.items()
    },
    "confusion": scores.confusion(pooled) if len(names) <= trainings.MANY else None,
    "label_names": list(names),
    "published": published,
    "source": task.system.citation if published else "",
    "papers_data": task.system.on_papers_data(config.data),
    "data": {"name": config.data.name, **config.data.options, "fingerprint": data.fingerprint},
    "revision": trainings.revision(),
  }
