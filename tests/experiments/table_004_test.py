"""Paper 004's tables out of its own counts, by the code that judges a study; epochs and claims out of rows by hand."""

import numpy as np
import pytest

from jaxfer.experiments import published_004, table_004
from jaxfer.report import study

TESTED = published_004.TESTED
LABEL = np.repeat(np.arange(9), published_004.SUPPORT)


def judged(name, predicted, history=(), compared=None):
  """A row of one seed."""
  keys = [[f"{k:04d}" for k in range(TESTED)]]
  result = {
    "label_names": list(published_004.CLASSES), "key": keys, "subject": keys, "label": [LABEL.tolist()],
    "predicted": [predicted.tolist()], "correct": [(predicted == LABEL).astype(float).tolist()], "rank": None,
    "facts": {}, "readings": {}, "data": {}, "parameters": 0, "folds": 1, "tested": "", "members": 1, "failed": [],
    "figures": {}, "measures": {}, "seconds": 0, "compile_seconds": 0,
  }  # fmt: skip
  row = {**study.judged(result), "name": name, "published": None}
  return {**row, "history": list(history), "compared": compared or {}}


def answers(right):
  return np.where(np.arange(TESTED) < right, LABEL, (LABEL + 1) % 9)


def history(*by_seed):
  return [
    {"member": f"seed {seed}, fold 0", "epoch": epoch, "split": split, "accuracy": accuracy}
    for seed, accuracies in enumerate(by_seed)
    for epoch, accuracy in enumerate(accuracies, start=1)
    for split in ("train", "validation")
  ]


def pair(difference, told_apart):
  return {
    "difference": difference,
    "interval": [difference - 0.01, difference + 0.01],
    "told_apart": told_apart,
  }


@pytest.fixture(scope="module")
def rows():
  matrix = published_004.confusion()
  best = np.concatenate([np.repeat(np.arange(9), line) for line in matrix])
  scratch = history([0.2, 0.5, 0.4], [0.1, 0.2, 0.3])
  return [
    judged("ResNet18, scratch", answers(185), scratch),
    judged("ResNet18, objects", answers(249), history([0.6, 0.5, 0.4], [0.2, 0.3, 0.2])),
    judged("Face-ResNet18, scratch", answers(218), scratch),
    judged(
      "Face-ResNet18, adaface",
      best,
      history([0.2, 0.4, 0.4], [0.2, 0.3, 0.4]),
      {"Face-ResNet18, scratch": pair(0.05, True)},
    ),
  ]


def test_every_row_of_the_paper_has_its_accuracy():
  assert table_004.published("ResNet50, cosface") is None
  assert table_004.published("Face-ResNet18, adaface") == 281 / 768
  assert table_004.published("ResNet18, objects") == 249 / 768
  assert table_004.published("something else") is None


def test_the_papers_counts_give_the_papers_numbers(rows):
  by_title = dict(table_004.tables(rows, (0,)))
  (grid,) = (table for title, table in by_title.items() if title.startswith("Nets by"))
  lines = {line[0]: line[1:] for line in grid[1]}
  assert lines["scratch"][0] == "24.1 (185)"
  assert lines["scratch"][1].startswith("24.1 (21.2 to 27.2)")
  assert lines["objects"][2:] == ["31.2 (240)", None]
  assert lines["adaface"][1] is None
  assert lines["adaface"][3].startswith("36.6 (")
  header, classes = next(table for title, table in by_title.items() if title.startswith("By class"))
  assert header[3:] == list(published_004.CLASSES)
  ours, net = [[line[1:] for line in classes[k : k + 3]] for k in (0, 3)]
  assert classes[0][0] == "ours: Face-ResNet18, adaface, P"
  for own, printed in zip(ours, net, strict=True):
    np.testing.assert_allclose([float(v) for v in own], [float(v) for v in printed], atol=0.15)
  assert [line[1] for line in classes[3:6]] == ["38.0", "38.4", "35.5"]
  assert [line[1:3] for line in classes[6:]] == [["33.1", "29.8"], ["34.0", "30.6"], ["32.3", "29.0"]]


def test_epochs_until_scratchs_best_are_counted_by_seed(rows):
  _, lines = next(table for title, table in table_004.tables(rows, (0,)) if title.startswith("How soon"))
  by_row = {line[0]: line[1:] for line in lines}
  assert by_row["ResNet18, objects"][-2:] == ["1.5 ± 0.7", "1 2"]
  assert by_row["Face-ResNet18, adaface"][-2:] == ["not by all", "never 2"]
  assert by_row["ResNet18, scratch"][-2:] == ["2.5 ± 0.7", "2 3"]
  assert by_row["ResNet18, scratch"][0] == "2.5 ± 0.7"


def test_a_claim_is_shown_denied_or_neither():
  assert table_004.verdict(8.0, pair(0.05, True)) == "shown"
  assert table_004.verdict(-8.0, pair(0.05, True)) == "denied: the other way round"
  assert table_004.verdict(8.0, pair(0.05, False)) == "neither shown nor denied"
  assert table_004.verdict(0.1, pair(0.05, True)) == "published within its own noise; ours tells them apart"
  assert table_004.verdict(None, pair(0.05, False)) == "ours does not tell them apart"


def test_claims_stand_beside_the_papers(rows):
  _, lines = next(table for title, table in table_004.tables(rows, (0,)) if title.startswith("Differences"))
  assert lines == [
    ["Face-ResNet18, adaface minus Face-ResNet18, scratch", "+8.2", "+5.0 (+4.0 to +6.0)", "shown"]
  ]


def test_figures_are_drawn_where_somebody_was_watched(rows, tmp_path):
  drawn = table_004.figures(rows, tmp_path)
  assert set(drawn) == {"transfer_curves.png", "transfer_epochs.png"}
  for name in drawn:
    assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
  assert table_004.figures([{**row, "history": []} for row in rows], tmp_path) == {}
  assert len(table_004.tables([{**row, "history": []} for row in rows], (0,))) == 3
