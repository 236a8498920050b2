"""Studies: reproduce a published table with one command, and print the results beside the published ones.

Each row of the table is one config, trained for every combination of fold and seed. The trainings of a row have the
same stages and shapes, and are members of one program (variants.py). Rows are trained one after another, except
that rows which differ only in numeric hyperparameters are trained together.
"""

import dataclasses
import functools
import gc
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxfer import config as configuration
from jaxfer import files, folders
from jaxfer.config import RunConfig, StudyConfig
from jaxfer.data import records
from jaxfer.errors import UserError
from jaxfer.report import study as report
from jaxfer.study import given, record, table, together, variants
from jaxfer.study.pretraining import Source, pretrainings, timing
from jaxfer.study.task import Task, options_of, task_of, with_dtype
from jaxfer.systems import SYSTEMS
from jaxfer.train import processes

_RESTORE = "put it back from a copy, or choose another --workdir"


def run(
  study: StudyConfig,
  preset: str | None,
  assignments: Sequence[str],
  workdir: pathlib.Path,
  data_dir: pathlib.Path,
  *,
  resume: bool = False,
  log: Callable[[str], None] = print,
) -> dict[str, Any]:
  """Runs a study: trains the rows that are not trained yet, evaluates all rows, and makes the table.

  The following is written to `workdir`:

  - `study.json`: the configuration of the study.
  - `rows`: one folder per row, with its trainings, `result.json`, `confusion.png` and `curves.png`.
  - `sources`: one folder per pre-training, with its training, `result.json` and the trained weights.
  - the files of `report.study.write`, which contain the table.

  Args:
    study: the study to run.
    preset: one of its presets, or None for its default.
    assignments: overrides, see `config.resolve`.
    workdir: folder for this study only.
    data_dir: folder of the prepared data sets.
    resume: whether to continue the study in `workdir`. Finished rows are not trained again.
    log: called with each line of the log.

  Returns:
    The table. It is written to `table.json`, where NaN is null. With several processes, those other than process 0
    return an empty one.

  Raises:
    UserError: as `config.resolve`, `folders.hold`, `records.load` and `Trainer.fit`; also if `workdir` holds another
      study or one on other data, or if it holds this study and `resume` is False.
    Interrupted: SIGTERM or SIGINT arrived. The state has been saved.
  """
  study, rows = configuration.resolve(study, preset, assignments, options_of)
  configs = {f"row '{name}' with ": config for name, config in rows.items()}
  together.check_program(configs, seeds=list(study.named_seeds), resume=resume)
  with together.hold(workdir, folders.hold(workdir, folders.STUDY, data_dir, log)):
    begun = processes.decided(lambda: _dtypes(workdir) if resume else {})
    study, rows = _with_dtypes(study, rows, begun)
    own = _Study(study, rows, workdir, data_dir, log)
    processes.alone(lambda: _begin(study, rows, workdir, resume), None)
    own.train()
    return processes.alone(own.report, dict[str, Any]())


def _dtypes(workdir: pathlib.Path) -> dict[str, str]:
  """Returns the dtypes of the rows and sources of the study in `workdir`, by name. Without a study, there are none."""
  path = workdir / folders.STUDY
  if not path.exists():
    return {}
  before = files.read_json(path, _RESTORE, ["rows"])
  parts = [before["rows"], before.get("sources", {})]
  if not all(isinstance(one, dict) and "dtype" in one for part in parts for one in dict(part).values()):
    raise UserError(f"{path} was written by another program or version of jaxfer: {_RESTORE}")
  return {name: one["dtype"] for part in parts for name, one in part.items()}


def _with_dtypes(
  study: StudyConfig, rows: Mapping[str, RunConfig], begun: Mapping[str, str]
) -> tuple[StudyConfig, dict[str, RunConfig]]:
  """Replaces the dtype "auto" in a study and in the configs of its rows; `begun` is the result of `_dtypes`."""
  configs = configuration.sources_of(study, options_of) if study.sources else {}
  dtypes = {name: with_dtype(config, begun.get(name)).dtype for name, config in configs.items()}
  sources = tuple(
    dataclasses.replace(source, overrides={**source.overrides, "dtype": dtypes[source.name]})
    for source in study.sources
  )
  rows = {name: with_dtype(config, begun.get(name)) for name, config in rows.items()}
  first = rows[study.rows[0].name].dtype
  base = with_dtype(study.base, first)  # It is only described in the table.
  return dataclasses.replace(study, base=base, sources=sources), rows


