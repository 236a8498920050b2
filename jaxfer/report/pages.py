"""Writes `report.html` of a run or a study: command, results beside published ones, figures, data and environment."""

import importlib.metadata
import json
import math
import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer import files, metrics
from jaxfer.data.datasets import DATASETS
from jaxfer.report import html, tables
from jaxfer.report.html import Html, Section

# Replaces published numbers if the data are neither the paper's nor embedded.
NOT_COMPARED = "the data are not the paper's: its published numbers are left out"
_STUDY = ("title", "source", "rows", "config", "environment", "timing")
_ROW = ("name", "published", "mean", "std", "per_seed", "interval", "failed", "data")
_FIGURES = {
  "confusion.png": "Confusion matrix of the test records. Rows are the true classes.",
  "curves.png": "Learning curves. With several folds, the line is their mean and the band their range.",
  "examples.png": "One test record of each class. Where the prediction is wrong, the predicted class is given.",
}


def write_study(
  path: str | pathlib.Path, table: Mapping[str, Any], figures: Sequence[tuple[str | pathlib.Path, str]] = ()
) -> None:
  """Writes the page of a study.

  Args:
    path: path of the HTML file.
    table: the table, as `jaxfer.study.study.run` returns it and table.json contains it. These keys are required:
      title: the heading.
      source: source of the published numbers; "" if the data must not be compared with published numbers.
      rows: for each row a mapping with `name`; `published` (or None), `mean`, and `std` over seeds (or None), all in
        [0, 1]; `per_seed`, the accuracy of each seed; `interval` (low, high), or None; `failed`, see
        `tables.not_finite`; and `data` with `name`, `fingerprint` and options.
      config: configuration that the rows share.
      environment: versions, device and commit, by name.
      timing: `seconds` and `compile_seconds` of all trainings.
      These keys are optional: `note`, a line; `preset`; `seeds`; `comparisons`, mappings with a `sentence`; and
      `tables`, mappings with `title`, `header` and `rows`. A row may also have `overrides`, `members`, `correct`,
      `count`, `tested` (a description of the test records) and `warnings` about its trainings.
    figures: pairs of the path of a PNG and its caption.

  Raises:
    ValueError: a required key is missing.
  """
  _require(table, _STUDY, "study")
  rows = table["rows"]
  for row in rows:
    _require(row, _ROW, f"row '{row.get('name', '?')}' of the study")
    _require(row["data"], ("name", "fingerprint"), f"data of row '{row['name']}'")
  failed = [
    f"{row['name']}: {tables.not_finite(training)}; its records count as wrong"
    for row in rows
    for training in row["failed"]
  ]
  failed += [
    f"{row['name']}: not trained, its pre-training {row['why']}" for row in table.get("not_trained", ())
  ]
  sentences = [comparison["sentence"] for comparison in table.get("comparisons", ())]
  members = sum(row.get("members", 0) for row in rows)
  summary = f"{len(rows)} rows" + (f", {members} trainings" if members else "")
  if "preset" in table:
    summary += f", preset {table['preset']}"
  if "seeds" in table:
    summary += f", seed{'s' * (len(table['seeds']) != 1)} {', '.join(map(str, table['seeds']))}"
  shown = [
    _beside(rows, "per seed"),
    html.remark(f"In %. Published: {table['source']}." if table["source"] else f"In %. {NOT_COMPARED}."),
    *(html.prose(line) for line in [table.get("note"), *sentences] if line),
  ]
  for further in table.get("tables", ()):
    shown += [html.element("h3", further["title"]), html.table(further["header"], further["rows"], digits=2)]
  if tested := {row["name"]: row["tested"] for row in rows if "tested" in row}:
    shown.append(html.folded("Who was tested", html.pairs(tested)))
  if failed:
    shown.append(html.element("ul", *(html.element("li", line) for line in failed), class_="failed"))
  if warnings := [f"{row['name']}, {line}" for row in rows for line in row.get("warnings", ())]:
    shown.append(html.element("ul", *(html.element("li", line) for line in warnings)))
  overrides = {row["name"]: " ".join(row["overrides"]) or "-" for row in rows if "overrides" in row}
  configured = [html.folded("Rows", html.pairs(overrides))] if overrides else []
  timing = table["timing"]
  took = {"training": f"{timing['seconds']:.0f} s", "of it compiling": f"{timing['compile_seconds']:.0f} s"}
  sections: list[Section] = [
    ("What was run", [_typed(), *configured, html.folded("Configuration", html.pairs(table["config"]))]),
    ("Published beside ours" if table["source"] else "Accuracy", shown),
    ("Figures", [html.figures(figures)] if figures else []),
    ("Data", _data(rows)),
    ("Environment", [html.pairs({**table["environment"], **took})]),
  ]
  summary += f". {len(failed) or 'No'} training{'s' * (len(failed) != 1)} failed."
  html.write_report(path, table["title"], summary.replace("No trainings", "No training"), sections)


