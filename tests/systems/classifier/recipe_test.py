"""Tests that a stock Flax module trains as a system, with statistics over all devices and separate dropout masks."""

import csv
import dataclasses
import json
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfer
from jaxfer import config as configuration
from jaxfer.config import Call
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.study import run, trainings
from jaxfer.study.task import options_of, task_of
from jaxfer.systems import model_class
from jaxfer.systems.classifier import SYSTEM
from jaxfer.systems.classifier.recipe import NET, balanced, inside
from jaxfer.train import placement
from jaxfer.train.stage import Context
from tests import cnn, contract, small_systems


def made(*overrides):
  return small_systems.made("classifier", *overrides)


def step_on(devices, task, backend="pmap"):
  """Returns all variables after the first step of plain gradient descent on a number of devices."""
  plan = task.plan(np.arange(40))
  (stage,), hparams = task.stages(plan.steps)
  placed = placement.Placement(tuple(jax.devices()[:devices]), devices, backend=backend, alone=True)
  variables = jax.device_get(jax.jit(task.init)(jax.random.key(1)))
  return contract.step(placed, contract.descent(stage), variables, task.data, plan, hparams)


def test_the_module_draws_its_own_initial_values_and_gets_the_number_of_classes():
  task = made()
  assert task.model == cnn.CNN(num_classes=4, features=4)
  key, x = jax.random.key(5), SYSTEM.eval_batch(task.data, np.zeros(1, np.int32))["x"]
  own = cnn.CNN(4, 4).init(key, x, train=False)
  jax.tree.map(np.testing.assert_array_equal, inside(task.init(key)), own)
  assert float(x.min()) >= -1
  assert float(x.max()) <= 1


def test_a_step_is_the_plain_step_of_flax_and_optax():
  """The reference uses stock calls on the whole batch: the gradient of the mean cross-entropy, and batch statistics."""
  task = made("recipe.mirror=false")
  plan = task.plan(np.arange(40))
  rows = plan.columns(0, 0, ("row",))["row"][0]
  variables = jax.device_get(jax.jit(task.init)(jax.random.key(1)))
  x, label = (jnp.asarray(SYSTEM.eval_batch(task.data, rows)[name]) for name in ("x", "label"))
  model = cnn.CNN(4, 4, axis_name=None)
  state = inside(variables)

  def loss(params):
    logits, changed = model.apply({**state, "params": params}, x, train=True, mutable=["batch_stats"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), changed

  (_, changed), gradient = jax.value_and_grad(loss, has_aux=True)(state["params"])
  params = jax.tree.map(lambda p, g: p - contract.RATE * g, state["params"], gradient)
  got = inside(step_on(1, task))
  contract.compare(got["params"], params, state["params"])
  contract.compare(got["batch_stats"], changed["batch_stats"], state["batch_stats"])


@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_several_devices_refuse_a_norm_that_forgets_them_and_one_takes_it(backend):
  task = made("model.axis_name=none")
  with pytest.raises(
    UserError, match=r"nn.BatchNorm 'BatchNorm_0' has axis_name=None: .* give it axis_name=\"data\""
  ):
    step_on(4, task, backend)
  contract.compare(step_on(1, task, backend), step_on(1, made()))


class Masked(nn.Module):
  """Its logits are a dropout mask."""

  @nn.compact
  def __call__(self, x, train):
    return nn.Dropout(0.5, deterministic=not train)(jnp.ones((len(x), 64)))


def test_every_device_draws_its_own_dropout_masks():
  (stage,), _ = SYSTEM.recipe(Masked(), 1)
  batch = {"x": jnp.zeros((4, 2, 8, 8, 3)), "label": jnp.zeros((4, 2), jnp.int32)}

  def loss(batch, keys):
    out = stage.updates[0].loss({"params": {NET: {}}}, batch, keys, Context({}, axis_name="data"))
    return out.loss["loss"][0]

  sums = jax.pmap(loss, axis_name="data")(batch, jax.random.split(jax.random.key(3), 8).reshape(4, 2))
  assert len(set(np.asarray(sums).tolist())) == 4


def test_a_training_learns_and_is_evaluated(tmp_path):
  config = small_systems.SYSTEMS["classifier"]
  config = configuration.override(
    config, ["recipe.epochs=3", "recipe.learning_rate=0.02", "model.dropout=0.1"], options_of
  )
  with small_systems.installed():
    result = run.train(config, tmp_path / "run", tmp_path / "data", log=lambda line: None)
  assert result["accuracy"] > 2 * result["chance"]


def test_sequences_are_mirrored_frame_by_frame():
  frames = np.arange(2 * 3 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 4, 3)
  arrays = {"frames": frames, "label": np.arange(2, dtype=np.int32)}
  records = Records.from_arrays(arrays, ["a", "b"], ("x", "y"), ["P1", "P2"])
  data = SYSTEM.to_arrays(records)
  (stage,), _ = SYSTEM.recipe(cnn.Plain(), 1)
  keys = jax.random.split(jax.random.key(0), 16)
  x = np.asarray(stage.sample(data, {"row": jnp.zeros(16, jnp.int32)}, keys)["x"])
  plain = frames[0] / np.float32(127.5) - 1
  turned = [np.allclose(one, plain[:, :, ::-1], atol=1e-6) for one in x]
  assert all(np.allclose(one, plain, atol=1e-6) or was for one, was in zip(x, turned, strict=True))
  assert 0 < sum(turned) < 16


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("tests.nowhere:CNN", r"model 'tests.nowhere:CNN': No module named 'tests.nowhere'; write MODULE:CLASS"),
    ("tests.cnn:RNN", r"model 'tests.cnn:RNN': module 'tests.cnn' has no attribute 'RNN'"),
    ("tests.cnn:nn", r"model 'tests.cnn:nn' is not a Flax Linen module"),
    ("cnn", r"unknown model 'cnn'"),
  ],
)
def test_a_model_that_is_not_there_is_refused(name, message):
  with pytest.raises(UserError, match=message):
    model_class(name)


