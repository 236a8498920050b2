"""Tests that streamed data give the same batches as resident data, on one or more devices, also in evaluation."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.config import Execution
from jaxfer.data.plan import Plan
from jaxfer.data.stream import Stream
from jaxfer.train import members, prefetch
from jaxfer.train.trainer import Trainer
from tests.train import toy
from tests.train.engine_test import Stop, assert_same, stop_after


def run(folder, streamed, training=None, backend="pmap", devices=1, batch_size=4, resume=False, **execution):
  training = training or toy.training(batch_size)
  if streamed:
    training = dataclasses.replace(training, data=Stream(training.data))
  return toy.run(folder, training, backend=backend, devices=devices, resume=resume, **execution)


@pytest.mark.optimized
@pytest.mark.parametrize(
  ("backend", "devices", "driver"),
  [("pmap", 1, "steps"), ("pmap", 4, "scan"), ("jit", 4, "scan")],
)
def test_streamed_equals_resident(tmp_path, backend, devices, driver):
  """Six steps per epoch in calls of four, two epochs per stage, two stages."""
  how = {"backend": backend, "devices": devices, "driver": driver, "steps_per_call": 4}
  want = run(tmp_path / "resident", False, **how)
  got = run(tmp_path / "streamed", True, **how)
  assert_same(got, want)
  rows = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("resident", "streamed")]
  assert rows[0].count("\n") == rows[1].count("\n") == 4


def test_other_batches_give_another_net(tmp_path):
  """The equality above would not show this."""
  training = toy.training()
  values = {name: np.roll(array, 1, axis=0) for name, array in training.data.items()}
  want = run(tmp_path / "a", True, training)
  with pytest.raises(AssertionError):
    assert_same(run(tmp_path / "b", True, dataclasses.replace(training, data=values)), want)


@pytest.mark.optimized
def test_a_killed_streamed_run_resumes_bit_for_bit(tmp_path, monkeypatch):
  """There are three chunks per epoch; it stops within the second epoch."""
  settings = {"driver": "steps", "steps_per_call": 2, "checkpoint_seconds": 0.0}
  want = run(tmp_path / "whole", True, **settings)
  cut = tmp_path / "cut"
  with monkeypatch.context() as patch:
    stop_after(patch, 5)
    with pytest.raises(Stop):
      run(cut, True, **settings)
  got = run(cut, True, resume=True, **settings)
  chex.assert_trees_all_equal(got, want)
  assert (cut / "metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_resuming_with_another_placement_says_so(tmp_path, capsys):
  run(tmp_path, False)
  run(tmp_path, True, resume=True)
  assert "not bit-identical from here on (placement resident -> streamed)" in capsys.readouterr().out


def of_three(data, columns, keys):
  """Returns a batch in which each picture is mixed from three records and the example's key."""
  noise = jax.vmap(lambda key: jax.random.normal(key, (5,)))(keys)
  x = data["x"][columns["row"]] + 2 * data["x"][columns["target"]] - data["x"][columns["partner"]]
  return {"x": x + noise, "label": data["label"][columns["partner"]]}


@pytest.mark.optimized
@pytest.mark.parametrize(("backend", "devices"), [("pmap", 1), ("jit", 4)])
def test_target_and_partner_columns_are_streamed(backend, devices):
  stage = dataclasses.replace(toy.stages()[0], sample=of_three)
  rng = np.random.default_rng(0)
  plans = [{name: rng.integers(0, 26, (3, 1, 4)) for name in ("row", "target", "partner")} for _ in range(2)]
  ends = []
  for data in (toy.data(), Stream(toy.data())):
    spread = toy.placed(backend, devices)
    spread = dataclasses.replace(spread, streamed=isinstance(data, Stream))
    placed = prefetch.placed(spread, data)
    current = spread.start(stage, spread.stack([toy.training().init(jax.random.key(0))]))
    trainable, chunk = current.trainable, spread.trainer(stage, "scan")
    key, hparams = spread.stack([jax.random.key(1)]), spread.stack([dict(toy.training().members[0].hparams)])
    for held, planned in prefetch.prefetch(spread, placed, plans):
      columns, active = spread.lay(planned, np.ones((3, 1), bool))
      trainable, _ = chunk(trainable, current.frozen, held, key, hparams, columns, active)
    ends.append(jax.device_get(trainable.variables))
  assert_same(ends[1], ends[0])


