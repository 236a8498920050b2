"""Tables 2 and 5 to 8 of paper 002 out of counts, by the code that judges a study; Fig. 4 out of rows by hand."""

import numpy as np
import pytest

from jaxfer.report import study
from jaxfer.systems.landmark_fusion import SYSTEM
from jaxfer.systems.landmark_fusion import published as published_002
from jaxfer.systems.landmark_fusion import table as table_002
from jaxfer.systems.system import Prediction

CLASSES = len(published_002.CLASSES)
LABEL = np.repeat(np.arange(CLASSES), published_002.TESTED)
NOWHERE = {"data": {}, "parameters": 0, "folds": 1, "tested": "", "members": 1, "failed": []}
NOWHERE |= {"figures": {}, "measures": {}, "remarks": []}


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
  return {**study.judged(result), "name": name, "published": None, "comparable": True}


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
  _, by_class, tops = (table for _, table in table_002.tables(rows, (0,)))
  assert by_class[0] == ["", "batches", *published_002.CLASSES]
  for _, lines in (by_class, tops):
    published, ours = lines[::2], lines[1::2]
    assert [line[0] for line in published] == list(published_002.ROWS)
    assert {line[1] for line in published} == {"published"}
    assert {tuple(line[:2]) for line in ours} == {("", "in order")}
    assert [line[2:] for line in published] == [line[2:] for line in ours]
  printed = {line[0]: line[2:] for line in by_class[1]}
  assert printed["baseline: RGB net alone"] == ["89.97", "85.14", "66.88", "96.37", "88.08", "80.25", "97.79"]
  assert printed["proposed: p and w"] == ["90.58", "85.14", "68.75", "96.29", "87.66", "82.10", "98.24"]
  assert tops[0] == ["", "batches", "top 1", "top 2", "top 3", "average"]
  assert {line[0]: line[2:] for line in tops[1][::2]} == {
    "baseline: RGB net alone": ["92.05", "97.75", "98.86", "86.35"],
    "no weights": ["91.98", "97.39", "98.76", "86.82"],
    "confidence p": ["91.98", "97.29", "98.57", "86.26"],
    "agreement w": ["92.14", "97.52", "98.83", "86.53"],
    "proposed: p and w": ["92.31", "97.72", "98.70", "86.96"],
  }


def test_on_other_data_no_published_row_stands_above_ours(rows):
  other = [{**row, "comparable": False} for row in rows]
  _, by_class, tops = (table for _, table in table_002.tables(other, (0,)))
  assert [line[1] for _, lines in (by_class, tops) for line in lines] == ["in order"] * 2 * len(rows)


def test_agreement_of_two_nets_is_table_2():
  right = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], published_002.AGREEMENT, axis=0)
  rgb, landmark = (Prediction(LABEL, own.astype(float)) for own in right.T)
  read = {"": rgb, "RGB net": rgb, "landmark net": landmark}
  read |= {"RGB net, shuffled": landmark, "landmark net, shuffled": rgb}
  found = SYSTEM.summaries([], [read, read])
  both, alone, other, neither = published_002.AGREEMENT
  assert list(found.values()) == [[n, n] for n in (both, alone, other, neither, both, other, alone, neither)]
  assert SYSTEM.summaries([], [{"": rgb}]) == {}
  row = {"name": "ours", "comparable": True, "readings": {"shuffled": {"any": 0}}}
  row["facts"] = {name: (mean, 17.0) for name, (mean, _) in found.items()}
  header, (published, *ours) = table_002._both([row])
  assert header == ["", "batches", *table_002.AGREEMENT]
  counts = [
    f"{n} (%s %%)" % share for n, share in zip(published_002.AGREEMENT, (65.8, 26.3, 2.0, 5.9), strict=True)
  ]
  assert published == ["published", "in order", *counts]
  assert ours[0] == ["ours", "in order", *(count.replace(" (", " ± 17 (") for count in counts)]
  assert [line[:3] for line in ours[1:]] == [["", "one random order", "2018 ± 17 (65.8 %)"]]
  assert table_002._both([{**row, "comparable": False}]) == (header, ours)


