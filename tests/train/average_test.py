"""Tests the moving average of the variables: weights, evaluation, results, later stages, and resuming."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfer.config import Execution
from jaxfer.data.plan import Plan
from jaxfer.train import members
from jaxfer.train.state import moved_average
from jaxfer.train.trainer import Trainer
from tests.train import best_test, toy
from tests.train.best_test import DATA, init, outputs, stop_after

DECAY = 0.5


def average(numbers):
  """Returns the mean with weight 1 for the newest number, `DECAY` for the previous one, and so on."""
  weights = DECAY ** np.arange(len(numbers))[::-1]
  return float((weights * numbers).sum() / weights.sum())


def train(
  folder, *, select="last", second=0, judge=lambda found, rows: {"accuracy": float(found[0])}, **more
):
  """Trains two members with rates 1 and 2 for four epochs of two steps. Each step adds the rate to a number."""
  first, *after = best_test.stages(second)
  stages = (dataclasses.replace(first, ema=DECAY, select=select), *after)
  resume, mode = more.pop("resume", False), more.pop("mode", "vmap")
  chosen = {"devices": 1, "steps_per_call": 1, "checkpoint_seconds": 0.0, "members": mode, **more}
  evaluation = members.Evaluation(outputs, judge, 2)
  training = members.Training(stages, best_test.three()[:2], init, DATA, Execution(**chosen), evaluation)
  return Trainer(training, folder, log=lambda line: None).fit(resume=resume)


def numbers(results):
  return [float(result.variables["params"]["net"]["w"][0]) for result in results]


def test_it_is_that_of_optax_without_bias():
  rng = np.random.default_rng(0)
  steps = [{"w": rng.standard_normal(3).astype(np.float32)} for _ in range(6)]
  ema = optax.ema(0.9, debias=True)
  state, own = ema.init(steps[0]), jax.tree.map(lambda a: a + 7, steps[0])
  for t, new in enumerate(steps, 1):
    want, state = ema.update(new, state)
    own = moved_average(own, new, 0.9, jnp.int32(t))
    np.testing.assert_allclose(own["w"], want["w"], rtol=1e-5)
    if t == 1:
      np.testing.assert_array_equal(own["w"], new["w"])


def test_counters_are_not_averaged_and_types_stay():
  old = {"count": jnp.int32(1), "half": jnp.bfloat16(1)}
  new = {"count": jnp.int32(4), "half": jnp.bfloat16(3)}
  got = moved_average(old, new, 0.5, jnp.int32(2))
  assert int(got["count"]) == 4
  assert got["half"].dtype == jnp.bfloat16
  assert float(got["half"]) == pytest.approx(1 / 3 + 3 * 2 / 3, rel=0.01)


@pytest.mark.parametrize("mode", ["sequential", "vmap"])
def test_the_average_is_evaluated_and_kept(tmp_path, mode):
  results = train(tmp_path, mode=mode)
  for rate, result in zip((1, 2), results, strict=True):
    want = [average(rate * np.arange(1, 2 * epoch + 1)) for epoch in (1, 2, 3, 4)]
    validated = [row["accuracy"] for row in result.history if row["split"] == "validation"]
    np.testing.assert_allclose(validated, want, rtol=1e-5)
    assert float(result.outputs[0]) == pytest.approx(want[-1], rel=1e-5)
  np.testing.assert_allclose(
    numbers(results), [average(np.arange(1, 9)), average(2 * np.arange(1, 9))], rtol=1e-5
  )
  assert all(float(result.variables["params"]["still"]["w"][0]) == 1 for result in results)


def test_the_next_stage_goes_on_from_the_average(tmp_path):
  want = np.array([average(np.arange(1, 9)) + 2, average(2 * np.arange(1, 9)) + 4])
  np.testing.assert_allclose(numbers(train(tmp_path, second=1)), want, rtol=1e-5)


def test_the_best_epoch_is_that_of_the_average(tmp_path):
  """The best value is nearest to 3. The averages are 1.67, 3.27, 5.10 and 7.03, and the numbers 2, 4, 6 and 8."""
  results = train(
    tmp_path, select="best_on_validation", judge=lambda found, rows: {"accuracy": -abs(float(found[0]) - 3)}
  )
  want = [average(np.arange(1, 5)), average([2, 4])]
  np.testing.assert_allclose(numbers(results), want, rtol=1e-5)
  np.testing.assert_allclose([float(result.outputs[0]) for result in results], want, rtol=1e-5)


def toy_training():
  stages = tuple(dataclasses.replace(stage, ema=0.8) for stage in toy.stages(epochs=1))
  training = toy.training(epochs=1)
  return dataclasses.replace(training, stages=stages)


@pytest.mark.optimized
def test_a_killed_training_resumes_bit_for_bit(tmp_path, monkeypatch):
  """It is killed in the first stage, whose average has batch statistics, and in the second."""
  settings = {"steps_per_call": 2, "checkpoint_seconds": 0.0}
  want = toy.run(tmp_path / "whole", toy_training(), **settings)
  for chunks in (2, 4):
    with monkeypatch.context() as patch:
      stop_after(patch, chunks)
      with pytest.raises(InterruptedError):
        toy.run(tmp_path / f"cut{chunks}", toy_training(), **settings)
    got = toy.run(tmp_path / f"cut{chunks}", toy_training(), resume=True, **settings)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_batch_statistics_are_averaged_and_many_devices_agree(tmp_path):
  plain = dataclasses.replace(toy_training(), stages=toy.training(epochs=1).stages[:1])
  averaging = dataclasses.replace(toy_training(), stages=toy_training().stages[:1])
  newest = toy.run(tmp_path / "plain", plain)
  want = toy.run(tmp_path / "one", averaging)
  assert not np.allclose(
    want["batch_stats"]["norm"]["mean"], newest["batch_stats"]["norm"]["mean"], atol=1e-4
  )
  for backend in ("pmap", "jit"):
    got = toy.run(tmp_path / backend, averaging, backend=backend, devices=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, want)


def test_a_stage_without_a_step_keeps_its_start(tmp_path):
  one = members.Member("", 0, Plan(np.arange(4), 2, "drop", [0]), {"rate": 1.0})
  stage = dataclasses.replace(best_test.stages()[0], ema=DECAY, epochs=0, select="last")
  training = members.Training((stage,), [one], init, DATA, Execution(devices=1))
  (result,) = Trainer(training, tmp_path, log=lambda line: None).fit()
  assert float(result.variables["params"]["net"]["w"][0]) == 0
