"""The recipe of paper 000: noise, layer-by-layer training, fine-tuning, and its study.

Each seed of the study draws its own test images.
"""

import dataclasses
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import config
from jaxfer.config import Call, Row, RunConfig, Split
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.report import grids
from jaxfer.study import study, trainings
from jaxfer.study.split import split_of
from jaxfer.study.task import options_of
from jaxfer.systems import create_model
from jaxfer.systems.stacked_autoencoder import SYSTEM, figures, published
from jaxfer.systems.stacked_autoencoder.model import corrupt
from jaxfer.train import state, step, trainer, weights
from jaxfer.train.stage import Context
from tests import study_toy

ROOT = pathlib.Path(__file__).parents[3]


def records(people=14):
  """Records with one image of each person in each of the paper's classes.

  An image is noise with one bright pixel, whose place depends on the class.
  """
  rng = np.random.default_rng(0)
  label = np.tile(np.arange(7), people)
  image = rng.integers(0, 90, (len(label), 4, 4, 1))
  image.reshape(len(label), 16)[np.arange(len(label)), 2 * label] += 150
  keys = [f"P{k // 7:02d}_{k % 7}" for k in range(len(label))]
  arrays = {"image": image.astype(np.uint8), "label": label}
  return Records.from_arrays(arrays, keys, published.CLASSES[::-1], [key[:3] for key in keys])


BASE = RunConfig(
  recipe=Call("stacked_autoencoder", pretrain_epochs=2, epochs=20, learning_rate=0.5, noise_layers=(1, 2)),
  model=Call("stacked_autoencoder", sizes=(12, 9)),
  data=Call("synthetic_faces"),  # Only the name is used; the tests read `records` instead.
  split=Split(kind="per_class", per_class=3, seed=None),
  batch_size=7,
  execution=config.Execution(members="vmap", devices=1),
)


example_keys = jax.jit(step.example_keys)


def trained(model, image, key=0, steps=3, **options):
  """Returns the stages, and the variables before the first and after each one. Every batch is `image`."""
  stages, hparams = SYSTEM.recipe(model, 1, pretrain_epochs=1, epochs=1, **options)
  batch = {"image": image, "label": jnp.arange(len(image)) % 7}
  context = Context({name: jnp.float32(value) for name, value in hparams.items()})
  variables = jax.jit(model.init)(jax.random.key(key), image)
  after = [variables]
  for number, stage in enumerate(stages):
    begun = state.begin(stage, variables)
    # A stage starts exactly from the variables of the stage before.
    jax.tree.map(np.testing.assert_array_equal, state.variables_of(begun)["params"], variables["params"])
    trainable = begun.trainable
    advance = jax.jit(
      lambda trainable, frozen, keys, stage=stage: step.step(
        stage, state.State(trainable, frozen), batch, keys, context
      )[0]
    )
    for k in range(steps):
      keys = example_keys(jax.random.key(number), jnp.int32(k), jnp.arange(len(image)))
      trainable = advance(trainable, begun.frozen, keys)
    variables = state.variables_of(state.State(trainable, begun.frozen))
    after.append(variables)
  return stages, after


def changed(before, after):
  """Names of the submodules with a parameter that changed."""
  return {
    name
    for name, tree in before["params"].items()
    if any(
      (a != b).any()
      for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(after["params"][name]), strict=True)
    )
  }


def images(count=8):
  return jnp.asarray(np.random.default_rng(1).uniform(0, 1, (count, 4, 4, 1)), jnp.float32)


@pytest.mark.parametrize("tied", [False, True])
def test_each_stage_trains_its_layer_and_fine_tuning_all_but_the_decoders(tied):
  model = create_model("stacked_autoencoder", sizes=(6, 5, 4), tied=tied)
  stages, after = trained(model, images())
  assert [stage.name for stage in stages] == ["layer 1", "layer 2", "layer 3", "fine-tuning"]
  changes = [changed(*pair) for pair in itertools.pairwise(after)]
  assert changes[:3] == [{f"encoder{layer}", f"decoder{layer}"} for layer in (1, 2, 3)]
  assert changes[3] == {"encoder1", "encoder2", "encoder3", "classifier"} == set(stages[3].trainable)


