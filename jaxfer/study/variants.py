"""Trains the variants of a study: each is trained for every combination of fold and seed.

The trainings of a variant are members of one `Training`, together with those of variants that differ only in numeric
hyperparameters. With one seed, each record is tested at most once, by the fold that holds it out. The accuracy of a
seed pools the counts of its folds. If each seed draws its own split, the seeds test different records. A training that
fails stays in the result: its records count as wrong, and the table names it.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from jaxfer import config as configuration
from jaxfer import files
from jaxfer.config import RunConfig
from jaxfer.data import records
from jaxfer.errors import UserError
from jaxfer.study import evaluation, pretrained, trainings
from jaxfer.study.task import Task, options_of
from jaxfer.train import groups, processes, weights
from jaxfer.train.members import Result
from jaxfer.train.stage import Variables
from jaxfer.train.trainer import Trainer

RESULT = "result.json"
# Keys of the result of a trained variant. One that was not trained has the reason under "not_trained".
_KEYS = (
  "data", "label_names", "parameters", "failed", "summaries", "table_summaries", "key", "subject", "label", "predicted",
  "correct", "rank", "predictions", "members", "folds", "tested", "figures", "metrics", "warnings", "seconds",
  "compile_seconds",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Variant:
  """A variant to train.

  Attributes:
    name: name of the variant in the table.
    config: config of its trainings, apart from seed and fold.
    folder: folder for its result, figures and weights.
  """

  name: str
  config: RunConfig
  folder: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Start:
  """The weights that the trainings of a variant start from.

  Attributes:
    folder: folder of weights; or folder of a variant trained with `keep`, from which each training takes the weights of
      its own seed and fold; or None for initial values.
    description: description of the folder for the log.
  """

  folder: pathlib.Path | None = None
  description: str = ""


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
  variants: Sequence[Variant],
  task: Task,
  seeds: Sequence[int],
  start: Start,
  keep: bool,
  log: Callable[[str], None],
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
  """Trains every fold and seed of variants that differ only in numeric hyperparameters.

  If the folds have different numbers of steps per epoch, the schedule of the longest one applies to all.

  Args:
    variants: variants to train together. The checkpoints are kept in the folder of the first one.
    task: task of the first variant.
    seeds: seeds with which each fold is trained.
    start: the weights to start from.
    keep: whether to write the trained weights to the folder of each variant, so that others can start from them.
    log: called with each line of the log.

  Returns:
    One (result, history) pair per variant. The result has the keys `_KEYS`, including the prediction for each test
    record. The history contains the metrics of all trainings, with member, seed and fold. With several processes,
    process 0 alone has them, and the others have empty ones.
  """
  started = time.monotonic()
  every = [
    (variant, dataclasses.replace(task, config=dataclasses.replace(fold, seed=seed)))
    for variant in variants
    for seed in seeds
    for fold in trainings.fold_configs(variant.config, task.records).values()
  ]
  names = [_name(one.config) for _, one in every]
  with compilations() as compile_seconds:
    results = _fit(every, names, variants[0], task, start, log)
  times = started, sum(compile_seconds)
  return processes.alone(
    lambda: _evaluated(variants, task, len(seeds), every, names, results, times, keep, log),
    [({}, []) for _ in variants],
  )


def _evaluated(
  variants: Sequence[Variant],
  task: Task,
  seeds: int,
  every: Sequence[tuple[Variant, Task]],
  names: Sequence[str],
  results: Sequence[Result],
  times: tuple[float, float],
  keep: bool,
  log: Callable[[str], None],
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
  """Evaluates the trainings of variants; see `train` and `_fit`.

  Args:
    variants: the variants.
    task: task of the first variant.
    seeds: number of seeds.
    every: each training's variant and task.
    names: each training's name.
    results: each training's result.
    times: when the trainings began, by `time.monotonic`, and for how many seconds programs were compiled.
    keep: whether to write the trained weights.
    log: called with each warning.
  """
  started, compile_seconds = times
  count = len(every) // len(variants)
  outcomes = []
  for k, variant in enumerate(variants):
    own = slice(k * count, (k + 1) * count)
    evaluated = [
      evaluation.evaluate(name, one, result)
      for name, (_, one), result in zip(names[own], every[own], results[own], strict=True)
    ]
    result = {
      "data": _data(variant.config, task.records),
      **evaluation.variant(evaluated, variant.folder),
      "members": count,
      "folds": count // seeds,
      "tested": _tested(variant.config, count // seeds),
      "seconds": round((time.monotonic() - started) / len(variants), 1),
      "compile_seconds": round(compile_seconds / len(variants), 1),
    }
    for line in result["warnings"]:
      log(f"{variant.name}, {line}")
    outcomes.append((result, [line for each in evaluated for line in each.history]))
    if keep:
      for each in evaluated:
        folder = variant.folder / "weights" / each.name
        trainings.keep(folder, each.task, each.result.variables, each.inference_state)
  return outcomes


def _fit(
  every: Sequence[tuple[Variant, Task]],
  names: Sequence[str],
  first: Variant,
  task: Task,
  start: Start,
  log: Callable[[str], None],
) -> list[Result]:
  """Trains all trainings of variants, in calls that `_calls` chooses, and returns their results in order.

  Args:
    every: each training's variant and task.
    names: each training's name, which is unique within its variant.
    first: the variant in whose folder the checkpoints are kept.
    task: task of the first variant.
    start: the weights to start from.
    log: called with each line of the log.
  """
  several = len({variant.name for variant, _ in every}) > 1
  unique = [
    f"{variant.name}: {name}" if several else name for (variant, _), name in zip(every, names, strict=True)
  ]
  starts = processes.each(lambda: _starts(task, names, start, log))
  pretrained.check_pretrained(task, starts[0])
  training, _ = trainings.training_of(
    {name: one for name, (_, one) in zip(unique, every, strict=True)},
    dict(zip(unique, starts, strict=True)),
    start.description or str(start.folder or ""),
  )
  results: dict[int, Result] = {}
  for folder, numbers in _calls(names, first.folder, first.config).items():
    part = dataclasses.replace(training, members=[training.members[k] for k in numbers])
    results |= zip(numbers, Trainer(part, folder, log=log).fit(resume=True), strict=True)
  return [results[k] for k in range(len(every))]


def store(folder: pathlib.Path, result: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
  """Writes the result and the history of a variant to its folder. It is done once `result.json` exists."""
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
  """Returns the metrics that `store` wrote.

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
    names: one name per training, which is unique within a variant.
    folder: output folder of the first variant.
    config: its config.

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
  """Returns the name of a training within its variant."""
  return f"seed {config.seed}, fold {config.split.fold or 0}"


