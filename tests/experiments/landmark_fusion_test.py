"""Paper 002's stages, readings, what they start from, and its study, on random pictures.

A convolution and a norm stand in for the ResNet trunk, which compiles for long: `tests/layers` and `tests/models` hold
it to PyTorch's, and nothing here looks inside.
"""

import dataclasses
import functools
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import config as configuration
from jaxfer import study
from jaxfer.config import Call, Execution, Row, RunConfig, Split, StudyConfig
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.experiments import EXPERIMENTS, run
from jaxfer.experiments import landmark_fusion as system
from jaxfer.experiments.task import options_of, task_of
from jaxfer.models import landmark_fusion as models
from jaxfer.train import feed, loop, state, step, weights
from jaxfer.train.stage import Context

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("surprise", "happiness", "neutral")
BASE = RunConfig(
  recipe=Call(
    "landmark_fusion", rgb_epochs=1, epochs=2, rgb_learning_rate=0.01, learning_rate=0.01, noise=0.0
  ),
  model=Call("landmark_fusion", width=0.0625, block=4, kernel_sizes=(5, 3, 3, 1, 1, 1), image_size=66),
  data=Call("synthetic_faces"),  # By name alone: `records` below are what is read.
  split=Split(test=0.5),
  batch_size=4,
  execution=Execution(driver="steps", devices=1),
)


class Trunk(nn.Module):
  """Stands in for `ResNetTrunk`: as many channels, of maps of the same size."""

  depth: int
  width: float
  dtype: str | None = None
  param_dtype: type = jnp.float32

  @nn.compact
  def __call__(self, x, *, train, axis_name=None):
    x = nn.Conv(int(512 * self.width), (32, 32), (32, 32), use_bias=False, name="conv")(x)
    norm = nn.BatchNorm(not train, momentum=0.9, axis_name=axis_name if train else None, name="bn")
    return nn.relu(norm(x))


@pytest.fixture(scope="module", autouse=True)
def _small_and_hardly_optimised():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(models, "ResNetTrunk", Trunk)
    small = dataclasses.replace(system.EXPERIMENT, test_batch=16)
    patch.setitem(EXPERIMENTS, "landmark_fusion", small)
    patch.setattr(run, "load_data", lambda config, data_dir: records())
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def records():
  """Eight people, thrice each: a brighter corner and landmarks lower down tell the class; the last has no landmarks.

  The distributor's order is the keys' the other way round.
  """
  rng = np.random.default_rng(0)
  label = np.tile(np.arange(3), 8)
  image = rng.integers(0, 160, (24, 66, 66, 3)).astype(np.uint8)
  image[:, :33, :33] += 30 * label[:, None, None, None].astype(np.uint8)
  landmarks = rng.uniform(10, 40, (24, 37, 2)) + 8 * label[:, None, None] * [0, 1]
  landmarks[-1] = np.nan
  arrays = {"image": image, "landmarks": landmarks.astype(np.float32), "label": label}
  subjects = [f"P{k // 3}" for k in range(24)]
  keys = [f"{subject}_{k % 3}" for k, subject in enumerate(subjects)]
  return Records.from_arrays(arrays | {"order": np.arange(24)[::-1]}, keys, NAMES, subjects)


def made(*overrides, config=BASE):
  """The task of a config, and initial variables of its model that are the same for all."""
  return task_of(configuration.override(config, overrides, options_of), records())


@functools.cache
def initial():
  """Biases that make each net name several classes, and affinities that are written."""
  task = made()
  batch = task.experiment.example(task.data, np.arange(24))

  @jax.jit
  def make(key):
    variables = task.init(key)
    nets = task.model.apply(variables, *task.experiment.inputs(task.model, batch))
    params = {**variables["params"]}
    for name in ("rgb", "landmark"):
      fc = params[name]["fc"]
      params[name] = {**params[name], "fc": {**fc, "bias": fc["bias"] - getattr(nets, name).mean(0)}}
    affinity = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.1), variables["affinity"])
    return {**variables, "params": params, "affinity": affinity}

  return make(jax.random.key(0))


