import dataclasses
import json
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfer.config import Execution
from jaxfer.errors import UserError
from jaxfer.train import members, optim, placement, state, step
from jaxfer.train.devices import divide, no_such_devices
from jaxfer.train.stage import Context, LossOut, Stage, Update
from jaxfer.train.trainer import Trainer
from tests.train import toy

# Float32 rounding, relative to a leaf's largest value, after the steps of these tests.
TOLERANCE = 2e-5


def run(tmp_path, training=None, batch_size=4, backend="pmap", devices=1, resume=False, **execution):
  training = training or toy.training(batch_size)
  return toy.run(tmp_path, training, backend=backend, devices=devices, resume=resume, **execution)


def assert_same(got, want, tolerance=TOLERANCE):
  for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    np.testing.assert_allclose(
      a, b, rtol=0, atol=tolerance * np.abs(b).max(), err_msg=jax.tree_util.keystr(path)
    )


@pytest.mark.optimized
@pytest.mark.parametrize(("batch_size", "devices", "remainder"), [(8, 4, "drop"), (10, 2, "wrap")])
def test_pmap_and_jit_on_many_devices_equal_one_device(tmp_path, batch_size, devices, remainder):
  """There are 23 records, a multiple of neither 8 nor 10. Batches of 10 on four devices run on two of them."""
  assert divide(1, batch_size, 4) == (1, devices)
  training = toy.training(batch_size, remainder)
  one = run(tmp_path / "one", training, batch_size)
  for backend in ("pmap", "jit"):
    many = run(tmp_path / backend, training, batch_size, backend, None)
    assert_same(many, one)
  rows = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "pmap", "jit")]
  for lines in zip(*rows, strict=True):
    first, *others = map(json.loads, lines)
    for other in others:
      assert other.keys() == first.keys()
      assert [v for v in other.values() if isinstance(v, str)] == [
        v for v in first.values() if isinstance(v, str)
      ]
      numbers = [[v for v in row.values() if not isinstance(v, str)] for row in (first, other)]
      np.testing.assert_allclose(*numbers, rtol=1e-4)


@pytest.mark.optimized
def test_the_scan_driver_equals_the_steps_driver(tmp_path):
  """Six steps per epoch in calls of four give two chunks of three; calls of five steps contain an inactive one."""
  want = run(tmp_path / "steps", driver="steps")
  for per_call in (4, 5):
    assert_same(run(tmp_path / f"scan{per_call}", driver="scan", steps_per_call=per_call), want)


def test_dropout_and_batch_statistics_matter_here(tmp_path):
  """Both change the result, which the equalities above would not show."""
  variables = run(tmp_path)
  assert np.abs(variables["batch_stats"]["norm"]["mean"]).max() > 0.01
  other = toy.training()
  seeded = toy.with_member(other, plan=dataclasses.replace(other.members[0].plan, seed=[8]))
  with pytest.raises(AssertionError):
    assert_same(run(tmp_path / "other", seeded), variables)


def test_what_no_update_names_stays_bit_for_bit():
  training = toy.training()
  variables = training.init(jax.random.key(0))
  head = training.stages[1]
  before = state.begin(head, variables)
  assert set(before.trainable.variables["params"]) == {"fc2"}
  chex.assert_trees_all_equal_structs(
    before.trainable.optimizers["net"][-2].mu, {"fc2": variables["params"]["fc2"]}
  )
  batch = {name: jnp.asarray(a[:4]) for name, a in training.data.items()}
  trainable, _ = step.step(
    head, before, batch, jax.random.split(jax.random.key(1), 4), Context({"net/rate": 0.1})
  )
  after = state.variables_of(state.State(trainable, before.frozen))
  for name in ("fc1", "critic", "norm"):
    chex.assert_trees_all_equal(after["params"][name], variables["params"][name])
  chex.assert_trees_all_equal(after["batch_stats"], variables["batch_stats"])
  assert (after["params"]["fc2"]["kernel"] != variables["params"]["fc2"]["kernel"]).all()


def test_a_name_that_matches_no_submodule_is_refused():
  update = Update("net", toy.net_loss, ("fc9",), optax.sgd(0.1))
  with pytest.raises(UserError, match=r"'fc9'.*did you mean 'fc[12]'"):
    state.begin(Stage("s", (update,), 1), toy.training().init(jax.random.key(0)))


