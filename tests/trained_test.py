"""Tests that loaded models of every system give the predictions of the evaluation, image by image."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import jaxfer
from jaxfer import cli, inference
from jaxfer.data import align, plan
from jaxfer.errors import UserError
from jaxfer.study import trainings
from jaxfer.systems.prediction import ALONE
from jaxfer.train.weights import load_weights, save_weights
from tests import small_systems

TOLERANCE = 1e-5
CLASSES = small_systems.CLASSES
SYSTEMS = sorted(set(small_systems.SYSTEMS) - {"vae", "elderly_transfer, people"})
README = pathlib.Path(inference.__file__).parent / "README.md"


@pytest.fixture(scope="module", autouse=True)
def _small():
  with small_systems.installed():
    yield


def keep(name, folder, *overrides):
  """Stores an untrained model as a run does; returns its task, test records, and outputs of the evaluation."""
  task = small_systems.made(name, *overrides)
  variables = jax.device_get(jax.jit(task.init)(jax.random.key(3)))
  count = 54
  indices = np.arange(0, 2 * count, 2)
  _, hparams = task.stages(1)
  compute = jax.jit(lambda columns: task.outputs(variables, hparams, task.data, columns, None))
  batches = plan.evaluation(indices, min(count, task.test_batch))
  outputs = np.concatenate([np.asarray(compute(batch)) for batch in batches])[: len(indices)]
  state = task.system.inference_state(task.model, outputs, np.asarray(task.data["label"][indices]))
  trainings.keep(folder, task, variables, state)
  return task, indices, outputs


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
  """name -> (folder, task, indices, outputs), each made once."""
  made = {}

  def of(name):
    if name not in made:
      folder = tmp_path_factory.mktemp("kept")
      made[name] = (folder, *keep(name, folder))
    return made[name]

  return of


def given(task, indices):
  """Returns the arguments of `predict_proba` for some records."""
  arrays = {name: array[indices] for name, array in task.records.arrays.items()}
  if task.config.recipe.name == "two_stream_conv_rnn":
    return arrays["frames"], {"flow": arrays["flow"]}
  landmarks = {"landmarks": arrays["landmarks"]} if task.config.recipe.name == "landmark_fusion" else {}
  return arrays["image"], landmarks


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_prediction_is_that_of_evaluation_without_other_images(name, kept):
  folder, task, indices, outputs = kept(name)
  model = jaxfer.load(folder)
  assert model.label_names == CLASSES
  predictions = task.predictions(outputs, indices)
  evaluated = predictions[ALONE if ALONE in predictions else ""]
  images, more = given(task, indices)
  found = model.predict_proba(images, **more)
  assert found.dtype == np.float32
  assert found.shape == (len(indices), len(CLASSES))
  np.testing.assert_allclose(found.sum(1), 1, atol=TOLERANCE)
  np.testing.assert_array_equal(model.predict(images, **more), np.array(CLASSES)[evaluated.predicted])
  own = found[np.arange(len(indices)), task.data["label"][indices]]
  if evaluated.loss is None:  # The votes of several trials.
    np.testing.assert_allclose(own, evaluated.correct, rtol=0, atol=TOLERANCE)
  else:
    np.testing.assert_allclose(-np.log(own), evaluated.loss, rtol=0, atol=2 * TOLERANCE)
  order = np.r_[5, 1, 7]
  images, more = given(task, indices[order])
  np.testing.assert_allclose(model.predict_proba(images, **more), found[order], rtol=0, atol=TOLERANCE)
  none = {name: array[:0] for name, array in more.items()}
  assert model.predict_proba(images[:0], **none).shape == (0, len(CLASSES))


@pytest.mark.parametrize("name", SYSTEMS)
def test_an_export_to_stablehlo_gives_the_same_probabilities(name, kept, tmp_path):
  """It is loaded by the code in the README, for two numbers of images."""
  folder, task, indices, _ = kept(name)
  assert cli.main(["export", str(folder), str(tmp_path)]) == 0
  code = re.search(r"```python\n(import json.*?)```", README.read_text(), re.DOTALL)[1]
  assert len([line for line in code.partition("\n\n\nprogram")[0].splitlines() if line]) <= 10
  loader = {}
  exec(code.replace('"OUT"', repr(str(tmp_path))), loader)
  assert tuple(loader["label_names"]) == CLASSES
  model = jaxfer.load(folder)
  for count in (1, 3):
    images, more = given(task, indices[:count])
    first = "frames" if images.ndim == 5 else "image"
    assert loader["inputs"][first] == {"shape": ["batch", *images.shape[1:]], "dtype": "uint8"}
    assert set(loader["inputs"]) == {first, *more}
    got = loader["program"](**{first: images}, **more)
    np.testing.assert_allclose(got, model.predict_proba(images, **more), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["stacked_autoencoder", "identity_expression_vae"])
def test_an_export_to_safetensors_is_loaded_again(name, kept, tmp_path):
  folder, task, indices, _ = kept(name)
  assert cli.main(["export", str(folder), str(tmp_path), "--format", "safetensors"]) == 0
  images, more = given(task, indices[:3])
  want = jaxfer.load(folder).predict_proba(images, **more)
  np.testing.assert_array_equal(jaxfer.load(tmp_path).predict_proba(images, **more), want)
  (tmp_path / "model.safetensors").write_bytes(b"{")
  with pytest.raises(UserError, match=r"model\.safetensors is not an export of jaxfer"):
    jaxfer.load(tmp_path)


@pytest.mark.parametrize("metadata", ["[]", "[" * 100_000, "{}", '{"config": {"model": {"name": "x"}}}'])
def test_an_export_with_other_metadata_is_refused(tmp_path, metadata):
  safetensors = pytest.importorskip("safetensors.numpy")
  safetensors.save_file({"a": np.zeros(1)}, tmp_path / "model.safetensors", {"jaxfer": metadata})
  with pytest.raises(UserError, match=re.escape(str(tmp_path))):
    jaxfer.load(tmp_path)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("subjects", 10**30), ("subjects", float("inf")), ("subjects", -1), ("label_names", [1, 2]), ("inputs", []),
    ("inputs", {"image": {"shape": [10**30, 2, 3], "dtype": "uint8"}}),
    ("inputs", {"image": {"shape": [2, 2], "dtype": "uint8"}}),
    ("inputs", {"image": {"shape": [8, 8, 3], "dtype": "uint8"}, "landmarks": {"shape": [], "dtype": "float32"}}),
  ],
)  # fmt: skip
def test_metadata_that_no_training_writes_are_refused(kept, tmp_path, key, value):
  shutil.copytree(kept("stacked_autoencoder")[0], tmp_path, dirs_exist_ok=True)
  path = tmp_path / "weights.json"
  path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
  with pytest.raises(UserError, match=f"{tmp_path} does not describe the inputs of its model"):
    jaxfer.load(tmp_path)


def test_a_preparation_that_is_no_object_is_ignored(kept, tmp_path):
  shutil.copytree(kept("stacked_autoencoder")[0], tmp_path, dirs_exist_ok=True)
  path = tmp_path / "weights.json"
  path.write_text(json.dumps({**json.loads(path.read_text()), "preparation": [1]}))
  assert jaxfer.load(tmp_path).input_spec.crop == "auto"


@pytest.fixture
def model(kept):
  """The cheapest model that reads images."""
  return jaxfer.load(kept("stacked_autoencoder")[0])


def test_an_iterator_is_answered_batch_by_batch(model, kept, monkeypatch):
  images = kept("stacked_autoencoder")[1].records.arrays["image"][:5]
  monkeypatch.setattr(type(model), "batch", 2)
  taken = []

  def endless():
    for number in range(10**9):
      taken.append(number)
      yield images[number % 5]

  found = model.predict_proba(endless())
  first = [next(found), next(found)]
  assert len(taken) == 4
  np.testing.assert_allclose(np.concatenate(first), model.predict_proba(images)[:4], rtol=0, atol=TOLERANCE)
  assert list(next(model.predict(iter(images)))) == list(model.predict(images)[:2])


def test_paths_are_read_as_prepare_reads_them(model, tmp_path):
  """A photograph without a face is cropped to its middle square, and resized as in an import."""
  pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
  Image.fromarray(pixels).save(tmp_path / "one.png")
  want = model.predict_proba(align.crop(pixels, align.centre_square(60, 40), 32)[None])
  np.testing.assert_allclose(model.predict_proba(tmp_path / "one.png"), want, rtol=0, atol=TOLERANCE)
  np.testing.assert_allclose(model.predict_proba([str(tmp_path / "one.png")]), want, rtol=0, atol=TOLERANCE)
  (tmp_path / "two.png").write_bytes(b"nothing")
  with pytest.raises(UserError, match=r"two\.png: not an image"):
    model.predict([tmp_path / "one.png", tmp_path / "two.png"])


@pytest.mark.parametrize(
  ("images", "match"),
  [
    (np.zeros((2, 32, 32, 3), np.float32), "array of float32"),
    (np.zeros((2, 3, 32, 32), np.uint8), "channels first"),
    (np.zeros((32, 32, 3), np.uint8), r"shape \[32, 32, 3\]"),
    ([np.zeros((32, 32, 3))], "array of float64"),
    ([3], "holds a int: give paths or arrays"),
    (3, "images is a int"),
  ],
)
def test_files_that_are_not_images(model, images, match):
  with pytest.raises(UserError, match=match):
    model.predict_proba(images)


def test_a_model_of_clips_and_one_of_landmarks_say_what_they_need(kept):
  clips, faces = jaxfer.load(kept("two_stream_conv_rnn")[0]), jaxfer.load(kept("landmark_fusion")[0])
  assert (clips.input_spec.kind, clips.input_spec.shape, clips.input_spec.flow) == (
    "sequence",
    (3, 4, 4, 3),
    True,
  )
  with pytest.raises(UserError, match=r"clips have 2 frames: the model reads 3"):
    clips.predict(np.zeros((1, 2, 4, 4, 3), np.uint8))
  assert faces.input_spec.landmarks == 37
  images = np.zeros((2, 32, 32, 3), np.uint8)
  for given_images in (images, list(images), "photo.jpg"):
    with pytest.raises(UserError, match=r"needs 37 landmarks of each face: give them as landmarks="):
      faces.predict(given_images)
  with pytest.raises(UserError, match=r"landmarks has shape \[2, 5, 2\]: give \[2, 37, 2\]"):
    faces.predict(images, landmarks=np.zeros((2, 5, 2)))


def test_landmarks_move_with_the_image_that_is_resized(kept):
  folder, task, indices, _ = kept("landmark_fusion")
  model, (images, more) = jaxfer.load(folder), given(task, indices[:2])
  prepared = model.prepared(images.repeat(2, 1).repeat(2, 2), 2 * more["landmarks"])
  np.testing.assert_allclose(prepared["landmarks"], more["landmarks"], rtol=1e-6)


def test_a_run_with_folds_lists_them(kept, tmp_path):
  folder = kept("stacked_autoencoder")[0]
  for fold in ("fold0", "fold1"):
    save_weights(tmp_path / "run/weights" / fold, *load_weights(folder))
  with pytest.raises(
    UserError, match=r"weights of 2 trainings: give one of .*weights/fold0'.*weights/fold1'"
  ):
    jaxfer.load(tmp_path / "run")
  assert jaxfer.load(tmp_path / "run/weights/fold1").label_names == CLASSES
  save_weights(tmp_path / "study/rows/a/weights/seed 0", *load_weights(folder))
  assert jaxfer.load(tmp_path / "study/rows/a").label_names == CLASSES


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    (
      {"inputs": None},
      "does not describe the inputs of its model: write it again with `jaxfer evaluate RUN`",
    ),
    ({"subjects": "many"}, "does not describe the inputs"),
    ({"config": {"model": {"name": "vae"}}}, "was written by another version"),
    (
      {"label_names": [*CLASSES, "more"]},
      r"2 arrays differ, such as params/classifier/bias: \(4,\) for \(5,\)",
    ),
  ],
)
def test_a_description_that_does_not_fit(kept, tmp_path, changes, match):
  variables, meta = load_weights(kept("stacked_autoencoder")[0])
  save_weights(tmp_path, variables, {**meta, **changes})
  with pytest.raises(UserError, match=match) as caught:
    jaxfer.load(tmp_path)
  assert str(tmp_path) in str(caught.value)


def test_a_vae_without_clusters_says_how_to_get_them(kept, tmp_path):
  folder, task, *_ = kept("identity_expression_vae")
  variables, meta = load_weights(folder)
  del variables["inference"]
  save_weights(tmp_path, variables, meta)
  with pytest.raises(UserError, match="hold no clusters of codes: `jaxfer evaluate`"):
    jaxfer.load(tmp_path).predict(task.records.arrays["image"][:1])


def test_outputs_that_are_not_finite_are_an_error(model):
  params = jax.tree.map(lambda leaf: np.full_like(leaf, np.inf), model.variables)
  broken = dataclasses.replace(model, variables=params)
  with pytest.raises(UserError, match="outputs are not finite"):
    broken.predict(np.ones((1, 32, 32, 3), np.uint8))