@functools.cache
def prepared(count):
  """A batch of the first records as the stages sample it, but for the augmentation."""
  task = made()
  example = task.experiment.example(task.data, np.arange(count))
  images, heatmaps, _ = jax.jit(functools.partial(task.experiment.inputs, task.model))(example)
  return {"images": images, "heatmaps": heatmaps, "label": example["label"]}


def same(one, other):
  return all(
    np.array_equal(a, b, equal_nan=True)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  )


def moved(before, after):
  """Collection and submodule of whatever is not bit for bit as it was."""
  return {
    f"{collection}/{name}"
    for collection, tree in before.items()
    for name, own in tree.items()
    if not same(own, after[collection][name])
  }


def of(*names):
  """What a training of these submodules moves; a head has no statistics."""
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
  ],
)
def test_three_steps_move_what_the_stage_names_and_nothing_else(overrides, stage, who, terms):
  """Parameters, running statistics and affinities of the others stay bit for bit as they were."""
  task = made(*overrides)
  (only,), hyper = task.stages(2)
  assert only.name == stage
  context = Context({name: jnp.float32(value) for name, value in hyper.items()})
  keys = jax.random.split(jax.random.key(0), 6)
  current, batch = state.begin(only, initial()), prepared(6)

  @jax.jit
  def advance(moving, still):
    return step.step(only, state.State(moving, still), batch, keys, context)

  moving = current.moving
  for _ in range(3):
    moving, metrics = advance(moving, current.still)
    # The mean over the batch of each cross-entropy, added up as they are: no term outweighs another.
    assert {name for name in metrics if "accuracy" not in name} == terms
    assert {float(weight) for _, weight in metrics.values()} == {6.0}
  assert bool(moving.alive)
  assert moved(initial(), state.variables_of(state.State(moving, current.still))) == of(*who)


def test_the_stages_of_each_recipe():
  def names(*overrides):
    return [stage.name for stage in made(*overrides).stages(1)[0]]

  assert names() == ["rgb", "fusion"]
  assert names("model.answer=rgb") == ["rgb"]
  assert names("recipe.rgb=given") == names("recipe.rgb=along") == ["fusion"]
  assert names("recipe.rgb=along", "model.answer=landmark") == ["fusion"]
  ((sum_of_both,), _), ((landmark,), _) = (
    made("recipe.rgb=given", f"model.answer={answer}").stages(1) for answer in ("sum", "landmark")
  )
  assert sum_of_both.trainable == landmark.trainable == ("landmark",)
  stages, hyper = system.recipe(made().model, 48)
  assert [stage.epochs for stage in stages] == [70, 70]
  assert hyper == {"rgb_learning_rate": 1e-3, "learning_rate": 1e-3, "w": 0.6}


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


# What evaluation reads.


@functools.cache
def evaluator(*overrides):
  """outputs(rows, real, w) of the initial variables: readings by name, logits [rows, classes]."""
  task = made(*overrides)
  names = list(system._names(task.model))

  @jax.jit
  def outputs(row, real, weight):
    return task.outputs(initial(), {"w": weight}, task.data, {"row": row, "real": real}, None)

  def read(rows, real=None, weight=0.6):
    real = np.ones(len(rows), bool) if real is None else np.asarray(real)
    found = outputs(np.asarray(rows), real, jnp.float32(weight))
    assert found.shape[1] == len(names)
    return dict(zip(names, np.asarray(found).transpose(1, 0, 2), strict=True))

  return read


ROWS = np.arange(8)


def test_readings_have_the_names_of_their_outputs():
  plain = ["", "batches of one"]
  nets = ["RGB net", "landmark net", "sum of both"]
  sweep = [f"w = {w} at test" for w in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)]
  assert list(evaluator()(ROWS)) == plain + nets + sweep
  for override, names in (
    ("model.answer=rgb", plain),
    ("model.agreement=false", plain + nets),
    ("model.affinity=ema", ["", *nets, *sweep]),
  ):
    assert system._names(made(override).model) == names


def test_a_batch_of_one_is_what_batches_of_one_say():
  read = evaluator()
  found = read(ROWS)
  for row in (2, 5):
    # Eight times the same row: its mean over the batch is its own.
    alone = read(np.full(8, row))
    np.testing.assert_allclose(alone[""], alone["batches of one"], atol=1e-5)
    np.testing.assert_allclose(alone[""][0], found["batches of one"][row], atol=1e-5)
  assert np.abs(found[""] - found["batches of one"]).max() > 1e-4