def test_without_pre_training_fine_tuning_is_the_only_stage():
  model = create_model("stacked_autoencoder", sizes=(6,))
  stages, hparams = SYSTEM.recipe(model, 1, pretrain=False)
  assert [stage.name for stage in stages] == ["fine-tuning"]
  assert set(hparams) == {"learning_rate"}


def test_a_noise_rate_of_zero_equals_no_noise_bit_for_bit():
  model = create_model("stacked_autoencoder", sizes=(6, 5))
  plain, rate_zero, noisy = (
    trained(model, images(), **options)[1][-1]
    for options in (
      {"noise_layers": ()},
      {"noise_layers": (1, 2), "noise_rate": 0.0},
      {"noise_layers": (1, 2)},
    )
  )
  jax.tree.map(np.testing.assert_array_equal, plain, rate_zero)
  assert changed(plain, noisy) == set(plain["params"])


def test_noise_is_applied_to_the_named_layers_only():
  """Layer 2 reads the clean output of layer 1, so noise on layer 2 alone does not change the training of layer 1."""
  model = create_model("stacked_autoencoder", sizes=(6, 5))
  (_, clean_first, clean_second, _), (_, noisy_first, noisy_second, _) = (
    trained(model, images(), noise_layers=layers)[1] for layers in ((), (2,))
  )
  assert not changed(clean_first, noisy_first)
  assert changed(clean_second, noisy_second) == {"encoder2", "decoder2"}


def test_masks_have_the_given_rate_and_differ_between_examples_and_steps():
  keys = step.example_keys(jax.random.key(0), jnp.int32(5), jnp.arange(50))
  units = jnp.full((50, 4096), 0.5)
  corrupted = np.asarray(corrupt(units, keys, 0.3))
  assert set(np.unique(corrupted)) == {0.0, 0.5}  # The other units are not rescaled.
  zero = corrupted == 0
  assert abs(zero.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / zero.size)
  assert (np.abs(zero.mean(1) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 4096)).all()
  assert (np.abs(zero.mean(0) - 0.3) < 5.5 * np.sqrt(0.3 * 0.7 / 50)).all()
  correlations = np.corrcoef(zero.astype(float))
  assert np.abs(correlations - np.eye(50)).max() < 5 / np.sqrt(4096)
  np.testing.assert_array_equal(corrupt(units[7:8], keys[7:8], 0.3)[0], corrupted[7])
  later = step.example_keys(jax.random.key(0), jnp.int32(6), jnp.arange(50))
  assert (np.asarray(corrupt(units, later, 0.3)) != corrupted).any(1).all()


def test_the_loss_of_sigmoid_outputs_is_half_the_squared_error_to_one_hot_targets():
  model = create_model("stacked_autoencoder", sizes=(6,))
  (stage,), _ = SYSTEM.recipe(model, 1, pretrain=False, output="sigmoid")
  image = images(3)
  variables = model.init(jax.random.key(0), image)
  batch = {"image": image, "label": jnp.asarray([0, 6, 2])}
  total, count = stage.updates[0].loss(variables, batch, None, Context({})).loss["loss"]
  outputs = 1 / (1 + np.exp(-np.asarray(model.apply(variables, image), np.float64)))
  assert total == pytest.approx(((outputs - np.eye(7)[[0, 6, 2]]) ** 2).sum() / 2, rel=1e-5)
  assert count == 3