def test_a_term_that_weighs_nothing_drops_out():
  def loss(variables, batch, keys, context):
    del keys, context
    total = (variables["params"]["w"]["w"] * batch["x"]).sum()
    return LossOut(loss={"here": (total, jnp.float32(2)), "nowhere": (total / 0.0, jnp.float32(0))})

  stage = Stage("s", (Update("u", loss, ("w",), optax.sgd(1.0)),), 1)
  before = state.begin(stage, {"params": {"w": {"w": jnp.ones(())}}})
  keys = jax.random.split(jax.random.key(0), 1)
  trainable, sums = step.step(stage, before, {"x": jnp.asarray([3.0, 5.0])}, keys, Context({}))
  # "nowhere" is still not finite: its sum is reported, and the step is refused.
  assert not trainable.finite
  good = Stage("s", (Update("u", lambda *a: dataclasses.replace(loss(*a), loss={"here": loss(*a).loss["here"]}), ("w",), optax.sgd(1.0)),), 1)  # fmt: skip  # noqa: E501
  trainable, sums = step.step(good, before, {"x": jnp.asarray([3.0, 5.0])}, keys, Context({}))
  assert float(trainable.variables["params"]["w"]["w"]) == 1 - 8 / 2
  assert tuple(map(float, sums["u/here"])) == (8.0, 2.0)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 1e25], ids=["nan", "inf", "its square is infinite"])
def test_a_gradient_that_is_not_finite_is_refused_though_the_loss_is_finite(bad):
  @jax.custom_vjp
  def passed(w):
    return w

  passed.defvjp(lambda w: (w, None), lambda _, slope: (slope * jnp.asarray([1, bad, 1]),))

  def loss(variables, batch, keys, context):
    del batch, keys, context
    params = variables["params"]["layer"]
    return LossOut(loss={"sum": (passed(params["w"]).sum() + params["b"], jnp.float32(1))})

  stage = Stage("s", (Update("u", loss, ("layer",), optax.adam(0.1)),), 1)
  variables = {"params": {"layer": {"w": jnp.ones((2, 3)), "b": jnp.ones(())}}}
  before = state.begin(stage, variables)
  keys = jax.random.split(jax.random.key(0), 1)
  for reject in (True, False):
    for active in (None, jnp.asarray(True)):
      trainable, _ = step.step(stage, before, {"x": jnp.zeros(1)}, keys, Context({}), active, reject=reject)
      assert not trainable.finite
      assert int(trainable.step) == int(not reject)
      if reject:
        chex.assert_trees_all_equal(
          dataclasses.replace(trainable, finite=jnp.asarray(True)), before.trainable
        )
    # No later step takes place.
    now = dataclasses.replace(before, trainable=trainable)
    later, sums = step.step(
      stage, now, {"x": jnp.zeros(1)}, keys, Context({}), jnp.asarray(True), reject=reject
    )
    chex.assert_trees_all_equal(later, trainable)
    assert all(float(weight) == 0 for _, weight in sums.values())


def test_an_inactive_step_changes_nothing_and_weighs_nothing():
  training = toy.training()
  stage = training.stages[0]
  before = state.begin(stage, training.init(jax.random.key(0)))
  batch = {name: jnp.asarray(a[:4]) for name, a in training.data.items()}
  keys = jax.random.split(jax.random.key(1), 4)
  context = Context({"net/rate": 0.1, "critic/rate": 0.1})
  trainable, sums = step.step(stage, before, batch, keys, context, jnp.asarray(False))
  chex.assert_trees_all_equal(trainable, before.trainable)
  assert all(float(weight) == 0 for _, weight in sums.values())


def test_a_training_is_evaluated_at_the_end_of_stages_that_request_it(tmp_path):
  first, second = toy.stages(epochs=2)
  training = dataclasses.replace(
    toy.training(),
    stages=(first, dataclasses.replace(second, evaluated=True)),
    evaluation=members.Evaluation(
      lambda variables, hparams, data, plan, axis_name: data["x"][plan["row"]],
      lambda outputs, rows: {"accuracy": len(rows) / 10},
      batch_size=4,
    ),
  )
  training = toy.with_member(training, test=np.arange(5))
  run(tmp_path, training)
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  judged = [(line["stage"], line["epoch"], line["accuracy"]) for line in lines if line["split"] == "test"]
  assert judged == [("head", 2, 0.5)]