def test_a_module_in_the_current_directory_is_found(tmp_path, monkeypatch):
  (tmp_path / "my_own_models.py").write_text("import flax.linen as nn\nclass Own(nn.Module):\n  pass\n")
  monkeypatch.chdir(tmp_path)
  assert model_class("my_own_models:Own").__name__ == "Own"


def test_a_module_that_raises_is_reported_and_the_path_stays_as_it_was(tmp_path, monkeypatch):
  (tmp_path / "my_wrong_models.py").write_text("import sys\nsys.path.append('elsewhere')\nwidth = 1 / 0\n")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr("sys.path", list(sys.path))
  before = list(sys.path)
  with pytest.raises(
    UserError, match="my_wrong_models cannot be imported: ZeroDivisionError: division by zero"
  ):
    model_class("my_wrong_models:Own")
  assert sys.path == [*before, "elsewhere"]


def test_bfloat16_needs_an_attribute_dtype():
  config = small_systems.SYSTEMS["classifier"]
  assert (
    task_of(dataclasses.replace(config, dtype="bfloat16"), small_systems.records()).model.dtype == "bfloat16"
  )
  plain = dataclasses.replace(config, model=Call("tests.cnn:Plain"), dtype="bfloat16")
  with pytest.raises(UserError, match=r"dtype=bfloat16: model tests.cnn:Plain has no attribute dtype"):
    task_of(plain, small_systems.records())


def test_weights_of_another_system_are_refused():
  with pytest.raises(UserError, match=r"the weights of trunk, head do not belong to a classifier"):
    SYSTEM.load_pretrained(cnn.Plain(), {"params": {"trunk": {}, "head": {}}})
  given = {"params": {NET: {}}}
  assert SYSTEM.load_pretrained(cnn.Plain(), given) is given


def test_records_without_images_are_refused():
  records = small_systems.records()
  arrays = {name: array for name, array in records.arrays.items() if name not in ("image", "frames")}
  with pytest.raises(UserError, match="a classifier reads images or frames of uint8"):
    SYSTEM.to_arrays(dataclasses.replace(records, arrays=arrays))


def gradient_step(task, hparams=()):
  """Returns the loss that a step reports, and the logits and labels to compute it by hand."""
  (stage,), own = task.stages(1)
  variables = jax.jit(task.init)(jax.random.key(1))
  batch = SYSTEM.eval_batch(task.data, np.arange(8))
  context = Context({name: jnp.float32(value) for name, value in {**own, **dict(hparams)}.items()})
  out = jax.jit(stage.updates[0].loss)(variables, batch, jax.random.split(jax.random.key(0), 8), context)
  logits, _ = inside_apply(task.model, variables, batch["x"])
  total, count = out.loss["loss"]
  return float(total / count), np.asarray(logits, np.float64), np.asarray(batch["label"])


