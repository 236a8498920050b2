"""The stages, predictions, warnings and metrics of paper 003 with narrow networks, and a short study."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import config
from jaxfer.config import Call, RunConfig, Split
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.study import run, study, trainings
from jaxfer.study.split import split_of
from jaxfer.study.task import task_of
from jaxfer.systems.identity_expression_vae import (
  SYSTEM,
  code_metrics,
  examples,
  image_probes,
  published,
  table,
  updates,
)
from jaxfer.systems.identity_expression_vae.baselines import VAE, ConditionalVAE, condition
from jaxfer.systems.identity_expression_vae.model import IdentityExpressionVAE
from jaxfer.train import step as engine
from jaxfer.train.stage import Context
from jaxfer.train.state import State, begin, variables_of
from tests import drawn, small_systems

MODEL = IdentityExpressionVAE(image_size=32, width=1 / 32, latent=4)
CONFIGS = pathlib.Path(__file__).parents[3] / "configs/identity_expression_vae"


def identical(one, other):
  return jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))


@pytest.fixture(scope="module", autouse=True)
def _shallow():
  with small_systems.shallow():
    yield


@pytest.fixture(scope="module")
def initial():
  return jax.device_put(drawn.variables(MODEL.init, jnp.zeros((1, 32, 32, 3))))


@pytest.fixture(scope="module")
def steps():
  """The compiled step of each stage, (variables, batch, hparams) -> (variables, mean metrics); a batch and hparams."""
  stages, options = SYSTEM.recipe(MODEL, 1, iterated=True, rounds=2)
  assert stages == stages[:2] * 2
  compiled = {}
  for stage in stages[:2]:

    @jax.jit
    def step(variables, batch, hparams, stage=stage):
      before = begin(stage, variables)
      keys = jax.random.split(jax.random.key(2), 6)
      trainable, sums = engine.step(stage, before, batch, keys, Context(hparams))
      after = variables_of(State(trainable, before.frozen))
      return after, {name: total / count for name, (total, count) in sums.items()}

    compiled[stage.name] = step
  hparams = {name: jnp.float32(value) for name, value in options.items()}
  rng = np.random.default_rng(0)
  batch = {
    name: jnp.asarray(rng.random((6, 32, 32, 3), np.float32)) for name in ("image", "target", "partner")
  }
  return compiled, batch, hparams


@pytest.mark.parametrize("model", [MODEL, VAE(image_size=64)])
def test_the_error_may_be_a_mean_over_pixels_and_channels(model):
  numbers = 3 * model.image_size**2
  _, summed = SYSTEM.recipe(model, 1, error_weight=0.01)
  _, averaged = SYSTEM.recipe(model, 1, error_weight=0.01 * numbers, error_reduction="mean")
  assert averaged == pytest.approx(summed)


def test_the_readings_of_the_papers_weights_agree_on_divergence_to_error_at_64_pixels():
  """Except for the printed one: 1e5 and 0.01."""
  _, rows = config.resolve(config.load_study(CONFIGS / "table3.py"), "paper", (), run.options_of)
  ratios = {}
  for name in (published.BOTH, "both losses, weights exchanged", "both losses, weights dividing"):
    _, hparams = SYSTEM.recipe(IdentityExpressionVAE(), 1, **rows[name].recipe.options)
    ratios[name] = hparams["kl_weight"] / hparams["error_weight"]
  assert list(ratios.values()) == pytest.approx([1e-3, 1.2288e-3, 1.2288e-3])
  _, exchanged = SYSTEM.recipe(
    IdentityExpressionVAE(), 1, **rows["both losses, weights exchanged"].recipe.options
  )
  assert exchanged["error_weight"] == pytest.approx(8.138, abs=1e-3)


def test_each_stage_trains_its_own_submodules_and_leaves_the_others_unchanged(initial, steps):
  compiled, batch, hparams = steps
  frozen = {
    "identity": {"expression_encoder", "discriminator"},
    "expression": {"identity_encoder"},
  }
  for name, step in compiled.items():
    after, metrics = step(initial, batch, hparams)
    unchanged = {part for part, tree in after["params"].items() if identical(tree, initial["params"][part])}
    assert unchanged == frozen[name]
    assert all(np.isfinite(value) for value in metrics.values())


def test_the_identity_stage_does_not_use_the_expression_encoder(initial, steps):
  """Since z_e = 0, losses and step are the same for any expression encoder."""
  compiled, batch, hparams = steps
  other = {"params": {**initial["params"], "expression_encoder": initial["params"]["identity_encoder"]}}
  want, metrics = compiled["identity"](initial, batch, hparams)
  got, again = compiled["identity"](other, batch, hparams)
  assert metrics == again
  for part in ("identity_encoder", "decoder"):
    assert identical(got["params"][part], want["params"][part])
  # The target is another image than the input.
  _, other_target = compiled["identity"](initial, {**batch, "target": batch["image"]}, hparams)
  assert other_target["identity/error"] != metrics["identity/error"]
  assert other_target["identity/kl"] == metrics["identity/kl"]


def test_the_switch_loss_trains_the_decoder_through_the_frozen_identity_encoder(initial, steps):
  """If all expression codes are 0, the gradient comes only from z_i of the swapped image."""
  compiled, batch, hparams = steps
  silent = jax.tree.map(lambda a: a, initial)
  silent["params"]["expression_encoder"]["fc_mean"] = jax.tree.map(
    jnp.zeros_like, initial["params"]["expression_encoder"]["fc_mean"]
  )
  switch_only = {
    name: value * (name in ("learning_rate", "switch_weight")) for name, value in hparams.items()
  }
  after, metrics = compiled["expression"](silent, batch, switch_only)
  assert metrics["generator/switch"] > 0
  assert not identical(after["params"]["decoder"], silent["params"]["decoder"])
  assert identical(after["params"]["identity_encoder"], silent["params"]["identity_encoder"])
  no_loss = {**switch_only, "switch_weight": jnp.float32(0)}
  after, _ = compiled["expression"](silent, batch, no_loss)
  assert identical(after["params"]["decoder"], silent["params"]["decoder"])


def test_running_statistics_come_from_images_and_their_reconstructions_only(steps):
  """Images from the prior or from swapped codes do not change them, and the discriminator has none."""
  _, batch, hparams = steps
  model = MODEL.clone(norm="batch")
  variables = drawn.variables(model.init, jnp.zeros((1, 32, 32, 3)))
  assert "discriminator" not in variables["batch_stats"]
  keys = jax.random.split(jax.random.key(2), 6)

  def statistics(further_losses):
    options = {
      "adversarial": further_losses,
      "switch": further_losses,
      "saturating": False,
      "fixed_target": False,
    }
    loss = updates.generator(model, **options)
    return jax.jit(lambda: loss(variables, batch, keys, Context(hparams)).collections["batch_stats"])()

  without, with_both = statistics(False), statistics(True)
  assert set(without) == {"expression_encoder", "decoder"}
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), with_both, without)
  assert not identical(without["decoder"], variables["batch_stats"]["decoder"])


def test_the_discriminator_sees_the_fakes_of_the_generator_s_forward_pass(initial, steps):
  """Its loss does not depend on the size of the generator's step for this batch."""
  compiled, batch, hparams = steps
  _, metrics = compiled["expression"](initial, batch, hparams)
  _, no_step = compiled["expression"](initial, batch, {**hparams, "learning_rate": jnp.float32(0)})
  for name in ("real", "reconstructed", "prior"):
    assert metrics[f"discriminator/{name}"] == no_step[f"discriminator/{name}"]


