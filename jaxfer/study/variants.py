"""Trains the rows of a study's table: each row is trained for every combination of fold and seed.

The trainings of a row are members of one `Training`, together with those of rows that differ only in numeric
hyperparameters. With one seed, each record is tested at most once, by the fold that holds it out. The accuracy of a
seed pools the counts of its folds. If each seed draws its own split, the seeds test different records. A training that
is not finite stays in the result: its records count as wrong, and the table names it.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfer import config as configuration
from jaxfer import files
from jaxfer.config import RunConfig
from jaxfer.data import records
from jaxfer.errors import UserError
from jaxfer.study import run as runs
from jaxfer.study.task import Task, options_of
from jaxfer.systems.system import ALONE, SHUFFLED, Prediction, in_batches
from jaxfer.train import groups, members, trainer, weights
from jaxfer.train.stage import Variables

RESULT = "result.json"
# Keys of the result of a trained row. A row that was not trained has the reason under "not_trained".
_KEYS = (
  "data", "label_names", "parameters", "failed", "facts", "table_summaries", "key", "subject", "label", "predicted",
  "correct", "rank", "readings", "members", "folds", "tested", "figures", "measures", "remarks", "seconds",
  "compile_seconds",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
  """A row to train.

  Attributes:
    name: name of the row in the table.
    config: config of its trainings, apart from seed and fold.
    folder: folder for its result, figures and weights.
  """

  name: str
  config: RunConfig
  folder: pathlib.Path


def alike(
  task: Task, row: configuration.Row, others: Sequence[configuration.Row], rows: Mapping[str, RunConfig]
) -> list[configuration.Row]:
  """Returns the rows that can be trained together with a row, as members of one program.

  These are the rows whose configs differ from its config only in hyperparameters that the stages read by name, and that
  start from the same weights.

  Args:
    task: task of the row.
    row: the row.
    others: rows to choose from, starting with `row` itself.
    rows: row name -> config.

  Returns:
    The chosen rows in the order of `others`, so `row` comes first.
  """
  _, hparams = task.stages(1)

  def rest(name: str) -> dict[str, Any]:
    tree = configuration.identity(rows[name])
    options = {key: value for key, value in tree["recipe"]["options"].items() if key not in hparams}
    return {**tree, "recipe": {**tree["recipe"], "options": options}}

  same = [other for other in others if rest(other.name) == rest(row.name)]
  return [other for other in same if (other.init_from, other.scratch) == (row.init_from, row.scratch)]


def train(
  rows: Sequence[Row],
  task: Task,
  seeds: Sequence[int],
  source: str | None,
  kept: bool,
  say: Callable[[str], None],
  said: str = "",
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
  """Trains every fold and seed of rows that differ only in numeric hyperparameters.

  If the folds have different numbers of steps per epoch, the schedule of the longest one applies to all.

  Args:
    rows: rows to train together. The checkpoints are kept in the folder of the first one.
    task: task of the first row.
    seeds: seeds with which each fold is trained.
    source: folder of weights to start from; or folder of a row trained with `kept`, from which each training takes the
      weights of its own seed and fold; or None.
    kept: whether to keep the trained weights in the folder of each row, so that other rows can start from them.
    say: called with each line of the log.
    said: description of `source` for the log.

  Returns:
    One (result, history) pair per row. The result has the keys `_KEYS`, including the prediction for each test record.
    The history contains the metric rows of all trainings, with member, seed and fold.
  """
  config, data, folder = rows[0].config, task.records, rows[0].folder
  every = [
    (row, dataclasses.replace(task, config=dataclasses.replace(fold, seed=seed)))
    for row in rows
    for seed in seeds
    for fold in runs.fold_configs(row.config, data).values()
  ]
  started = time.monotonic()
  names = [_name(one.config) for _, one in every]
  unique = [
    name if len(rows) == 1 else f"{row.name}: {name}" for (row, _), name in zip(every, names, strict=True)
  ]
  starts = _starts(task, names, source, say, said)
  task.check_start(starts[0])
  training, _ = runs.training_of(
    {name: one for name, (_, one) in zip(unique, every, strict=True)},
    dict(zip(unique, starts, strict=True)),
    said or source or "",
  )
  results: list[members.Result] = [None] * len(every)  # type: ignore[list-item]
  with _compilations() as compilations:
    for at, numbers in _calls(names, folder, config).items():
      part = dataclasses.replace(training, members=[training.members[k] for k in numbers])
      ended = trainer.Trainer(part, at, say=say).fit(resume=True)
      for k, end in zip(numbers, ended, strict=True):
        results[k] = end
  told = []
  count = len(every) // len(rows)
  for k, row in enumerate(rows):
    own = slice(k * count, (k + 1) * count)
    tasks, ends = [one for _, one in every[own]], results[own]
    result = _result(row.config, task, seeds, ends, [one.config for one in tasks])
    result |= _by_system(row, tasks, ends, say)
    result |= {
      "members": count,
      "folds": count // len(seeds),
      "tested": _tested(row.config, count // len(seeds)),
      "seconds": round((time.monotonic() - started) / len(rows), 1),
      "compile_seconds": round(sum(compilations) / len(rows), 1),
    }
    lines = [
      {**line, "member": _name(one.config), "seed": one.config.seed, "fold": one.config.split.fold or 0}
      for one, end in zip(tasks, ends, strict=True)
      for line in end.history
    ]
    told.append((result, lines))
  if kept:
    for (row, one), end in zip(every, results, strict=True):
      assert end.outputs is not None
      runs.keep(row.folder / "weights" / _name(one.config), one, end.variables, end.outputs, end.member.test)
  return told


def _by_system(
  row: Row, tasks: Sequence[Task], ends: Sequence[members.Result], say: Callable[[str], None]
) -> dict[str, Any]:
  """What the system itself says of a row's trainings: figures of the first that is finite, metrics and warnings."""
  figures: Mapping[str, str] = {}
  files.make_folder(row.folder)
  measures: list[Mapping[str, float | None]] = []
  remarks: list[str] = []
  for task, end in zip(tasks, ends, strict=True):
    assert end.outputs is not None
    own_remarks = task.system.warnings(task.model, end.history, end.outputs)
    remarks += [f"{_name(task.config)}: {line}" for line in own_remarks]
    if end.failed is None and np.isfinite(end.outputs).all():
      learned, tested = np.sort(end.member.plan.rows), end.member.test
      if not measures:
        figures = task.system.figures(task, end.variables, learned, tested, row.folder)
      measures.append(task.system.metrics(task, end.variables, learned, tested))
  for line in remarks:
    say(f"{row.name}, {line}")
  return {
    "figures": dict(figures),
    "measures": {name: [own[name] for own in measures] for name in (measures or [{}])[0]},
    "remarks": remarks,
  }