def test_each_number_stands_in_batches_of_each_kind():
  """Of two seeds; the answer and both nets, the published row above."""

  def numbers(value):
    pair = [value, 0.01]
    return {"accuracy": [pair], "top": [pair] * 3, "average_accuracy": [pair], "recall": [pair]}

  every = {"": 0.5, "RGB net": 0.1, "landmark net": 0.2, "sum of both": 0.3}
  readings = {
    ", ".join(filter(None, (name, batches))): numbers(value + more)
    for name, value in every.items()
    for batches, more in (("", 0), ("shuffled", 0.01), ("batches of one", 0.02))
  }
  facts = {
    table_002.agreement(w, b): [1, None] for w in table_002.AGREEMENT for b in table_002.BATCHES.values()
  }
  rows = [
    {
      "name": name,
      "comparable": True,
      "label_names": ["a"],
      "readings": readings,
      "facts": facts,
      **numbers(0.5),
    }
    for name in ("no weights", "w = 0.2")
  ]
  answers, recalls, tops, both, parts = (table for _, table in table_002.tables(rows, (0, 1)))
  kinds = ["in order", "one random order", "batches of one"]
  said = ["50.00 ± 1.00", "51.00 ± 1.00", "52.00 ± 1.00"]
  assert answers == (["", *kinds], [["no weights", *said], ["w = 0.2", *said]])
  three = [["no weights", kinds[0], said[0]], ["", kinds[1], said[1]], ["", kinds[2], said[2]]]
  assert recalls[1][:3] == three
  assert tops[1][0][:3] == ["no weights", "published", "91.98"]
  assert [line[1:3] for line in tops[1][1:4]] == [line[1:] for line in three]
  assert tops[1][4][0] == "w = 0.2"
  assert [line[1] for line in both[1]] == ["in order", *kinds, *kinds]
  assert parts[1][2] == ["", "batches of one", "52.00 ± 1.00", "12.00 ± 1.00", "22.00 ± 1.00", "32.00 ± 1.00"]


def row(name, accuracy, **readings):
  """As `judged` gives it, of two seeds, so far as Fig. 4 and the batches read it."""
  pair = [[float(np.mean(accuracy)), 0.01]]
  read = {key: {"accuracy": [[value, None]]} for key, value in readings.items()}
  return {"name": name, "per_seed": list(accuracy), "accuracy": pair, "readings": read}


def sweep_rows():
  tested = {"w = 0.0 at test": 0.5, "w = 0.6 at test": 0.8, "w = 1.0 at test": 0.75}
  tested["w = 0.6 at test, shuffled"] = 0.78
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
  kinds = ("in order", "one random order", "batches of one")
  ways = ("trained with it", "trained with 0.6, tested with it")
  assert header == ["w", *(f"{way}, {kind}" for way in ways for kind in kinds)]
  assert lines == [
    ["0.0", "55.00 ± 1.00", None, None, "50.00", None, None],
    ["0.6", "81.00 ± 1.00", None, "62.00", "80.00", "78.00", None],
    ["0.8", "72.00 ± 1.00", None, None, None, None, None],
    ["1.0", "71.00 ± 1.00", None, None, "75.00", None, None],
  ]
  assert list(table_002.figures(rows, tmp_path)) == ["sweep.png"]
  assert (tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"
  for fewer in (rows[1:], rows[:3]):  # Without the baseline, without a sweep.
    assert table_002.figures(fewer, tmp_path) == {}


def test_batches_are_named_by_how_they_were_drawn():
  header, lines = table_002._answers(sweep_rows())
  assert header == ["", "in order", "one random order", "batches of one"]
  assert lines[0] == ["baseline: RGB net alone", "65.00 ± 1.00", "61.00", None]
  assert lines[2] == ["proposed: p and w", "81.00 ± 1.00", None, "62.00"]


def test_other_classes_than_the_papers_stand_without_published_recalls():
  lone = row("baseline: RGB net alone", (0.5, 0.5)) | {
    "comparable": True,
    "label_names": ["a", "b"],
    "recall": [[0.25, None], [None, None]],
    "top": [[0.5, None]] * 3,
    "average_accuracy": [[0.25, None]],
  }
  _, (_, (_, lines)), *_ = table_002.tables([lone], (0,))
  assert lines == [["baseline: RGB net alone", "in order", "25.00", None]]
