"""Results of human raters on the test images: counted by hand, and in the table by class."""

import types

import numpy as np
import pytest

from jaxfer.data.datasets.nagoya import scan
from jaxfer.data.records import Records
from jaxfer.systems import SYSTEMS
from jaxfer.systems.elderly_transfer import classes, published, table
from tests.systems.elderly_transfer import table_test

MEASURES = SYSTEMS["elderly_transfer"].metrics


def asked(votes, names=scan.LABELS):
  """Returns a task on images whose classes are 0, 1, 2, ... in turn."""
  label = np.arange(len(votes)) % len(names)
  keys = [f"{k:03d}" for k in range(len(votes))]
  arrays = {"label": label, "votes": np.asarray(votes, np.int32)}
  return types.SimpleNamespace(records=Records.from_arrays(arrays, keys, names, ["P"] * len(keys)))


@pytest.fixture
def votes():
  """Votes for twelve images: joy twice and "other" once for the first, joy once for the second and the tenth."""
  votes = np.zeros((12, 10), int)
  votes[0, [0, 9]] = 2, 1
  votes[1, 0] = votes[9, 0] = 1
  return votes


def test_only_answers_to_test_images_count(votes):
  found = MEASURES(asked(votes), {}, np.arange(9, 12), np.arange(9))
  assert found["people, answers"] == 4
  assert found["people, accuracy"] == 0.5
  assert [found[f"people, {rate} of joy"] for rate in ("precision", "recall", "F1")] == [
    pytest.approx(2 / 3)
  ] * 3
  assert found["all images, answers"] == 5
  assert found["all images, accuracy"] == 0.6
  assert found["all images, recall of joy"] == pytest.approx(3 / 4)
  assert found["people, recall of sadness"] == 0
  assert found["people, recall of neutral"] is None  # Nobody was asked.
  nobody = MEASURES(asked(votes), {}, np.arange(2), np.arange(2, 9))
  assert nobody.keys() == found.keys()
  assert {value for name, value in nobody.items() if name.startswith("people")} == {None}
  assert nobody["all images, answers"] == 5


def test_nothing_is_measured_where_nobody_was_asked(votes):
  rows = np.arange(12)
  assert MEASURES(asked(0 * votes), {}, rows, rows) == {}
  assert MEASURES(asked(votes, ("a", "b")), {}, rows, rows) == {}
  without = asked(votes)
  del without.records.arrays["votes"]
  assert MEASURES(without, {}, rows, rows) == {}


def by_class(row):
  (found,) = (found for title, found in table.tables([row]) if title.startswith("Results by class"))
  return found


def test_people_stand_below_the_model_on_the_same_images():
  """The classes have Nagoya's names, and in one of two trainings the people answer as the paper's best model does."""
  row = table_test.judged("Face-ResNet18, scratch", table_test.answers(218))
  row |= {"label_names": list(scan.LABELS)}
  header, lines = by_class(row)
  assert header[4:] == list(published.CLASSES)
  assert [line[0] for line in lines[3:]] == [
    f"paper's {who} % correct), {rate}" for who in ("model (36.6", "people (34.1") for rate in "PRF"
  ]
  confusion = published.confusion()
  label = np.repeat(np.arange(9), confusion.sum(1))
  votes = np.repeat(np.concatenate([np.eye(9, 10, dtype=np.int32)] * 9), confusion.ravel(), 0)
  keys = [f"{k:03d}" for k in range(len(label))]
  records = Records.from_arrays({"label": label, "votes": votes}, keys, scan.LABELS, ["P"] * len(keys))
  found = MEASURES(types.SimpleNamespace(records=records), {}, np.arange(0), np.arange(len(label)))
  _, lines = by_class({**row, "metrics": {name: [value, None] for name, value in found.items()}})
  what = "people, same images (768 answers per training, 36.6 % correct)"
  assert [line[0] for line in lines[3:6]] == [f"{what}, {rate}" for rate in "PRF"]
  everyone = "people, all images (768 answers, 36.6 % correct)"
  assert [line[0] for line in lines[6:9]] == [f"{everyone}, {rate}" for rate in "PRF"]
  own, whole, printed = ([line[1:3] + line[4:] for line in lines[k : k + 3]] for k in (3, 6, 9))
  assert own == whole == printed


def test_classes_of_other_names_or_number():
  assert classes.order(scan.LABELS) == list(range(9))
  assert classes.order(sorted(published.CLASSES)) == [
    sorted(published.CLASSES).index(name) for name in published.CLASSES
  ]
  assert classes.order(("anger", "joy")) == []
  assert classes.order((*scan.LABELS, "contempt")) == []
