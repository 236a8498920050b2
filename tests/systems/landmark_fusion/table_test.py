"""Tables 2 and 5 to 8 of paper 002 from the printed counts; Fig. 4 from variants made by hand."""

import numpy as np
import pytest

from jaxfer.config import Call, RunConfig
from jaxfer.report import study
from jaxfer.systems.landmark_fusion import SYSTEM, published, table
from jaxfer.systems.prediction import Prediction

CLASSES = len(published.CLASSES)
LABEL = np.repeat(np.arange(CLASSES), published.TEST_COUNTS)
UNUSED = {
  "data": {},
  "parameters": 0,
  "folds": 1,
  "tested": "",
  "members": 1,
  "failed": [],
  "predictions": {},
}
UNUSED |= {"figures": {}, "metrics": {}, "warnings": [], "summaries": {}, "table_summaries": {}}
UNUSED |= {"seconds": 0, "compile_seconds": 0}


def config(w=None, **model):
  """The config of the proposed variant with these changes."""
  recipe = {} if w is None else {"w": w}
  return RunConfig(
    recipe=Call("landmark_fusion", rgb="given", **recipe),
    model=Call("landmark_fusion", **model),
    data=Call("raf_db"),
  )


def evaluated(name, rank):
  """Returns a variant with one seed, in whose predictions the true class of each test image of RAF-DB has this rank."""
  keys = [f"{k:04d}" for k in range(len(LABEL))]
  result = {
    **UNUSED,
    "label_names": published.CLASSES,
    "key": [keys],
    "subject": [keys],
    "label": [LABEL.tolist()],
    "correct": [(rank == 0).astype(float).tolist()],
    "rank": [rank.tolist()],
    "predicted": [np.where(rank == 0, LABEL, (LABEL + 1) % CLASSES).tolist()],
  }
  return {**study.summarize(result), "name": name, "published": None, "comparable": True, "config": config()}


def ranks(counts):
  """A rank for each test image, so that the counts are these."""
  rank = np.zeros(len(LABEL), int)
  first = np.cumsum([0, *published.TEST_COUNTS[:-1]])
  for start, total, correct in zip(first, published.TEST_COUNTS, counts.correct, strict=True):
    rank[start + correct : start + total] = 1
  wrong = np.flatnonzero(rank)
  one, two, three = counts.top
  rank[wrong[two - one :]] = 2
  rank[wrong[three - one :]] = 3
  return rank


@pytest.fixture(scope="module")
def variants():
  return [evaluated(name, ranks(counts)) for name, counts in published.ROWS.items()]


def test_metrics_of_the_counts_are_the_printed_ones(variants):
  """The numbers of every variant equal the published ones above them, in percent as printed in the paper."""
  _, by_class, tops = (own for _, own in table.tables(variants, (0,)))
  assert by_class[0] == ["", "batches", *published.CLASSES]
  for _, lines in (by_class, tops):
    theirs, ours = lines[::2], lines[1::2]
    assert [line[0] for line in theirs] == list(published.ROWS)
    assert {line[1] for line in theirs} == {"published"}
    assert {tuple(line[:2]) for line in ours} == {("", "in order")}
    assert [line[2:] for line in theirs] == [line[2:] for line in ours]
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


def test_on_other_data_no_published_line_stands_above_ours(variants):
  other = [{**variant, "comparable": False} for variant in variants]
  _, by_class, tops = (own for _, own in table.tables(other, (0,)))
  assert [line[1] for _, lines in (by_class, tops) for line in lines] == ["in order"] * 2 * len(variants)


