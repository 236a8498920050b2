"""Tests which rows of a study train together, from which weights rows start, and how failed trainings count."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxfer import config as configuration
from jaxfer.config import Row
from jaxfer.errors import UserError
from jaxfer.study import evaluation, variants
from jaxfer.study.task import options_of, task_of
from jaxfer.systems.prediction import Prediction
from jaxfer.train import weights
from tests import study_toy as toy

FIRST = ("fc1",)


def load_pretrained(model, given):
  del model
  return {name: {key: tree[key] for key in FIRST if key in tree} for name, tree in given.items()}


@pytest.fixture(scope="module", autouse=True)
def _toy():
  with pytest.MonkeyPatch.context() as patch:
    toy.install(patch)
    patch.setattr(toy.SYSTEM, "load_pretrained", load_pretrained)
    yield


def made(*table):
  return dataclasses.replace(toy.STUDY, rows=table, compared=(), seeds=1)


def together(described, name):
  _, configs = configuration.resolve(described, None, (), options_of)
  row = next(row for row in described.rows if row.name == name)
  task = task_of(configs[name], toy.records())
  return [other.name for other in variants.alike(task, row, described.rows, configs)]


def test_rows_that_differ_in_numbers_read_by_name_alone_are_members_of_one_program():
  described = made(
    Row("plain"),
    Row("fast", {"recipe.rate": 0.5}),
    Row("long", {"recipe.epochs": 3}),
    Row("wide", {"model.width": 8}),
    Row("again", {}, None, "plain"),
    Row("again, fast", {"recipe.rate": 0.5}, None, "plain"),
    Row("again, from wide", {"recipe.rate": 0.1}, None, "wide"),
  )
  assert together(described, "plain") == ["plain", "fast"]
  assert together(described, "again") == ["again", "again, fast"]
  for alone in ("long", "wide", "again, from wide"):
    assert together(described, alone) == [alone]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """A row from which others start, trained together with another row from which they do not start."""
  workdir = tmp_path_factory.mktemp("rows")
  described = made(
    Row("plain"),
    Row("fast", {"recipe.rate": 0.5}),
    Row("still", {"recipe.rate": 0.0}, None, "plain"),
  )
  lines = []
  toy.run_study(workdir, config=described, log=lines.append)
  return workdir, "\n".join(lines)


def kept(workdir, row):
  folder = workdir / "rows" / row / "weights"
  return {path.name: weights.load_weights(path)[0] for path in folder.iterdir()}


def test_each_training_starts_from_that_of_its_seed_and_fold(done):
  workdir, printed = done
  assert "row 1 of 3, plain, with fast:" in printed
  assert "taken over from row 'plain': fc1" in printed
  plain, fast = kept(workdir, "plain"), kept(workdir, "fast")
  assert plain.keys() == fast.keys() == {"seed 0, fold 0", "seed 0, fold 1"}
  for name, own in plain.items():
    different = jax.tree.map(lambda a, b: bool((a != b).any()), own["params"], fast[name]["params"])
    assert all(jax.tree.leaves(different))


def test_what_is_kept_is_the_rows_own(done, tmp_path):
  """It is not the one of the row with which it was trained."""
  workdir, _ = done
  alone = made(Row("plain"), Row("still", {"recipe.rate": 0.0}, None, "plain"))
  toy.run_study(tmp_path, config=alone, log=lambda line: None)
  for name, own in kept(tmp_path, "plain").items():
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), own, kept(workdir, "plain")[name])


def test_a_start_that_does_not_fit_is_refused(done):
  workdir, _ = done
  _, configs = configuration.resolve(made(Row("wide", {"model.width": 8})), None, (), options_of)
  task = task_of(configs["wide"], toy.records())
  names = ["seed 0, fold 0"]
  with pytest.raises(UserError, match=r"'fc1' of row 'plain' is another net \(2 arrays differ"):
    variants._starts(task, names, variants.Start(workdir / "rows" / "plain"), print)
  with pytest.raises(UserError, match="is not a folder of weights"):
    variants._starts(task, ["seed 7, fold 0"], variants.Start(workdir / "rows" / "plain"), print)
  assert variants._starts(task, names, variants.Start(), print) == [None]


def test_one_folder_of_weights_is_one_object_for_all(done):
  """Frozen variables are therefore stored once for any number of trainings."""
  workdir, _ = done
  described = made(Row("plain"))
  _, configs = configuration.resolve(described, None, (), options_of)
  task = task_of(configs["plain"], toy.records())
  lines = []
  folder = workdir / "rows" / "plain" / "weights" / "seed 0, fold 0"
  starts = variants._starts(task, ["a", "b"], variants.Start(folder), lines.append)
  assert starts[0] is starts[1]
  assert len(lines) == 1


def test_a_failed_training_has_everything_wrong():
  rank = np.asarray([0, 2], np.int32)
  wrong = evaluation._all_wrong(Prediction(np.asarray([1, 2]), np.ones(2), rank))
  assert wrong.predicted.tolist() == [-1, -1]
  assert wrong.correct.tolist() == [0, 0]
  assert (wrong.rank > 3).all()
  assert evaluation._all_wrong(Prediction(np.asarray([1]), np.ones(1))).rank is None


def test_a_history_of_another_version_is_refused(tmp_path):
  line = '{"member": "seed 0, fold 0", "seed": 0, "fold": 0, "epoch": 1}\n'
  (tmp_path / "history.jsonl").write_text(line)
  assert variants.history(tmp_path)[0]["fold"] == 0
  (tmp_path / "history.jsonl").write_text(line.replace('"seed": 0, "fold": 0, ', ""))
  with pytest.raises(UserError, match=r"names no seed and fold.*go on with --resume"):
    variants.history(tmp_path)
