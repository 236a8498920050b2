import dataclasses
import functools
import json
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfer import losses
from jaxfer.config import Execution
from jaxfer.data.plan import Plan
from jaxfer.errors import UserError
from jaxfer.layers.dropout import Dropout
from jaxfer.study import variants as study_variants
from jaxfer.systems.two_stream_conv_rnn import SYSTEM
from jaxfer.systems.two_stream_conv_rnn.model import TwoStreamConvRNN
from jaxfer.train import groups, members, optim, placement
from jaxfer.train.devices import divide
from jaxfer.train.stage import LossOut, Stage, Update
from jaxfer.train.trainer import Trainer
from tests.train import toy

# Float32 rounding, relative to a leaf's largest value, after 20 steps. Batch statistics over four examples enlarge it:
# the variance of a feature that hardly varies is a difference of nearly equal numbers.
TOLERANCES = {"dense": 1e-5, "conv_rnn": 1e-5, "batch_statistics": 1e-3}


class Net(nn.Module):
  """A net with two outputs, of which the second reads what the first learns."""

  @nn.compact
  def __call__(self, x, *, train=False, keys=None):
    x = nn.tanh(nn.Dense(16, name="fc1")(x))
    x = Dropout(0.3, name="dropout")(x, keys, train=train)
    return nn.Dense(3, name="fc2")(x), nn.Dense(1, name="critic")(x)


MODEL = Net()


def net_loss(variables, batch, keys, context):
  del context
  logits, _ = MODEL.apply(variables, batch["x"], train=True, keys=keys)
  return LossOut(
    loss={"cross_entropy": (losses.cross_entropy(logits, batch["label"]).sum(), jnp.float32(len(logits)))},
    aux=logits,
  )


def critic_loss(variables, batch, keys, context):
  """The loss also depends on the `aux` of the previous update, and on its own random draws."""
  _, value = MODEL.apply(variables, batch["x"])
  wanted = context.aux.max(-1) if len(context.aux) else 0.0
  noise = jax.vmap(lambda k: jax.random.normal(k, ()))(keys)
  error = (value[:, 0] - wanted - noise) ** 2
  return LossOut(loss={"error": (error.sum(), jnp.float32(len(error)))})


def adam(name):
  return optim.adam(f"{name}/rate", optim.schedule("constant", 1))


NET, CRITIC = (
  Update("net", net_loss, ("fc1", "fc2"), adam("net")),
  Update("critic", critic_loss, ("critic",), adam("critic")),
)
HYPER = {"net/rate": 0.02, "critic/rate": 0.01}


def dense():
  head = dataclasses.replace(NET, trainable=("fc2",))
  stages = Stage("both", (NET, CRITIC), 2), Stage("head", (head,), 2)
  return stages, lambda key: MODEL.init(key, jnp.zeros((1, 5))), toy.data(), HYPER


def batch_statistics():
  training = toy.training()
  return training.stages, training.init, training.data, HYPER


def conv_rnn():
  model = TwoStreamConvRNN(features=(2,), dense=(5, 4), num_classes=3, temporal_gate=True)
  rng = np.random.default_rng(0)
  data = {
    "frames": rng.integers(0, 256, (26, 3, 4, 4, 3), np.uint8),
    "flow": rng.integers(-9000, 9000, (26, 3, 4, 4, 2)).astype(np.int16),
    "label": rng.integers(0, 3, 26).astype(np.int32),
  }
  stages, hparams = SYSTEM.recipe(model, 5, epochs=4, learning_rate=3e-3)
  example = SYSTEM.eval_batch(data, np.zeros(1, np.int32))
  return stages, lambda key: model.init(key, *SYSTEM.inputs(model, example)), data, hparams


METHODS = {"dense": dense, "conv_rnn": conv_rnn, "batch_statistics": batch_statistics}


def folds(hparams, count=3, data=26):
  """Returns members with different seeds, rates and folds (5, 4 and 3 steps per epoch with 4 examples)."""
  return [
    members.Member(
      f"m{k}",
      seed=k,
      plan=Plan(np.arange(data)[k : k + 20 - 4 * (k % 3)], 4, "drop", [k]),
      hparams={name: value * (1 + k % 3) for name, value in hparams.items()},
      test=np.arange(k + 1),
    )
    for k in range(count)
  ]


