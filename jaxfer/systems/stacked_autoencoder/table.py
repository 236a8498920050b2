"""The tables of paper 000 in the report of a study, and the accuracies by class of people and models.

Table 2 has our results below the printed ones. Tables 4 and 5, and the printed numbers that disagree with each other,
are shown as they are printed. Table 1 and Table 3 are in `data.datasets.paper000` and in `figures`.
"""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.data.synthetic import action_units
from jaxfer.report import rates
from jaxfer.report.tables import Cell, Table
from jaxfer.systems.stacked_autoencoder import published
from jaxfer.systems.system import Variants


def tables(variants: Variants, seeds: Sequence[int]) -> list[tuple[str, Table]]:
  """Returns two tables of correct answers by class, with their titles, and the paper's other tables.

  The first is Table 2 of the paper, with the first variant below it in the same form. The second table has the mean
  over seeds of each variant. Unless every variant is comparable with the paper, all published numbers are left out.

  Returns nothing if the classes are not the seven of the paper.

  Args:
    variants: see `System.tables`.
    seeds: seeds of the study.
  """
  if any(set(variant["label_names"]) != set(published.CLASSES) for variant in variants):
    return []
  header = ["", "accuracy %", *published.CLASSES, "five emotions %"]
  comparable = all(variant["comparable"] for variant in variants)
  lines = _published_lines() if comparable else []
  correct, count = _by_class(variants[0])
  lines += [_line(f"ours, seed {seed}", *own) for seed, *own in zip(seeds, correct, count, strict=True)]
  lines.append(_line("ours, mean", correct.mean(0), count.mean(0)))
  means = [_line(variant["name"], *(values.mean(0) for values in _by_class(variant))) for variant in variants]
  shown = "published and ours" if comparable else "ours"
  title = f"Table 2, correct of {published.PER_CLASS} by class, {shown} ({variants[0]['name']})"
  return [
    (title, (header, lines)),
    ("Correct by class, mean over seeds, of every variant", (header, means)),
    *(_printed() if comparable else []),
  ]


def _printed() -> list[tuple[str, Table]]:
  """The paper's printed numbers that disagree with each other, and its Tables 4 and 5."""
  disagreeing: list[list[Cell]] = [
    [name, 100 * printed, 100 * correct / count, f"{correct}/{count}"]
    for name, printed, correct, count in published.disagreements()
  ]
  emotions: list[list[Cell]] = [
    [emotion, ", ".join(f"{unit} ({value})" for unit, value in units.items())]
    for emotion, units in action_units.EMOTIONS.items()
    if units
  ]
  units = [f"{unit} {name}" for unit, name in action_units.ACTION_UNITS.items()]
  rows = -(-len(units) // 3)
  columns = [units[rows * k : rows * (k + 1)] for k in range(3)]
  return [
    (
      "Printed accuracies that disagree with the printed counts",
      (["", "printed %", "counts %", "counts"], disagreeing),
    ),
    (
      "Table 4, published: action units of six emotions (values out of 100, the full range of motion)",
      (["emotion", "action units (value)"], emotions),
    ),
    (
      "Table 5, published: examples of action units",
      (["action units", "", ""], [list(row) for row in itertools.zip_longest(*columns, fillvalue="")]),
    ),
  ]


def _published_lines() -> list[list[Cell]]:
  """The rows of Table 2 and their mean, which is computed from the counts."""
  printed, count = published.counts(published.NET), np.full(7, published.PER_CLASS)
  lines = [
    _line(f"published, seed {seed}", correct, count)
    for seed, correct in zip(published.NET, printed, strict=True)
  ]
  return [*lines, _line("published, mean", printed.mean(0), count)]


def _by_class(variant: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
  """Number of correct and of all test records [seeds, 7], in the order of the printed columns."""
  order = [variant["label_names"].index(name) for name in published.CLASSES]
  correct, count = (np.asarray(variant["by_class"][what])[:, order] for what in ("correct", "count"))
  return correct, count


def figures(variants: Variants, folder: pathlib.Path) -> dict[str, str]:
  """Draws `people.png`: the accuracy by class of the paper's people, the paper's model and our first variant.

  Draws nothing if the classes are not those of the paper, or if our data are not comparable with the paper's.

  Returns:
    The caption by file name.
  """
  first = variants[0]
  if not first["comparable"] or set(first["label_names"]) != set(published.CLASSES):
    return {}
  correct, count = (values.astype(np.float64) for values in _by_class(first))
  ours = np.divide(correct, count, out=np.full(count.shape, np.nan), where=count > 0)
  seeds = "1 seed" if len(ours) == 1 else f"{len(ours)} seeds"
  groups = {
    f"{len(published.PEOPLE)} people, published": published.counts(published.PEOPLE) / published.PER_CLASS,
    f"model, published, {len(published.NET)} seeds": published.counts(published.NET) / published.PER_CLASS,
    f"model, ours, {seeds}": ours,
  }
  title = "Correct by class: people and models"
  rates.rates_png(groups, published.CLASSES, folder / "people.png", title)
  return {
    "people.png": "Accuracy by class of ten people and of the model, both as published (paper 000, Tables 3 and 2), "
    f"and of our model ({first['name']}). Bars are means; lines are standard deviations over people or seeds. Unless "
    "our data are those of the paper, our model was tested on other images."
  }


def _line(name: str, correct: np.ndarray, count: np.ndarray) -> list[Cell]:
  """One row of a table: the accuracy over all classes, the counts [7], and the accuracy over the five emotions."""
  five = [published.CLASSES.index(emotion) for emotion in published.FIVE]
  all_classes, five_emotions = (
    100 * float(correct[which].sum() / count[which].sum()) for which in (slice(None), five)
  )
  cells = [_count(*pair) for pair in zip(correct.tolist(), count.tolist(), strict=True)]
  return [name, all_classes, *cells, five_emotions]


def _count(correct: float, count: float) -> Cell:
  """The number of correct records; followed by their total if that is not the paper's."""
  return correct if count == published.PER_CLASS else f"{correct:.3g}/{count:.3g}"
