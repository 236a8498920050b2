"""Tests the choice of the best epoch: each step increases a number, and the accuracy is a function of this number."""

import dataclasses
import json

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.config import Execution
from jaxfer.data.plan import Plan
from jaxfer.errors import UserError
from jaxfer.train import best, members, optim, placement
from jaxfer.train.checkpoint import Checkpoints
from jaxfer.train.stage import LossOut, Stage, Update
from jaxfer.train.trainer import Trainer

# Accuracy by number. After epochs of two steps, the numbers are 2, 4, 6, 8 at rate 1, and 4, 8, 12, 16 at rate 2.
LIKED = {2: 0.2, 4: 0.7, 6: 0.7, 8: 0.1, 12: 0.9, 16: 0.3}


def loss(variables, batch, keys, context):
  del keys, context
  count = jnp.float32(len(batch["x"]))
  return LossOut(loss={"loss": (-variables["params"]["net"]["w"].sum() * count, count)})


def stages(second=0):
  """Returns a stage of four epochs, and a stage that continues from it without a choice."""
  optimizer = optim.scale_by_hparam("rate", optim.schedule("constant", 1))
  update = Update("net", loss, ("net",), optimizer)
  first = Stage("chosen", (update,), 4, select="best_on_validation")
  return (first, Stage("after", (update,), second)) if second else (first,)


def init(key):
  del key
  return {"params": {"net": {"w": jnp.zeros(1)}, "still": {"w": jnp.ones(1)}}}


def outputs(variables, hparams, data, plan, axis_name):
  del hparams, data, axis_name
  return jnp.broadcast_to(variables["params"]["net"]["w"], plan["row"].shape)


def judge(found, rows):
  del rows
  return {"accuracy": LIKED.get(float(found[0]), 0.0)}


DATA = {"x": np.zeros((8, 1), np.float32)}
EVALUATION = members.Evaluation(outputs, judge, 2)


def three(validation=2):
  """Returns three members: the second is twice as fast, and the third is not finite from its second step on."""
  return [
    members.Member(
      f"m{k}",
      k,
      Plan(np.arange(4), 2, "drop", [k]),
      {"rate": rate},
      validation=np.arange(4, 4 + validation),
      test=np.arange(6, 8),
    )
    for k, rate in enumerate((1.0, 2.0, np.inf))
  ]


def train(folder, mode="sequential", resume=False, second=0, **execution):
  chosen = {"devices": 1, "steps_per_call": 1, "checkpoint_seconds": 0.0, "members": mode, **execution}
  training = members.Training(stages(second), three(), init, DATA, Execution(**chosen), EVALUATION)
  return Trainer(training, folder, log=lambda line: None).fit(resume=resume)


def numbers(results):
  return [float(result.variables["params"]["net"]["w"][0]) for result in results]


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
  return {mode: train(tmp_path_factory.mktemp(mode) / "all", mode) for mode in ("sequential", "vmap")}


@pytest.mark.parametrize("mode", ["sequential", "vmap"])
def test_each_member_ends_with_its_best_epoch_and_ties_go_to_the_earlier(chosen, mode):
  results = chosen[mode]
  assert numbers(results)[:2] == [4.0, 12.0]
  assert [float(result.outputs[0]) for result in results[:2]] == [4.0, 12.0]
  selected = [row for result in results for row in result.history if row["split"] == "selected"]
  assert [(row["member"], row["epoch"], row["accuracy"]) for row in selected] == [
    ("m0", 2, 0.7),
    ("m1", 3, 0.9),
  ]
  assert results[2].failed == "stage 'chosen', epoch 1, step 2"


def test_the_next_stage_goes_on_from_there(tmp_path):
  assert numbers(train(tmp_path, second=1))[:2] == [6.0, 16.0]