def alone(tmp_path, method, one):
  stages, init, data, _ = method
  training = members.Training(stages, [dataclasses.replace(one, name="", initial=None)], init, data)
  return toy.run(tmp_path / one.name, training)


@pytest.fixture(scope="module")
def methods():
  return {name: make() for name, make in METHODS.items()}


@pytest.fixture(scope="module")
def alones(methods, tmp_path_factory):
  """Maps the name of a method to variables and metrics of each training alone."""

  @functools.cache
  def of(name):
    folder = tmp_path_factory.mktemp(name)
    chosen = folds(methods[name][-1])
    variables = [jax.device_get(alone(folder, methods[name], one)) for one in chosen]
    rows = [(folder / one.name / "metrics.jsonl").read_text().splitlines() for one in chosen]
    return variables, [list(map(json.loads, lines)) for lines in rows]

  return of


@pytest.fixture(scope="module")
def once(tmp_path_factory):
  """Returns the result of `make(folder)`, made once per name for all tests. Both modes have the same trainings."""
  made = {}

  def of(name, make):
    if name not in made:
      made[name] = make(tmp_path_factory.mktemp(name))
    return made[name]

  return of


def train(
  tmp_path,
  method,
  chosen,
  mode="vmap",
  devices=1,
  resume=False,
  log=print,
  execution=None,
  evaluation=None,
  **kwargs,
):
  stages, init, data, _ = method
  settings = Execution(**{"devices": devices, "members": mode, **(execution or {})})
  training = members.Training(stages, chosen, init, data, settings, evaluation)
  return Trainer(training, tmp_path, log=log, **kwargs).fit(resume=resume)


def assert_same(got, want, tolerance=TOLERANCES["dense"]):
  for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    where = jax.tree_util.keystr(path)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(), err_msg=where)


@pytest.mark.parametrize("mode", ["vmap", "sequential"])
@pytest.mark.parametrize("name", METHODS)
def test_members_equal_their_trainings_alone(tmp_path, methods, alones, name, mode):
  """Different folds and rates, 20 steps in the longest; with dropout, augmentation, statistics and two stages."""
  results = train(tmp_path, methods[name], folds(methods[name][-1]), mode)
  variables, rows = alones(name)
  assert max(row["step"] for row in rows[0]) == 20
  assert [result.history[-1]["step"] for result in results] == [20, 16, 12]
  for result, want, history in zip(results, variables, rows, strict=True):
    assert result.failed is None
    assert_same(result.variables, want, TOLERANCES[name])
    assert len(result.history) == len(history)
    for got, wanted in zip(result.history, history, strict=True):
      assert got.pop("member") == result.member.name
      assert list(got) == list(wanted)
      numbers = [[v for v in row.values() if not isinstance(v, str)] for row in (got, wanted)]
      np.testing.assert_allclose(*numbers, rtol=10 * TOLERANCES[name], atol=1e-6)


@pytest.mark.optimized
@pytest.mark.parametrize(
  ("mode", "count", "groups", "placed"),
  [
    ("vmap", 5, 1, "jit, 5 members on each device, each batch divided among 4"),
    ("sequential", 5, 5, "jit"),
    ("vmap", 6, 1, "jit, 2 members side by side, 3 members on each device, each batch divided among 2"),
    ("sequential", 6, 3, "jit, 2 members side by side, each batch divided among 2"),
  ],
)
def test_members_over_four_devices(tmp_path, methods, alones, once, mode, count, groups, placed, capsys):
  """Five members cannot be placed side by side on four devices, so each batch is divided; six can in pairs."""
  chosen = folds(methods["dense"][-1], count)
  results = train(tmp_path, methods["dense"], chosen, mode, devices=4)
  assert len(list(tmp_path.rglob("checkpoints"))) == groups
  for result, want in zip(results, alones("dense")[0], strict=False):
    assert_same(result.variables, want)
  fifth = once("fifth", lambda folder: jax.device_get(alone(folder, methods["dense"], chosen[4])))
  assert_same(results[4].variables, fifth)
  assert f"{count} trainings on 4 x cpu by {placed}" in capsys.readouterr().out


def test_a_slot_without_a_member_trains_nothing(tmp_path, methods, alones, monkeypatch):
  """Three members are in two groups of two slots."""
  monkeypatch.setattr(groups, "_needed", lambda whole, placement, execution: 1000 * placement.slots)
  results = train(tmp_path, methods["dense"], folds(methods["dense"][-1]), limit_bytes=2500)
  assert [len(list((tmp_path / f"group{k}/checkpoints").iterdir())) > 0 for k in range(2)] == [True, True]
  for result, want in zip(results, alones("dense")[0], strict=True):
    assert_same(result.variables, want)


