"""Studies: reproduce a published table with one command, and print the results beside the published ones.

Each row of the table is one config, trained for every combination of fold and seed. The trainings of a row have the
same stages and shapes, and are members of one program (variants.py). Rows are trained one after another, except
that rows which differ only in numeric hyperparameters are trained together.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxfer import config as configuration
from jaxfer import files, folders, values
from jaxfer.config import RunConfig, StudyConfig
from jaxfer.data import records
from jaxfer.data.datasets import DATASETS
from jaxfer.errors import UserError
from jaxfer.report import pages
from jaxfer.report import study as report
from jaxfer.study import given, record, trainings, variants
from jaxfer.study.pretraining import Source, pretrainings, timing
from jaxfer.study.task import Task, options_of, task_of
from jaxfer.systems import SYSTEMS


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
    The table. It is written to `table.json`, where NaN is null.

  Raises:
    UserError: as `config.resolve`, `folders.hold`, `records.load` and `Trainer.fit`; also if `workdir` holds another
      study or one on other data, or if it holds this study and `resume` is False.
    Interrupted: SIGTERM or SIGINT arrived. The state has been saved.
  """
  study, rows = configuration.resolve(study, preset, assignments, options_of)
  with folders.hold(workdir, folders.STUDY, data_dir, log):
    return _run(study, rows, workdir, data_dir, resume, log)


def _run(
  study: StudyConfig,
  rows: Mapping[str, RunConfig],
  workdir: pathlib.Path,
  data_dir: pathlib.Path,
  resume: bool,
  log: Callable[[str], None],
) -> dict[str, Any]:
  """Runs a resolved study, with `workdir` locked; see `run`."""
  places = _places(workdir / "rows", [row.name for row in study.rows])
  pretraining_places = _places(workdir / "sources", [source.name for source in study.sources])
  sources = {
    source.name: Source(source, config, pretraining_places[source.name])
    for source, config in zip(
      study.sources, configuration.sources_of(study, options_of).values(), strict=True
    )
  }
  for config in [*rows.values(), *(source.config for source in sources.values())]:
    records.make_config(config.data.name, config.data.options)  # Refuses options before any row is trained.
  _begin(study, rows, workdir, resume)
  loaded: dict[str, records.Records] = {}

  def task(config: RunConfig) -> Task:
    asked = files.to_json(dataclasses.asdict(config.data))
    if asked not in loaded:
      loaded[asked] = trainings.load_data(config, data_dir)
      record.check_data(workdir, config.data, loaded[asked], begin=True)
      for note in loaded[asked].notes:
        log(note)
    return task_of(config, loaded[asked])

  for number, row in enumerate(study.rows, start=1):
    counted = f"row {number} of {len(rows)}, {row.name}"
    if (places[row.name] / variants.RESULT).is_file():
      log(f"{counted}: done before")
      continue
    config, pretrained = rows[row.name], sources.get(row.init_from or "")
    if pretrained is not None and not pretrained.ready:
      pretrained.train(task, study.named_seeds[0], log)
    if pretrained is not None and pretrained.failure:
      log(f"{counted}: not trained, its pre-training {pretrained.failure}")
      variants.store(places[row.name], {"not_trained": pretrained.failure}, [])
      continue
    own_task = task(config)
    waiting = [
      other for other in study.rows[number - 1 :] if not (places[other.name] / variants.RESULT).is_file()
    ]
    together = variants.alike(own_task, row, waiting, rows)
    more = f", with {', '.join(other.name for other in together[1:])}" if together[1:] else ""
    log(f"{counted}{more}:")
    starts = {other.init_from for other in study.rows} - {None}
    keep = config.init_from is None and any(other.name in starts for other in together)
    own = [variants.Variant(other.name, rows[other.name], places[other.name]) for other in together]
    start = _start(row, config, pretrained, places)
    trained = variants.train(own, own_task, study.named_seeds, start, keep, log)
    for each, (result, history) in zip(own, trained, strict=True):
      variants.store(each.folder, result, history)
  results = {name: variants.stored(folder) for name, folder in places.items()}
  _check_data(rows, results)
  histories = {
    name: variants.history(folder) for name, folder in places.items() if "not_trained" not in results[name]
  }
  table = _table(
    study, rows, results, {name: places[name].relative_to(workdir) for name in histories}, histories
  )
  pretraining = pretrainings(list(sources.values()))
  table["tables"] = [*pretraining, *table["tables"]]
  table["timing"] |= timing(list(sources.values()))
  figures = SYSTEMS[study.base.recipe.name].table_figures(_with(histories, rows, table["rows"]), workdir)
  report.write(table, histories, workdir, figures)
  log("")
  log(report.text(table))
  return table


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
    fix = "put it back from a copy, or choose another --workdir"
    before = files.read_json(path, fix, ["preset", "seeds", "rows"])
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