def test_options_set_the_stages_their_updates_and_their_columns():
  whole, hparams = SYSTEM.recipe(MODEL, 3)
  assert [stage.columns for stage in whole] == [("row", "target"), ("row", "partner")]
  assert [update.name for update in whole[1].updates] == ["generator", "discriminator"]
  assert not any(stage.evaluated for stage in whole)
  plain, _ = SYSTEM.recipe(MODEL, 3, adversarial=False, switch=False)
  assert plain[1].columns == ("row",)
  assert [update.name for update in plain[1].updates] == ["generator"]
  five, _ = SYSTEM.recipe(MODEL, 3, iterated=True)
  assert [stage.evaluated for stage in five] == [False, True] * 5
  assert hparams["kl_weight"] == 1e-5
  assert hparams["switch_weight"] == 10
  (stage,), _ = SYSTEM.recipe(VAE(), 3)
  assert stage.updates[0].trainable == ("encoder", "decoder")
  assert [stage.epochs for stage in (whole[0], five[0], stage)] == [100, 50, 100]
  with pytest.raises(UserError, match=r"recipe.iterated=true: a plain"):
    SYSTEM.recipe(VAE(), 3, iterated=True)


def test_predictions_cluster_the_expression_code():
  rng = np.random.default_rng(0)
  labels = np.arange(36) % 9
  codes = np.concatenate([rng.standard_normal((36, 4)), np.eye(9)[labels] @ rng.standard_normal((9, 4))], 1)
  codes[:, 4:] += 1e-3 * rng.standard_normal((36, 4))
  prediction = SYSTEM.predictions(MODEL, codes, labels)[""]
  assert prediction.correct.mean() > 0.8
  assert (prediction.predicted == labels).mean() > 0.9
  swapped = SYSTEM.predictions(MODEL, codes[:, ::-1], labels)[""]
  assert swapped.correct.mean() < 0.6
  broken = SYSTEM.predictions(MODEL, np.full((36, 8), np.nan), labels)[""]
  assert (broken.predicted == -1).all()
  assert broken.correct.sum() == 0
  collapsed = SYSTEM.predictions(MODEL, np.zeros((36, 8)), labels)[""]
  assert collapsed.correct.mean() == pytest.approx(1 / 9)
  with pytest.raises(UserError, match="9 images to recognise by 9 clusters"):
    SYSTEM.predictions(MODEL, codes[:9], labels[:9])


