"""A trained model that is loaded predicts what evaluation predicts, for every system and image by image."""

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer.data import plan
from jaxfer.study import run
from jaxfer.systems.system import ALONE
from tests import small_systems

TOLERANCE = 1e-5
SYSTEMS = sorted(set(small_systems.SYSTEMS) - {"vae", "elderly_transfer, people"})


@pytest.fixture(scope="module", autouse=True)
def _small():
  with small_systems.installed():
    yield


def kept(name, folder, *overrides):
  """Keeps an untrained model as a run does; returns its task, and the outputs of evaluation for its test records."""
  task = small_systems.made(name, *overrides)
  variables = jax.device_get(jax.jit(task.init)(jax.random.key(3)))
  indices = np.arange(0, len(task.records), 2)
  _, hparams = task.stages(1)
  outputs = jax.jit(lambda columns: task.outputs(variables, hparams, task.data, columns, None))
  batches = plan.evaluation(indices, task.test_batch)
  outputs = np.concatenate([np.asarray(outputs(batch)) for batch in batches])[: len(indices)]
  run.keep(folder, task, variables, outputs, indices)
  return task, outputs, indices


def given(task, indices):
  """The arguments of `predict_proba` for some records."""
  arrays = {name: task.records.arrays[name][indices] for name in task.records.arrays}
  if "two_stream" in task.config.recipe.name:
    return (arrays["frames"],), {"flow": arrays["flow"]}
  return (arrays["image"],), (
    {"landmarks": arrays["landmarks"]} if "landmark" in task.config.recipe.name else {}
  )


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_prediction_is_that_of_evaluation_and_needs_no_batch_mates(name, tmp_path):
  task, outputs, indices = kept(name, tmp_path)
  model = jaxfer.load(tmp_path)
  assert model.label_names == small_systems.CLASSES
  predictions = task.read(outputs, indices)
  evaluated = predictions[ALONE if ALONE in predictions else ""]
  images, more = given(task, indices)
  found = model.predict_proba(*images, **more)
  assert found.dtype == np.float32
  assert found.shape == (len(indices), len(small_systems.CLASSES))
  np.testing.assert_allclose(found.sum(1), 1, atol=TOLERANCE)
  np.testing.assert_array_equal(found.argmax(1), evaluated.predicted)
  np.testing.assert_array_equal(
    model.predict(*images, **more), np.array(small_systems.CLASSES)[evaluated.predicted]
  )
  labels = task.data["label"][indices]
  own = found[np.arange(len(indices)), labels]
  if evaluated.loss is None:  # Votes of trials: their share of correct ones.
    np.testing.assert_allclose(own, evaluated.correct, rtol=0, atol=TOLERANCE)
  else:
    np.testing.assert_allclose(-np.log(own), evaluated.loss, rtol=0, atol=2 * TOLERANCE)
  order = np.r_[5, 1, 7]
  images, more = given(task, indices[order])
  np.testing.assert_allclose(model.predict_proba(*images, **more), found[order], rtol=0, atol=TOLERANCE)
  assert model.predict_proba(*(array[:0] for array in images), **{k: v[:0] for k, v in more.items()}).shape == (
    0, len(small_systems.CLASSES),
  )  # fmt: skip