@pytest.mark.optimized
@pytest.mark.parametrize(("backend", "devices"), [("pmap", 4), ("jit", 2)])
def test_evaluation_in_streamed_windows(backend, devices):
  rows = np.random.default_rng(1).permutation(26)[:24].reshape(3, 8)
  spread = toy.placed(backend, devices)
  spread = dataclasses.replace(spread, streamed=True)

  def outputs(variables, hparams, data, plan, axis_name):
    """Returns outputs with the mean over all real examples of the batch."""
    x, real = data["x"][plan["row"]] * variables["params"]["weight"] * hparams["one"], plan["real"][:, None]
    sums = (x * real).sum(0), real.sum(0)
    total, count = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    return jnp.stack([x, jnp.broadcast_to(total / count, x.shape)], 1)

  evaluate = spread.evaluator(outputs)
  own, hparams = (
    spread.stack([{"params": {"weight": jnp.float32(3)}}]),
    spread.stack([{"one": jnp.float32(1)}]),
  )
  real = np.arange(8) < 5
  data = Stream(toy.data())
  plans = [{"row": part[None], "real": real[None]} for part in rows]
  got = np.concatenate(
    jax.device_get([evaluate(own, hparams, *at) for at in prefetch.prefetch(spread, data, plans)])
  )
  x = 3 * toy.data()["x"][rows]
  np.testing.assert_array_equal(got[:, :, 0], x)
  np.testing.assert_allclose(got[:, :, 1], np.broadcast_to(x[:, :5].mean(1, keepdims=True), x.shape), 1e-5)


def test_each_shard_reads_rows_of_its_own_and_all_are_read():
  """The examples of eight shards are disjoint, cover the batch, and are in the right places."""
  plan = {"row": np.arange(3 * 16).reshape(3, 1, 16), "target": 100 + np.arange(3 * 16).reshape(3, 1, 16)}
  rows, columns = prefetch.window(plan, 1, 8)
  assert rows.shape == (1, 8, 2 * 3 * 2)
  assert np.unique(rows).size == rows.size
  for name, column in plan.items():
    for position in range(16):
      block = rows[0, position // 2]  # Two examples of a batch per shard.
      np.testing.assert_array_equal(block[columns[name][:, 0, position]], column[:, 0, position])


def test_members_on_streamed_data_equal_those_on_resident(tmp_path):
  """Two trainings with different seeds and records, with validation and test, side by side on two devices each."""

  def member(k):
    rows = np.arange(23) if k else np.arange(3, 20)
    return members.Member(
      str(k), k, Plan(rows, 4, "wrap", [k]), toy.training().members[0].hparams, rows[:3], rows[:5]
    )

  def outputs(variables, hparams, data, plan, axis_name):
    del hparams, axis_name
    return toy.MODEL.apply(variables, data["x"][plan["row"]])[0]

  judge = lambda logits, rows: {"mean": float(logits.mean())}  # noqa: E731
  ends = []
  for data in (toy.data(), Stream(toy.data())):
    training = members.Training(
      toy.stages(epochs=1),
      [member(0), member(1)],
      toy.training().init,
      data,
      Execution(devices=4, steps_per_call=4, members="sequential"),
      members.Evaluation(outputs, judge, 4),
    )
    ends.append(Trainer(training, tmp_path / type(data).__name__, log=lambda line: None).fit())
  for resident, streamed in zip(*ends, strict=True):
    assert_same(streamed.variables, resident.variables)
    np.testing.assert_allclose(streamed.outputs, resident.outputs, atol=1e-4)
    assert [row["split"] for row in streamed.history] == ["train", "validation"] * 2
