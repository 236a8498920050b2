"""Tables 2 and 5 to 8 of paper 002 out of counts, by the code that judges a study; Fig. 4 out of rows by hand."""

import numpy as np
import pytest

from jaxfer.experiments import landmark_fusion, published_002, table_002
from jaxfer.experiments.experiment import Reading
from jaxfer.report import study

CLASSES = len(published_002.CLASSES)
LABEL = np.repeat(np.arange(CLASSES), published_002.TESTED)
NOWHERE = {"data": {}, "parameters": 0, "folds": 1, "tested": "", "members": 1, "failed": []}
NOWHERE |= {"figures": {}, "measures": {}}


def judged(name, rank, readings=None):
  """A row of one seed that ranked the labels of RAF-DB's tested pictures so."""
  own = {
    "correct": [(rank == 0).astype(float).tolist()],
    "rank": [rank.tolist()],
    "predicted": [np.where(rank == 0, LABEL, (LABEL + 1) % CLASSES).tolist()],
  }
  result = {
    "label_names": published_002.CLASSES,
    "key": [[f"{k:04d}" for k in range(len(LABEL))]],
    "subject": [[f"{k:04d}" for k in range(len(LABEL))]],
    "label": [LABEL.tolist()],
    "facts": {},
    "readings": readings or {},
    "seconds": 0,
    "compile_seconds": 0,
    **NOWHERE,
    **own,
  }
  return {**study.judged(result), "name": name, "published": None}


def ranks(counts):
  """A rank for each tested picture that gives these counts."""
  rank = np.zeros(len(LABEL), int)
  first = np.cumsum([0, *published_002.TESTED[:-1]])
  for start, tested, right in zip(first, published_002.TESTED, counts.correct, strict=True):
    rank[start + right : start + tested] = 1
  wrong = np.flatnonzero(rank)
  one, two, three = counts.top
  rank[wrong[two - one :]] = 2
  rank[wrong[three - one :]] = 3
  return rank


@pytest.fixture(scope="module")
def rows():
  return [judged(name, ranks(counts)) for name, counts in published_002.ROWS.items()]


def test_metrics_of_the_counts_are_the_printed_ones(rows):
  """Every row of ours equals the published row above it, and those are what the paper prints, as percent."""
  by_class, tops, *_ = (table for _, table in table_002.tables(rows, (0,)))
  assert by_class[0] == ["", *published_002.CLASSES]
  for _, lines in (by_class, tops):
    published, ours = lines[::2], lines[1::2]
    assert [line[0] for line in ours] == list(published_002.ROWS)
    assert [line[0] for line in published] == [f"{line[0]}, published" for line in ours]
    assert [line[1:] for line in published] == [line[1:] for line in ours]
  printed = {line[0]: line[1:] for line in by_class[1]}
  assert printed["baseline: RGB net alone"] == ["89.97", "85.14", "66.88", "96.37", "88.08", "80.25", "97.79"]
  assert printed["proposed: p and w"] == ["90.58", "85.14", "68.75", "96.29", "87.66", "82.10", "98.24"]
  assert tops[0] == ["", "top 1", "top 2", "top 3", "average"]
  assert {line[0]: line[1:] for line in tops[1][1::2]} == {
    "baseline: RGB net alone": ["92.05", "97.75", "98.86", "86.35"],
    "no weights": ["91.98", "97.39", "98.76", "86.82"],
    "confidence p": ["91.98", "97.29", "98.57", "86.26"],
    "agreement w": ["92.14", "97.52", "98.83", "86.53"],
    "proposed: p and w": ["92.31", "97.72", "98.70", "86.96"],
  }


def test_agreement_of_two_nets_is_table_2():
  right = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], published_002.AGREEMENT, axis=0)
  rgb, landmark = (Reading(LABEL, own.astype(float)) for own in right.T)
  read = {"": rgb, "RGB net": rgb, "landmark net": landmark}
  found = landmark_fusion.facts([], [read, read])
  assert [values for values in found.values()] == [[n, n] for n in published_002.AGREEMENT]
  assert list(found) == [
    "both nets right",
    "RGB net alone right",
    "landmark net alone right",
    "neither right",
  ]
  assert landmark_fusion.facts([], [{"": rgb}]) == {}


def row(name, accuracy, **readings):
  """As `judged` gives it, of two seeds, so far as Fig. 4 and the batches read it."""
  pair = [[float(np.mean(accuracy)), 0.01]]
  read = {key: {"accuracy": [[value, None]]} for key, value in readings.items()}
  return {"name": name, "per_seed": list(accuracy), "accuracy": pair, "readings": read}


def sweep_rows():
  tested = {"w = 0.0 at test": 0.5, "w = 0.6 at test": 0.8, "w = 1.0 at test": 0.75}
  return [
    row("baseline: RGB net alone", (0.6, 0.7), shuffled=0.61),
    row("confidence p", (0.7, 0.72)),
    row("proposed: p and w", (0.8, 0.82), **{"batches of one": 0.62}, **tested),
    row("w = 0.0", (0.5, 0.6)),
    row("w = 0.8", (0.74, 0.7)),
  ]


def test_the_sweep_takes_the_proposed_row_for_its_w_and_p_alone_for_1(tmp_path):
  rows = sweep_rows()
  points = table_002.sweep(rows)
  assert {w: found["name"] for w, found in points.items()} == {
    0.0: "w = 0.0",
    0.6: "proposed: p and w",
    0.8: "w = 0.8",
    1.0: "confidence p",
  }
  header, lines = table_002._sweep_table(points, rows)
  assert header == ["w", "trained with it", "trained with 0.6, tested with it"]
  assert lines == [
    ["0.0", "55.00 ± 1.00", "50.00"],
    ["0.6", "81.00 ± 1.00", "80.00"],
    ["0.8", "72.00 ± 1.00", None],
    ["1.0", "71.00 ± 1.00", "75.00"],
  ]
  assert list(table_002.figures(rows, tmp_path)) == ["sweep.png"]
  assert (tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"
  for fewer in (rows[1:], rows[:3]):  # Without the baseline, without a sweep.
    assert table_002.figures(fewer, tmp_path) == {}


def test_batches_are_named_by_how_they_were_drawn():
  header, lines = table_002._batches(sweep_rows())
  assert header == ["", "in order", "random order", "batches of one"]
  assert lines[0] == ["baseline: RGB net alone", "65.00 ± 1.00", "61.00", None]
  assert lines[2] == ["proposed: p and w", "81.00 ± 1.00", None, "62.00"]


def test_other_classes_than_the_papers_stand_without_published_recalls():
  lone = row("baseline: RGB net alone", (0.5, 0.5)) | {
    "label_names": ["a", "b"],
    "recall": [[0.25, None], [None, None]],
    "top": [[0.5, None]] * 3,
    "average_accuracy": [[0.25, None]],
  }
  (_, (_, lines)), *_ = table_002.tables([lone], (0,))
  assert lines == [["baseline: RGB net alone", "25.00", None]]