def store(folder: pathlib.Path, result: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
  """Writes the result and the history of a row to its folder. The row is done once `result.json` exists."""
  files.make_folder(folder)
  text = "".join(files.to_json(line, None) + "\n" for line in lines)
  files.write_atomic(folder / "history.jsonl", text)
  files.write_json(folder / RESULT, result, indent=None)


def stored(folder: pathlib.Path) -> dict[str, Any]:
  """Returns the result that `store` wrote; raises `UserError` if it is damaged or from another version of jaxfer."""
  path = folder / RESULT
  result = files.read_json(path, _again(path))
  return result if "not_trained" in result else files.read_json(path, _again(path), _KEYS)


def history(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the metric rows that `store` wrote.

  Raises:
    UserError: a row is damaged, or from another version of jaxfer.
  """
  rows, damage = files.read_rows(folder / "history.jsonl")
  if damage:
    raise UserError(f"{folder / 'history.jsonl'} {damage}: {_again(folder / RESULT)}")
  if rows and not {"member", "seed", "fold"} <= rows[0].keys():
    path = folder / "history.jsonl"
    raise UserError(
      f"{path} names no seed and fold, so it is from another version of jaxfer: {_again(folder / RESULT)}"
    )
  return rows


def _again(result: pathlib.Path) -> str:
  """Returns the advice for a damaged result. It can be computed again, because the trainings are still there."""
  return f"remove {result} and go on with --resume"


def _calls(names: Sequence[str], folder: pathlib.Path, config: RunConfig) -> dict[pathlib.Path, list[int]]:
  """Groups trainings into calls: all of them, or with `vmap` only those that differ in numeric hyperparameters.

  Trainings with the same seed and plan that start from the same object share their batches. Frozen parts, such as a
  frozen net, are then stored and run once for all of them.

  Args:
    names: one name per training, which is unique within a row.
    folder: output folder of the rows.
    config: config of the first row.

  Returns:
    Output folder of a call -> indices of its trainings.
  """
  same: dict[str, list[int]] = {}
  for k, name in enumerate(names):
    same.setdefault(name, []).append(k)
  vmapped = groups.mode_of(config.execution.members, jax.default_backend()) == "vmap"
  if not vmapped or len(same) == len(names):
    return {folder: list(range(len(names)))}
  return {folder / name: numbers for name, numbers in same.items()}


def _name(config: RunConfig) -> str:
  """Returns the name of a training within its row."""
  return f"seed {config.seed}, fold {config.split.fold or 0}"


def _starts(
  task: Task, names: Sequence[str], source: str | None, say: Callable[[str], None], said: str = ""
) -> list[Variables | None]:
  """Returns the variables that each training starts from. If they are the same for all, they are one object."""
  if source is None:
    return [None] * len(names)
  folder = pathlib.Path(source)
  if not (folder / "weights").is_dir():
    taken, line = task.taken_over(*weights.load_weights(folder), said or source)
    say(line)
    return [taken] * len(names)
  starts = {}
  for name in dict.fromkeys(names):
    # The weights of a failed training may contain NaN. A training that starts from them fails too, as the table shows.
    stored = weights.load_weights(folder / "weights" / name, sound=False)
    starts[name], line = task.taken_over(*stored, f"row '{folder.name}'")
  say(f"{line}; each from the training of its seed and fold")
  return [starts[name] for name in names]


def _result(
  config: RunConfig,
  task: Task,
  seeds: Sequence[int],
  ends: Sequence[members.Result],
  configs: Sequence[RunConfig],
) -> dict[str, Any]:
  """Returns the predictions of a row's trainings by seed, with the records of each seed in ascending order."""
  data = task.records
  failed, readings = [], []
  for own_config, end in zip(configs, ends, strict=True):
    where = end.failed
    assert end.outputs is not None
    if where is None and not np.isfinite(end.outputs).all():
      where = "the trained net's outputs"
    if where is not None:
      failed.append(
        {
          "member": _name(own_config),
          "seed": own_config.seed,
          "fold": own_config.split.fold or 0,
          "where": where,
        }
      )
    read = dict(task.read(end.outputs, end.member.test))
    if end.shuffled is not None:
      mixed = task.read(end.shuffled, end.member.test)
      read |= {in_batches(name, SHUFFLED): own for name, own in mixed.items() if not name.endswith(ALONE)}
    readings.append(read if where is None else {name: _wrong(reading) for name, reading in read.items()})
  rows = [
    np.concatenate([end.member.test for end in ends if end.member.seed == seed]).astype(int) for seed in seeds
  ]
  orders = [np.argsort(own, kind="stable") for own in rows]

  def by_seed(name: str, field: str) -> list[list[Any]] | None:
    parts: dict[int, list[np.ndarray]] = {seed: [] for seed in seeds}
    for end, read in zip(ends, readings, strict=True):
      value = getattr(read[name], field)
      if value is None:
        return None
      parts[end.member.seed].append(value)
    joined = [np.concatenate(own) for own in parts.values()]
    return [own[order].tolist() for own, order in zip(joined, orders, strict=True)]

  first, *others = readings[0]
  fields = ("predicted", "correct", "rank")
  rows = [own[order] for own, order in zip(rows, orders, strict=True)]
  return {
    "data": _data(config, data),
    "label_names": list(data.label_names),
    "parameters": sum(a.size for a in jax.tree.leaves(ends[0].variables["params"])),
    "failed": failed,
    "facts": dict(task.system.summaries([end.history for end in ends], readings)),
    "table_summaries": dict(task.system.table_summaries([end.history for end in ends], readings)),
    "key": [[data.keys[row] for row in own] for own in rows],
    "subject": [data.subjects[own].tolist() for own in rows],
    "label": [data.arrays["label"][own].tolist() for own in rows],
    **{field: by_seed(first, field) for field in (*fields, "by_trial")},
    "readings": {name: {field: by_seed(name, field) for field in fields} for name in others},
  }


def _wrong(reading: Prediction) -> Prediction:
  """Returns the prediction that stands for a failed training, in which every record is wrong."""
  last = None if reading.rank is None else np.full_like(reading.rank, np.iinfo(reading.rank.dtype).max)
  trials = None if reading.by_trial is None else np.full_like(reading.by_trial, -1)
  return Prediction(
    np.full_like(reading.predicted, -1), np.zeros_like(reading.correct), last, by_trial=trials
  )


def _tested(config: RunConfig, folds: int) -> str:
  """Describes the test records in words."""
  split = config.split
  words = {
    "people": f"{folds} person-independent folds pooled" if folds > 1 else "people whom no training saw",
    "leave_one_out": f"{folds} people pooled, each left out once",
    "per_class": f"{split.per_class} records of each class, whoever they show",
    "per_class_people": f"{split.per_class} records of each class, of people whom no training saw",
    "distributed": "the records that the distributor tests",
  }[split.kind]
  return words + (", drawn anew by each seed" if split.seed is None else "")


@contextlib.contextmanager
def _compilations() -> Iterator[list[float]]:
  """Collects the seconds that each compilation, or its look-up in the cache, takes."""
  seconds: list[float] = []

  def note(event: str, duration_secs: float, **details: Any) -> None:
    del details
    if event == "/jax/core/compile/backend_compile_duration":
      seconds.append(duration_secs)

  jax.monitoring.register_event_duration_secs_listener(note)
  try:
    yield seconds
  finally:
    jax.monitoring.unregister_event_duration_listener(note)


def _data(config: RunConfig, data: records.Records) -> dict[str, Any]:
  """Returns the name and all options of the data set, and the version, counts and fingerprint that identify it."""
  made = records.make_config(config.data.name, config.data.options)
  options = {name: getattr(made, name) for name in options_of("data", config.data)}
  return {
    "name": config.data.name,
    **options,
    "records": len(data),
    "people": len(data.subject_names),
    "embedded_version": records.embedded_version(config.data.name),
    "fingerprint": data.fingerprint,
  }
