"""Paper 002's stages, its predictions, the weights that a training starts from, and what it refuses."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import config as configuration
from jaxfer.config import Call, Execution
from jaxfer.data import plan as plans
from jaxfer.data import stream
from jaxfer.errors import UserError
from jaxfer.report import run as report
from jaxfer.study import trainings
from jaxfer.study.task import options_of
from jaxfer.systems.landmark_fusion import SYSTEM, recipe
from jaxfer.train import groups, state, step, weights
from jaxfer.train.stage import Context
from jaxfer.train.trainer import Trainer
from tests import landmark_toy as toy
from tests.landmark_toy import BASE, evaluator, initial, made, prepared, records


@pytest.fixture(scope="module", autouse=True)
def _installed():
  with toy.installed():
    yield


def same(one, other):
  return all(
    np.array_equal(a, b, equal_nan=True)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  )


def moved(before, after):
  """Returns the submodules that changed in any bit, as "collection/submodule"."""
  return {
    f"{collection}/{name}"
    for collection, tree in before.items()
    for name, own in tree.items()
    if not same(own, after[collection][name])
  }


def of(*names):
  """Returns what a training of these submodules changes. The head has no running statistics and no affinity."""
  parts = {f"{c}/{name}" for c in ("params", "batch_stats", "affinity") for name in names}
  return parts - {"batch_stats/head", "affinity/head"}


@pytest.mark.parametrize(
  ("overrides", "stage", "who", "terms"),
  [
    (("model.answer=rgb",), "rgb", ("rgb",), {"rgb/rgb"}),
    (("recipe.rgb=given",), "fusion", ("landmark", "head"), {"fusion/landmark", "fusion/overall"}),
    (
      ("recipe.rgb=along",),
      "fusion",
      ("landmark", "head", "rgb"),
      {"fusion/landmark", "fusion/overall"},
    ),
    (("recipe.rgb=given", "model.answer=landmark"), "fusion", ("landmark",), {"fusion/landmark"}),
    (("recipe.rgb=further", "model.answer=rgb"), "further", ("rgb",), {"further/rgb"}),
  ],
)
def test_three_steps_change_the_trainable_submodules_and_nothing_else(overrides, stage, who, terms):
  """Parameters, running statistics and affinities of the other submodules stay bit for bit as they were."""
  task = made(*overrides)
  (only,), hparams = task.stages(2)
  assert only.name == stage
  context = Context({name: jnp.float32(value) for name, value in hparams.items()})
  keys = jax.random.split(jax.random.key(0), 6)
  current, batch = state.begin(only, initial()), prepared(6)

  @jax.jit
  def advance(trainable, frozen):
    return step.step(only, state.State(trainable, frozen), batch, keys, context)

  trainable = current.trainable
  for _ in range(3):
    trainable, metrics = advance(trainable, current.frozen)
    # Each cross-entropy is a mean over the batch, and their sum is not weighted.
    assert {name for name in metrics if "accuracy" not in name} == terms
    assert {float(weight) for _, weight in metrics.values()} == {6.0}
  assert bool(trainable.finite)
  assert moved(initial(), state.variables_of(state.State(trainable, current.frozen))) == of(*who)


def test_the_stages_of_each_recipe():
  def names(*overrides):
    return [stage.name for stage in made(*overrides).stages(1)[0]]

  assert names() == ["rgb", "fusion"]
  assert names("model.answer=rgb") == ["rgb"]
  assert names("recipe.rgb=given") == names("recipe.rgb=along") == ["fusion"]
  ((sum_of_both,), _), ((landmark,), _) = (
    made("recipe.rgb=given", f"model.answer={answer}").stages(1) for answer in ("sum", "landmark")
  )
  assert sum_of_both.trainable == landmark.trainable == ("landmark",)
  stages, hparams = SYSTEM.recipe(made().model, 48)
  assert [stage.epochs for stage in stages] == [70, 70]
  assert hparams == {"rgb_learning_rate": 1e-3, "learning_rate": 1e-3, "w": 0.6}


def test_the_loss_of_the_fusion_is_the_sum_of_both_cross_entropies():
  task = made("recipe.rgb=given")
  ((update,),) = (stage.updates for stage in task.stages(1)[0])
  batch = prepared(6)
  changing = {"train": ("landmark",), "mutable": ["batch_stats", "affinity"]}

  @jax.jit
  def both(variables):
    out = update.loss(variables, batch, None, Context({"w": jnp.float32(0.6)}))
    return out, task.model.apply(variables, batch["images"], batch["heatmaps"], 0.6, **changing)[0]

  out, nets = both(initial())
  for name, logits in (("landmark", nets.landmark), ("overall", nets.fused)):
    logits = np.asarray(logits, np.float64)
    expected = np.log(np.exp(logits).sum(-1)) - logits[np.arange(6), batch["label"]]
    total, count = out.loss[name]
    assert (float(total), float(count)) == (pytest.approx(expected.sum(), rel=1e-5), 6)
  assert out.collections.keys() == {"batch_stats", "affinity"}
  assert {name for tree in out.collections.values() for name in tree} == {"landmark"}


# Predictions.

INDICES = np.arange(8)


def test_predictions_are_named_in_the_order_of_the_outputs():
  """If predictions depend on the other records of a batch, they are also made for batches of one."""
  nets = ["RGB net", "landmark net", "sum of both"]
  sweep = [f"w = {w} at test" for w in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)]

  def twice(*names):
    return ["", "batches of one", *(each for name in names for each in (name, f"{name}, batches of one"))]

  assert list(evaluator()(INDICES)) == twice(*nets, *sweep)
  for override, names in (
    ("model.answer=rgb", twice()),
    ("model.answer=landmark", twice(*nets[:2])),
    ("model.answer=sum", twice()),
    ("model.agreement=false", twice(*nets)),
    ("model.affinity=ema", ["", *nets, *sweep]),
  ):
    assert [*recipe.prediction_names(made(override).model)] == names


def test_predictions_in_batches_of_one_are_those_of_a_record_alone():
  evaluate = evaluator()
  found = evaluate(INDICES)
  for index in (2, 5):
    # Where all eight records are the same, the mean over the batch is that of one record.
    alone = evaluate(np.full(8, index))
    for name in ("", "RGB net", "landmark net", "sum of both", "w = 0.2 at test"):
      one = f"{name}, batches of one" if name else "batches of one"
      np.testing.assert_allclose(alone[name], alone[one], atol=1e-5)
      np.testing.assert_allclose(alone[name][0], found[one][index], atol=1e-5)
      assert np.abs(found[name] - found[one]).max() > 1e-4


def test_other_records_of_a_batch_change_a_prediction_and_padding_does_not():
  evaluate, real = evaluator(), INDICES < 5
  others = [*INDICES[:5], 20, 21, 22]
  padded, padded_otherwise = evaluate(INDICES, real), evaluate(others, real)
  for name in padded:
    np.testing.assert_array_equal(padded[name][:5], padded_otherwise[name][:5])
  one, other = evaluate(INDICES), evaluate(others)
  np.testing.assert_allclose(one["batches of one"][:5], other["batches of one"][:5], atol=1e-6)
  assert (one[""][:5] != other[""][:5]).any(1).all()
  ema = evaluator("model.affinity=ema")
  np.testing.assert_allclose(ema(INDICES)[""][:5], ema(others)[""][:5], atol=1e-6)


def test_another_w_at_test_is_the_same_model_with_that_w():
  evaluate = evaluator()
  found, half = evaluate(INDICES), evaluate(INDICES, weight=0.5)
  np.testing.assert_allclose(found["w = 0.6 at test"], found[""], atol=1e-6)
  np.testing.assert_allclose(found["w = 0.5 at test"], half[""], atol=1e-6)
  agree = found["RGB net"].argmax(-1) == found["landmark net"].argmax(-1)
  same_for_all_w = np.isclose(found["w = 0.0 at test"], found["w = 1.0 at test"], atol=1e-7).all(-1)
  np.testing.assert_array_equal(same_for_all_w, agree)
  assert 0 < agree.sum() < len(agree)


def test_the_predictions_of_single_nets_are_the_answers_of_single_nets():
  found = evaluator()(INDICES)
  for answer, name in (("rgb", "RGB net"), ("sum", "sum of both"), ("landmark", "landmark net")):
    alone = evaluator(f"model.answer={answer}")(INDICES)
    np.testing.assert_allclose(alone[""], found[name], atol=1e-6)
    if answer == "landmark":  # For Table 2, the RGB net of the same training is evaluated too.
      for net in ("RGB net", "landmark net"):
        np.testing.assert_allclose(alone[net], found[net], atol=1e-6)
  rgb, landmark = (nn.softmax(found[name]) for name in ("RGB net", "landmark net"))
  np.testing.assert_allclose(np.exp(found["sum of both"]), (rgb + landmark) / 2, rtol=1e-5)


def test_evaluation_on_four_devices_is_in_file_order():
  made = trainings.prepare(dataclasses.replace(BASE, execution=Execution(devices=4)), records())
  assert type(SYSTEM).test_batch == 64
  indices = np.asarray([3, 20, 7, 11, 12])
  (task,), (member,) = made.tasks.values(), made.training.members
  np.testing.assert_array_equal(task.in_order(indices), [20, 12, 11, 7, 3])
  np.testing.assert_array_equal(member.test, task.in_order(np.sort(member.test)))
  placed = groups.arrange(made.training, None).placement
  assert len(placed.devices) == 4
  (plan,) = plans.evaluation(task.in_order(indices), task.test_batch)
  plan = {name: column[None] for name, column in plan.items()}
  hparams = placed.stack([{name: np.float32(value) for name, value in member.hparams.items()}])
  evaluate = placed.evaluator(task.outputs)
  found = evaluate(placed.stack([initial()]), hparams, placed.place(task.data), plan)
  found = np.asarray(found)[0, [4, 0, 3, 2, 1]]
  expected = evaluator()([20, 12, 11, 7, 3])
  np.testing.assert_allclose(found[:, 0], expected[""][[4, 0, 3, 2, 1]], atol=1e-5)
  np.testing.assert_allclose(found[:, 1], expected["batches of one"][[4, 0, 3, 2, 1]], atol=1e-5)


def test_the_accuracy_is_printed_with_its_batches():
  result = {
    "interval_95": (0.1, 0.3),
    "accuracy": 0.2,
    "correct": 2,
    "count": 10,
    "chance": 0.5,
    "trials": 1,
    "unseen": "people",
  }
  result |= {
    "confusion": [[1, 4], [4, 1]],
    "label_names": ["x", "y"],
    "accuracy_by_group": {},
    "accuracy_by_fold": {},
    "published": {},
    "calibration": None,
  }
  printed = {}
  for batches in ("", "in batches of 64, in order"):
    others = {
      "RGB net": {"accuracy": 0.3, "batches": batches},
      "batches of one": {"accuracy": 0.4, "batches": ""},
    }
    printed[batches] = [*report.lines({**result, "batches": batches, "other_predictions": others})][-3:]
  assert printed[""][0].endswith("never saw")
  assert printed["in batches of 64, in order"][0].endswith("never saw, in batches of 64, in order")
  assert printed["in batches of 64, in order"][1:] == [
    "the same net evaluated otherwise, RGB net, in batches of 64, in order: 0.3000",
    "the same net evaluated otherwise, batches of one: 0.4000",
  ]


# Pretrained weights.


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
  return toy.save_arm(tmp_path_factory.mktemp("arm"))


def test_a_converted_net_is_the_rgb_net_and_stays_so_on_four_devices(arm, tmp_path):
  """The RGB net stays bit for bit as it is through a fusion stage with the scan driver on four devices."""
  config = dataclasses.replace(
    BASE,
    recipe=Call("landmark_fusion", rgb="given", epochs=1),
    init_from=str(arm),
    execution=Execution(devices=4),
  )
  made = trainings.prepare(config, records())
  (note,) = made.notes
  assert "rgb" in note
  assert "fresh: head, landmark" in note
  Trainer(made.training, tmp_path).fit()
  (end,) = Trainer(made.training, tmp_path).restore()
  variables = end.variables
  begun = {**initial(), "params": {**initial()["params"]}}
  assert moved(begun, variables) == of("landmark", "head")


def refused(folder, *overrides):
  config = configuration.override(dataclasses.replace(BASE, init_from=str(folder)), overrides, options_of)
  with pytest.raises(UserError) as error:
    trainings.prepare(config, records())
  assert "\n" not in str(error.value)
  return str(error.value)


def test_weights_of_another_net_are_refused(arm, tmp_path):
  assert "'rgb' of" in refused(arm, "model.width=0.125")
  assert "give the same model options" in refused(arm, "model.block=2")
  given, _ = weights.load_weights(arm)
  more = jax.tree.map(lambda leaf: leaf, given)
  more["params"]["fc"] = {"kernel": np.zeros((9, 7), np.float32), "bias": np.zeros(7, np.float32)}
  weights.save_weights(tmp_path / "seven", more, {})
  assert "(2 arrays differ, such as " in refused(tmp_path / "seven")
  weights.save_weights(tmp_path / "other", {"params": {"encoder": {"kernel": np.zeros(3)}}}, {})
  message = refused(tmp_path / "other")
  assert "weights of encoder hold no RGB net of this system" in message
  assert "jaxfer convert arm" in message


def test_a_net_that_stays_as_it_is_given_must_be_given(arm):
  alone = configuration.override(BASE, ("recipe.rgb=given",), options_of)
  with pytest.raises(
    UserError, match=r"recipe\.rgb=given does not train 'rgb', and no trained 'rgb' is given"
  ):
    trainings.prepare(alone, records())
  trainings.prepare(dataclasses.replace(alone, init_from=str(arm)), records())


def test_a_moving_average_that_no_training_wrote_is_refused(arm, tmp_path):
  trainings.prepare(
    dataclasses.replace(BASE, init_from=str(arm), model=Call("landmark_fusion", **EMA)), records()
  )
  given, meta = weights.load_weights(arm)
  given["affinity"]["arm"]["ema_written"] = np.asarray(False)
  weights.save_weights(tmp_path, given, meta)
  message = refused(tmp_path, "model.affinity=ema")
  assert (
    "model.affinity=ema: the RGB net of init_from does not hold this mean: take model.affinity=batch"
    in message
  )


EMA = {**BASE.model.options, "affinity": "ema"}


@pytest.fixture
def imagenet(tmp_path):
  """Weights in the form that `jaxfer convert torchvision_resnet18` gives them, with other classes than the data."""
  given = {
    name: {"trunk": tree["rgb"]["trunk"]} for name, tree in initial().items() if "trunk" in tree["rgb"]
  }
  given["params"]["fc"] = {"kernel": np.zeros((32, 9), np.float32)}
  weights.save_weights(tmp_path / "imagenet", given, {"label_names": ["tench", "goldfish"]})
  return str(tmp_path / "imagenet")


def test_the_rgb_net_starts_from_a_resnet18_of_imagenet(imagenet):
  """Only the trunk is loaded; ARM and the dense layer start anew. Without training, such an RGB net is refused."""
  config = dataclasses.replace(BASE, init_from=imagenet)
  prepared = trainings.prepare(config, records())
  (note,), (member,) = prepared.notes, prepared.training.members
  assert "taken over" in note
  assert ": rgb/trunk (" in note
  assert note.partition("fresh: ")[2].startswith("head, landmark, rgb/arm, rgb/fc (")
  own = jax.jit(made().init)(jax.random.key(3))
  begun = state.merge(own, member.initial)
  assert same(begun["params"]["rgb"]["trunk"], initial()["params"]["rgb"]["trunk"])
  assert same(begun["batch_stats"]["rgb"]["trunk"], initial()["batch_stats"]["rgb"]["trunk"])
  assert same(begun["params"]["rgb"]["fc"], own["params"]["rgb"]["fc"])
  assert same(begun["params"]["landmark"], own["params"]["landmark"])
  assert "recipe.rgb=given does not train 'rgb'" in refused(imagenet, "recipe.rgb=given")


def test_published_accuracies_depend_on_the_recipe_too():
  assert (
    made().published()
    == made("recipe.rgb=given").published()
    == {"proposed": pytest.approx(0.9231, abs=1e-4)}
  )
  assert made("model.train_affinity=ema").published() == {}
  further = made("recipe.rgb=further", "model.answer=rgb")
  assert made("recipe.w=0.2").published() == made("recipe.rgb=along").published() == further.published() == {}
  assert list(made("model.answer=rgb").published()) == ["baseline (RGB net)"]


# What is refused.


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (("recipe.w=1.1",), "recipe.w=1.1: give a number, from 0 to 1"),
    (("recipe.w=-0.1",), "recipe.w=-0.1: give a number"),
    (("recipe.w=nan",), "recipe.w=nan: give a number"),
    (("recipe.rgb=fixed",), "unknown value of recipe.rgb 'fixed'"),
    (("model.affinity=frozen",), "model.affinity=frozen cannot be trained: give batch, alone or ema"),
    (("model.answer=rgb", "recipe.rgb=given"), "take rgb=first, rgb_epochs=0"),
    (
      ("recipe.rgb=further",),
      "recipe.rgb=further trains the RGB net alone: take model.answer=rgb, not fused",
    ),
    *(
      (
        ("recipe.rgb=along", f"model.answer={answer}"),
        "recipe.rgb=along: without the head's loss nothing trains",
      )
      for answer in ("rgb", "landmark", "sum")
    ),
    (
      ("model.kernel_sizes=(5, 3, 3, 3, 1, 1)",),
      "the RGB net ends in 3 x 3 and the landmark net in 2 x 2: change kernel_sizes",
    ),
  ],
)
def test_what_cannot_be_trained_is_refused_in_a_line(overrides, message):
  def begin():
    task = made(*overrides)
    task.stages(1)
    jax.eval_shape(task.init, jax.random.key(0))

  with pytest.raises(UserError) as error:
    begin()
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_records_without_colour_or_landmarks_are_refused():
  def but(**arrays):
    return dataclasses.replace(records(), arrays={**records().arrays, **arrays})

  arrays = {name: array for name, array in records().arrays.items() if name != "landmarks"}
  with pytest.raises(UserError, match="this system needs colour images with landmarks; choose raf_db"):
    SYSTEM.to_arrays(dataclasses.replace(records(), arrays=arrays))
  for image in (np.zeros((24, 66, 66, 1), np.uint8), np.zeros((24, 66, 66, 3), np.float32)):
    with pytest.raises(UserError, match="this system needs colour images"):
      SYSTEM.to_arrays(but(image=image))
  landmarks = records().arrays["landmarks"].copy()
  landmarks[4, 3, 1] = np.nan
  with pytest.raises(UserError, match="landmarks of picture 4 are not all finite"):
    SYSTEM.to_arrays(but(landmarks=landmarks))


class OnDisk:
  """A `stream.Reader` of two columns that counts the records it is asked for."""

  count, folder = 24, None

  def __init__(self):
    self.infos = {name: Info(records().arrays[name]) for name in ("image", "landmarks")}
    self.asked = 0

  def read(self, rows, names):
    self.asked += len(rows)
    for row in rows:
      yield {name: records().arrays[name][row] for name in names}


class Info:
  def __init__(self, array):
    self.shape, self.np_dtype = array.shape[1:], array.dtype


def test_figures_of_data_on_disk_are_those_of_data_in_memory(tmp_path):
  """Streamed data are read batch by batch, and refuse to become one array."""
  task, reader = made("recipe.rgb=given"), OnDisk()
  test = np.arange(20)
  columns = {name: stream.Column(reader, name) for name in reader.infos}
  lazy = dataclasses.replace(task, data=stream.Stream({**task.data, **columns}))
  drawn = {}
  for name, each in (("memory", task), ("disk", lazy)):
    (tmp_path / name).mkdir()
    each.system.figures(each, initial(), np.arange(20, 24), test, tmp_path / name)
    drawn[name] = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
  assert drawn["memory"] == drawn["disk"]
  assert drawn["disk"].keys() == {"cams.png", "cases.png"}
  # Two batches of 16 and at most ten images, of each column.
  assert reader.asked <= 2 * (2 * 16 + 10)


def test_an_image_without_landmarks_has_a_black_heatmap_and_finite_outputs():
  task = made()
  batch = task.system.eval_batch(task.data, np.asarray([22, 23]))
  _, heatmaps = task.system.inputs(task.model, batch)
  assert heatmaps[0].sum() > 0 == heatmaps[1].sum()
  assert all(np.isfinite(found).all() for found in evaluator()([23] * 8).values())