def test_a_loss_that_is_not_finite_stops_with_its_place(tmp_path):
  def poisoned(variables, batch, keys, context):
    out = toy.net_loss(variables, batch, keys, context)
    bad = (batch["x"][:, 0] > 1e3).any()
    total, weight = out.loss["cross_entropy"]
    return out.replace(loss=dict(out.loss) | {"cross_entropy": (jnp.where(bad, jnp.nan, total), weight)})

  training = toy.training(net=poisoned)
  plan = training.members[0].plan
  row = plan.epoch(0, 0)[2, 0]  # A record in the third batch.
  values = dict(training.data)
  values["x"] = values["x"].copy()
  values["x"][row, 0] = 1e4
  # The last checkpoint is from before that step, so resuming ends at the same place.
  for resume in (False, True):
    with pytest.raises(UserError, match="stage 'both', epoch 1, step 3:"):
      run(
        tmp_path,
        dataclasses.replace(training, data=values),
        resume=resume,
        checkpoint_seconds=0.0,
        steps_per_call=1,
      )
    assert any(path.name.isdigit() for path in (tmp_path / "checkpoints").iterdir())


class Stop(Exception):
  pass


def stop_after(monkeypatch, chunks):
  """Raises an exception after a number of chunks. Like after a kill, nothing is saved."""
  left = [chunks]
  original = placement.Placement.trainer

  def trainer(self, stage, driver):
    chunk = original(self, stage, driver)

    def counted(*args):
      left[0] -= 1
      if left[0] < 0:
        raise Stop
      return chunk(*args)

    return counted

  monkeypatch.setattr(placement.Placement, "trainer", trainer)