def test_batches_are_grey_in_0_to_1_and_colours_become_their_luma():
  grey = np.asarray([0, 255], np.uint8).reshape(2, 1, 1, 1)
  batch = SYSTEM.eval_batch({"image": grey, "label": np.asarray([4, 5])}, jnp.asarray([1, 0]))
  np.testing.assert_array_equal(batch["image"].ravel(), [1, 0])
  np.testing.assert_array_equal(batch["label"], [5, 4])
  colours = (255 * np.eye(3, dtype=np.uint8)).reshape(3, 1, 1, 3)
  batch = SYSTEM.eval_batch({"image": colours, "label": np.zeros(3, np.int32)}, jnp.arange(3))
  np.testing.assert_allclose(batch["image"].ravel(), [0.299, 0.587, 0.114], rtol=1e-6)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (("recipe.noise_rate=1.0",), "recipe.noise_rate=1.0: give a number, from 0 to below 1"),
    (("recipe.noise_rate=-0.1",), "recipe.noise_rate=-0.1: give a number"),
    (("recipe.noise_rate=nan",), "recipe.noise_rate=nan: give a number"),
    (("recipe.noise_layers=(2, 3)",), "the model has no layer 3, give 1 to 2"),
    (("recipe.noise_layers=(0,)",), "recipe.noise_layers[0]=0: give a whole number, from 1 to"),
    (("recipe.reconstruction=l1",), "unknown value of recipe.reconstruction 'l1'"),
    (("split.per_class=14",), "class 'surprise' has 14 records, too few to test 14 of them"),
  ],
)
def test_invalid_configs_are_refused_in_one_line(overrides, message):
  with pytest.raises(UserError) as error:
    trainings.prepare(config.override(BASE, overrides, options_of), records())
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_records_without_still_images_are_refused():
  clips = dataclasses.replace(records(), arrays={"frames": np.zeros((98, 2, 4, 4, 3), np.uint8)})
  with pytest.raises(UserError, match="records with no image: this system reads still images"):
    SYSTEM.to_arrays(clips)
  floats = records()
  floats.arrays["image"] = np.full((98, 4, 4, 1), np.nan)
  with pytest.raises(UserError, match=r"image float64 \(4, 4, 1\): this system reads still images"):
    SYSTEM.to_arrays(floats)


