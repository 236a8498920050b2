"""Tables 2 and 5 to 8 and Fig. 4 of paper 002 from a study's rows, published beside ours, by how batches are drawn.

A net with the affinity of the released code says something else in other batches (`layers.amend`). So every table
gives its numbers as that code tests, in batches of 64 in the order of the distributor's list (else of the keys), in
batches of 64 in one random order, and in batches of one.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.report import plots
from jaxfer.report.tables import Cell, Table
from jaxfer.systems.landmark_fusion import published as published_002
from jaxfer.systems.system import ALONE, SHUFFLED, in_batches

_RETRAINED = "w = "
_PROPOSED = "proposed: p and w"
_BASELINE = "baseline: RGB net alone"

# Values of w, for Fig. 4: at test time a net with a head is read with each of them.
WEIGHTS = tuple(k / 10 for k in range(11))
# Batches, and how the readings in them are named.
BATCHES = {"in order": "", "one random order": SHUFFLED, "batches of one": ALONE}
# Columns of Table 2: whether the RGB net and the landmark net are right.
AGREEMENT = {
  "both nets right": (True, True),
  "RGB net alone right": (True, False),
  "landmark net alone right": (False, True),
  "neither right": (False, False),
}

Row = Mapping[str, Any]
Rows = Sequence[Row]


def at_test(w: float) -> str:
  """The name of the reading with another w than that of the training."""
  return f"w = {w} at test"


def agreement(words: str, batches: str) -> str:
  """The name of a count of Table 2, for the table alone."""
  return "_" + in_batches(words, batches)


def tables(rows: Rows, seeds: Sequence[int], not_trained: Rows = ()) -> list[tuple[str, Table]]:
  """Accuracy by batches, recall by class (Tables 5, 7), top-k and mean recall (6, 8), both nets (2), w (Fig. 4)."""
  del seeds, not_trained
  own = [
    ("Accuracy % in other batches (in order: of 64, by the list, else by the keys)", _answers(rows)),
    ("Recall by class, %: Tables 5 and 7 (in order: batches of 64)", _recalls(rows)),
    (
      "Accuracy among the k most likely classes, and average accuracy, %: Tables 6 and 8 (in order: batches of 64)",
      _tops(rows),
    ),
  ]
  if both := [row for row in rows if "landmark net" in row["readings"]]:
    own.append(
      (
        "Two nets of one training, how many each names rightly: Table 2 (in order: batches of 64)",
        _both(both),
      )
    )
    own.append(
      ("Two nets of one training, and their sum, accuracy % (in order: batches of 64)", _parts(both))
    )
  if len(points := sweep(rows)) > 1:
    own.append(("Accuracy % by w: Fig. 4 (in order: batches of 64)", _sweep_table(points, rows)))
  return own


def _read(row: Row, reading: str, batches: str) -> Mapping[str, Any]:
  """Numbers of a reading in batches of a kind, as `judged` gives them; nothing where it was not read so."""
  name = in_batches(reading, batches)
  return row["readings"].get(name, {}) if name else row


def _percent(pair: Sequence[float | None]) -> str | None:
  mean, spread = pair
  if mean is None:
    return None
  return f"{100 * mean:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def _accuracy(row: Row, reading: str, batches: str) -> str | None:
  return _percent(_read(row, reading, batches).get("accuracy", [(None, None)])[0])


def _lines(
  row: Row, published: Sequence[Cell] | None, cells: Callable[[Row, str], Sequence[Cell]]
) -> list[list[Cell]]:
  """Of a row: what is published, and what `cells` says of batches of each kind; its name stands in the first."""
  lines: list[list[Cell]] = [] if published is None else [["published", *published]]
  lines += [[words, *cells(row, batches)] for words, batches in BATCHES.items() if _read(row, "", batches)]
  return [["" if k else row["name"], *line] for k, line in enumerate(lines)]


def _answers(rows: Rows) -> Table:
  lines: list[list[Cell]] = [
    [row["name"], *(_accuracy(row, "", batches) for batches in BATCHES.values())] for row in rows
  ]
  return ["", *BATCHES], lines


def _published(row: Row) -> published_002.Counts | None:
  """What the paper prints of a row of this name, where ours may stand beside it."""
  return published_002.ROWS.get(row["name"]) if row["comparable"] else None


def _recall(row: Row, batches: str) -> list[Cell]:
  return [_percent(pair) for pair in _read(row, "", batches)["recall"]]


def _recalls(rows: Rows) -> Table:
  names, lines = list(rows[0]["label_names"]), []
  for row in rows:
    published, printed = _published(row), None
    if published is not None and set(names) == set(published_002.CLASSES):
      rates = dict(zip(published_002.CLASSES, 100 * published.recall, strict=True))
      printed = [f"{rates[name]:.2f}" for name in names]
    lines += _lines(row, printed, _recall)
  return ["", "batches", *names], lines


def _top(row: Row, batches: str) -> list[Cell]:
  found = _read(row, "", batches)
  return [_percent(pair) for pair in (*found["top"], *found["average_accuracy"])]


def _tops(rows: Rows) -> Table:
  lines = []
  for row in rows:
    published, printed = _published(row), None
    if published is not None:
      tested = sum(published_002.TESTED)
      rates = [*(count / tested for count in published.top), published.average_accuracy]
      printed = [f"{100 * rate:.2f}" for rate in rates]
    lines += _lines(row, printed, _top)
  return ["", "batches", "top 1", "top 2", "top 3", "average"], lines


def _both(rows: Rows) -> Table:
  """Counts and their shares; the paper's are of one pair of nets."""
  lines: list[list[Cell]] = []
  if all(row["comparable"] for row in rows):
    lines.append(["published", "in order", *_counts([(n, None) for n in published_002.AGREEMENT])])
  for row in rows:
    lines += _lines(row, None, _agreeing)
  return ["", "batches", *AGREEMENT], lines