def test_mates_change_a_prediction_and_padding_does_not():
  read, real = evaluator(), ROWS < 5
  first, other = read(ROWS, real), read([*ROWS[:5], 20, 21, 22], real)
  for name in first:
    np.testing.assert_array_equal(first[name][:5], other[name][:5])
  mates = read([*ROWS[:5], 20, 21, 22])
  whole = read(ROWS)
  np.testing.assert_allclose(whole["batches of one"][:5], mates["batches of one"][:5], atol=1e-6)
  assert (whole[""][:5] != mates[""][:5]).any(1).all()
  still = evaluator("model.affinity=ema")
  np.testing.assert_allclose(still(ROWS)[""][:5], still([*ROWS[:5], 20, 21, 22])[""][:5], atol=1e-6)


def test_another_w_at_test_is_the_same_net_with_that_w():
  read = evaluator()
  found, half = read(ROWS), read(ROWS, weight=0.5)
  np.testing.assert_allclose(found["w = 0.6 at test"], found[""], atol=1e-6)
  np.testing.assert_allclose(found["w = 0.5 at test"], half[""], atol=1e-6)
  agree = found["RGB net"].argmax(-1) == found["landmark net"].argmax(-1)
  same_with_any = np.isclose(found["w = 0.0 at test"], found["w = 1.0 at test"], atol=1e-7).all(-1)
  np.testing.assert_array_equal(same_with_any, agree)
  assert 0 < agree.sum() < len(agree)


def test_the_nets_read_alone_are_those_that_answer_alone():
  found = evaluator()(ROWS)
  for answer, name in (("rgb", "RGB net"), ("sum", "sum of both")):
    np.testing.assert_allclose(evaluator(f"model.answer={answer}")(ROWS)[""], found[name], atol=1e-6)
  rgb, landmark = (nn.softmax(found[name]) for name in ("RGB net", "landmark net"))
  np.testing.assert_allclose(np.exp(found["sum of both"]), (rgb + landmark) / 2, rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 4])
def test_tests_take_rows_in_file_order_on_any_number_of_devices(devices):
  setup = run.prepare(dataclasses.replace(BASE, execution=Execution(devices=devices)), records())
  assert system.EXPERIMENT.test_batch == 64
  assert len(setup.devices.devices) == devices
  rows = np.asarray([3, 20, 7, 11, 12])
  np.testing.assert_array_equal(setup.in_order(rows), [20, 12, 11, 7, 3])
  variables = setup.devices.place(initial())
  found = setup.predict(variables, feed.placed(setup.devices, setup.data), rows)
  expected = evaluator()([20, 12, 11, 7, 3])
  np.testing.assert_allclose(found[:, 0], expected[""][[4, 0, 3, 2, 1]], atol=1e-5)
  np.testing.assert_allclose(found[:, 1], expected["batches of one"][[4, 0, 3, 2, 1]], atol=1e-5)


# What a training starts from.


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
  """A folder as `jaxfer convert arm` leaves it: the RGB net under its own names."""
  folder = tmp_path_factory.mktemp("arm")
  weights.save_weights(folder, {name: tree["rgb"] for name, tree in initial().items()}, {"model": "arm"})
  return folder


def test_a_converted_net_is_the_rgb_net_and_stays_so_on_four_devices(arm, tmp_path):
  """Bit for bit through a whole fusion stage by the scan driver over four devices."""
  config = dataclasses.replace(
    BASE,
    recipe=Call("landmark_fusion", rgb="given", epochs=1),
    init_from=str(arm),
    execution=Execution(devices=4),
  )
  setup = run.prepare(config, records())
  assert "rgb" in setup.start_line
  assert "fresh: head, landmark" in setup.start_line
  loop.run(setup.training(), config, setup.devices, tmp_path)
  variables, meta = loop.restore_variables(setup.training(), setup.devices, tmp_path)
  assert meta["position"]["stage"] == 1
  begun = {**initial(), "params": {**initial()["params"]}}
  assert moved(begun, variables) == of("landmark", "head")


def refused(folder, *overrides):
  config = configuration.override(dataclasses.replace(BASE, init_from=str(folder)), overrides, options_of)
  with pytest.raises(UserError) as error:
    run.prepare(config, records())
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