def test_agreement_of_two_nets_is_table_2():
  right = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], published.AGREEMENT, axis=0)
  rgb, landmark = (Prediction(LABEL, own.astype(float)) for own in right.T)
  predictions = {"": rgb, "RGB net": rgb, "landmark net": landmark}
  predictions |= {"RGB net, shuffled": landmark, "landmark net, shuffled": rgb}
  found = SYSTEM.table_summaries([], [predictions, predictions])
  both, alone, other, neither = published.AGREEMENT
  assert list(found.values()) == [[n, n] for n in (both, alone, other, neither, both, other, alone, neither)]
  assert SYSTEM.table_summaries([], [{"": rgb}]) == {}
  variant = {"name": "ours", "comparable": True, "predictions": {"shuffled": {"any": 0}}}
  variant["table_summaries"] = {name: (mean, 17.0) for name, (mean, _) in found.items()}
  header, (printed, *ours) = table._agreements([variant])
  assert header == ["", "batches", *table.AGREEMENT]
  counts = [
    f"{n} (%s %%)" % share for n, share in zip(published.AGREEMENT, (65.8, 26.3, 2.0, 5.9), strict=True)
  ]
  assert printed == ["published", "in order", *counts]
  assert ours[0] == ["ours", "in order", *(count.replace(" (", " ± 17 (") for count in counts)]
  assert [line[:3] for line in ours[1:]] == [["", "one random order", "2018 ± 17 (65.8 %)"]]
  assert table._agreements([{**variant, "comparable": False}]) == (header, ours)


def test_a_landmark_net_alone_has_table_2_but_no_head():
  """It counts with the RGB net of its training; the table of heads and sums leaves it out."""
  pair = {"accuracy": [[0.5, None]], "top": [[0.5, None]] * 3, "average_accuracy": [[0.5, None]]}
  pair["recall"] = [[0.5, None]]
  lone = {"name": "landmark net alone", "comparable": True, "label_names": ["a"], "config": config(), **pair}
  lone["predictions"] = {"RGB net": pair, "landmark net": pair}
  lone["table_summaries"] = {name: (n, None) for name, n in zip(table.AGREEMENT, (5, 3, 1, 1), strict=True)}
  titles = {title: own for title, own in table.tables([lone], (0,))}
  ((_, lines),) = (own for title, own in titles.items() if "Table 2" in title)
  assert [line[:3] for line in lines] == [
    ["published", "in order", "2018 (65.8 %)"],
    ["landmark net alone", "in order", "5 (50.0 %)"],
  ]
  assert not [title for title in titles if "sum of their probabilities" in title]


def test_summaries_of_the_systems_own_tables_are_not_in_the_general_one():
  result = {
    **UNUSED,
    "label_names": ["a"],
    "key": [["1"]] * 2,
    "label": [[0]] * 2,
    "correct": [[1.0]] * 2,
    "predicted": [[0]] * 2,
    "rank": None,
    "summaries": {"shown": [1.0, 3.0]},
    "table_summaries": {"neither right": [4.0, 6.0]},
  }
  variant = {"name": "ours", **study.summarize(result)}
  assert variant["table_summaries"] == {"neither right": [5.0, pytest.approx(2**0.5)]}
  (general,) = study.further_tables({"rows": [variant], "tables": []})
  assert (general["header"], general["rows"]) == (["", "shown"], [["ours", "2 ± 1.4"]])


def test_every_number_is_given_for_each_kind_of_batches():
  """Two seeds; the answer and both nets, with the published line above."""

  def numbers(value):
    pair = [value, 0.01]
    return {"accuracy": [pair], "top": [pair] * 3, "average_accuracy": [pair], "recall": [pair]}

  every = {"": 0.5, "RGB net": 0.1, "landmark net": 0.2, "sum of both": 0.3}
  readings = {
    ", ".join(filter(None, (name, batches))): numbers(value + more)
    for name, value in every.items()
    for batches, more in (("", 0), ("shuffled", 0.01), ("batches of one", 0.02))
  }
  counts = {
    ", ".join(filter(None, (column, batches))): [1, None]
    for column in table.AGREEMENT
    for batches in table.BATCHES.values()
  }
  variants = [
    {
      "name": name,
      "comparable": True,
      "label_names": ["a"],
      "predictions": readings,
      "table_summaries": counts,
      **numbers(0.5),
    }
    for name in ("no weights", "w = 0.2")
  ]
  answers, recalls, tops, both, nets = (own for _, own in table.tables(variants, (0, 1)))
  kinds = ["in order", "one random order", "batches of one"]
  cells = ["50.00 ± 1.00", "51.00 ± 1.00", "52.00 ± 1.00"]
  assert answers == (["", *kinds], [["no weights", *cells], ["w = 0.2", *cells]])
  three = [["no weights", kinds[0], cells[0]], ["", kinds[1], cells[1]], ["", kinds[2], cells[2]]]
  assert recalls[1][:3] == three
  assert tops[1][0][:3] == ["no weights", "published", "91.98"]
  assert [line[1:3] for line in tops[1][1:4]] == [line[1:] for line in three]
  assert tops[1][4][0] == "w = 0.2"
  assert [line[1] for line in both[1]] == ["in order", *kinds, *kinds]
  assert nets[0] == ["", "batches", "both, by the head", "RGB net", "landmark net", "sum of both"]
  assert nets[1][2] == ["", "batches of one", "52.00 ± 1.00", "12.00 ± 1.00", "22.00 ± 1.00", "32.00 ± 1.00"]


