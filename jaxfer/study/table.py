"""Makes the table of a study from the results of its rows."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxfer import config as configuration
from jaxfer import files, values
from jaxfer.config import RunConfig, StudyConfig
from jaxfer.errors import UserError
from jaxfer.report import pages
from jaxfer.report import study as report
from jaxfer.study import trainings
from jaxfer.systems import SYSTEMS


def check_data(rows: Mapping[str, RunConfig], results: Mapping[str, Mapping[str, Any]]) -> None:
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


def make(
  study: StudyConfig,
  rows: Mapping[str, RunConfig],
  results: Mapping[str, Mapping[str, Any]],
  folders: Mapping[str, pathlib.Path],
  histories: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
  """Returns the table of a study, see `report.study.write`.

  Args:
    study: the study.
    rows: row name -> config.
    results: row name -> its stored result.
    folders: name of a trained row -> its folder, relative to the study's.
    histories: name of a trained row -> the metrics of its trainings.

  Raises:
    UserError: no row was trained.
  """
  trained = [row for row in study.rows if "not_trained" not in results[row.name]]
  if not trained:
    raise UserError("no row could be trained: see the pre-trainings' result.json below sources")
  comparisons = [
    report.compare(one, results[one], other, results[other])
    for one, other in study.compared
    if not {"not_trained"} & {*results[one], *results[other]}
  ]
  trained_rows = [
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
  system = SYSTEMS[study.base.recipe.name]
  further = system.tables(described(trained_rows, rows, histories), study.named_seeds, not_trained)
  return {
    "title": study.title,
    "source": study.source if any(row["comparable"] for row in [*trained_rows, *not_trained]) else "",
    "note": study.note,
    "preset": study.preset,
    "seeds": list(study.named_seeds),
    "rows": trained_rows,
    "tables": [{"title": title, "header": header, "rows": cells} for title, (header, cells) in further],
    "not_trained": not_trained,
    "comparisons": comparisons,
    "config": configuration.identity(study.base),
    "environment": _environment(),
    "timing": {
      "seconds": round(sum(row["seconds"] for row in trained_rows), 1),
      "compile_seconds": round(sum(row["compile_seconds"] for row in trained_rows), 1),
    },
  }


def described(
  rows: Sequence[Mapping[str, Any]],
  configs: Mapping[str, RunConfig],
  histories: Mapping[str, Sequence[Mapping[str, Any]]],
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
