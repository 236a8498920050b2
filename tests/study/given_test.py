"""Tests that a run or study continues only with the weights with which it began, in any folder."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest

from jaxfer.config import Row
from jaxfer.errors import UserError
from jaxfer.study import given, run
from jaxfer.train import weights
from tests import study_toy as toy
from tests.study.variants_test import load_pretrained

NOWHERE = pathlib.Path("nowhere")


@pytest.fixture(scope="module", autouse=True)
def _toy():
  with pytest.MonkeyPatch.context() as patch:
    toy.install(patch)
    patch.setattr(toy.SYSTEM, "load_pretrained", load_pretrained)
    yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Folders of a net, of the same net in another folder, in a file with other bytes, and of another net."""
  root = tmp_path_factory.mktemp("weights")
  one, other = (jax.device_get(toy.Net().init(jax.random.key(k), np.zeros((1, 4)))) for k in (1, 2))
  weights.save_weights(root / "A/net", one, {})
  weights.save_weights(
    root / "moved/net", {c: dict(reversed(t.items())) for c, t in one.items()}, {"note": "again"}
  )
  weights.save_weights(root / "B/net", other, {})
  return {name: str(root / name / "net") for name in ("A", "moved", "B")}


def silent(line):
  del line


def train(workdir, folder, resume=True, **split):
  base = toy.STUDY.base
  config = dataclasses.replace(base, init_from=folder, split=dataclasses.replace(base.split, **split))
  return run.train(config, workdir, NOWHERE, resume=resume, log=silent)


@pytest.mark.parametrize("split", [{"folds": 0, "test": 0.3}, {"folds": 2}])
def test_a_run_resumes_from_the_same_weights_alone(tmp_path, folders, split):
  want = train(tmp_path, folders["A"], resume=False, **split)
  config = (tmp_path / "config.json").read_text()
  with pytest.raises(
    UserError, match=r"begun with other weights than .*/B/net holds now \(init_from; digest"
  ):
    train(tmp_path, folders["B"], **split)
  with pytest.raises(UserError, match=r"another configuration \(init_from differ\)"):
    train(tmp_path, None, **split)
  assert (tmp_path / "config.json").read_text() == config
  assert train(tmp_path, folders["moved"], **split)["accuracy"] == want["accuracy"]


def test_the_training_itself_knows_its_weights(tmp_path, folders):
  """This holds even if the record in the work directory was lost."""
  split = {"folds": 0, "test": 0.3}
  train(tmp_path, folders["A"], resume=False, **split)
  (tmp_path / given.FILE).unlink()
  with pytest.raises(UserError, match="does not record the weights for init_from"):
    train(tmp_path, folders["A"], **split)
  other = tmp_path / "other"
  given.check(other, {"init_from": folders["B"]}, begin=True)
  shutil.copy(other / given.FILE, tmp_path / given.FILE)
  with pytest.raises(UserError, match=r"other trainings \(the weights of .*/B/net differ\)"):
    train(tmp_path, folders["B"], **split)


def test_a_finished_training_is_evaluated_without_its_initial_weights(tmp_path, folders):
  folder = shutil.copytree(folders["A"], tmp_path / "net")
  want = train(tmp_path / "run", str(folder), resume=False, folds=0, test=0.3)
  shutil.rmtree(folder)
  assert run.evaluate(tmp_path / "run", NOWHERE, log=silent)["accuracy"] == want["accuracy"]
  with pytest.raises(UserError, match="net is not a folder of weights"):
    train(tmp_path / "run", str(folder), folds=0, test=0.3)


def test_nothing_that_was_not_trained_is_protected(tmp_path, folders):
  """Weights of another kind of net are refused. Others may be given instead, because nothing was trained."""
  weights.save_weights(tmp_path / "odd", {"params": {"fc1": {"kernel": np.zeros((9, 9))}}}, {})
  with pytest.raises(UserError, match="is another net"):
    train(tmp_path / "run", str(tmp_path / "odd"), resume=False, folds=0, test=0.3)
  train(tmp_path / "run", folders["A"], resume=False, folds=0, test=0.3)


CHAIN = dataclasses.replace(
  toy.STUDY,
  rows=(Row("plain", {}, None, "net"), Row("still", {"recipe.rate": 0.0}, None, "plain")),
  sources=(Row("net", {"split.folds": 0}),),
  compared=(),
  seeds=1,
)
PLAIN = dataclasses.replace(toy.STUDY, rows=(Row("plain"),), compared=(), seeds=1)


@pytest.mark.parametrize(("described", "key"), [(PLAIN, "init_from"), (CHAIN, "sources.net")])
def test_a_study_resumes_from_the_same_weights_alone(tmp_path, folders, described, key):
  def study(folder, **kwargs):
    return toy.run_study(tmp_path, f"{key}={folder}", config=described, log=silent, **kwargs)

  want = study(folders["A"])
  with pytest.raises(UserError, match=rf"begun with other weights than .*/B/net holds now \({key}; digest"):
    study(folders["B"], resume=True)
  (tmp_path / "rows/plain/result.json").unlink()  # So that the row is continued.
  with pytest.raises(UserError, match="begun with other weights"):
    study(folders["B"], resume=True)
  got = study(folders["moved"], resume=True)
  assert got["rows"][0]["per_seed"] == want["rows"][0]["per_seed"]
  study(tmp_path / "gone", resume=True)  # Everything is trained, so only the table is written again.


def test_a_row_resumes_from_the_weights_that_another_left(tmp_path, folders):
  """Weights in the study's folder are also read again, and may have been replaced."""
  toy.run_study(tmp_path, f"sources.net={folders['A']}", config=CHAIN, log=silent)
  (tmp_path / "rows/still/result.json").unlink()
  kept = tmp_path / "rows/plain/weights/seed 0, fold 1"
  stored, meta = weights.load_weights(kept)
  again = {key: value for key, value in meta.items() if key not in ("format", "sha256")}
  weights.save_weights(kept, jax.tree.map(lambda leaf: leaf + 1, stored), again)
  with pytest.raises(UserError, match=r"other trainings \(the weights of .*rows/plain differ\)"):
    toy.run_study(tmp_path, f"sources.net={folders['A']}", config=CHAIN, resume=True, log=silent)
  weights.save_weights(kept, stored, again)
  toy.run_study(tmp_path, f"sources.net={folders['A']}", config=CHAIN, resume=True, log=silent)


def test_a_damaged_record_is_named(tmp_path, folders):
  given.check(tmp_path, {"init_from": folders["A"], "sources.x": None}, begin=True)
  given.check(tmp_path, {"init_from": folders["moved"]}, begin=False)
  (tmp_path / given.FILE).write_text('{"init_from": ')
  with pytest.raises(UserError, match=rf"{given.FILE} is damaged"):
    given.check(tmp_path, {"init_from": folders["A"]}, begin=False)
