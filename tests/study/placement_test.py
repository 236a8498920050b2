"""Tests that runs on streamed data, from disk or memory, give the same results and splits as on resident data."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.config import Call, Execution, RunConfig, Split, StudyConfig
from jaxfer.data import stream
from jaxfer.data.folds import describe
from jaxfer.study import run, study, task, trainings
from jaxfer.study.split import split_of
from jaxfer.systems import MODELS, SYSTEMS
from jaxfer.train import memory
from tests import study_toy
from tests.fixtures import stored_stills


def config(placement="auto", **split):
  return RunConfig(
    recipe=Call("toy"),
    model=Call("toy"),
    data=Call("stored"),
    split=Split(**{"test": 0.3, "validation": 0.3, **split}),
    batch_size=4,
    execution=Execution(devices=2, steps_per_call=4, placement=placement),
  )


@pytest.fixture
def stored(monkeypatch):
  """Installs the toy net on four pixels of pictures on disk."""

  def eval_batch(data, rows):
    pixels = jnp.asarray(data["image"][rows])[:, ::20, ::20, 0].reshape(-1, 4)
    return {"x": pixels / 255.0, "label": jnp.asarray(data["label"])[rows]}

  stored_stills.install(monkeypatch)
  monkeypatch.setattr(study_toy.SYSTEM, "eval_batch", eval_batch)
  monkeypatch.setitem(SYSTEMS, "toy", study_toy.SYSTEM)
  monkeypatch.setitem(MODELS, "toy", study_toy.Net)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


def test_a_run_streamed_from_disk_equals_a_resident_one(stored, tmp_path, data_dir):
  said: dict[str, list[str]] = {}
  results, metrics = [], []
  for kind in ("resident", "streamed"):
    folder, said[kind] = tmp_path / kind, []
    results.append(run.train(config(kind), folder, data_dir, log=said[kind].append))
    metrics.append([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])
  for name in ("confusion", "data", "unseen", "accuracy_by_fold"):
    assert results[0][name] == results[1][name]
  assert (tmp_path / "streamed/predictions.csv").read_text() == (
    tmp_path / "resident/predictions.csv"
  ).read_text()
  for one, other in zip(*metrics, strict=True):
    assert one["split"] == other["split"]
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
  assert "stored: 42 records, 0.192 MiB streamed (as asked)" in said["streamed"][0]
  sides = "train 24 records of 4 people, validation 6 records of 1 people, test 12 records of 2 people"
  assert said["streamed"][1] == f"{sides}, 4 of each class tested"


def test_what_does_not_fit_is_streamed(stored, monkeypatch, data_dir):
  def placed(host, device):
    monkeypatch.setattr(stream, "host_memory", lambda: host)
    monkeypatch.setattr(memory, "room", lambda count: (device, "a limit"))
    made = task.task_of(config(), trainings.load_data(config(), data_dir))
    return type(made.data), type(made.data["image"]), made.placement

  size = 42 * (40 * 40 * 3 + 4)
  assert placed(10**9, size) == (dict, np.ndarray, "0.192 MiB resident (a limit)")
  assert placed(None, None)[:2] == (dict, np.ndarray)
  assert placed(10**9, size - 1) == (stream.Stream, np.ndarray, "0.192 MiB streamed (a limit)")
  assert placed(1000, size) == (
    stream.Stream, stream.Column, "0.192 MiB streamed (from disk, too big for the host's memory)"
  )  # fmt: skip


def test_half_of_the_free_memory_is_for_data(monkeypatch):
  monkeypatch.setattr(memory, "host_memory", lambda: 4 << 30)
  assert memory.room(2) == (1 << 30, "limit 50% of 2 GiB free")
  monkeypatch.setattr(memory, "host_memory", lambda: None)
  assert memory.room() == (None, "free memory unknown")


def test_a_study_on_streamed_data_equals_one_on_resident(stored, tmp_path, data_dir):
  tables = []
  for kind in ("resident", "streamed"):
    base = dataclasses.replace(config(kind), split=Split(folds=2))
    described = StudyConfig(
      title="toy", source="nowhere", base=base, rows=study_toy.STUDY.rows[:1], presets={"small": {}}
    )
    said: list[str] = []
    tables.append(study.run(described, None, (), tmp_path / kind, data_dir, log=said.append))
  one, other = (table["rows"][0] for table in tables)
  timing = {"seconds": 0, "compile_seconds": 0}
  assert {**one, **timing} == {**other, **timing}


@pytest.mark.parametrize(
  ("split", "folds", "line"),
  [
    (
      {"kind": "leave_one_out", "validation": 0},
      7,
      "train 36 records of 6 people, test 6 records of 1 people",
    ),
    ({"kind": "per_class", "per_class": 4}, 1, "12 records of"),
    ({"kind": "per_class_people", "per_class": 4}, 1, "test 12 records of 2 people, 4 of each class tested"),
    ({"kind": "distributed", "validation": 0}, 1, "train 36 records of 7 people, test 6 records of 3 people"),
  ],
)
def test_kinds_of_splits_reach_the_run(stored, data_dir, split, folds, line):
  chosen = config(**split)
  data = trainings.load_data(chosen, data_dir)
  every = trainings.fold_configs(chosen, data)
  assert len(every) == folds
  tested = np.zeros(len(data), int)
  for each in every.values():
    sides = split_of(each, data)
    tested += sides.test
  said = describe(data.subjects, data.arrays["label"], data.label_names, sides)
  assert line in said
  if folds > 1:
    assert (tested == 1).all()


def test_people_on_both_sides_are_reported_in_the_result(stored, tmp_path, data_dir):
  said: list[str] = []
  result = run.train(config(kind="per_class", per_class=2, validation=0), tmp_path, data_dir, log=said.append)
  assert result["unseen"] == "records"
  assert any("people are in both training and test" in line for line in said)
  assert any("on records that the training never saw" in line for line in said)