STUDY = config.StudyConfig(
  title="toy",
  source="nowhere",
  base=BASE,
  rows=(
    Row("noise", {}, 0.5),
    Row("no pre-training", {"recipe.pretrain": False}),
    Row("unseen people", {"split.kind": "per_class_people"}),
  ),
  seeds=(0, 10),
  compared=(("noise", "no pre-training"),),
  presets={"small": {}},
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("study")
  lines = []
  with pytest.MonkeyPatch.context() as patch:
    noted = dataclasses.replace(records(), notes=("jaffe: 3 records, expected 4",))
    patch.setattr(trainings, "load_data", lambda config, data_dir: noted)
    table = study.run(STUDY, None, (), workdir, pathlib.Path("nowhere"), log=lines.append)
  return workdir, table, "\n".join(lines)


def result(workdir, variant):
  return json.loads((workdir / f"rows/{variant}/result.json").read_text())


def test_seeds_differ_in_their_test_records_and_variants_of_one_seed_do_not(done):
  workdir, table, _ = done
  noise, plain, unseen = (result(workdir, name) for name in ("noise", "no-pre-training", "unseen-people"))
  assert [len(keys) for keys in noise["key"]] == [21, 21]
  assert noise["key"][0] != noise["key"][1]
  assert noise["key"] == plain["key"] != unseen["key"]
  for seed, keys in zip((0, 10), noise["key"], strict=True):
    alone = split_of(dataclasses.replace(BASE, seed=seed), records())
    assert [records().keys[index] for index in np.flatnonzero(alone.test)] == keys
  for seed in (0, 10):
    people = dataclasses.replace(
      BASE, seed=seed, split=dataclasses.replace(BASE.split, kind="per_class_people")
    )
    split = split_of(people, records())
    assert not set(records().subjects[split.train]) & set(records().subjects[split.test])
  variant = table["rows"][0]
  assert (variant["count"], variant["records"]) == (42, len({key for keys in noise["key"] for key in keys}))
  assert np.asarray(variant["by_class"]["count"]).tolist() == [[3] * 7] * 2
  right = [np.equal(p, q) for p, q in zip(noise["predicted"], noise["label"], strict=True)]
  assert variant["per_seed"] == [each.mean() for each in right]
  assert np.asarray(variant["by_class"]["correct"]).sum(1).tolist() == [each.sum() for each in right]
  assert variant["mean"] > 3 / 7


def test_a_study_shows_table_2_and_the_error_of_each_layer(done):
  workdir, table, printed = done
  first, means, disagreeing, emotions, units = table["tables"]
  assert first["title"].startswith("Table 2")
  printed_lines = [line for line in first["rows"] if line[0].startswith("published")]
  assert [f"{line[1]:.1f}" for line in printed_lines] == [
    "72.9",
    "64.3",
    "75.7",
    "64.3",
    "60.0",
    "72.9",
    "68.3",
  ]
  assert printed_lines[4][2:9] == [8, 9, 2, 9, 4, 3, 7]
  assert f"{printed_lines[-1][9]:.2f}" == "76.33"
  ours = [line for line in first["rows"] if line[0].startswith("ours")]
  assert [line[0] for line in ours] == ["ours, seed 0", "ours, seed 10", "ours, mean"]
  assert [line[1] / 100 for line in ours[:2]] == pytest.approx(table["rows"][0]["per_seed"])
  # The data list the classes in reverse order. The cells show the count, because it is not ten.
  correct = table["rows"][0]["by_class"]["correct"][0]
  assert ours[0][2:9] == [f"{k}/3" for k in correct[::-1]]
  assert [line[0] for line in means["rows"]] == [variant.name for variant in STUDY.rows]
  assert disagreeing["rows"][1] == [
    "Table 3, person 3",
    pytest.approx(72.9),
    pytest.approx(65.714, abs=1e-3),
    "46/70",
  ]
  assert [row[0] for row in emotions["rows"]] == [
    "anger",
    "disgust",
    "fear",
    "happiness",
    "sadness",
    "surprise",
  ]
  assert emotions["rows"][3][1] == "1 (65), 6 (70), 12 (10), 14 (10)"
  assert [len(units["rows"]), units["rows"][0][0], units["rows"][-1][-1]] == [
    11,
    "1 inner brow raiser",
    "46 wink",
  ]
  errors = table["rows"][0]["summaries"]
  assert list(errors) == ["error of layer 1", "error of layer 2"]
  assert table["rows"][1]["summaries"] == {}
  last = [
    epoch["error"]
    for epoch in study_toy.history(workdir / "rows/noise")
    if epoch["stage"] == "layer 1" and epoch["epoch"] == 2
  ]
  assert errors["error of layer 1"] == pytest.approx([np.mean(last), np.std(last, ddof=1)])
  for text in (printed, (workdir / "table.md").read_text(), (workdir / "report.html").read_text()):
    for words in (
      "Table 2, correct of 10 by class",
      "published, seed 40",
      "error of layer 2",
      "whoever they show",
      "Table 4, published",
      "4 brow lowerer",
      "jaffe: 3 records, expected 4",
    ):
      assert words in text


def test_reconstructions_are_drawn_for_pre_trained_models_only(done):
  workdir, table, _ = done
  always = ["data_sets.png", "filters.png", "effective_pixels.png"]
  pretrained = [*always, "reconstructions.png"]
  assert [list(variant["figures"]) for variant in table["rows"]] == [pretrained, always, pretrained]
  for name in ("filters.png", "reconstructions.png"):
    assert (workdir / "rows/noise" / name).read_bytes()[:4] == b"\x89PNG"


def test_the_examples_have_one_image_of_each_class_and_data_set(tmp_path, monkeypatch):
  """Two data sets of a mixture, of which the second has no images of the first class."""
  data = records(people=2)
  keys = tuple(("jaffe/" if k < 7 else "kdef/") + key for k, key in enumerate(data.keys))
  mixed = dataclasses.replace(data, keys=keys)
  task = trainings.prepare(dataclasses.replace(BASE, split=Split(test=0.5)), mixed).tasks[""]
  task = dataclasses.replace(task, config=dataclasses.replace(BASE, data=Call("paper000")))
  drawn = []
  monkeypatch.setattr(grids, "rows_png", lambda *given: drawn.append(given))
  caption = figures.draw_examples(
    task, np.asarray([8, 9, 10, 11, 12, 13, 6, 5, 4, 3, 2, 1, 0]), tmp_path / "x.png"
  )
  ((pictures, names, *_),) = drawn
  assert names == ["jaffe", "kdef"]
  np.testing.assert_array_equal(pictures[0], data.arrays["image"][:7])
  np.testing.assert_array_equal(pictures[1, 1:], data.arrays["image"][8:])
  assert (pictures[1, 0] == 255).all()
  assert ", ".join(published.CLASSES[::-1]) in caption
  assert "White: the data set has no such image." in caption
  task = dataclasses.replace(task, config=BASE)
  figures.draw_examples(task, np.arange(14), tmp_path / "x.png")
  assert drawn[1][1] == ["synthetic_faces"]


def test_members_trained_side_by_side_equal_members_trained_in_turn(done, tmp_path, monkeypatch):
  monkeypatch.setattr(trainings, "load_data", lambda config, data_dir: records())
  one = dataclasses.replace(STUDY, rows=STUDY.rows[:1], compared=())
  study.run(
    one, None, ("execution.members=sequential",), tmp_path, pathlib.Path("nowhere"), log=lambda line: None
  )
  assert result(tmp_path, "noise")["predicted"] == result(done[0], "noise")["predicted"]


def test_a_training_keeps_the_first_layer_as_it_was_before_fine_tuning(tmp_path, monkeypatch):
  """The reference trains the first layer alone. The figures of a restored training need no training."""
  small = dataclasses.replace(
    BASE,
    recipe=Call("stacked_autoencoder", pretrain_epochs=2, epochs=2, noise_layers=(1,)),
    model=Call("stacked_autoencoder", sizes=(12,)),
    execution=config.Execution(devices=1, driver="steps"),
  )
  prepared = trainings.prepare(small, records())
  first = dataclasses.replace(prepared.training, stages=prepared.training.stages[:1])
  whole = trainer.Trainer(prepared.training, tmp_path / "run", log=lambda line: None)
  (fitted,) = whole.fit()
  (alone,) = trainer.Trainer(first, tmp_path / "first", log=lambda line: None).fit()
  (restored,) = whole.restore()
  jax.tree.map(np.testing.assert_array_equal, restored.variables, fitted.variables)
  kept, before = restored.variables[state.SNAPSHOT], alone.variables["params"]
  assert list(kept) == ["encoder1"]
  jax.tree.map(np.testing.assert_array_equal, kept["encoder1"], before["encoder1"])
  after = restored.variables["params"]
  jax.tree.map(np.testing.assert_array_equal, after["decoder1"], before["decoder1"])
  assert changed({"params": kept}, {"params": after}) == {"encoder1"}
  trainings.keep(tmp_path / "weights", prepared.tasks[""], restored.variables, {})
  assert set(weights.load_weights(tmp_path / "weights")[0]) == {"params"}
  monkeypatch.setattr(trainer.Trainer, "fit", None)
  SYSTEM.figures(
    prepared.tasks[""], restored.variables, restored.member.plan.rows, restored.member.test, tmp_path
  )
  assert (tmp_path / "reconstructions.png").exists()


@pytest.mark.parametrize("name", ["table2", "table2_synthetic"])
def test_the_variants_of_the_configs_follow_the_paper(name):
  loaded = config.load_study(ROOT / f"configs/stacked_autoencoder/{name}.py")
  assert loaded.named_seeds == tuple(published.NET)
  assert loaded.rows[0].published == pytest.approx(287 / 420)
  variants = config.resolve(loaded, "paper", (), options_of)[1].values()
  assert {own.split.kind for own in variants} == {"per_class", "per_class_people"}
  assert {(own.split.seed, own.split.per_class, own.batch_size) for own in variants} == {(None, 10, 20)}
