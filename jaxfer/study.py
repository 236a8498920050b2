"""Studies: a whole published table by one command, each row folds x seeds of one training, printed beside the paper.

A row's trainings have the same stages and shapes and are members of one program (experiments/rows.py); rows follow one
another, but for those that differ in numbers alone, which are trained together.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxfer import config as configuration
from jaxfer.config import RunConfig, StudyConfig
from jaxfer.data import records
from jaxfer.data.datasets import DATASETS
from jaxfer.errors import UserError
from jaxfer.experiments import EXPERIMENTS
from jaxfer.experiments import rows as row_trainings
from jaxfer.experiments import run as runs
from jaxfer.experiments.task import options_of, task_of
from jaxfer.report import pages
from jaxfer.report import study as report


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
  folders = {row.name: workdir / "rows" / _slug(row.name) for row in study.rows}
  loaded: dict[str, records.Records] = {}
  for number, row in enumerate(study.rows, start=1):
    counted = f"row {number} of {len(rows)}, {row.name}"
    if (folders[row.name] / "result.json").is_file():
      say(f"{counted}: done before")
      continue
    config = rows[row.name]
    asked = json.dumps(dataclasses.asdict(config.data))
    if asked not in loaded:
      loaded[asked] = runs.load_data(config, data_dir)
      for note in loaded[asked].notes:
        say(note)
    task = task_of(config, loaded[asked])
    waiting = [
      other for other in study.rows[number - 1 :] if not (folders[other.name] / "result.json").is_file()
    ]
    together = row_trainings.alike(task, row, waiting, rows)
    more = f", with {', '.join(other.name for other in together[1:])}" if together[1:] else ""
    say(f"{counted}{more}:")
    source = config.init_from or (row.init_from and str(folders[row.init_from]))
    sources = {other.init_from for other in study.rows} - {None}
    if sources and row.init_from is None and row.name not in sources:
      source = (
        None  # A row of its own among such as start from others: from scratch, whatever is given to those.
      )
    kept = config.init_from is None and any(other.name in sources for other in together)
    own = [row_trainings.Row(other.name, rows[other.name], folders[other.name]) for other in together]
    for each, (result, history) in zip(
      own, row_trainings.train(own, task, study.named_seeds, source, kept, say), strict=True
    ):
      each.folder.mkdir(parents=True, exist_ok=True)
      (each.folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
      # Whole or not at all: what is there counts as done.
      path = each.folder / "result.json"
      path.with_suffix(".part").write_text(json.dumps(result))
      path.with_suffix(".part").rename(path)
  results = [json.loads((folder / "result.json").read_text()) for folder in folders.values()]
  _check_data(rows, results)
  table = _table(study, rows, results)
  histories = {
    name: [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for name, folder in folders.items()
  }
  figures = EXPERIMENTS[study.base.recipe.name].table_figures(table["rows"], workdir)
  report.write(table, histories, workdir, [folder.name for folder in folders.values()], figures)
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
    "rows": {
      row.name: {**configuration.identity(rows[row.name]), "from row": row.init_from} for row in study.rows
    },
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