def _agreeing(row: Row, batches: str) -> list[Cell]:
  return _counts([row["facts"][agreement(words, batches)] for words in AGREEMENT])


def _counts(pairs: Sequence[tuple[float, float | None]]) -> list[Cell]:
  total = sum(mean for mean, _ in pairs)
  return [
    f"{mean:.4g}" + ("" if spread is None else f" ± {spread:.2g}") + f" ({100 * mean / total:.1f} %)"
    for mean, spread in pairs
  ]


_PARTS = ("RGB net", "landmark net", "sum of both")


def _parts(rows: Rows) -> Table:
  lines = []
  for row in rows:
    lines += _lines(row, None, _part)
  return ["", "batches", "both, by the head", *_PARTS], lines


def _part(row: Row, batches: str) -> list[Cell]:
  return [_accuracy(row, reading, batches) for reading in ("", *_PARTS)]


def sweep(rows: Rows) -> dict[float, Row]:
  """The rows of the sweep by w, ascending: 0.6 is the proposed row, and 1 is that of p alone."""
  points = {
    float(row["name"].removeprefix(_RETRAINED)): row for row in rows if row["name"].startswith(_RETRAINED)
  }
  if points:
    also = {_PROPOSED: published_002.BEST_W, "confidence p": 1.0}
    points |= {also[row["name"]]: row for row in rows if row["name"] in also}
  return dict(sorted(points.items()))


def _proposed(rows: Rows) -> Row:
  """The row whose nets, trained with w = 0.6, are tested with every other w."""
  return next((row for row in rows if row["name"] == _PROPOSED), {"readings": {}})


def _sweep_table(points: Mapping[float, Row], rows: Rows) -> Table:
  proposed = _proposed(rows)
  tested = [w for w in WEIGHTS if at_test(w) in proposed["readings"]]
  lines: list[list[Cell]] = [
    [
      f"{w:.1f}",
      *(_accuracy(points[w], "", batches) if w in points else None for batches in BATCHES.values()),
      *(_accuracy(proposed, at_test(w), batches) for batches in BATCHES.values()),
    ]
    for w in sorted({*points, *tested})
  ]
  ways = ("trained with it", "trained with 0.6, tested with it")
  return ["w", *(f"{way}, {words}" for way in ways for words in BATCHES)], lines


def figures(rows: Rows, folder: pathlib.Path) -> dict[str, str]:
  """`sweep.png`, Fig. 4: accuracy minus the baseline's by w, both ways, in order."""
  points, baseline = sweep(rows), next((row for row in rows if row["name"] == _BASELINE), None)
  if len(points) < 2 or baseline is None:
    return {}
  below = np.asarray(baseline["per_seed"])
  read = _proposed(rows)["readings"]
  tested = {w: read[at_test(w)]["accuracy"][0][0] for w in WEIGHTS if at_test(w) in read}
  with plots.style():
    figure = plots.new_figure(3.4)
    axes = figure.add_subplot()
    gains = np.asarray([100 * (np.asarray(row["per_seed"]) - below) for row in points.values()])
    at = np.asarray(list(points))
    colour = plots.COLOURS[0]
    axes.fill_between(at, gains.min(1), gains.max(1), color=colour, alpha=0.18, linewidth=0)
    axes.plot(at, gains.mean(1), "o-", color=colour, markersize=5, label="trained with w")
    if tested:
      means = [100 * (mean - below.mean()) for mean in tested.values()]
      look = {"color": plots.COLOURS[1], "markersize": 5}
      axes.plot(list(tested), means, "s--", label="trained with 0.6, tested with w", **look)
    axes.axhline(0, color=plots.GREY, linewidth=1, linestyle=":", label="RGB net alone")
    axes.axvline(published_002.BEST_W, color=plots.GREY, linewidth=1, label="the paper's best w")
    axes.set_xlabel("w, weight of the landmark features where the nets disagree")
    axes.set_ylabel("accuracy gained (points)")
    figure.legend(loc="outside lower center", ncols=2)
    plots.write_png(figure, folder / "sweep.png", "Accuracy by w (Fig. 4), batches of 64 in order")
  return {
    "sweep.png": "Accuracy minus that of the RGB net alone, by w, tested in batches of 64 in order: nets trained with "
    "each w (mean over seeds, their range as a band), and those trained with 0.6 with another w at test. In the paper "
    "0.6 is best; its other values cannot be read off."
  }
