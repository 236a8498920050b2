"""Paper 003's stages at a sixteenth of the widths: what moves, what is met, what is said; and a study of seconds."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import config, study
from jaxfer.config import Call, RunConfig, Split
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.experiments import run
from jaxfer.experiments.task import split_of, task_of
from jaxfer.systems.identity_expression_vae import SYSTEM, code_metrics, published, updates
from jaxfer.systems.identity_expression_vae import image_probes as image_probes
from jaxfer.systems.identity_expression_vae import table as table_003
from jaxfer.systems.identity_expression_vae.baselines import VAE, ConditionalVAE, condition
from jaxfer.systems.identity_expression_vae.model import IdentityExpressionVAE
from jaxfer.train import step as engine
from jaxfer.train.stage import Context
from jaxfer.train.state import State, begin, variables_of

MODEL = IdentityExpressionVAE(image_size=32, width=1 / 32, latent=4)
CONFIGS = pathlib.Path(__file__).parents[3] / "configs/identity_expression_vae"


def identical(one, other):
  return jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))


@pytest.fixture(scope="module")
def start():
  return jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.fixture(scope="module")
def steps():
  """Both stages' compiled steps: (variables, batch) -> (variables, mean metrics)."""
  stages, hyper = SYSTEM.recipe(MODEL, 1, iterated=True, rounds=2)
  assert stages == stages[:2] * 2
  compiled = {}
  for stage in stages[:2]:

    @jax.jit
    def go(variables, batch, numbers, stage=stage):
      before = begin(stage, variables)
      keys = jax.random.split(jax.random.key(2), 6)
      moving, sums = engine.step(stage, before, batch, keys, Context(numbers))
      after = variables_of(State(moving, before.still))
      return after, {name: total / count for name, (total, count) in sums.items()}

    compiled[stage.name] = go
  numbers = {name: jnp.float32(value) for name, value in hyper.items()}
  rng = np.random.default_rng(0)
  batch = {
    name: jnp.asarray(rng.random((6, 32, 32, 3), np.float32)) for name in ("image", "target", "partner")
  }
  return compiled, batch, numbers


def test_each_stage_moves_its_own_and_leaves_the_rest_bit_for_bit(start, steps):
  compiled, batch, numbers = steps
  still = {
    "identity": {"expression_encoder", "discriminator"},
    "expression": {"identity_encoder"},
  }
  for name, go in compiled.items():
    after, metrics = go(start, batch, numbers)
    found = {part for part, tree in after["params"].items() if identical(tree, start["params"][part])}
    assert found == still[name]
    assert all(np.isfinite(value) for value in metrics.values())


def test_the_identity_stage_does_not_know_the_expression_encoder(start, steps):
  """z_e = 0: the same losses and the same step whatever that encoder is."""
  compiled, batch, numbers = steps
  other = {"params": {**start["params"], "expression_encoder": start["params"]["identity_encoder"]}}
  want, metrics = compiled["identity"](start, batch, numbers)
  got, again = compiled["identity"](other, batch, numbers)
  assert metrics == again
  for part in ("identity_encoder", "decoder"):
    assert identical(got["params"][part], want["params"][part])
  # Its target is another image than its input.
  _, elsewhere = compiled["identity"](start, {**batch, "target": batch["image"]}, numbers)
  assert elsewhere["identity/error"] != metrics["identity/error"]
  assert elsewhere["identity/kl"] == metrics["identity/kl"]


def test_the_switch_loss_teaches_the_decoder_through_the_still_identity_encoder(start, steps):
  """With expression codes that are always 0, only z_i read again from the swapped image has a gradient."""
  compiled, batch, numbers = steps
  mute = jax.tree.map(lambda a: a, start)
  mute["params"]["expression_encoder"]["fc_mean"] = jax.tree.map(
    jnp.zeros_like, start["params"]["expression_encoder"]["fc_mean"]
  )
  alone = {name: value * (name in ("learning_rate", "switch_weight")) for name, value in numbers.items()}
  after, metrics = compiled["expression"](mute, batch, alone)
  assert metrics["generator/switch"] > 0
  assert not identical(after["params"]["decoder"], mute["params"]["decoder"])
  assert identical(after["params"]["identity_encoder"], mute["params"]["identity_encoder"])
  nothing = {**alone, "switch_weight": jnp.float32(0)}
  after, _ = compiled["expression"](mute, batch, nothing)
  assert identical(after["params"]["decoder"], mute["params"]["decoder"])


def test_running_statistics_are_those_of_images_and_their_reconstructions(steps):
  """What is decoded from the prior or from swapped codes, and read again, leaves none; the discriminator has none."""
  _, batch, numbers = steps
  model = MODEL.clone(norm="batch")
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  assert "discriminator" not in variables["batch_stats"]
  keys = jax.random.split(jax.random.key(2), 6)

  def statistics(both):
    options = {"adversarial": both, "switch": both, "saturating": False, "fixed_target": False}
    loss = updates.generator(model, **options)
    return jax.jit(lambda: loss(variables, batch, keys, Context(numbers)).collections["batch_stats"])()

  alone, beside = statistics(False), statistics(True)
  assert set(alone) == {"expression_encoder", "decoder"}
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), beside, alone)
  assert not identical(alone["decoder"], variables["batch_stats"]["decoder"])