def write_run(
  workdir: pathlib.Path, result: Mapping[str, Any], device: str, own: Mapping[str, str] | None = None
) -> None:
  """Writes `report.html` of a run to its work directory, with the figures in that folder.

  Args:
    workdir: folder of the run, with its config.json and figures, and timing.jsonl of the run or of its folds.
    result: contents of evaluation.json.
    device: description of the device on which the run was evaluated.
    own: figures in `workdir` that the system has drawn, file name -> caption.
  """
  config = files.read_json(workdir / "config.json", "train again in another --workdir", ["model", "data"])
  by_fold = list(result["accuracy_by_fold"].values())
  ours = {
    "mean": result["accuracy"],
    "std": None,
    "per_seed": by_fold if len(by_fold) > 1 else [],
    "interval": result["interval_95"],
    "failed": [],
  }
  published = result["published"] or {config["model"]["name"]: None}
  rows = [{"name": name, "published": value, **ours} for name, value in published.items()]
  shown = [_beside(rows, "per fold")]
  if result["published"]:
    other = "" if result["papers_data"] else " Our numbers are on other data than the paper's."
    shown.append(html.remark(f"In %. Published: {result['source']}.{other}"))
  by_class = html.remark(f"{len(result['label_names'])} classes are too many for a table.")
  if result["confusion"] is not None:
    each = tables.class_table(metrics.summarize(result["confusion"]), result["label_names"])
    by_class = html.table(*each, digits=3)
  by_group = [html.table(*each, digits=3) for each in tables.group_tables(result["accuracy_by_group"])]
  low, high = result["interval_95"]
  summary = (
    f"{counts(result)} on {result.get('unseen', 'people')} that the training never "
    f"saw: {result['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}, chance {result['chance']:.1%})."
  )
  figures = [
    (workdir / name, caption)
    for name, caption in {**_FIGURES, **(own or {})}.items()
    if (workdir / name).is_file()
  ]
  environment = {"jaxfer": result["revision"], **versions(), "device": device, **_times(workdir)}
  sections: list[Section] = [
    ("What was run", [_typed(), html.folded("Configuration", html.pairs(config))]),
    ("Published beside ours" if result["published"] else "Accuracy", shown),
    ("By class", [by_class]),
    ("By group", by_group),
    ("Figures", [html.figures(figures)] if figures else []),
    ("Data", _data([{"name": "", "data": result["data"]}])),
    ("Environment", [html.pairs(environment)]),
  ]
  title = f"{config['model']['name']} on {config['data']['name']}"
  html.write_report(workdir / "report.html", title, summary, sections)


def counts(result: Mapping[str, Any]) -> str:
  """Returns how many test records are correct according to evaluation.json, such as "13 of 20 correct"."""
  trials = result.get("trials", 1)
  mean = f" on average over {trials} trials" if trials > 1 else ""
  return f"{round(result['correct'], 1)} of {result['count']} correct{mean}"


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the packages that affect the numbers, and the kind of machine."""
  packages = ("jax", "jaxlib", "flax", "optax", "numpy")
  return {
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in packages},
    "machine": f"{platform.system()} {platform.machine()}",
  }


def _beside(rows: Sequence[Mapping[str, Any]], single: str) -> Html:
  """Returns a table of published numbers and ours, in percent, without empty columns."""
  columns: dict[str, Sequence[Any]] = {
    "published": [_percent(row["published"]) for row in rows],
    "ours": [html.element("strong", _percent(row["mean"])) for row in rows],
    "± std": [_percent(row["std"]) for row in rows],
    "95 % interval": [
      "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}".join(map(_percent, row["interval"] or ())) or "-"
      for row in rows
    ],
    single: [" ".join(map(_percent, row["per_seed"])) or "-" for row in rows],
    "correct": [f"{round(row['correct'], 1)}/{row['count']}" if "correct" in row else "-" for row in rows],
    "failed": [
      html.element("strong", len(row["failed"]), class_="failed") if row["failed"] else "-" for row in rows
    ],
  }
  filled = {name: cells for name, cells in columns.items() if any(cell != "-" for cell in cells)}
  return html.cards({"": [row["name"] for row in rows], **filled})


def _typed() -> Html:
  """Returns the command that writes this page."""
  command = shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]])
  return Html(html.remark("This page was written by") + html.element("pre", html.element("code", command)))


def _data(rows: Sequence[Mapping[str, Any]]) -> list[Html]:
  """Returns descriptions of the rows' data sets."""
  names: dict[str, list[str]] = {}
  for row in rows:
    names.setdefault(files.to_json(row["data"]), []).append(row["name"])
  blocks = []
  for text, users in names.items():
    data = json.loads(text)
    if len(names) > 1:
      blocks.append(html.element("h3", ", ".join(users)))
    if known := DATASETS.get(data["name"]):
      blocks.append(html.prose(f"{known.description[0].upper()}{known.description[1:]} ({known.licence})."))
    notes = data.pop("notes", ())
    blocks.append(html.pairs(data))
    if notes:
      blocks.append(html.element("ul", *(html.element("li", note) for note in notes)))
  return blocks


def _times(workdir: pathlib.Path) -> dict[str, str]:
  """Returns how long the training took, according to the logs of the run or of its folds."""
  logs = [files.read_rows(path)[0] for path in sorted(workdir.glob("**/timing.jsonl"))]
  seconds = [[row["seconds"] for row in rows] for rows in logs if rows]
  if not seconds:
    return {}
  first, rest = seconds[0][0], [value for log in seconds for value in log[1:]]
  usual = f"; later ones {sum(rest) / len(rest):.1f} s on average" if rest else ""
  return {
    "training": f"{sum(map(sum, seconds)):.0f} s",
    "epochs": f"first {first:.1f} s, compilation included{usual}",
  }


def _require(mapping: Mapping[str, Any], keys: Sequence[str], what: str) -> None:
  if absent := [key for key in keys if key not in mapping]:
    raise ValueError(f"{what} lacks {', '.join(map(repr, absent))}: it has {', '.join(mapping)}")


def _percent(value: float | None) -> str:
  if value is None:
    return "-"
  return f"{100 * value:.2f}" if math.isfinite(value) else "nan"