def test_devices_are_divided_among_members_and_shards():
  """All devices are used if possible, and members are placed side by side if there is a choice."""
  divisions = {(1, 8, 4): (1, 4), (5, 8, 4): (1, 4), (6, 8, 4): (2, 2), (3, 5, 4): (3, 1), (8, 8, 4): (4, 1)}
  assert {given: divide(*given) for given in divisions} == divisions


@pytest.mark.optimized
def test_the_scan_driver_gives_the_same(tmp_path, methods, alones):
  """Members train at once. One after another, each runs as a training alone does in engine_test."""
  execution = {"driver": "scan", "steps_per_call": 2}
  results = train(tmp_path, methods["dense"], folds(methods["dense"][-1]), execution=execution)
  for result, want in zip(results, alones("dense")[0], strict=True):
    assert_same(result.variables, want)


def counted(stages, traces):
  """Returns the stages, which count how often the loss of each update is traced."""

  def count(update):
    def loss(*args):
      traces.append(update.name)
      return update.loss(*args)

    return dataclasses.replace(update, loss=loss)

  return tuple(dataclasses.replace(s, updates=tuple(map(count, s.updates))) for s in stages)


@pytest.mark.parametrize("driver", ["steps", "scan"])
def test_one_after_another_compiles_once(tmp_path, methods, driver):
  stages, *rest = methods["dense"]
  traces = []
  method = (counted(stages, traces), *rest)
  train(tmp_path, method, folds(rest[-1], 4), "sequential", execution={"driver": driver, "steps_per_call": 2})
  assert len(list(tmp_path.glob("group*"))) == 4
  assert sorted(traces) == ["critic", "net", "net"]  # Once per stage, for four members with different folds.


def test_a_member_that_is_not_finite_fails_alone(tmp_path, methods, alones, capsys):
  """It keeps its variables from before that step, also through the following stages."""
  stages, init, data, hparams = methods["dense"]
  chosen = folds(hparams)
  chosen[1] = dataclasses.replace(chosen[1], hparams=chosen[1].hparams | {"critic/rate": float("inf")})
  results = train(tmp_path / "all", (stages, init, data, hparams), chosen)
  assert [result.failed for result in results] == [None, "stage 'both', epoch 1, step 2", None]
  assert "m1 failed: not finite in stage 'both', epoch 1, step 2" in capsys.readouterr().out
  assert results[1].history == []
  for k in (0, 2):
    assert_same(results[k].variables, alones("dense")[0][k])
  first_stage = train(tmp_path / "first", (stages[:1], init, data, hparams), chosen)
  chex.assert_trees_all_equal(results[1].variables, first_stage[1].variables)
  assert np.isfinite(results[1].variables["params"]["fc2"]["kernel"]).all()
  resumed = train(tmp_path / "all", (stages, init, data, hparams), chosen, resume=True)
  assert [result.failed for result in resumed] == [result.failed for result in results]


def test_groups_of_what_the_memory_holds(tmp_path, methods, alones):
  lines = []
  method, chosen = methods["dense"], folds(methods["dense"][-1])
  train(tmp_path / "whole", method, chosen, log=lines.append, limit_bytes=2**30)
  assert lines == ["3 trainings on 1 x cpu by jit, 3 members on each device"]
  results = train(tmp_path / "parts", method, chosen, log=lines.append, limit_bytes=8_000)
  assert len(list((tmp_path / "parts").glob("group*"))) > 1
  assert re.fullmatch(
    r"3 trainings at once would take [\d.]+ KiB of 7.81 KiB per device: 3 groups of [\d.]+ KiB each", lines[1]
  )
  for result, want in zip(results, alones("dense")[0], strict=True):
    assert_same(result.variables, want)