def inside_apply(model, variables, x):
  plain = dataclasses.replace(model, axis_name=None)
  return plain.apply(inside(variables), x, train=True, mutable=["batch_stats"])


def log_softmax(logits):
  return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def test_label_smoothing_spreads_a_share_of_the_target():
  reported, logits, label = gradient_step(made("recipe.label_smoothing=0.2"))
  logp = log_softmax(logits)
  want = -(0.8 * logp[np.arange(8), label] + 0.2 * logp.mean(1)).mean()
  assert reported == pytest.approx(want, rel=1e-5)
  assert reported != pytest.approx(-logp[np.arange(8), label].mean(), rel=1e-3)


def test_class_weights_weigh_each_record_by_its_class():
  task = made("recipe.class_weights=balanced")
  rows = np.concatenate([np.flatnonzero(task.data["label"] == k)[: k + 1] for k in range(4)])
  hparams = task.hparams(1, rows)
  weights = [hparams[f"class_weight/{k}"] for k in range(4)]
  np.testing.assert_allclose(weights, [10 / 4, 10 / 8, 10 / 12, 10 / 16])
  reported, logits, label = gradient_step(task, hparams)
  own = -log_softmax(logits)[np.arange(8), label]
  assert reported == pytest.approx((np.array(weights)[label] * own).mean(), rel=1e-5)


def test_balanced_weights_have_a_mean_of_one_and_take_classes_without_records():
  labels = np.array([0, 0, 0, 2])
  weights = balanced(labels, 4)
  np.testing.assert_allclose(weights, [4 / 6, 0, 4 / 2, 0])
  assert weights[labels].mean() == pytest.approx(1)


def test_every_fold_has_weights_from_its_own_training_records():
  config = configuration.override(
    small_systems.SYSTEMS["classifier"], ["recipe.class_weights=balanced", "split.folds=2"], options_of
  )
  data = small_systems.records()
  label = data.arrays["label"].copy()
  label[:12] = 0  # The first person shows only one class.
  data = Records.from_arrays(
    {**data.arrays, "label": label}, data.keys, data.label_names, data.subjects.tolist()
  )
  ready = trainings.prepare(config, data)
  found = []
  for member in ready.training.members:
    own = balanced(label[np.flatnonzero(ready.splits[member.name].train)], 4)
    found.append([member.hparams[f"class_weight/{k}"] for k in range(4)])
    np.testing.assert_allclose(found[-1], own)
  assert found[0] != found[1]


def test_by_default_nothing_is_weighed_smoothed_or_averaged():
  task = made()
  (stage,), hparams = task.stages(1)
  assert stage.ema == 0
  assert task.hparams(1, np.arange(8)) == hparams == {"learning_rate": 1e-3}
  reported, logits, label = gradient_step(task)
  assert reported == pytest.approx(-log_softmax(logits)[np.arange(8), label].mean(), rel=1e-5)


@pytest.mark.parametrize(
  "override",
  ["recipe.label_smoothing=1.0", "recipe.ema=1.0", "recipe.ema=-0.1", "recipe.class_weights=equal"],
)
def test_options_outside_their_range_are_refused(override):
  with pytest.raises(UserError, match=override.partition("=")[0]):
    made(override)


def test_what_is_averaged_is_loaded(tmp_path):
  """The weights of a run with all three options: `jaxfer.load` predicts what the run has measured."""
  config = configuration.override(
    small_systems.SYSTEMS["classifier"],
    ["recipe.epochs=2", "recipe.ema=0.9", "recipe.label_smoothing=0.1", "recipe.class_weights=balanced"],
    options_of,
  )
  with small_systems.installed():
    run.train(config, tmp_path / "run", tmp_path / "data", log=lambda line: None)
    again = run.evaluate(tmp_path / "run", tmp_path / "data", log=lambda line: None)
  with open(tmp_path / "run/predictions.csv", newline="") as file:
    _, *rows = csv.reader(file)
  data = small_systems.records()
  images = data.arrays["image"][[data.keys.index(row[0]) for row in rows]]
  got = jaxfer.load(tmp_path / "run").predict_proba(images)
  want = [[float(value) for value in row[-4:]] for row in rows]
  np.testing.assert_allclose(got, want, atol=2e-5)
  assert again["accuracy"] == json.loads((tmp_path / "run/evaluation.json").read_text())["accuracy"]
