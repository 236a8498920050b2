"""Tests that `jaxfer train`, `jaxfer evaluate` and `jaxfer study` give the same accuracy for a model."""

import csv
import dataclasses
import json
import pathlib

import numpy as np
import pytest

from jaxfer.config import Call, Row, StudyConfig
from jaxfer.study import run, study
from jaxfer.systems import SYSTEMS
from jaxfer.systems.system import System
from tests import small_systems as systems

NOWHERE = pathlib.Path("nowhere")
# At rate 0, the nets of both commands keep their initial values.
RATES = {
  "classifier": ("learning_rate",),
  "stacked_autoencoder": ("learning_rate", "pretrain_rate"),
  "two_stream_conv_rnn": ("learning_rate",),
  "landmark_fusion": ("learning_rate", "rgb_learning_rate"),
  "vae": ("learning_rate",),  # The net of that paper that compiles fastest.
  "elderly_transfer": ("learning_rate", "head_learning_rate"),
}


@pytest.fixture(scope="module", autouse=True)
def _installed():
  """Turns off figures and metrics of the systems' tables, which do not change the accuracy."""
  with systems.installed(), pytest.MonkeyPatch.context() as patch:
    for name in ("figures", "metrics", "tables", "table_figures"):
      for own in {type(own) for own in SYSTEMS.values()}:
        patch.setattr(own, name, getattr(System, name))
    yield


def silent(line):
  del line


def validation(lines):
  return [row["accuracy"] for row in lines if row["split"] == "validation"]


def test_every_system_is_here():
  assert {systems.SYSTEMS[name].recipe.name for name in RATES} == set(SYSTEMS)


@pytest.mark.parametrize("name", RATES)
def test_train_evaluate_and_study_give_one_accuracy(name, tmp_path):
  config = systems.SYSTEMS[name]
  options = {**config.recipe.options, **dict.fromkeys(RATES[name], 0.0)}
  model = {**config.model.options, **({"norm": "none"} if "norm" in config.model.options else {})}
  config = dataclasses.replace(
    config, recipe=Call(config.recipe.name, **options), model=Call(config.model.name, **model)
  )
  described = StudyConfig(title="t", source="s", base=config, rows=(Row("one"),), presets={"small": {}})
  trained = run.train(config, tmp_path / "train", NOWHERE, log=silent)
  evaluated = run.evaluate(tmp_path / "train", NOWHERE, log=silent)
  (row,) = study.run(described, None, (), tmp_path / "study", NOWHERE, log=silent)["rows"]
  assert evaluated == trained
  assert trained["accuracy"] == row["mean"] == row["per_seed"][0]
  for key in ("correct", "count", "confusion", "trials", "chance"):
    assert trained[key] == row[key], key
  assert trained["average_accuracy"] == row["average_accuracy"][0][0]
  assert trained["other_predictions"].keys() == row["predictions"].keys()
  for name, other in trained["other_predictions"].items():
    assert other["accuracy"] == row["predictions"][name]["accuracy"][0][0], name
  histories = tmp_path / "train/metrics.jsonl", tmp_path / "study/rows/one/history.jsonl"
  watched = [validation(map(json.loads, path.read_text().splitlines())) for path in histories]
  assert watched[0]
  assert watched[0] == watched[1]


def test_a_mean_over_trials_is_called_so(tmp_path):
  """Counts and confusion matrix are means too, and the single prediction of a record is labelled as such."""
  config = systems.SYSTEMS["vae"]
  lines = []
  result = run.train(config, tmp_path, NOWHERE, log=lines.append)
  assert result["trials"] == 100
  assert not float(result["correct"]).is_integer()
  assert result["accuracy"] == result["correct"] / result["count"]
  assert np.trace(result["confusion"]) == pytest.approx(result["correct"])
  assert np.sum(result["confusion"], 1) == pytest.approx(np.bincount(systems.records().arrays["label"][:36]))
  with (tmp_path / "predictions.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == result["count"]
  assert np.mean([float(row["share_right"]) for row in rows]) == pytest.approx(result["accuracy"])
  majority = np.mean([row["predicted_by_most_trials"] == row["label"] for row in rows])
  assert majority != pytest.approx(result["accuracy"])
  (said,) = [line for line in lines if line.startswith("accuracy")]
  assert f"({round(result['correct'], 1)} of {result['count']}, the mean of 100 trials, " in said
  assert "correct on average over 100 trials" in (tmp_path / "report.html").read_text()