# What cannot be trained.


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (("recipe.w=1.1",), "recipe.w=1.1: give a weight from 0 to 1"),
    (("recipe.w=-0.1",), "recipe.w=-0.1: give a weight"),
    (("recipe.w=nan",), "recipe.w=nan: give a weight"),
    (("recipe.rgb=fixed",), "unknown value of recipe.rgb 'fixed'"),
    (("model.affinity=frozen",), "model.affinity=frozen cannot be trained: give batch, alone or ema"),
    (("model.answer=rgb", "recipe.rgb=given"), "take rgb=first, rgb_epochs=0"),
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
  with pytest.raises(UserError, match="this system reads coloured stills with landmarks; choose raf_db"):
    system.resident(dataclasses.replace(records(), arrays=arrays))
  for image in (np.zeros((24, 66, 66, 1), np.uint8), np.zeros((24, 66, 66, 3), np.float32)):
    with pytest.raises(UserError, match="this system reads coloured stills"):
      system.resident(but(image=image))
  landmarks = records().arrays["landmarks"].copy()
  landmarks[4, 3, 1] = np.nan
  with pytest.raises(UserError, match="landmarks of picture 4 are not all finite"):
    system.resident(but(landmarks=landmarks))


def test_a_picture_without_landmarks_has_a_black_heatmap_and_finite_outputs():
  task = made()
  batch = task.experiment.example(task.data, np.asarray([22, 23]))
  _, heatmaps, _ = task.experiment.inputs(task.model, batch)
  assert heatmaps[0].sum() > 0 == heatmaps[1].sum()
  assert all(np.isfinite(found).all() for found in evaluator()([23] * 8).values())


# The study.

STUDY = StudyConfig(
  title="toy",
  source="nowhere",
  base=BASE,
  rows=(
    Row("baseline: RGB net alone", ("model.answer=rgb",), 0.9),
    Row("proposed: p and w", ("recipe.rgb=given",), 0.9, "baseline: RGB net alone"),
    Row("w = 0.0", ("recipe.rgb=given", "recipe.w=0.0"), None, "baseline: RGB net alone"),
  ),
  seeds=2,
  compared=(("proposed: p and w", "baseline: RGB net alone"),),
  presets={"small": ()},
)
FOLDERS = ("baseline-rgb-net-alone", "proposed-p-and-w", "w-0-0")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("study")
  lines = []
  table = study.run(STUDY, None, (), workdir, pathlib.Path("nowhere"), say=lines.append)
  return workdir, table, "\n".join(lines)


def result(workdir, folder):
  found = json.loads((workdir / "rows" / folder / "result.json").read_text())
  return {name: value for name, value in found.items() if "seconds" not in name}


def test_rows_that_differ_in_w_alone_train_together_from_the_baseline(done):
  workdir, table, printed = done
  assert "row 2 of 3, proposed: p and w, with w = 0.0:" in printed
  assert "taken over from row 'baseline-rgb-net-alone': rgb" in printed
  assert "each from the training of its seed and fold" in printed
  assert [row["failed"] for row in table["rows"]] == [[]] * 3
  baseline, proposed, zero = (result(workdir, folder) for folder in FOLDERS)
  for name in ("key", "label"):
    assert baseline[name] == proposed[name] == zero[name]
  # The RGB net is each seed's own of the row before, read in the same batches.
  for row in (proposed, zero):
    for field in ("predicted", "rank"):
      assert row["readings"]["RGB net"][field] == baseline[field]
      assert row["readings"]["RGB net, shuffled"][field] == baseline["readings"]["shuffled"][field]
  assert proposed["readings"]["w = 0.6 at test"]["rank"] == proposed["rank"]
  assert zero["readings"]["w = 0.0 at test"]["rank"] == zero["rank"]


