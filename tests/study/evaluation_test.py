"""Tests what a run writes about its probabilities: predictions.csv, calibration, and the model card."""

import csv
import dataclasses
import json
import pathlib
import re
import types

import numpy as np
import pytest

from jaxfer import metrics
from jaxfer.config import Split
from jaxfer.study import evaluation, run, trainings
from tests import study_toy as toy


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A run of two folds with validation records."""
  workdir = tmp_path_factory.mktemp("run") / "run"
  config = dataclasses.replace(toy.STUDY.base, split=Split(folds=2, validation=0.34))
  with pytest.MonkeyPatch.context() as patch:
    toy.install(patch)
    result = run.train(config, workdir, pathlib.Path("nowhere"), log=lambda line: None)
  return workdir, result


def test_predictions_come_with_probabilities_that_the_calibration_is_computed_from(trained):
  workdir, result = trained
  with (workdir / "predictions.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  names = result["label_names"]
  table = np.asarray([[float(row[f"probability of {name}"]) for name in names] for row in rows])
  assert table.shape == (21, 3)
  np.testing.assert_allclose(table.sum(1), 1, atol=1e-5)
  assert [names[k] for k in table.argmax(1)] == [row["predicted"] for row in rows]
  labels = [names.index(row["label"]) for row in rows]
  assert result["calibration"]["error"] == pytest.approx(metrics.calibration_error(table, labels), abs=1e-4)
  assert result["calibration"]["temperature"] > 0
  assert json.loads((workdir / "evaluation.json").read_text())["calibration"] == result["calibration"]


def one(confidence, correct, validation):
  """A training that predicts class 0 of two with one probability, and is right for a share of its ten test records."""
  probabilities = np.tile([confidence, 1 - confidence], (10, 1))
  labels = np.asarray([0] * correct + [1] * (10 - correct))
  return types.SimpleNamespace(
    probabilities=probabilities,
    validation_probabilities=probabilities if validation else None,
    indices=np.arange(10),
    task=types.SimpleNamespace(records=types.SimpleNamespace(arrays={"label": labels})),
    result=types.SimpleNamespace(member=types.SimpleNamespace(validation=np.arange(10))),
  )


def test_the_temperature_takes_overconfidence_away():
  """With 99 % confidence and 80 % accuracy, softmax((log 0.99, log 0.01) / T) is (0.8, 0.2) for T = log 99 / log 4."""
  found = evaluation.calibration([one(0.99, 8, True)])
  assert found["error"] == pytest.approx(0.19)
  assert found["temperature"] == pytest.approx(np.log(99) / np.log(4), rel=1e-3)
  assert found["error_scaled"] == pytest.approx(0, abs=1e-3)


def test_trainings_are_pooled_and_without_validation_nothing_is_fitted():
  found = evaluation.calibration([one(0.9, 9, True), one(0.6, 9, False)])
  assert found == {"error": pytest.approx(0.15), "temperature": None, "error_scaled": None}


def test_the_card_names_data_test_and_limits(trained):
  workdir, result = trained
  card = (workdir / "model_card.md").read_text()
  assert result["data"]["fingerprint"] in card
  assert f"({result['correct']} of 21; 95 % interval" in card
  for name, value in result["recall"].items():
    assert re.search(rf"^\| {name} +\| +{value:.3f} \|$", card, re.MULTILINE)
  assert "fold0: train" in card
  assert "not what a person feels" in card


def of_groups(texts, correct, keys=(), data="absent"):
  """A training on four records, all tested, with the given texts."""
  return types.SimpleNamespace(
    indices=np.arange(4),
    first=types.SimpleNamespace(correct=np.asarray(correct, float)),
    task=types.SimpleNamespace(
      records=types.SimpleNamespace(texts=texts, keys=keys),
      config=types.SimpleNamespace(data=types.SimpleNamespace(name=data)),
    ),
  )


def test_the_accuracy_of_groups_is_pooled_over_trainings():
  texts = {"gender": ("female", "male", "male", ""), "race": ("x",) * 4, "split": ("train", "test") * 2}
  found = evaluation.by_group([of_groups(texts, [1, 0, 1, 0]), of_groups(texts, [1, 0, 0, 1])])
  assert found == {
    "gender": {
      "female": {"accuracy": 1, "count": 2},
      "male": {"accuracy": 0.25, "count": 4},
      "not stated": {"accuracy": 0.5, "count": 2},
    }
  }


def test_the_parts_of_a_mixture_are_groups():
  keys = ("jaffe/a", "jaffe/b", "kdef/a", "kdef/b")
  found = evaluation.by_group([of_groups({}, [1, 1, 0, 1], keys, "paper000")])
  assert found == {"data set": {"jaffe": {"accuracy": 1, "count": 2}, "kdef": {"accuracy": 0.5, "count": 2}}}
  assert evaluation.by_group([of_groups({}, [1, 1, 0, 1], keys)]) == {}


def test_a_run_reports_groups_everywhere(tmp_path):
  """They are in evaluation.json, the log, the page and the card."""
  ages = [("young", "old")[k % 2] for k in range(len(toy.records()))]
  data = dataclasses.replace(toy.records(), texts={"age": tuple(ages)})
  lines = []
  with pytest.MonkeyPatch.context() as patch:
    toy.install(patch)
    patch.setattr(trainings, "load_data", lambda config, data_dir: data)
    config = dataclasses.replace(toy.STUDY.base, split=Split(folds=2))
    result = run.train(config, tmp_path / "run", pathlib.Path("nowhere"), log=lines.append)
  groups = json.loads((tmp_path / "run/evaluation.json").read_text())["accuracy_by_group"]["age"]
  assert groups == result["accuracy_by_group"]["age"]
  assert sum(own["count"] for own in groups.values()) == 21
  assert sum(own["accuracy"] * own["count"] for own in groups.values()) == pytest.approx(result["correct"])
  old = groups["old"]
  said = f"accuracy by age (number of records): old {old['accuracy']:.3f} ({old['count']}), young "
  assert any(said in line for line in lines)
  page = (tmp_path / "run/report.html").read_text()
  assert "By group" in page
  assert f"{old['accuracy']:.3f}" in page.partition("By group")[2].partition("Figures")[0]
  card = (tmp_path / "run/model_card.md").read_text()
  assert re.search(rf"^\| old +\| +{old['accuracy']:.3f} \| +{old['count']} \|$", card, re.MULTILINE)
