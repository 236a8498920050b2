"""Table 2 of paper 000 as it is printed, ours below it; and people beside the nets (its Table 3)."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.report import rates
from jaxfer.report.tables import Cell, Table
from jaxfer.systems.stacked_autoencoder import published as published_000


def tables(
  rows: Sequence[Mapping[str, Any]], seeds: Sequence[int], not_trained: Sequence[Mapping[str, Any]] = ()
) -> list[tuple[str, Table]]:
  """Table 2 as the paper prints it, with our first row below it in the same form; then every row's means by class.

  Nothing where the classes are not the paper's seven.
  """
  del not_trained
  if any(set(row["label_names"]) != set(published_000.CLASSES) for row in rows):
    return []
  header = ["", "accuracy %", *published_000.CLASSES, "five emotions %"]
  lines, beside = [], all(row["comparable"] for row in rows)
  if beside:
    printed, of = published_000.counts(published_000.NET), np.full(7, published_000.PER_CLASS)
    lines = [
      _line(f"published, seed {seed}", own, of) for seed, own in zip(published_000.NET, printed, strict=True)
    ]
    lines.append(_line("published, mean", printed.mean(0), of))
  correct, count = _by_class(rows[0])
  lines += [_line(f"ours, seed {seed}", *own) for seed, *own in zip(seeds, correct, count, strict=True)]
  lines.append(_line("ours, mean", correct.mean(0), count.mean(0)))
  means = [_line(row["name"], *(each.mean(0) for each in _by_class(row))) for row in rows]
  title = f"Table 2, correct of {published_000.PER_CLASS} by class, {'published and ' * beside}ours ({rows[0]['name']})"
  return [(title, (header, lines)), ("Correct by class, mean over seeds, of every row", (header, means))]


def _by_class(row: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
  """Correct and tested records of a row [seeds, 7], in the order of the printed columns."""
  order = [row["label_names"].index(name) for name in published_000.CLASSES]
  correct, count = (np.asarray(row["by_class"][what])[:, order] for what in ("correct", "count"))
  return correct, count


def figures(rows: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> dict[str, str]:
  """Draws `people.png`: each class's rate of the paper's people, its net, and our first row.

  It draws nothing of other classes, or where the data are not to be compared with the paper's.

  Returns:
    Its caption by its name.
  """
  if not rows[0]["comparable"] or set(rows[0]["label_names"]) != set(published_000.CLASSES):
    return {}
  correct, count = (each.astype(np.float64) for each in _by_class(rows[0]))
  ours = np.divide(correct, count, out=np.full(count.shape, np.nan), where=count > 0)
  seeds = f"{len(ours)} seed{'s' * (len(ours) != 1)}"
  published = {
    f"{len(published_000.PEOPLE)} people, published": published_000.counts(published_000.PEOPLE),
    f"net, published, {len(published_000.NET)} seeds": published_000.counts(published_000.NET),
  }
  groups = {name: counts / published_000.PER_CLASS for name, counts in published.items()}
  groups[f"net, ours, {seeds}"] = ours
  rates.rates_png(groups, published_000.CLASSES, folder / "people.png", "Correct by class: people and nets")
  return {
    "people.png": "Correct answers by class: ten people and the net as published (paper 000, Tables 3 and 2), and our "
    f"net ({rows[0]['name']}); bars are means, lines standard deviations over people or seeds. Unless the data are the "
    "paper's, ours saw other pictures."
  }


def _line(name: str, correct: np.ndarray, count: np.ndarray) -> list[Cell]:
  """Rates over all classes and over the five, and the counts [7] between them."""
  five = [published_000.CLASSES.index(emotion) for emotion in published_000.FIVE]
  rates = [100 * float(correct[which].sum() / count[which].sum()) for which in (slice(None), five)]
  cells = [_count(*pair) for pair in zip(correct.tolist(), count.tolist(), strict=True)]
  return [name, rates[0], *cells, rates[1]]


def _count(correct: float, count: float) -> Cell:
  """Of another number than the paper's, that number too."""
  return correct if count == published_000.PER_CLASS else f"{correct:.3g}/{count:.3g}"
