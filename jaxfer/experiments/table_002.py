"""Tables 5 to 8 and Fig. 4 of paper 002 from a study's rows, published beside ours, and how batch-mates change them."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.experiments import published_002
from jaxfer.report import plots
from jaxfer.report.tables import Cell, Table

_RETRAINED = "w = "
_PROPOSED = "proposed: p and w"
_BASELINE = "baseline: RGB net alone"

Rows = Sequence[Mapping[str, Any]]


def tables(rows: Rows, seeds: Sequence[int]) -> list[tuple[str, Table]]:
  """Recall by class (Tables 5, 7), top-k and average accuracy (6, 8), the sweep of w (Fig. 4), and other batches."""
  del seeds
  main = [row for row in rows if not row["name"].startswith(_RETRAINED)]
  own = [("Recall by class, %: Tables 5 and 7", _recalls(main))]
  own.append(
    ("Accuracy among the k most likely classes, and average accuracy, %: Tables 6 and 8", _tops(main))
  )
  own.append(
    (
      "The same nets tested in other batches (in order: of the list, else of the keys), accuracy %",
      _batches(main),
    )
  )
  if both := [row for row in main if "landmark net" in row["readings"]]:
    own.append(("Two nets of one training, and their sum, accuracy %", _parts(both)))
  if len(points := sweep(rows)) > 1:
    own.append(("Accuracy % by w: Fig. 4", _sweep_table(points, rows)))
  return own


def _percent(pair: Sequence[float | None]) -> str | None:
  mean, spread = pair
  if mean is None:
    return None
  return f"{100 * mean:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def _recalls(rows: Rows) -> Table:
  names = list(rows[0]["label_names"])
  lines: list[list[Cell]] = []
  for row in rows:
    published = published_002.ROWS.get(row["name"])
    if published is not None and set(names) == set(published_002.CLASSES):
      printed = dict(zip(published_002.CLASSES, 100 * published.recall, strict=True))
      lines.append([f"{row['name']}, published", *(f"{printed[name]:.2f}" for name in names)])
    lines.append([row["name"], *map(_percent, row["recall"])])
  return ["", *names], lines


def _tops(rows: Rows) -> Table:
  lines: list[list[Cell]] = []
  for row in rows:
    if (published := published_002.ROWS.get(row["name"])) is not None:
      tested = sum(published_002.TESTED)
      printed = [*(count / tested for count in published.top), published.average_accuracy]
      lines.append([f"{row['name']}, published", *(f"{100 * rate:.2f}" for rate in printed)])
    lines.append([row["name"], *map(_percent, [*row["top"], *row["average_accuracy"]])])
  return ["", "top 1", "top 2", "top 3", "average"], lines


_BATCHES = ("in order", "random order", "batches of one")


def _batches(rows: Rows) -> Table:
  """Accuracy in batches of 64 in file order and at random, and in batches of one."""
  lines: list[list[Cell]] = []
  for row in rows:
    read = row["readings"]
    found = [row, read.get("shuffled"), read.get("batches of one")]
    lines.append([row["name"], *(None if one is None else _percent(one["accuracy"][0]) for one in found)])
  return ["", *_BATCHES], lines


def _parts(rows: Rows) -> Table:
  names = ("RGB net", "landmark net", "sum of both")
  lines: list[list[Cell]] = [
    [
      row["name"],
      _percent(row["accuracy"][0]),
      *(_percent(row["readings"][name]["accuracy"][0]) for name in names),
    ]
    for row in rows
  ]
  return ["", "both, by the head", *names], lines


def sweep(rows: Rows) -> dict[float, Mapping[str, Any]]:
  """The rows of the sweep by w, ascending: 0.6 is the proposed row, and 1 is that of p alone."""
  points = {
    float(row["name"].removeprefix(_RETRAINED)): row for row in rows if row["name"].startswith(_RETRAINED)
  }
  if points:
    also = {_PROPOSED: published_002.BEST_W, "confidence p": 1.0}
    points |= {also[row["name"]]: row for row in rows if row["name"] in also}
  return dict(sorted(points.items()))


def _reweighted(rows: Rows) -> dict[float, Sequence[float | None]]:
  """Accuracy of the proposed row's nets, trained with w = 0.6, with another w at test, by w."""
  read: Mapping[str, Any] = next((row["readings"] for row in rows if row["name"] == _PROPOSED), {})
  found = {}
  for name, reading in read.items():
    if name.startswith("w = ") and name.endswith(" at test"):
      found[float(name.removeprefix("w = ").removesuffix(" at test"))] = reading["accuracy"][0]
  return found


def _sweep_table(points: Mapping[float, Mapping[str, Any]], rows: Rows) -> Table:
  tested = _reweighted(rows)
  lines: list[list[Cell]] = [
    [
      f"{w:.1f}",
      _percent(points[w]["accuracy"][0]) if w in points else None,
      _percent(tested.get(w, (None, None))),
    ]
    for w in sorted({*points, *tested})
  ]
  return ["w", "trained with it", "trained with 0.6, tested with it"], lines


def figures(rows: Rows, folder: pathlib.Path) -> dict[str, str]:
  """`sweep.png`, Fig. 4: accuracy minus the baseline's by w, both ways."""
  points, baseline = sweep(rows), next((row for row in rows if row["name"] == _BASELINE), None)
  if len(points) < 2 or baseline is None:
    return {}
  below = np.asarray(baseline["per_seed"])
  with plots.style():
    figure = plots.new_figure(3.4)
    axes = figure.add_subplot()
    gains = np.asarray([100 * (np.asarray(row["per_seed"]) - below) for row in points.values()])
    at = np.asarray(list(points))
    colour = plots.COLOURS[0]
    axes.fill_between(at, gains.min(1), gains.max(1), color=colour, alpha=0.18, linewidth=0)
    axes.plot(at, gains.mean(1), "o-", color=colour, markersize=5, label="trained with w")
    tested = sorted(_reweighted(rows).items())
    if tested:
      means = [100 * (mean - below.mean()) for _, (mean, _) in tested if mean is not None]
      look = {"color": plots.COLOURS[1], "markersize": 5}
      axes.plot([w for w, _ in tested], means, "s--", label="trained with 0.6, tested with w", **look)
    axes.axhline(0, color=plots.GREY, linewidth=1, linestyle=":", label="RGB net alone")
    axes.axvline(published_002.BEST_W, color=plots.GREY, linewidth=1, label="the paper's best w")
    axes.set_xlabel("w, weight of the landmark features where the nets disagree")
    axes.set_ylabel("accuracy gained (points)")
    figure.legend(loc="outside lower center", ncols=2)
    plots.write_png(figure, folder / "sweep.png", "Accuracy by w (Fig. 4 of paper 002)")
  return {
    "sweep.png": "Accuracy minus that of the RGB net alone, by w: nets trained with each w (mean over seeds, their "
    "range as a band), and those trained with 0.6 with another w at test. In the paper 0.6 is best; its other values "
    "cannot be read off."
  }