def test_warnings_name_a_collapsed_code_and_a_discriminator_without_loss():
  epoch = {"stage": "expression", "split": "train", "epoch": 1}
  codes = np.random.default_rng(0).standard_normal((12, 8))

  def warnings(*history, codes=codes):
    return SYSTEM.warnings(MODEL, [{**epoch, **metrics} for metrics in history], codes)

  assert warnings({"generator/kl": 4.0, "discriminator/real": 0.1}) == []
  (line,) = warnings({"generator/kl": 4.0}, {"epoch": 2, "generator/kl": 0.01})
  assert "stage 'expression' has collapsed: it is 0.01 nat from" in line
  (line,) = warnings({"generator/kl": 4.0, "discriminator/real": 1e-4, "discriminator/prior": 0.0})
  assert "tells real and decoded images apart without error (loss 0.0001)" in line
  few = np.concatenate([codes[:, :4], codes[np.arange(12) % 2, 4:]], 1)
  (line,) = warnings({"generator/kl": 4.0}, codes=few)
  assert (
    line == "the codes of the 12 test images have only 2 distinct values: they form 2 clusters instead of 9"
  )
  assert warnings({"generator/kl": 4.0}, codes=np.full((12, 8), np.nan)) == []


def test_only_a_conditional_vae_has_a_condition_and_it_may_be_zero():
  model = ConditionalVAE(subjects=3)
  np.testing.assert_array_equal(condition(model, 2, None), np.zeros((2, 3)))
  np.testing.assert_array_equal(condition(model, 1, jnp.asarray([1])), [[0, 1, 0]])
  assert condition(VAE(), 2, None) is None


def test_partners_in_swaps_are_other_people_and_always_the_same():
  subjects = np.asarray([0, 0, 0, 1, 2, 2])
  other = code_metrics.partners(subjects)
  assert (subjects[other] != subjects).all()
  np.testing.assert_array_equal(code_metrics.partners(subjects), other)
  with pytest.raises(UserError, match="one subject"):
    code_metrics.partners(np.zeros(3, int))