def _check_data(rows: Mapping[str, RunConfig], results: Mapping[str, Mapping[str, Any]]) -> None:
  """Raises `UserError` if rows were trained on different versions of the same data set."""
  seen: dict[str, tuple[str, str]] = {}
  for name, result in results.items():
    if "not_trained" in result:
      continue
    config = rows[name]
    fingerprint = result["data"]["fingerprint"]
    first, before = seen.setdefault(files.to_json(dataclasses.asdict(config.data)), (name, fingerprint))
    if before != fingerprint:
      raise UserError(
        f"the data changed between row '{first}' ({before[:12]}) and row '{name}' ({fingerprint[:12]}): "
        "choose another --workdir"
      )


def _table(
  study: StudyConfig,
  rows: Mapping[str, RunConfig],
  results: Mapping[str, Mapping[str, Any]],
  folders: Mapping[str, pathlib.Path],
  histories: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
  trained = [row for row in study.rows if "not_trained" not in results[row.name]]
  if not trained:
    raise UserError("no row could be trained: see the pre-trainings' result.json below sources")
  comparisons = [
    report.compare(one, results[one], other, results[other])
    for one, other in study.compared
    if not {"not_trained"} & {*results[one], *results[other]}
  ]
  judged = [
    {
      **report.summarize(results[row.name]),
      **_published(row, rows[row.name]),
      "init_from": row.init_from,
      "folder": folders[row.name].as_posix(),
      "compared": {pair["other"]: pair for pair in comparisons if pair["one"] == row.name},
    }
    for row in trained
  ]
  not_trained = [
    {**_published(row, rows[row.name]), "place": place, "why": results[row.name]["not_trained"]}
    for place, row in enumerate(study.rows)
    if row not in trained
  ]
  make = SYSTEMS[study.base.recipe.name].tables
  further = make(_with(histories, rows, judged), study.named_seeds, not_trained)
  return {
    "title": study.title,
    "source": study.source if any(row["comparable"] for row in [*judged, *not_trained]) else "",
    "note": study.note,
    "preset": study.preset,
    "seeds": list(study.named_seeds),
    "rows": judged,
    "tables": [{"title": title, "header": header, "rows": cells} for title, (header, cells) in further],
    "not_trained": not_trained,
    "comparisons": comparisons,
    "config": configuration.identity(study.base),
    "environment": _environment(),
    "timing": {
      "seconds": round(sum(row["seconds"] for row in judged), 1),
      "compile_seconds": round(sum(row["compile_seconds"] for row in judged), 1),
    },
  }


def _with(
  histories: Mapping[str, Sequence[Mapping[str, Any]]],
  configs: Mapping[str, RunConfig],
  rows: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
  """Returns the rows with their config and history, as required by `System.tables` and `System.table_figures`."""
  return [{**row, "config": configs[row["name"]], "history": histories[row["name"]]} for row in rows]


def _published(row: configuration.Row, config: RunConfig) -> dict[str, Any]:
  """Returns a row's name, overrides and published number. The number is None if the data are not comparable."""
  comparable = SYSTEMS[config.recipe.name].comparable(config.data)
  return {
    "name": row.name,
    "overrides": [f"{key}={values.text(value)}" for key, value in row.overrides.items()],
    "published": row.published if comparable else None,
    "comparable": comparable,
  }


def _environment() -> dict[str, str]:
  devices = jax.devices()
  device = f"{len(devices)} x {devices[0].device_kind}"
  return {"jaxfer": trainings.revision(), **pages.versions(), "device": device}


def listing(root: pathlib.Path) -> str:
  """Lists all studies below a folder, with their titles, rows, presets, publications, and data sets with licences.

  A file that cannot be read is listed with the reason. The last line counts such files.

  Raises:
    UserError: there is no study below the folder.
  """
  lines, broken, paths = [], 0, sorted(root.rglob("*.py"))
  for path in paths:
    try:
      study = configuration.read(path)
      if isinstance(study, StudyConfig):
        lines += [f"{path}", *_described(study)]
    except UserError as error:
      lines += [f"{path}", f"  cannot be read: {error}"]
      broken += 1
  if not lines:
    raise UserError(f"no study below {root}: run from a checkout of jaxfer")
  if broken:
    lines.append(f"{broken} of {len(paths)} configs cannot be read")
  return "\n".join(lines)


def _described(study: StudyConfig) -> list[str]:
  resolved, rows = configuration.resolve(study, None, (), options_of)
  sources = configuration.sources_of(resolved, options_of)
  names = dict.fromkeys(config.data.name for config in [*rows.values(), *sources.values()])
  return [
    f"  {study.title}; {len(study.rows)} rows; presets {', '.join(study.presets)}",
    f"  published: {study.source}",
    *(f"  data: {name}: {DATASETS[name].licence}" for name in names),
  ]