@pytest.mark.parametrize(("driver", "alike"), [("steps", False), ("scan", True)])
def test_what_was_compiled_to_learn_its_memory_is_what_runs(tmp_path, methods, driver, alike):
  """The programs of groups that fit are not compiled again; those that did not fit are discarded."""
  (_, head), init, data, hparams = methods["dense"]
  stages = Stage("critic", (CRITIC,), 1), dataclasses.replace(head, epochs=1)
  chosen, execution = variants(hparams) if alike else folds(hparams), {"driver": driver}
  if alike:
    given = jax.device_get(init(jax.random.key(9)))
    chosen = [dataclasses.replace(m, initial={"params": {"fc1": given["params"]["fc1"]}}) for m in chosen]

  def compilations(limit):
    fresh = counted(stages, [])  # New functions, for which no program was compiled yet.
    with study_variants.compilations() as seconds:
      results = train(
        folders.pop(), (fresh, init, data, hparams), chosen, limit_bytes=limit, execution=execution
      )
    return len(seconds), results

  folders = [tmp_path / str(k) for k in range(5)]
  for limit in (None, 2):
    compilations(limit)  # Compiles the programs that the runs below share.
  (unknown, want), (known, got) = compilations(None), compilations(2**30)
  assert known == unknown
  for one, other in zip(got, want, strict=True):
    chex.assert_trees_all_equal(one.variables, other.variables)
  assert compilations(2)[0] == unknown + len(stages)


class Stop(Exception):
  pass


def stop_after(monkeypatch, chunks):
  """Raises an exception after a number of chunks. Like after a kill, nothing is saved."""
  left, original = [chunks], placement.Placement.trainer

  def trainer(self, stage, driver):
    chunk = original(self, stage, driver)

    def stopping(*args):
      left[0] -= 1
      if left[0] < 0:
        raise Stop
      return chunk(*args)

    return stopping

  monkeypatch.setattr(placement.Placement, "trainer", trainer)


@pytest.mark.optimized
@pytest.mark.parametrize(("mode", "cuts"), [("vmap", (8,)), ("sequential", (14,))])
def test_killed_members_resume_bit_for_bit(tmp_path, monkeypatch, methods, mode, cuts):
  """It is killed in the second stage, and in the second of three groups."""
  method, chosen = methods["dense"], folds(methods["dense"][-1])
  settings = {"steps_per_call": 2, "checkpoint_seconds": 0.0}
  want = train(tmp_path / "whole", method, chosen, mode, execution=settings)
  for chunks in cuts:
    cut = tmp_path / f"cut{chunks}"
    with monkeypatch.context() as patch:
      stop_after(patch, chunks)
      with pytest.raises(Stop):
        train(cut, method, chosen, mode, execution=settings)
    with pytest.raises(UserError, match="already holds a run"):
      train(cut, method, chosen, mode)
    others = [dataclasses.replace(m, seed=m.seed + 1) for m in chosen]
    with pytest.raises(UserError, match=r"other trainings \(member m0, member m1, member m2 differ\)"):
      train(cut, method, others, mode, resume=True)
    got = train(cut, method, chosen, mode, resume=True, execution=settings)
    for one, other in zip(got, want, strict=True):
      chex.assert_trees_all_equal(one.variables, other.variables)
      assert one.history == other.history


@pytest.mark.optimized
def test_members_resume_on_other_devices(tmp_path, monkeypatch, methods, alones, capsys):
  method, chosen = methods["dense"], folds(methods["dense"][-1])
  settings = {"steps_per_call": 2, "checkpoint_seconds": 0.0}
  with monkeypatch.context() as patch:
    stop_after(patch, 8)
    with pytest.raises(Stop):
      train(tmp_path, method, chosen, execution=settings)
  results = train(tmp_path, method, chosen, devices=2, resume=True, execution=settings)
  assert "not bit-identical from here on (devices 1 -> 2, shards 1 -> 2)" in capsys.readouterr().out
  for result, want in zip(results, alones("dense")[0], strict=True):
    assert_same(result.variables, want)


def variants(hparams):
  """Returns members that differ only in a rate."""
  first = folds(hparams)[0]
  return [
    dataclasses.replace(first, name=f"v{k}", hparams={n: v * (1 + k) for n, v in hparams.items()})
    for k in range(3)
  ]


