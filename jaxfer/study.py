"""Studies: a whole published table by one command, each row folds x seeds of one training, printed beside the paper.

A row's trainings have the same stages and shapes and are members of one program; rows follow one another. A seed tests
a record at most once, by the fold that holds it out; its accuracy pools the counts of its folds. Where the split is
drawn anew by each seed, seeds test different records. A training that stops being finite stays in: its records count as
wrong, and the table names it.
"""

import contextlib
import dataclasses
import json
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfer import config as configuration
from jaxfer import metrics
from jaxfer.config import RunConfig, StudyConfig
from jaxfer.data import records
from jaxfer.data.datasets import DATASETS
from jaxfer.errors import UserError
from jaxfer.experiments import EXPERIMENTS
from jaxfer.experiments import run as runs
from jaxfer.experiments.task import options_of, split_of, task_of
from jaxfer.report import pages
from jaxfer.report import study as report
from jaxfer.train import members


def run(
  study: StudyConfig,
  preset: str | None,
  assignments: Sequence[str],
  workdir: pathlib.Path,
  data_dir: pathlib.Path,
  *,
  resume: bool = False,
  say: Callable[[str], None] = print,
) -> dict[str, Any]:
  """Trains what is not trained yet, judges all of it, and returns the table as `table.json` holds it.

  Writes to `workdir`: `study.json`, what was asked for; a folder a row below `rows`, with its trainings, `result.json`,
  `confusion.png` and `curves.png`; and what `report.study.write` makes of the table.

  Args:
    study: what to run.
    preset: one of its presets, or None for its own choice.
    assignments: overrides, as `config.resolve` takes them.
    workdir: of this study alone.
    data_dir: the folder of prepared data.
    resume: go on with the study in `workdir`; rows that are done are not trained again.
    say: takes the lines for the reader.

  Raises:
    UserError: as `config.resolve`; `workdir` holds something else, or this study and `resume` is not asked for; as
      `records.load` and `members.train`.
    Interrupted: SIGTERM or SIGINT came; the state is saved.
  """
  study, rows = configuration.resolve(study, preset, assignments, options_of)
  _begin(study, rows, workdir, resume)
  results = []
  loaded: dict[str, records.Records] = {}
  for number, (row, config) in enumerate(zip(study.rows, rows.values(), strict=True), start=1):
    folder = workdir / "rows" / _slug(row.name)
    path = folder / "result.json"
    if path.is_file():
      say(f"row {number} of {len(rows)}, {row.name}: done before")
    else:
      say(f"row {number} of {len(rows)}, {row.name}:")
      asked = json.dumps(dataclasses.asdict(config.data))
      if asked not in loaded:
        loaded[asked] = runs.load_data(config, data_dir)
        for note in loaded[asked].notes:
          say(note)
      result = _train(config, study.named_seeds, loaded[asked], folder, say)
      # Whole or not at all: what is there counts as done.
      path.with_suffix(".part").write_text(json.dumps(result))
      path.with_suffix(".part").rename(path)
    results.append(json.loads(path.read_text()))
  _check_data(rows, results)
  table = _table(study, rows, results)
  histories = {row.name: _history(workdir / "rows" / _slug(row.name)) for row in study.rows}
  figures = EXPERIMENTS[study.base.recipe.name].table_figures(table["rows"], workdir)
  report.write(table, histories, workdir, [_slug(row.name) for row in study.rows], figures)
  say("")
  say(report.text(table))
  return table


def _slug(name: str) -> str:
  return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _begin(study: StudyConfig, rows: Mapping[str, RunConfig], workdir: pathlib.Path, resume: bool) -> None:
  """Writes down what is asked for, unless something else lies there."""
  now = {
    "preset": study.preset,
    "seeds": list(study.named_seeds),
    "rows": {name: configuration.identity(config) for name, config in rows.items()},
  }
  path = workdir / "study.json"
  if path.is_file():
    before = json.loads(path.read_text())
    ignored = {"preset": None}
    if keys := configuration.tree_differences(before | ignored, now | ignored):
      more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
      raise UserError(
        f"{workdir} was begun with another study, preset or override ({', '.join(keys[:3])}{more} differ): "
        "go on with the same, or choose another --workdir"
      )
    if not resume:
      raise UserError(f"{workdir} already holds this study: go on with --resume, or choose another --workdir")
  elif (workdir / "config.json").is_file():
    raise UserError(f"{workdir} holds a training, not a study: choose another --workdir")
  workdir.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(now, indent=2) + "\n")