class _Study:
  """A resolved study in its folder.

  Attributes:
    study: the study.
    rows: row name -> config.
    workdir: folder of the study.
    data_dir: folder of the prepared data sets.
    log: called with each line of the log.
    places: row name -> folder.
    sources: name of a pre-training -> the pre-training.
  """

  def __init__(
    self,
    study: StudyConfig,
    rows: Mapping[str, RunConfig],
    workdir: pathlib.Path,
    data_dir: pathlib.Path,
    log: Callable[[str], None],
  ):
    self.study, self.rows, self.workdir, self.data_dir, self.log = study, rows, workdir, data_dir, log
    self.places = _places(workdir / "rows", [row.name for row in study.rows])
    places = _places(workdir / "sources", [source.name for source in study.sources])
    configs = configuration.sources_of(study, options_of) if study.sources else {}
    self.sources = {
      source.name: Source(source, configs[source.name], places[source.name]) for source in study.sources
    }
    self._loaded: dict[str, records.Records] = {}
    for config in [*rows.values(), *configs.values()]:
      records.make_config(config.data.name, config.data.options)  # Refuses options before any row is trained.

  def task(self, config: RunConfig) -> Task:
    """Returns the task of a config. Each data set is loaded only once."""
    asked = files.to_json(dataclasses.asdict(config.data))
    if asked not in self._loaded:
      data = self._loaded[asked] = together.load(config, self.data_dir)
      processes.alone(lambda: record.check_data(self.workdir, config.data, data, begin=True), None)
      for note in data.notes:
        self.log(note)
    return task_of(config, self._loaded[asked])

  def _done(self) -> list[str]:
    """Returns the names of the rows that are trained."""
    return processes.decided(
      lambda: [name for name, folder in self.places.items() if (folder / variants.RESULT).is_file()]
    )

  def train(self) -> None:
    """Trains the rows that are not trained yet, with the pre-trainings that they need."""
    for number, row in enumerate(self.study.rows, start=1):
      counted, done = f"row {number} of {len(self.rows)}, {row.name}", self._done()
      if row.name in done:
        self.log(f"{counted}: done before")
        continue
      source = self.sources.get(row.init_from or "")
      if source is not None and not processes.decided(functools.partial(_ready, source)):
        source.train(self.task, self.study.named_seeds[0], self.log)
      failure = None if source is None else processes.decided(functools.partial(_failure, source))
      if failure:
        self.log(f"{counted}: not trained, its pre-training {failure}")
        self._store(self.places[row.name], {"not_trained": failure}, [])
        continue
      waiting = [other for other in self.study.rows[number - 1 :] if other.name not in done]
      self._train(row, waiting, source, counted)
      gc.collect()  # Placements and their compiled programs refer to each other, so only the collector frees them.

  def _train(
    self, row: configuration.Row, waiting: Sequence[configuration.Row], source: Source | None, counted: str
  ) -> None:
    """Trains a row, together with those of the waiting rows that fit into the same program."""
    config = self.rows[row.name]
    task = self.task(config)
    together = variants.alike(task, row, waiting, self.rows)
    more = f", with {', '.join(other.name for other in together[1:])}" if together[1:] else ""
    self.log(f"{counted}{more}:")
    starts = {other.init_from for other in self.study.rows} - {None}
    keep = config.init_from is None and any(other.name in starts for other in together)
    own = [variants.Variant(other.name, self.rows[other.name], self.places[other.name]) for other in together]
    start = _start(row, config, source, self.places)
    trained = variants.train(own, task, self.study.named_seeds, start, keep, self.log)
    for variant, (result, history) in zip(own, trained, strict=True):
      self._store(variant.folder, result, history)

  def _store(
    self, folder: pathlib.Path, result: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]
  ) -> None:
    processes.alone(lambda: variants.store(folder, result, lines), None)

  def report(self) -> dict[str, Any]:
    """Writes the table of the stored results with its figures, and returns it."""
    results = {name: variants.stored(folder) for name, folder in self.places.items()}
    table.check_data(self.rows, results)
    histories = {
      name: variants.history(folder)
      for name, folder in self.places.items()
      if "not_trained" not in results[name]
    }
    at = {name: self.places[name].relative_to(self.workdir) for name in histories}
    made = table.make(self.study, self.rows, results, at, histories)
    made["tables"] = [*pretrainings(list(self.sources.values())), *made["tables"]]
    made["timing"] |= timing(list(self.sources.values()))
    system = SYSTEMS[self.study.base.recipe.name]
    figures = system.table_figures(table.described(made["rows"], self.rows, histories), self.workdir)
    report.write(made, histories, self.workdir, figures)
    self.log("")
    self.log(report.text(made))
    return made