def stop_after(monkeypatch, chunks):
  left, original = [chunks], placement.Placement.trainer

  def trainer(self, stage, driver):
    chunk = original(self, stage, driver)

    def stopping(*args):
      left[0] -= 1
      if left[0] < 0:
        raise InterruptedError
      return chunk(*args)

    return stopping

  monkeypatch.setattr(placement.Placement, "trainer", trainer)


@pytest.mark.optimized
@pytest.mark.parametrize("chunks", [0, 2, 3])
def test_a_killed_training_resumes_to_the_same_choice(tmp_path, monkeypatch, chosen, chunks):
  """It is killed before any best epoch, between the best epochs of two members, and in the last epoch."""
  with monkeypatch.context() as patch:
    stop_after(patch, chunks)
    with pytest.raises(InterruptedError):
      train(tmp_path, "vmap")
  results = train(tmp_path, "vmap", resume=True)
  assert numbers(results) == numbers(chosen["vmap"])
  assert [result.history for result in results] == [result.history for result in chosen["vmap"]]
  again = train(tmp_path, "vmap", resume=True)
  assert numbers(again) == numbers(results)


def test_a_best_one_that_changed_on_disk_is_refused(tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    stop_after(patch, 3)
    with pytest.raises(InterruptedError):
      train(tmp_path, "vmap")
  folders = sorted((tmp_path / "best").iterdir(), key=lambda path: int(path.name))
  kept = Checkpoints(tmp_path)._manager.all_steps()
  assert [int(path.name) for path in folders][
    -len(kept) :
  ] == kept  # An older one was removed when the last was saved.
  assert len(folders) <= len(kept) + 1
  path = folders[-1] / "weights.npz"
  path.write_bytes(path.read_bytes()[:-1] + b"x")
  with pytest.raises(UserError, match=r"weights\.npz has changed"):
    train(tmp_path, "vmap", resume=True)


def test_variables_that_are_not_finite_are_kept_too(tmp_path):
  """A member that fails in its first epoch has no better variables, and the others must be able to resume."""
  kept = best.Best(tmp_path)
  kept.keep(0, 1, 0.0, {"params": {"w": np.float32([np.nan])}})
  kept.save(1, 0)
  other = best.Best(tmp_path)
  other.load(1, kept.chosen)
  assert np.isnan(other.of(0, {})["params"]["w"]).all()


def test_old_ones_are_dropped_and_files_of_others_left(tmp_path):
  kept = best.Best(tmp_path)
  kept.keep(0, 1, 0.5, {"params": {"w": np.ones(1)}})
  kept.save(1, 1)
  (tmp_path / "best/.DS_Store").touch()
  kept.save(2, 2)
  assert sorted(path.name for path in (tmp_path / "best").iterdir()) == [".DS_Store", "2"]


@pytest.mark.optimized
@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_a_training_alone_on_two_devices_chooses_too(tmp_path, backend):
  alone = dataclasses.replace(three()[1], name="")
  execution = Execution(backend=backend, devices=2, checkpoint_seconds=0.0)
  training = members.Training(stages(), [alone], init, DATA, execution, EVALUATION)
  (end,) = Trainer(training, tmp_path).fit()
  assert float(end.variables["params"]["net"]["w"][0]) == 12.0
  last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
  assert last == {"stage": "chosen", "epoch": 3, "split": "selected", "accuracy": 0.9}
  (stored,) = Trainer(training, tmp_path).restore()
  chex.assert_trees_all_equal(stored.variables, end.variables)
  blind = dataclasses.replace(training, evaluation=None)
  with pytest.raises(UserError, match=r"stage 'chosen' selects its best epoch .* give split\.validation"):
    Trainer(blind, tmp_path / "blind").fit()


def test_members_without_validation_examples_are_refused(tmp_path):
  training = members.Training(stages(), three(validation=0), init, DATA, evaluation=EVALUATION)
  with pytest.raises(
    UserError, match="selects its best epoch on validation examples, and member 'm0' has none"
  ):
    Trainer(training, tmp_path).fit()