@pytest.mark.parametrize("mode", ["vmap", "sequential"])
def test_shared_variables_are_held_once_until_a_stage_trains_them(tmp_path, methods, once, monkeypatch, mode):
  """Members with one key and plan share each batch. `fc1` stays shared, and `fc2` until the second stage."""
  stages, init, data, hparams = methods["dense"]
  stages = Stage("critic", (CRITIC,), 2), stages[1]
  given = jax.device_get(init(jax.random.key(9)))
  shared = {"params": {name: given["params"][name] for name in ("fc1", "fc2")}}
  states, original = [], placement.Placement.start

  def start(self, stage, variables):
    states.append(original(self, stage, variables))
    return states[-1]

  monkeypatch.setattr(placement.Placement, "start", start)
  method = (stages, init, data, hparams)
  started = [dataclasses.replace(member, initial=shared) for member in variants(hparams)]
  results = train(tmp_path / "all", method, started, mode)
  assert set(states[0].trainable.variables["params"]) == {"critic"}
  assert states[0].frozen["params"] == {}
  assert set(states[1].trainable.variables["params"]) == {"fc2"}
  assert set(states[1].frozen["params"]) == {"critic"}

  def init_with_shared(key):
    return {"params": {**init(key)["params"], **shared["params"]}}

  def each_alone(folder):
    method = (stages, init_with_shared, data, hparams)
    return [jax.device_get(alone(folder, method, member)) for member in variants(hparams)]

  for result, want in zip(results, once("shared", each_alone), strict=True):
    assert_same(result.variables, want)
  assert (
    results[0].variables["params"]["critic"]["kernel"] != results[1].variables["params"]["critic"]["kernel"]
  ).all()


@pytest.mark.parametrize("mode", ["vmap", "sequential"])
def test_no_tracer_leaks_whether_begun_or_resumed(tmp_path, methods, monkeypatch, mode):
  """If the device reports its memory, and on resume, states are traced as shapes before anything has run."""
  _, init, data, hparams = methods["dense"]
  given = jax.device_get(init(jax.random.key(9)))
  shared = {"params": {"fc1": given["params"]["fc1"]}}
  method = (Stage("critic", (CRITIC,), 2),), init, data, hparams
  chosen = [dataclasses.replace(member, initial=shared) for member in variants(hparams)[:2]]
  memory = {"limit_bytes": 2**30, "execution": {"checkpoint_seconds": 0.0}}
  with jax.checking_leaks():
    want = train(tmp_path / "whole", method, chosen, mode, **memory)
    with monkeypatch.context() as patch:
      stop_after(patch, 1)
      with pytest.raises(Stop):
        train(tmp_path / "cut", method, chosen, mode, **memory)
    got = train(tmp_path / "cut", method, chosen, mode, resume=True, **memory)
  for one, other in zip(got, want, strict=True):
    chex.assert_trees_all_equal(one.variables, other.variables)


@pytest.mark.parametrize("mode", ["vmap", "sequential"])
def test_each_member_starts_from_what_it_is_given(tmp_path, methods, once, mode):
  stages, init, data, hparams = methods["dense"]
  given = [jax.device_get(init(jax.random.key(k)))["params"] for k in (7, 8, 9)]
  chosen = [
    dataclasses.replace(m, initial={"params": {"fc1": own["fc1"]}})
    for m, own in zip(folds(hparams), given, strict=False)
  ]

  def each_alone(folder):
    for member in chosen:

      def started(key, start=member.initial):
        return {"params": {**init(key)["params"], **start["params"]}}

      yield jax.device_get(alone(folder, (stages, started, data, hparams), member))

  results = train(tmp_path / "all", methods["dense"], chosen, mode)
  for result, want in zip(results, once("given", lambda folder: list(each_alone(folder))), strict=True):
    assert_same(result.variables, want)


def test_what_is_given_in_part_is_completed_by_each_members_own(tmp_path, methods):
  """The kernel of `fc1` is the same for all members, its bias is not; neither is trained."""
  _, init, data, hparams = methods["dense"]
  critic = (Stage("critic", (CRITIC,), 1),)

  def drawn(key):
    params = init(key)["params"]
    return {"params": {**params, "fc1": {**params["fc1"], "bias": jax.random.normal(key, (16,))}}}

  given = {"params": {"fc1": {"kernel": np.full_like(init(jax.random.key(9))["params"]["fc1"]["kernel"], 7)}}}
  chosen = [dataclasses.replace(m, seed=k, initial=given) for k, m in enumerate(folds(hparams))]
  one, other, *_ = train(tmp_path, (critic, drawn, data, hparams), chosen)
  for result in (one, other):
    assert (result.variables["params"]["fc1"]["kernel"] == 7).all()
  biases = [np.asarray(result.variables["params"]["fc1"]["bias"]) for result in (one, other)]
  assert (biases[0] != biases[1]).all()