def test_the_discriminator_sees_the_fakes_of_the_generator_s_forward_pass(start, steps):
  """Its loss does not depend on how far the generator's own step goes in this batch."""
  compiled, batch, numbers = steps
  _, metrics = compiled["expression"](start, batch, numbers)
  _, frozen = compiled["expression"](start, batch, {**numbers, "learning_rate": jnp.float32(0)})
  for name in ("real", "reconstructed", "prior"):
    assert metrics[f"discriminator/{name}"] == frozen[f"discriminator/{name}"]


def test_terms_by_option_and_columns_by_stage():
  whole, hyper = SYSTEM.recipe(MODEL, 3)
  assert [stage.columns for stage in whole] == [("row", "target"), ("row", "partner")]
  assert [update.name for update in whole[1].updates] == ["generator", "discriminator"]
  assert not any(stage.judged for stage in whole)
  plain, _ = SYSTEM.recipe(MODEL, 3, adversarial=False, switch=False)
  assert plain[1].columns == ("row",)
  assert [update.name for update in plain[1].updates] == ["generator"]
  five, _ = SYSTEM.recipe(MODEL, 3, iterated=True)
  assert [stage.judged for stage in five] == [False, True] * 5
  assert hyper["kl_weight"] == 1e-5
  assert hyper["switch_weight"] == 10
  (stage,), _ = SYSTEM.recipe(VAE(), 3)
  assert stage.updates[0].trainable == ("encoder", "decoder")
  assert [stage.epochs for stage in (whole[0], five[0], stage)] == [100, 50, 100]
  with pytest.raises(UserError, match=r"recipe.iterated=true: a plain"):
    SYSTEM.recipe(VAE(), 3, iterated=True)


def test_readings_cluster_the_expression_code():
  rng = np.random.default_rng(0)
  labels = np.arange(36) % 9
  codes = np.concatenate([rng.standard_normal((36, 4)), np.eye(9)[labels] @ rng.standard_normal((9, 4))], 1)
  codes[:, 4:] += 1e-3 * rng.standard_normal((36, 4))
  reading = SYSTEM.predictions(MODEL, codes, labels)[""]
  assert reading.correct.mean() > 0.8
  assert (reading.predicted == labels).mean() > 0.9
  swapped = SYSTEM.predictions(MODEL, codes[:, ::-1], labels)[""]
  assert swapped.correct.mean() < 0.6
  broken = SYSTEM.predictions(MODEL, np.full((36, 8), np.nan), labels)[""]
  assert (broken.predicted == -1).all()
  assert broken.correct.sum() == 0
  collapsed = SYSTEM.predictions(MODEL, np.zeros((36, 8)), labels)[""]
  assert collapsed.correct.mean() == pytest.approx(1 / 9)
  with pytest.raises(UserError, match="9 images to recognise by 9 clusters"):
    SYSTEM.predictions(MODEL, codes[:9], labels[:9])


def test_collapse_and_a_victorious_discriminator_are_remarked():
  row = {"stage": "expression", "split": "train", "epoch": 1}
  codes = np.random.default_rng(0).standard_normal((12, 8))

  def remarks(*history, codes=codes):
    return SYSTEM.warnings(MODEL, [{**row, **own} for own in history], codes)

  assert remarks({"generator/kl": 4.0, "discriminator/real": 0.1}) == []
  (line,) = remarks({"generator/kl": 4.0}, {"epoch": 2, "generator/kl": 0.01})
  assert "stage 'expression' has collapsed: 0.01 nat" in line
  (line,) = remarks({"generator/kl": 4.0, "discriminator/real": 1e-4, "discriminator/prior": 0.0})
  assert "tells all images apart" in line
  few = np.concatenate([codes[:, :4], codes[np.arange(12) % 2, 4:]], 1)
  (line,) = remarks({"generator/kl": 4.0}, codes=few)
  assert line == "the codes of 12 tested images take 2 values: they make as many clusters"
  assert remarks({"generator/kl": 4.0}, codes=np.full((12, 8), np.nan)) == []


def test_a_conditional_vae_is_told_only_whom_it_learned():
  model = ConditionalVAE(subjects=3)
  np.testing.assert_array_equal(condition(model, 2, None), np.zeros((2, 3)))
  np.testing.assert_array_equal(condition(model, 1, jnp.asarray([1])), [[0, 1, 0]])
  assert condition(VAE(), 2, None) is None