def _starts(
  task: Task, names: Sequence[str], start: Start, log: Callable[[str], None]
) -> list[Variables | None]:
  """Returns the variables that each training starts from. If they are the same for all, they are one object."""
  folder = start.folder
  if folder is None:
    return [None] * len(names)
  if not (folder / "weights").is_dir():
    given = weights.load_weights(folder)
    taken, line = pretrained.load_pretrained(task, *given, start.description or str(folder))
    log(line)
    return [taken] * len(names)
  starts = {}
  for name in dict.fromkeys(names):
    # The weights of a failed training may contain NaN. A training that starts from them fails too, as the table shows.
    given = weights.load_weights(folder / "weights" / name, sound=False)
    starts[name], line = pretrained.load_pretrained(task, *given, f"row '{folder.name}'")
  log(f"{line}; each from the training of its seed and fold")
  return [starts[name] for name in names]


def _tested(config: RunConfig, folds: int) -> str:
  """Describes the test records in words."""
  split = config.split
  words = {
    "people": f"{folds} person-independent folds pooled" if folds > 1 else "people whom no training saw",
    "people_per_set": f"{split.test_people} people whom no training saw, of each data set about equally many",
    "leave_one_out": f"{folds} people pooled, each left out once",
    "per_class": f"{split.per_class} records of each class, whoever they show",
    "per_class_people": f"{split.per_class} records of each class, of people whom no training saw",
    "distributed": "the records that the distributor tests",
  }[split.kind]
  return words + (", drawn anew by each seed" if split.seed is None else "")


@contextlib.contextmanager
def compilations() -> Iterator[list[float]]:
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
  """Returns the name and all options of a data set, its notes, and what identifies it: version, counts, fingerprint."""
  made = records.make_config(config.data.name, config.data.options)
  options = {name: getattr(made, name) for name in options_of("data", config.data)}
  return {
    "name": config.data.name,
    **options,
    "records": len(data),
    "people": len(data.subject_names),
    "embedded_version": records.embedded_version(config.data.name),
    "fingerprint": data.fingerprint,
    **({"notes": list(data.notes)} if data.notes else {}),
  }