def test_trained_alone_or_resumed_a_row_has_the_same_numbers(done, tmp_path):
  """Without its result the last row trains anew, now alone; without both, the finished members are read again."""
  workdir, table, _ = done
  before = [result(workdir, folder) for folder in FOLDERS]

  def again(*names):
    for name in names:
      (workdir / "rows" / name / "result.json").unlink()
    lines = []
    found = study.run(STUDY, None, (), workdir, pathlib.Path("nowhere"), resume=True, say=lines.append)
    assert [row["per_seed"] for row in found["rows"]] == [row["per_seed"] for row in table["rows"]]
    return "\n".join(lines)

  printed = again(*FOLDERS[1:])
  assert "row 2 of 3, proposed: p and w, with w = 0.0:" in printed
  assert [result(workdir, folder) for folder in FOLDERS] == before
  printed = again(FOLDERS[2])
  assert "row 2 of 3, proposed: p and w: done before" in printed
  assert "row 3 of 3, w = 0.0:" in printed
  alone = result(workdir, FOLDERS[2])
  for field in ("predicted", "correct", "rank"):
    assert alone[field] == before[2][field]
    assert alone["readings"]["shuffled"][field] == before[2]["readings"]["shuffled"][field]


def test_the_table_shows_each_reading_and_the_figures_are_drawn(done):
  workdir, table, printed = done
  titles = [further["title"] for further in table["tables"]]
  for words in ("Tables 5 and 7", "Tables 6 and 8", "in other batches", "Two nets", "Fig. 4"):
    assert any(words in title for title in titles)
    assert words in printed
  agreement = table["rows"][1]["facts"]
  assert list(agreement) == [
    "both nets right",
    "RGB net alone right",
    "landmark net alone right",
    "neither right",
  ]
  assert sum(mean for mean, _ in agreement.values()) == 12
  assert table["rows"][0]["facts"] == {}
  first = {row["name"]: list(row["figures"]) for row in table["rows"]}
  assert first["baseline: RGB net alone"] == first["w = 0.0"] == []
  assert first["proposed: p and w"] == ["cams.png", "cases.png"]
  for name in ("cams.png", "cases.png"):
    assert (workdir / "rows" / FOLDERS[1] / name).read_bytes()[:4] == b"\x89PNG"
  assert (workdir / "sweep.png").read_bytes()[:4] == b"\x89PNG"
  page = (workdir / "report.html").read_text()
  assert "Grad-CAM++ of tested pictures" in page
  assert "Table 11" in page


def test_an_imported_net_with_no_epochs_is_the_baseline_as_it_came(arm, tmp_path):
  """The command that `configs/landmark_fusion/ablation.py` gives for RAF-DB."""
  given = (f"init_from={arm}", "recipe.rgb_epochs=0", "rows=('baseline: RGB net alone',)", "seeds=1")
  study.run(STUDY, None, given, tmp_path, pathlib.Path("nowhere"), say=lambda line: None)
  found = result(tmp_path, FOLDERS[0])
  task = made("model.answer=rgb")
  tested = np.flatnonzero([key in set(found["key"][0]) for key in records().keys])
  logits = evaluator()(task.in_order(tested))["RGB net"]
  predicted = logits.argmax(-1)[np.argsort(task.in_order(tested), kind="stable")]
  assert found["predicted"][0] == predicted.tolist()


@pytest.mark.parametrize("name", ["ablation", "ablation_synthetic"])
def test_rows_of_the_configs_are_the_papers(name):
  described = configuration.load_study(ROOT / f"configs/landmark_fusion/{name}.py")
  for preset in described.presets:
    configuration.resolve(described, preset, (), options_of)
  _, rows = configuration.resolve(described, "paper", (), options_of)
  published = {row.name: row.published for row in described.rows if row.published}
  assert {key: round(value, 4) for key, value in published.items()} == {
    "baseline: RGB net alone": 0.9205,
    "no weights": 0.9198,
    "confidence p": 0.9198,
    "agreement w": 0.9214,
    "proposed: p and w": 0.9231,
  }
  paper = {"width": 1.0, "block": 16, "kernel_sizes": (5, 3, 3, 3, 3, 4), "image_size": 224}
  for row in rows.values():
    model = models.LandmarkFusion(7, **row.model.options)
    assert {key: getattr(model, key) for key in paper} == paper
    stages, hyper = system.recipe(model, 48, **row.recipe.options)
    assert {stage.epochs for stage in stages} == {70}
    assert (hyper["learning_rate"], hyper["rgb_learning_rate"], row.batch_size) == (1e-3, 1e-3, 256)