def test_evaluation_of_members(tmp_path, methods):
  stages, init, data, hparams = methods["dense"]
  chosen = [
    dataclasses.replace(m, validation=np.arange(3 * k), test=np.arange(9 + k))
    for k, m in enumerate(folds(hparams))
  ]

  def outputs(variables, hparams, data, plan, axis_name):
    """Returns logits, and the number of real examples in the batch."""
    del hparams
    sums = (plan["row"] * plan["real"]).sum(), plan["real"].sum()
    total, count = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    mates = total / jnp.maximum(count, 1)
    logits = MODEL.apply(variables, data["x"][plan["row"]])[0]
    return jnp.concatenate([logits, jnp.broadcast_to(mates, (len(logits), 1))], 1)

  def judge(outputs, rows):
    return {"accuracy": float((outputs[:, :3].argmax(-1) == data["label"][rows]).mean())}

  evaluation = members.Evaluation(outputs, judge, batch_size=2, shuffled=True)
  for mode, devices in (("vmap", 1), ("vmap", 2), ("sequential", 1)):
    folder = tmp_path / f"{mode}{devices}"
    results = train(folder, (stages, init, data, hparams), chosen, mode, devices, evaluation=evaluation)
    for result in results:
      rows = result.member.test
      want = MODEL.apply(result.variables, jnp.asarray(data["x"][rows]))[0]
      for found in (result.outputs, result.shuffled):
        np.testing.assert_allclose(found[:, :3], want, atol=1e-5)
      mates = [rows[k // 2 * 2 : k // 2 * 2 + 2].mean() for k in range(len(rows))]
      np.testing.assert_allclose(result.outputs[:, 3], mates, atol=1e-6)
      assert (result.shuffled[:, 3] != result.outputs[:, 3]).any()
      last = [row for row in result.history if row["split"] == "validation"][-1:]
      watched = result.member.validation
      assert bool(last) == bool(len(watched))
      if last:
        logits = MODEL.apply(result.variables, jnp.asarray(data["x"][watched]))[0]
        assert last[0]["accuracy"] == judge(np.asarray(logits), watched)["accuracy"]


def test_members_that_do_not_fit_together_are_refused(tmp_path, methods):
  method, chosen = methods["dense"], folds(methods["dense"][-1])
  other = dataclasses.replace(chosen[1], plan=dataclasses.replace(chosen[1].plan, batch_size=2))
  for wrong, message in (
    ([], "0 members"),
    ([chosen[0], chosen[0]], "two members are called 'm0'"),
    ([chosen[0], other], "'m1' has batch_size=2, 'm0' 4"),
    (
      [chosen[0], dataclasses.replace(chosen[1], hparams={})],
      "'m1' sets nothing, 'm0' critic/rate, net/rate",
    ),
  ):
    with pytest.raises(UserError, match=message):
      train(tmp_path, method, wrong)
  with pytest.raises(UserError, match="unknown way to run members 'vmpa': did you mean 'vmap'"):
    train(tmp_path, method, chosen, "vmpa")
  with pytest.raises(
    UserError, match=r"devices=9: JAX sees 4 \(cpu\): take 1 to 4, or set JAX_NUM_CPU_DEVICES=9"
  ):
    train(tmp_path, method, chosen, devices=9)
  with pytest.raises(UserError, match="unknown submodule to train 'fc7'"):
    train(tmp_path, method, [dataclasses.replace(m, initial={"params": {"fc7": {}}}) for m in chosen])
  with pytest.raises(UserError, match="'m1' is given nothing to start from, 'm0' fc1"):
    train(tmp_path, method, [dataclasses.replace(chosen[0], initial={"params": {"fc1": {}}}), *chosen[1:]])
  assert groups.mode_of("auto", "cpu") == "sequential"
  assert groups.mode_of("auto", "gpu") == "vmap"


def test_a_stage_of_plain_sgd_needs_no_hparams(tmp_path, methods):
  _, init, data, _ = methods["dense"]
  stage = Stage("s", (Update("net", net_loss, ("fc2",), optax.sgd(0.1)),), 1)
  chosen = [dataclasses.replace(m, hparams={}) for m in folds({})]
  first, second, _ = train(tmp_path, ((stage,), init, data, {}), chosen)
  assert not np.array_equal(
    first.variables["params"]["fc2"]["bias"], second.variables["params"]["fc2"]["bias"]
  )