def faces(purpose=None):
  """Two images of each of four people with each of seven expressions; with `purpose`, one image for each purpose."""
  rng = np.random.default_rng(0)
  label = np.tile(np.arange(7), 8)
  subject = np.repeat(np.arange(4), 14)
  image = (
    rng.integers(0, 90, (56, 32, 32, 3)) + 20 * label[:, None, None, None] + 8 * subject[:, None, None, None]
  )
  names = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
  texts = {"purpose": [purpose[k // 7 % 2] for k in range(56)]} if purpose else None
  arrays = {"image": image.clip(0, 255).astype(np.uint8), "label": label}
  return Records.from_arrays(
    arrays, [f"{k:02d}" for k in range(56)], names, [f"P{who}" for who in subject], texts
  )


TINY = RunConfig(
  recipe=Call("identity_expression_vae", epochs=1, rounds=2, round_epochs=1),
  model=Call("identity_expression_vae", width=1 / 32, image_size=32, latent=4),
  data=Call("synthetic_faces"),  # Only the name is used; the records come from `faces`.
  split=Split(test=0.5),
  batch_size=14,
)


def test_records_for_recognition_are_only_evaluated_and_others_only_trained_on():
  data = faces(("training", "recognition"))
  split = split_of(TINY, data)
  purpose, subject = np.asarray(data.texts["purpose"]), data.arrays["subject"]
  assert set(purpose[split.train]) == {"training"}
  assert set(purpose[split.test]) == {"recognition"}
  assert split.train.sum() == split.test.sum() == 14
  evaluated = code_metrics.recognition_indices(task_of(TINY, data), np.flatnonzero(split.train))
  assert set(purpose[evaluated]) == {"recognition"}
  assert set(subject[evaluated]) == set(subject[split.train])


def test_metrics_without_enough_images_or_people_are_none(initial, monkeypatch):
  """One training and one test person, each with one image per expression: fewer images than clusters."""
  none_left = image_probes.Probes({}, np.arange(0))  # As if the probes had been trained on all images.
  monkeypatch.setattr(image_probes, "fitted", lambda *args: none_left)
  task = task_of(TINY, faces())
  found = code_metrics.metrics(task, initial, np.arange(7), np.arange(42, 49))
  missing = {name for name, value in found.items() if value is None}
  kept = {name for name in found if "swaps" in name or "photographs" in name}
  read = {"subject from z_i", "subject from z_e"}
  assert missing == kept | read | {"train", "train, sd over trials", "test", "test, sd over trials"}
  assert set(found) - missing == {"train, error", "test, error", "expression from z_i", "expression from z_e"}


def test_expressions_go_from_joy_to_sadness_and_training_people_are_shown_at_the_peak(initial):
  data = faces(("training", "recognition"))
  task, split = task_of(TINY, data), split_of(TINY, data)
  made = examples.make(task, initial, np.flatnonzero(split.train), np.flatnonzero(split.test))
  image, label, subject = (data.arrays[name] for name in ("image", "label", "subject"))
  purpose = np.asarray(data.texts["purpose"])
  people = np.unique(subject[split.test])
  ends = made.interpolation.source, made.interpolation.target
  for end, person, name in zip(ends, people[[0, -1]], ("happiness", "sadness"), strict=True):
    of_person = split.test & (subject == person) & (label == data.label_names.index(name))
    assert any((end == each).all() for each in image[of_person])
  for each in made.train.identities:
    assert {*purpose[(image == each).all((1, 2, 3))]} == {"recognition"}


def test_a_conditional_vae_is_created_for_the_people_of_the_data():
  model: Any = task_of(dataclasses.replace(TINY, model=Call("conditional_vae", image_size=32)), faces()).model
  assert model.subjects == 4


def test_a_study_of_both_stages_in_rounds(tmp_path, monkeypatch):
  """It evaluates each round, computes the metrics at the end, and draws tables and figures from its folder."""
  monkeypatch.setattr(trainings, "load_data", lambda config, data_dir: faces())
  full = config.load_study(CONFIGS / "table3_synthetic.py")
  variant = next(variant for variant in full.rows if variant.name == published.ITERATED)
  small = dataclasses.replace(
    full,
    base=TINY,
    rows=(variant,),
    compared=(),
    presets={"small": {}},
    seeds=1,
  )
  overrides = ("execution.driver=steps", "execution.devices=1")
  monkeypatch.setattr(SYSTEM, "warnings", lambda model, history, outputs: ["well done"])
  lines = []
  written = study.run(small, None, overrides, tmp_path, pathlib.Path("nowhere"), log=lines.append)
  (result,) = written["rows"]
  history = [
    json.loads(line) for line in next(tmp_path.glob("rows/*/history.jsonl")).read_text().splitlines()
  ]
  assert [line["stage"] for line in history if line["split"] == "test"] == ["expression"] * 2
  assert [line["stage"] for line in history if line["split"] == "train"] == ["identity", "expression"] * 2
  rounds = table.by_round(result)
  assert rounds[1][0] == pytest.approx(100 * result["mean"])
  assert result["metrics"]["test"] == [pytest.approx(result["mean"])]
  assert f"remark: {variant.name}, seed 0, fold 0: well done" in "\n".join(lines)
  assert result["warnings"] == ["seed 0, fold 0: well done"]
  assert f"- remark: {variant.name}, seed 0, fold 0: well done\n" in (tmp_path / "table.md").read_text()
  assert f"{variant.name}, seed 0, fold 0: well done" in (tmp_path / "report.html").read_text()
  titles = [further["title"].split(":")[0].split(",")[0] for further in written["tables"]]
  assert len(titles) == 4
  for name in ("rounds.png", "swaps_test.png", "swaps_train.png", "between.png", "report.html"):
    assert (tmp_path / name).is_file(), name
  for name in ("swaps.png", "between.png", "map.png", "reconstructions.png"):
    assert len(list(tmp_path.glob(f"rows/*/{name}"))) == 1


def test_published_numbers():
  assert published.TABLE[0].name == published.CONVENTIONAL
  assert len(published.ROWS) == 8
  first, last = published.ROWS[published.CONVENTIONAL], published.ROWS[published.LARGE]
  # The conclusion of the paper gives both gains, but exchanged (README, section 7).
  assert last.train[0] - first.train[0] == pytest.approx(11.62)
  assert last.test[0] - first.test[0] == pytest.approx(15.97)
  full = config.load_study(CONFIGS / "table3_synthetic.py")
  for variant in full.rows:
    if variant.name == published.BOTH_LARGE:
      assert variant.published is None
      continue
    test = published.ROWS[variant.name].test
    assert variant.published == (None if test is None else pytest.approx(test[0] / 100))
