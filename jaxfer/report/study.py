"""A study's table beside the paper's: text, Markdown, JSON and figures, from what `table.json` holds alone."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.report import plots, tables


def write(
  table: Mapping[str, Any],
  histories: Mapping[str, Sequence[Mapping[str, Any]]],
  workdir: pathlib.Path,
  folders: Sequence[str],
) -> None:
  """Writes `table.json`, `table.md`, `accuracy.png`, and a row's `confusion.png` and `curves.png`.

  Args:
    table: as `jaxfer.study.run` returns it.
    histories: rows of metrics of each row's trainings, with a "member" each, by the row's name.
    workdir: where to write.
    folders: of the rows, below `workdir / "rows"`.
  """
  (workdir / "table.json").write_text(json.dumps(table, indent=2) + "\n")
  (workdir / "table.md").write_text(markdown(table))
  accuracy_png(table, workdir / "accuracy.png")
  for row, folder in zip(table["rows"], folders, strict=True):
    at = workdir / "rows" / folder
    judged = int(np.sum(row["confusion"]))
    if judged:
      title = f"{row['name']}: {row['correct']} of {row['count']} correct ({row['mean']:.1%})"
      plots.confusion_png(row["confusion"], row["label_names"], at / "confusion.png", title)
    if histories[row["name"]]:
      plots.learning_curves_png(histories[row["name"]], at / "curves.png", row["name"])


def text(table: Mapping[str, Any]) -> str:
  """The table as plain text, with what a reader must know below it."""
  lines = "\n".join(_lines(table))
  return f"{table['title']}\n\n{tables.text(*_cells(table), digits=2)}\n{lines}"


def markdown(table: Mapping[str, Any]) -> str:
  """The same as Markdown."""
  lines = "".join(f"- {line}\n" for line in _lines(table))
  return f"# {table['title']}\n\n{tables.markdown(*_cells(table), digits=2)}\n{lines}"


def _cells(table: Mapping[str, Any]) -> tables.Table:
  """Percent, as papers print them."""
  header = ["", "published %", "ours %", "sd", "95 % interval", "by seed", "correct", "failed"]
  rows: list[list[tables.Cell]] = []
  for row in table["rows"]:
    low, high = (100 * bound for bound in row["interval"])
    rows.append(
      [
        row["name"],
        None if row["published"] is None else 100 * row["published"],
        100 * row["mean"],
        None if row["std"] is None else 100 * row["std"],
        f"{low:.1f} to {high:.1f}",
        " ".join(f"{100 * value:.2f}" for value in row["per_seed"]),
        f"{row['correct']}/{row['count']}",
        len(row["failed"]),
      ]
    )
  return header, rows


def _lines(table: Mapping[str, Any]) -> list[str]:
  first, environment, timing = table["rows"][0], table["environment"], table["timing"]
  seeds = table["seeds"]
  lines = [
    f"published: {table['source']}",
    f"ours: preset {table['preset']}, {max(first['folds'], 1)} person-independent folds pooled x {len(seeds)} seeds "
    f"({', '.join(map(str, seeds))}); sd over seeds; Wilson's interval of the {first['count'] // len(seeds)} records "
    f"tested, at the mean over seeds; chance {100 * first['chance']:.1f} %",
    *([table["note"]] if table["note"] else []),
    *(comparison["sentence"] for comparison in table["comparisons"]),
  ]
  for row in table["rows"]:
    lines += [f"failed: {row['name']}, {line}" for line in row["failed"]]
  for data, names in _data(table).items():
    whose = "" if len(names) == len(table["rows"]) else f" ({', '.join(names)})"
    lines.append(f"data{whose}: {data}")
  versions = ", ".join(f"{name} {value}" for name, value in environment.items() if name != "device")
  lines.append(f"{environment['device']}; {versions}")
  lines.append(
    f"{sum(row['members'] for row in table['rows'])} trainings in {timing['seconds']:.0f} s, "
    f"{timing['compile_seconds']:.0f} s of it compiling"
  )
  return lines


def _data(table: Mapping[str, Any]) -> dict[str, list[str]]:
  """The data of the rows, in words, and the rows that have them."""
  names: dict[str, list[str]] = {}
  for row in table["rows"]:
    data = row["data"]
    options = ", ".join(f"{k} {v}" for k, v in data.items() if k not in ("name", "fingerprint"))
    names.setdefault(f"{data['name']}, {options}; fingerprint {data['fingerprint'][:16]}", []).append(
      row["name"]
    )
  return names


def accuracy_png(table: Mapping[str, Any], path: str | pathlib.Path) -> None:
  """Draws each row's accuracy: seeds as dots, their mean with Wilson's interval, the published value as a diamond."""
  rows = table["rows"]
  at = np.arange(len(rows))[::-1]
  means = np.asarray([100 * row["mean"] for row in rows])
  bounds = 100 * np.transpose([row["interval"] for row in rows])
  with plots.style():
    figure = plots.new_figure(1.5 + 0.42 * len(rows))
    axes = figure.add_subplot()
    error = np.abs(bounds - means)
    look = {"color": plots.COLOURS[0], "capsize": 3, "markersize": 7, "zorder": 3}
    axes.errorbar(means, at, xerr=error, fmt="o", label="ours, 95 % interval", **look)
    for place, row in zip(at, rows, strict=True):
      seeds = [100 * value for value in row["per_seed"]]
      axes.plot(seeds, [place - 0.22] * len(seeds), "|", color=plots.GREY, markersize=8)
    published = [(100 * row["published"], p) for p, row in zip(at, rows, strict=True) if row["published"]]
    if published:
      axes.plot(*np.transpose(published), "D", color=plots.COLOURS[1], markersize=6, label="published")
    axes.plot([], [], "|", color=plots.GREY, markersize=8, label="seeds")
    axes.axvline(100 * rows[0]["chance"], color=plots.GREY, linewidth=1, linestyle=":", label="chance")
    axes.set_yticks(at, [row["name"] for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("accuracy (%)")
    figure.legend(loc="outside lower center", ncols=4)
    plots.write_png(figure, path, table["title"])