def test_partners_in_swaps_are_other_people():
  subjects = np.asarray([0, 0, 0, 1, 2, 2])
  other = code_metrics.partners(subjects)
  assert (subjects[other] != subjects).all()
  np.testing.assert_array_equal(code_metrics.partners(subjects), other)
  with pytest.raises(UserError, match="one subject"):
    code_metrics.partners(np.zeros(3, int))


def faces(purpose=None):
  """Four people with seven expressions each, twice; or once for each purpose."""
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
  data=Call("synthetic_faces"),  # By name alone: `faces` is what is read.
  split=Split(test=0.5),
  batch_size=14,
)


def test_records_for_recognition_are_not_learned_from_and_others_not_judged():
  data = faces(("training", "recognition"))
  split = split_of(TINY, data)
  purpose, subject = np.asarray(data.texts["purpose"]), data.arrays["subject"]
  assert set(purpose[split.train]) == {"training"}
  assert set(purpose[split.test]) == {"recognition"}
  assert split.train.sum() == split.test.sum() == 14
  known = code_metrics.judged(task_of(TINY, data), np.flatnonzero(split.train))
  assert set(purpose[known]) == {"recognition"}
  assert set(subject[known]) == set(subject[split.train])


def test_what_cannot_be_measured_is_none(start, monkeypatch):
  """One person tested, one image of each person with each expression, no more images learned from than clusters."""
  nothing = image_probes.Probes({}, np.arange(0))  # Trained on all images there are.
  monkeypatch.setattr(image_probes, "fitted", lambda *asked: nothing)
  task = task_of(TINY, faces())
  found = code_metrics.measures(task, start, np.arange(7), np.arange(42, 49))
  missing = {name for name, value in found.items() if value is None}
  kept = {name for name in found if "swaps" in name or "photographs" in name}
  read = {"subject from z_i", "subject from z_e"}
  assert missing == kept | read | {"train", "train, sd over trials", "test", "test, sd over trials"}
  assert set(found) - missing == {"train, error", "test, error", "expression from z_i", "expression from z_e"}


def test_models_are_told_how_many_people_there_are():
  model: Any = task_of(dataclasses.replace(TINY, model=Call("conditional_vae", image_size=32)), faces()).model
  assert model.subjects == 4


def test_a_study_of_both_stages_in_rounds(tmp_path, monkeypatch):
  """Judged after each round and measured at the end; tables and figures from what its folder holds."""
  monkeypatch.setattr(run, "load_data", lambda config, data_dir: faces())
  asked = config.load_study(CONFIGS / "table3_synthetic.py")
  row = next(row for row in asked.rows if row.name == published.ITERATED)
  small = dataclasses.replace(
    asked,
    base=TINY,
    rows=(row,),
    compared=(),
    presets={"small": {}},
    seeds=1,
  )
  overrides = ("execution.driver=steps", "execution.devices=1")
  monkeypatch.setattr(SYSTEM, "warnings", lambda model, history, outputs: ["well done"])
  lines = []
  table = study.run(small, None, overrides, tmp_path, pathlib.Path("nowhere"), say=lines.append)
  (result,) = table["rows"]
  history = [
    json.loads(line) for line in next(tmp_path.glob("rows/*/history.jsonl")).read_text().splitlines()
  ]
  assert [line["stage"] for line in history if line["split"] == "test"] == ["expression"] * 2
  assert [line["stage"] for line in history if line["split"] == "train"] == ["identity", "expression"] * 2
  rounds = table_003.by_round(result)
  assert rounds[1][0] == pytest.approx(100 * result["mean"])
  assert result["measures"]["test"] == [pytest.approx(result["mean"])]
  assert f"remark: {row.name}, seed 0, fold 0: well done" in "\n".join(lines)
  assert result["remarks"] == ["seed 0, fold 0: well done"]
  assert f"- remark: {row.name}, seed 0, fold 0: well done\n" in (tmp_path / "table.md").read_text()
  assert f"{row.name}, seed 0, fold 0: well done" in (tmp_path / "report.html").read_text()
  titles = [further["title"].split(":")[0].split(",")[0] for further in table["tables"]]
  assert len(titles) == 4
  for name in ("rounds.png", "swaps_test.png", "swaps_train.png", "between.png", "report.html"):
    assert (tmp_path / name).is_file(), name
  for name in ("swaps.png", "between.png", "map.png", "reconstructions.png"):
    assert len(list(tmp_path.glob(f"rows/*/{name}"))) == 1


def test_published_numbers():
  assert published.TABLE[0].name == published.CONVENTIONAL
  assert len(published.ROWS) == 8
  first, last = published.ROWS[published.CONVENTIONAL], published.ROWS[published.LARGE]
  # The paper's conclusion gives both gains, but exchanges them.
  assert last.train[0] - first.train[0] == pytest.approx(11.62)
  assert last.test[0] - first.test[0] == pytest.approx(15.97)
  asked = config.load_study(CONFIGS / "table3_synthetic.py")
  for row in asked.rows:
    test = published.ROWS[row.name].test
    assert row.published == (None if test is None else pytest.approx(test[0] / 100))