def variant(name, config, accuracy, **readings):
  """A variant of two seeds with those of its fields that Fig. 4 and the accuracies need."""
  pair = [[float(np.mean(accuracy)), 0.01]]
  read = {key: {"accuracy": [[value, None]]} for key, value in readings.items()}
  return {
    "name": name,
    "config": config,
    "per_seed": list(accuracy),
    "accuracy": pair,
    "predictions": read,
  }


def sweep_variants():
  """The names of the swept variants do not contain w; it is in their configs."""
  at_test = {"w = 0.0 at test": 0.5, "w = 0.6 at test": 0.8, "w = 1.0 at test": 0.75}
  at_test["w = 0.6 at test, shuffled"] = 0.78
  return [
    variant("baseline: RGB net alone", config(answer="rgb"), (0.6, 0.7), shuffled=0.61),
    variant("without w", config(agreement=False), (0.7, 0.72)),
    variant("proposed: p and w", config(), (0.8, 0.82), **{"batches of one": 0.62}, **at_test),
    variant("high", config(0.8), (0.74, 0.7)),
    variant("low", config(0.0), (0.5, 0.6)),
    variant("w = 0.4", config(0.4, dot="gaussian"), (0.1, 0.2)),
  ]


def test_the_sweep_takes_the_proposed_variant_for_its_w_and_p_alone_for_1(tmp_path):
  variants = sweep_variants()
  swept = table.sweep(variants)
  assert {w: found["name"] for w, found in swept.trained.items()} == {
    0.0: "low",
    0.6: "proposed: p and w",
    0.8: "high",
    1.0: "without w",
  }
  assert list(swept.trained) == sorted(swept.trained)
  header, lines = table._sweep_table(swept)
  kinds = ("in order", "one random order", "batches of one")
  ways = ("trained with it", "trained with 0.6, tested with it")
  assert header == ["w", *(f"{way}, {kind}" for way in ways for kind in kinds)]
  assert lines == [
    ["0.0", "55.00 ± 1.00", None, None, "50.00", None, None],
    ["0.6", "81.00 ± 1.00", None, "62.00", "80.00", "78.00", None],
    ["0.8", "72.00 ± 1.00", None, None, None, None, None],
    ["1.0", "71.00 ± 1.00", None, None, "75.00", None, None],
  ]
  assert list(table.figures(variants, tmp_path)) == ["sweep.png"]
  assert (tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"
  for fewer in (variants[1:], variants[:3]):  # Without the baseline, without a sweep.
    assert table.figures(fewer, tmp_path) == {}
  assert table.sweep([each for each in variants if each["name"] != "proposed: p and w"]) is None


def test_accuracies_are_given_by_kind_of_batches():
  header, lines = table._accuracies(sweep_variants())
  assert header == ["", "in order", "one random order", "batches of one"]
  assert lines[0] == ["baseline: RGB net alone", "65.00 ± 1.00", "61.00", None]
  assert lines[2] == ["proposed: p and w", "81.00 ± 1.00", None, "62.00"]


def test_data_with_other_classes_than_the_papers_have_no_published_recalls():
  lone = variant("baseline: RGB net alone", config(answer="rgb"), (0.5, 0.5)) | {
    "comparable": True,
    "label_names": ["a", "b"],
    "recall": [[0.25, None], [None, None]],
    "top": [[0.5, None]] * 3,
    "average_accuracy": [[0.25, None]],
  }
  _, (_, (_, lines)), *_ = table.tables([lone], (0,))
  assert lines == [["baseline: RGB net alone", "in order", "25.00", None]]