def _ready(source: Source) -> bool:
  return source.ready


def _failure(source: Source) -> str | None:
  return source.failure


def _start(
  row: configuration.Row,
  config: RunConfig,
  pretraining: Source | None,
  places: Mapping[str, pathlib.Path],
) -> variants.Start:
  """Returns what the trainings of a row start from: a pre-training, given weights, an earlier row, or nothing."""
  if pretraining is not None:
    return variants.Start(pretraining.weights, f"source '{row.init_from}'")
  if row.scratch:
    return variants.Start()
  if config.init_from:
    return variants.Start(pathlib.Path(config.init_from))
  return variants.Start(places[row.init_from] if row.init_from else None)


def _places(folder: pathlib.Path, names: Sequence[str]) -> dict[str, pathlib.Path]:
  """Returns a folder for each name, made of the name's letters and digits.

  Raises:
    UserError: two names would share a folder, or a name has neither letters nor digits.
  """
  places: dict[str, pathlib.Path] = {}
  for name in names:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    place = folder / slug
    if not slug or place in places.values():
      raise UserError(
        f"'{name}' would share the folder {place} with another: give it a name that differs in its letters (a to z) "
        "or digits"
      )
    places[name] = place
  return places


def _begin(study: StudyConfig, rows: Mapping[str, RunConfig], workdir: pathlib.Path, resume: bool) -> None:
  """Records the configuration of the study in `workdir`.

  Raises:
    UserError: `workdir` holds a different study, or this study and `resume` is False, or given weights have changed.
  """
  now = {
    "preset": study.preset,
    "seeds": list(study.named_seeds),
    "rows": {
      row.name: {
        **configuration.identity(rows[row.name]),
        "from row": row.init_from,
        "from scratch": row.scratch,
      }
      for row in study.rows
    },
  }
  if study.sources:
    configs = configuration.sources_of(study, options_of)
    now["sources"] = {
      source.name: {**configuration.identity(configs[source.name]), "init_from": source.init_from}
      for source in study.sources
    }
  weights = {f"sources.{source.name}": source.init_from for source in study.sources}
  for row in study.rows:
    own = None if row.scratch else rows[row.name].init_from
    weights["init_from" if own == study.base.init_from else f"rows.{row.name}.init_from"] = own
  now = files.plain(now)
  path = workdir / folders.STUDY
  if path.exists():
    before = files.read_json(path, _RESTORE, ["preset", "seeds", "rows"])
    ignored = {"preset": None}
    if keys := configuration.tree_differences(before | ignored, now | ignored):
      more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
      raise UserError(
        f"{workdir} was begun with another study, preset or override ({', '.join(keys[:3])}{more} differ): "
        "go on with the same, or choose another --workdir"
      )
    if not resume:
      raise UserError(f"{workdir} already holds this study: go on with --resume, or choose another --workdir")
  given.check(workdir, weights, begin=not any((workdir / part).exists() for part in ("rows", "sources")))
  files.write_json(path, now)