def _train(
  config: RunConfig,
  seeds: Sequence[int],
  data: records.Records,
  folder: pathlib.Path,
  say: Callable[[str], None],
) -> dict[str, Any]:
  """Trains folds x seeds of a row, and returns what was predicted for whom, by seed.

  Folds of different length share a schedule: that of the longest.
  """
  task = task_of(config, data)
  folds = list(runs.fold_dirs(config, folder, data).values())
  every = [
    dataclasses.replace(task, config=dataclasses.replace(fold, seed=seed)) for seed in seeds for fold in folds
  ]
  splits = [split_of(one.config, data) for one in every]
  plans = [one.plan(split) for one, split in zip(every, splits, strict=True)]
  stages, hyper = task.stages(max(plan.steps for plan in plans))
  trainings = [
    members.Member(
      f"seed {one.config.seed}, fold {one.config.split.fold or 0}",
      one.config.seed,
      plan,
      hyper,
      watched=np.flatnonzero(split.validation),
      tested=np.flatnonzero(split.test),
    )
    for one, plan, split in zip(every, plans, splits, strict=True)
  ]
  started = time.monotonic()
  with _compilations() as compilations:
    results = members.train(
      stages,
      trainings,
      task.init,
      task.data,
      folder,
      execution=config.execution,
      mode=config.execution.members,
      evaluation=members.Evaluation(task.logits, task.judge, config.batch_size),
      record={"config": configuration.identity(config), "data": data.fingerprint},
      resume=True,
      revision=runs.revision(),
      say=say,
    )
  figures: Mapping[str, str] = {}
  for own, result in zip(every, results, strict=True):
    if result.failed is None:
      figures = task.experiment.figures(own, result.variables, result.member.tested, folder)
      break
  predicted: dict[int, list[np.ndarray]] = {seed: [] for seed in seeds}
  failed = []
  for result in results:
    where = result.failed
    assert result.outputs is not None
    if where is None and not np.isfinite(result.outputs).all():
      where = "the trained net's logits"
    if where is not None:
      failed.append(f"{result.member.name}: not finite in {where}; its records count as wrong")
    guess = np.asarray(metrics.predict(result.outputs))
    guess = guess if where is None else np.full_like(guess, -1)
    predicted[result.member.seed].append(np.stack([result.member.tested, guess]))
  # Of each seed the rows tested, ascending, and what they were taken for.
  by_seed = [np.concatenate(parts, axis=1) for parts in predicted.values()]
  by_seed = [both[:, np.argsort(both[0])] for both in by_seed]
  return {
    "data": _data(config, data),
    "label_names": list(data.label_names),
    "parameters": sum(a.size for a in jax.tree.leaves(results[0].variables["params"])),
    "folds": len(folds),
    "tested": _tested(config, len(folds)),
    "members": len(trainings),
    "failed": failed,
    "figures": dict(figures),
    "facts": dict(task.experiment.facts([result.history for result in results])),
    "seconds": round(time.monotonic() - started, 1),
    "compile_seconds": round(sum(compilations), 1),
    "key": [[data.keys[row] for row in rows] for rows, _ in by_seed],
    "subject": [data.subjects[rows].tolist() for rows, _ in by_seed],
    "label": [data.arrays["label"][rows].tolist() for rows, _ in by_seed],
    "predicted": [guess.tolist() for _, guess in by_seed],
  }


def _tested(config: RunConfig, folds: int) -> str:
  """Who is tested, in words."""
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
  """Collects how long each compilation takes, or its look-up in the cache."""
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
  """The data set with all its options, and what tells it from any other."""
  made = records.make_config(config.data.name, config.data.options)
  options = {name: getattr(made, name) for name in options_of("data", config.data)}
  return {
    "name": config.data.name,
    **options,
    "records": len(data),
    "people": len(data.subject_names),
    "fingerprint": data.fingerprint,
  }


def _check_data(rows: Mapping[str, RunConfig], results: Sequence[Mapping[str, Any]]) -> None:
  """Refuses a table whose rows were trained on different versions of one data set."""
  seen: dict[str, tuple[str, str]] = {}
  for (name, config), result in zip(rows.items(), results, strict=True):
    fingerprint = result["data"]["fingerprint"]
    first, before = seen.setdefault(json.dumps(dataclasses.asdict(config.data)), (name, fingerprint))
    if before != fingerprint:
      raise UserError(
        f"the data changed between row '{first}' ({before[:12]}) and row '{name}' ({fingerprint[:12]}): "
        "choose another --workdir"
      )


def _history(folder: pathlib.Path) -> list[dict[str, Any]]:
  paths = sorted(folder.glob("group*/metrics.jsonl"), key=lambda path: int(path.parent.name[len("group") :]))
  return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def _table(
  study: StudyConfig, rows: Mapping[str, RunConfig], results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
  by_name = dict(zip(rows, results, strict=True))
  judged = [{**report.judged(by_name[row.name]), **_published(row)} for row in study.rows]
  further = EXPERIMENTS[study.base.recipe.name].tables(judged, study.named_seeds)
  return {
    "title": study.title,
    "source": study.source,
    "note": study.note,
    "preset": study.preset,
    "seeds": list(study.named_seeds),
    "rows": judged,
    "tables": [{"title": title, "header": header, "rows": cells} for title, (header, cells) in further],
    "comparisons": [
      report.compare(one, by_name[one], other, by_name[other]) for one, other in study.compared
    ],
    "config": configuration.identity(study.base),
    "environment": _environment(),
    "timing": {
      "seconds": round(sum(result["seconds"] for result in results), 1),
      "compile_seconds": round(sum(result["compile_seconds"] for result in results), 1),
    },
  }


def _published(row: configuration.Row) -> dict[str, Any]:
  return {"name": row.name, "overrides": list(row.overrides), "published": row.published}


def _environment() -> dict[str, str]:
  devices = jax.devices()
  device = f"{len(devices)} x {devices[0].device_kind}"
  return {"jaxfer": runs.revision(), **pages.versions(), "device": device}


def listing(root: pathlib.Path) -> str:
  """Every study below a folder: its title, what was published where, the data it needs and where they come from.

  Raises:
    UserError: no study there.
  """
  lines = []
  for path in sorted(root.rglob("*.py")):
    study = configuration.read(path)
    if isinstance(study, StudyConfig):
      _, rows = configuration.resolve(study, None, (), options_of)
      names = dict.fromkeys(config.data.name for config in rows.values())
      lines += [
        f"{path}",
        f"  {study.title}; {len(study.rows)} rows; presets {', '.join(study.presets)}",
        f"  published: {study.source}",
        *(f"  data: {name}: {DATASETS[name].licence}" for name in names),
      ]
  if not lines:
    raise UserError(f"no study below {root}: run from a checkout of jaxfer")
  return "\n".join(lines)