@pytest.mark.optimized
@pytest.mark.parametrize(("driver", "cuts"), [("steps", (2, 9)), ("scan", (4,))])
def test_a_killed_run_resumes_bit_for_bit(tmp_path, monkeypatch, driver, cuts):
  """There are three chunks per epoch and two epochs per stage. It stops in either epoch, and in the second stage."""
  settings = {"driver": driver, "steps_per_call": 2, "checkpoint_seconds": 0.0, "keep": 3}
  want = run(tmp_path / "whole", **settings)
  for chunks in cuts:
    cut = tmp_path / f"cut{chunks}"
    with monkeypatch.context() as patch:
      stop_after(patch, chunks)
      with pytest.raises(Stop):
        run(cut, **settings)
    got = run(cut, resume=True, **settings)
    chex.assert_trees_all_equal(got, want)
    assert (cut / "metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert len(list((cut / "checkpoints").glob("[0-9]*"))) == 3


@pytest.mark.parametrize(("before", "after"), [(2, 32), (4, 2)])
def test_a_run_resumes_within_an_epoch_with_another_number_of_steps_per_call(
  tmp_path, monkeypatch, before, after
):
  """With 5 steps per epoch, chunks have 2 steps (then step 4 is within a chunk of 5), or 3 (then 2)."""
  training = toy.training(batch_size=2)
  settings = {"training": training, "checkpoint_seconds": 0.0, "driver": "scan"}
  want = run(tmp_path / "whole", **settings, steps_per_call=after)
  with monkeypatch.context() as patch:
    stop_after(patch, 2 if before == 2 else 1)
    with pytest.raises(Stop):
      run(tmp_path / "cut", **settings, steps_per_call=before)
  got = run(tmp_path / "cut", **settings, steps_per_call=after, resume=True)
  assert_same(got, want)
  rows = [
    [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    for name in ("whole", "cut")
  ]
  assert [(row["stage"], row["epoch"], row["split"]) for row in rows[0]] == [
    (row["stage"], row["epoch"], row["split"]) for row in rows[1]
  ]


def test_resuming_otherwise_says_so_and_another_configuration_is_refused(tmp_path, capsys):
  run(tmp_path)
  run(tmp_path, backend="jit", resume=True)
  assert "not bit-identical from here on (backend pmap -> jit)" in capsys.readouterr().out
  with pytest.raises(UserError, match="already holds a run"):
    run(tmp_path)
  with pytest.raises(UserError, match=r"begun with other trainings \(member  differ\)"):
    run(tmp_path, toy.training(2), resume=True)


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, damage):
  run(tmp_path)
  newest = max((tmp_path / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
  file = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
  if damage == "flip":
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
  else:
    file.unlink()
  with pytest.raises(UserError, match=f"{file.name} {'has changed' if damage == 'flip' else 'is missing'}"):
    run(tmp_path, resume=True)


def test_a_checkpoint_restores_on_another_number_of_devices(tmp_path):
  want = run(tmp_path, devices=1)
  execution = Execution(backend="jit", devices=4)
  (got,) = Trainer(dataclasses.replace(toy.training(), execution=execution), tmp_path).restore()
  chex.assert_trees_all_equal(got.variables, want)
  assert [row["split"] for row in got.history] == ["train"] * 4


def test_what_is_not_trained_to_its_end_is_not_restored(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="is not trained yet"):
    Trainer(toy.training(), tmp_path).restore()
  with monkeypatch.context() as patch:
    stop_after(patch, 2)
    with pytest.raises(Stop):
      run(tmp_path, checkpoint_seconds=0.0, steps_per_call=2)
  with pytest.raises(UserError, match="is not trained to the end yet"):
    Trainer(toy.training(), tmp_path).restore()


def test_a_number_of_devices_that_does_not_divide_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"devices=4 does not divide batch_size=10: take batch_size 8 or 12"):
    run(tmp_path, toy.training(10), devices=4)
  with pytest.raises(
    UserError, match=r"devices=9: JAX sees 4 \(cpu\): take 1 to 4, or set JAX_NUM_CPU_DEVICES=9"
  ):
    run(tmp_path, toy.training(18), devices=9)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_virtual_devices_are_proposed_on_cpu_alone(platform):
  device = types.SimpleNamespace(platform=platform, device_kind=platform)
  message = str(no_such_devices(2, [device]))
  assert message.startswith(f"execution.devices=2: JAX sees 1 ({platform}): take 1")
  assert ("JAX_NUM_CPU_DEVICES=2" in message) == (platform == "cpu")


@pytest.mark.parametrize("driver", ["steps", "scan"])
@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_a_step_compiles_once_and_its_state_is_donated(backend, driver):
  """There is one trace per stage over chunks, epochs and a restored state, and the given buffers are deleted."""
  traces = []

  def counted(variables, batch, keys, context):
    traces.append(1)
    return toy.net_without_statistics(variables, batch, keys, context)

  training = toy.training()
  stage = Stage(
    "s", (Update("net", counted, ("fc2",), optim.adam("net/rate", optim.schedule("constant", 1))),), 1
  )
  spread = toy.placed(backend, 4)
  current = spread.start(stage, spread.stack([training.init(jax.random.key(0))]))
  chunk = spread.trainer(stage, driver)
  key, data = spread.stack([jax.random.key(0)]), spread.place(training.data)
  hparams = spread.stack([{"net/rate": np.float32(0.1)}])
  trainable, before = current.trainable, None
  for epoch in range(3):
    rows = training.members[0].plan.epoch(0, epoch)[:2]
    before = jax.tree.leaves(trainable.variables) + jax.tree.leaves(trainable.optimizers)
    planned = spread.lay({"row": rows[:, None]}, np.ones((2, 1), bool))
    trainable, _ = chunk(trainable, current.frozen, data, key, hparams, *planned)
    assert all(leaf.is_deleted() for leaf in before)
  restored = spread.stack(spread.unstack(trainable, 1))
  planned = spread.lay({"row": rows[:, None]}, np.asarray([[True], [False]]))
  trainable, _ = chunk(restored, current.frozen, data, key, hparams, *planned)
  assert len(traces) == 1


def test_a_learning_rate_is_read_by_name():
  transform = optim.scale_by_hparam("rate", lambda count: 0.5**count)
  gradient = {"w": jnp.asarray(2.0)}
  memory = transform.init(gradient)
  for want in (-0.2, -0.1):
    update, memory = transform.update(gradient, memory, hparams={"rate": jnp.asarray(0.1)})
    assert float(update["w"]) == pytest.approx(want)
  with pytest.raises(KeyError, match="rate"):
    transform.update(gradient, memory, hparams={})
  with pytest.raises(UserError, match="unknown schedule 'cosinus': did you mean 'cosine'"):
    optim.schedule("cosinus", 3)


def test_an_examples_key_depends_on_its_place_alone():
  stage_key = jax.random.fold_in(jax.random.key(5), 1)
  whole = step.example_keys(stage_key, jnp.int32(3), jnp.arange(8))
  part = step.example_keys(stage_key, jnp.int32(3), jnp.arange(4, 8))
  assert (jax.random.key_data(whole[4:]) == jax.random.key_data(part)).all()
  later = step.example_keys(stage_key, jnp.int32(4), jnp.arange(8))
  assert (jax.random.key_data(whole) != jax.random.key_data(later)).any(-1).all()
