"""Tests that converted weights give PyTorch's logits, in the same batches as in the authors' tests."""

import pathlib
import re
import subprocess
import sys
import warnings

import flax.linen as nn
import jax
import numpy as np
import pytest
import tolerances

import jaxfer
from jaxfer.convert.importers import convert
from jaxfer.errors import UserError
from jaxfer.inference import converted, export
from jaxfer.layers.amend import is_written
from jaxfer.train.weights import load_weights, save_weights

FIXTURES = pathlib.Path(__file__).parent / "convert/fixtures"
# The golden pictures are not square, and with batches of two, the third picture is alone.
pytestmark = pytest.mark.filterwarnings("ignore:images are of 40 x 48", "ignore:a batch of one picture")


def tolerance():
  """The tolerance for logits up to 1, from a shallow net."""
  return tolerances.here().net / 10


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
  out = tmp_path_factory.mktemp("arm") / "converted"
  convert("arm", FIXTURES / "arm.pth", out)
  return jaxfer.load(out)


@pytest.fixture(scope="module")
def golden():
  with np.load(FIXTURES / "arm.npz") as arrays:
    return dict(arrays)


@pytest.fixture(autouse=True)
def _batches_of_two(monkeypatch):
  monkeypatch.setattr(converted, "BATCH", 2)


@pytest.mark.golden
def test_the_last_batch_reads_only_its_own_pictures(loaded, golden):
  assert np.abs(golden["batches_of_two"] - golden["one_batch"]).max() > 0.01
  got = loaded.outputs(golden["images"])
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, golden["batches_of_two"], rtol=0, atol=tolerance())
  assert loaded.label_names == ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")


@pytest.mark.golden
def test_a_frozen_affinity(loaded, golden):
  """For the same pictures, it equals that of one batch, with any later batches."""
  frozen = loaded.frozen(golden["images"])
  np.testing.assert_allclose(frozen.outputs(golden["images"]), golden["one_batch"], rtol=0, atol=tolerance())
  assert loaded.model.affinity == "batch"
  assert not is_written(loaded.variables["affinity"]["arm"], "frozen")
  assert is_written(frozen.variables["affinity"]["arm"], "frozen")
  with pytest.raises(UserError, match="there are no images"):
    loaded.frozen(golden["images"][:0])


@pytest.mark.golden
def test_probabilities_do_not_depend_on_other_images(loaded, golden, tmp_path):
  """Each picture is computed as if it were alone, or with a frozen affinity, which an export keeps."""
  images = golden["images"]
  alone = np.concatenate([loaded.outputs(images[k : k + 1]) for k in range(len(images))])
  np.testing.assert_allclose(loaded.predict_proba(images), jax.nn.softmax(alone), rtol=0, atol=tolerance())
  assert list(loaded.predict(images)) == [loaded.label_names[k] for k in alone.argmax(1)]
  frozen = loaded.frozen(images)
  want = jax.nn.softmax(golden["one_batch"])
  np.testing.assert_allclose(frozen.predict_proba(images), want, rtol=0, atol=tolerance())
  assert np.abs(loaded.predict_proba(images) - want).max() > 10 * tolerance()
  export.export(frozen, tmp_path, "safetensors")
  np.testing.assert_allclose(jaxfer.load(tmp_path).predict_proba(images), want, rtol=0, atol=tolerance())


def test_a_batch_of_one_is_answered_with_a_warning(loaded, golden):
  images = np.concatenate([golden["images"]] * 2)
  for count in (1, 3):
    with pytest.warns(UserWarning, match=r"a batch of one picture.*`\.frozen"):
      loaded.outputs(images[:count])
  with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    loaded.outputs(images[:2])
    loaded.frozen(images[:2]).outputs(images[:1])
  assert {str(warning.message).partition(":")[0] for warning in said} == {"images are of 40 x 48 pixels"}


def test_no_pictures(loaded, golden):
  assert loaded.outputs(golden["images"][:0]).shape == (0, 7)


class Mean(nn.Module):
  """A net without an affinity, which returns the mean colour."""

  @nn.compact
  def __call__(self, x, *, train):
    return x.mean((1, 2))


def test_pictures_are_resized_and_normalised():
  meta = {"model": "Mean", "mean": [0.2, 0.4, 0.6], "std": [0.5, 0.25, 0.125], "input_size": 4}
  meta |= {"colour_order": "RGB", "output": "logits"}
  images = np.zeros((3, 8, 6, 3), np.uint8)
  images[1], images[2, :, :3] = (51, 102, 153), 255
  net = converted.Converted(Mean(), {}, None, meta)
  black, half = np.array([-0.4, -1.6, -4.8]), np.array([0.6, 0.4, -0.8])
  with pytest.warns(UserWarning, match="images are of 8 x 6 pixels: they are distorted to 4 x 4"):
    np.testing.assert_allclose(net.outputs(images), [black, np.zeros(3), half], atol=1e-5)
  with pytest.raises(UserError, match="Mean has no affinity"):
    net.frozen(images)


@pytest.mark.golden
@pytest.mark.parametrize(
  ("family", "file"), [("adaface", "adaface.ckpt"), ("insightface", "insightface.pth")]
)
def test_face_nets_give_features_of_aligned_faces(tmp_path, family, file):
  """Weights are from Lightning's checkpoint and a plain one; pictures are RGB for all nets."""
  said = convert(family, FIXTURES / file, tmp_path / "out")
  assert "embedding   8, of aligned faces" in said
  assert f"pictures    {'BGR' if family == 'adaface' else 'RGB'}, 112 px" in said
  left_out = {
    "adaface": "head.kernel, head.t, head.batch_mean, head.batch_std",
    "insightface": "features.weight",
  }
  assert f"left out    {left_out[family]}\n" in said
  net = jaxfer.load(tmp_path / "out")
  assert net.label_names is None
  with pytest.raises(UserError, match=r"FaceResNet is a face network without classes: use \.outputs"):
    net.predict(np.zeros((1, 112, 112, 3), np.uint8))
  assert net.outputs(np.zeros((0, 112, 112, 3), np.uint8)).shape == (0, 8)
  with pytest.raises(UserError, match="are of 224 x 112 pixels: FaceResNet takes faces aligned to 112 x 112"):
    net.outputs(np.zeros((2, 224, 112, 3), np.uint8))
  with np.load(FIXTURES / "faces.npz") as golden:
    got = net.outputs(golden["images"])
    np.testing.assert_allclose(
      got, golden[family], rtol=0, atol=tolerances.here().net
    )  # Of features up to 9.
    assert np.abs(got[0] - got[1]).max() > 0.1


def test_nothing_is_guessed_about_the_pictures(tmp_path):
  variables, meta = load_weights(_arm(tmp_path))
  for key, wrong in (("colour_order", None), ("colour_order", "GBR"), ("std", [1, 0, 1]), ("output", "x")):
    save_weights(tmp_path / "other", variables, {**meta, key: wrong})
    with pytest.raises(UserError, match=f"gives {key} {re.escape(repr(wrong))}: convert the weights again"):
      jaxfer.load(tmp_path / "other")


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"model": ["ArmNet"]}, r"holds weights of \['ArmNet'\]"),
    ({"model": None, "config": 3}, "holds weights of None"),
    ({"model": None, "config": {"model": {"name": "vae"}}}, "holds weights of 'vae'"),
    ({"mean": [0.1, "0.2", 0.3]}, "gives mean"),
    ({"std": ["a", "b", "c"]}, "gives std"),
    ({"input_size": True}, "gives input_size True"),
    ({"label_names": "happiness"}, "gives label_names 'happiness'"),
    ({"label_names": ["joy", 3]}, "gives label_names"),
    ({"label_names": ["joy", "anger"]}, "names 2 classes, and its model has another number"),
    ({"attributes": None}, "gives the attributes None: ArmNet cannot be built"),
    ({"attributes": {"depth": 18}}, "ArmNet cannot be built"),
    ({"attributes": {"num_classes": 7, "width": 1 / 64, "block": 3}}, "ArmNet cannot be built"),
    ({"attributes": {"num_classes": "7", "width": 1 / 64, "block": 2}}, "ArmNet"),
    (
      {"attributes": {"num_classes": 8, "width": 1 / 64, "block": 2}, "label_names": None},
      r"holds other weights than its ArmNet needs: 2 arrays differ, such as params/fc/bias: \(7,\) for \(8,\)",
    ),
    (
      {"model": "ResNet", "attributes": {"num_classes": 7, "depth": 18}},
      "holds other weights than its ResNet needs",
    ),
  ],
)
def test_a_description_that_does_not_fit(tmp_path, arm_weights, changes, match):
  variables, meta = arm_weights
  save_weights(tmp_path, variables, {**meta, **changes})
  with pytest.raises(UserError, match=match) as caught:
    jaxfer.load(tmp_path)
  assert str(tmp_path) in str(caught.value)
  assert "\n" not in str(caught.value)


def test_a_description_without_names_of_classes(tmp_path, arm_weights):
  variables, meta = arm_weights
  save_weights(tmp_path, variables, {key: value for key, value in meta.items() if key != "label_names"})
  assert jaxfer.load(tmp_path).label_names is None


def test_weights_that_hold_nan(tmp_path, arm_weights):
  variables, meta = arm_weights
  params = {
    **variables["params"],
    "fc": {**variables["params"]["fc"], "bias": np.full(7, np.nan, np.float32)},
  }
  save_weights(tmp_path, {**variables, "params": params}, meta)
  with pytest.raises(
    UserError, match=r"weights\.npz holds values that no trained net has: params/fc/bias \(7 NaN of 7"
  ):
    jaxfer.load(tmp_path)


def test_a_description_cut_short(tmp_path, arm_weights):
  save_weights(tmp_path, *arm_weights)
  path = tmp_path / "weights.json"
  path.write_text(path.read_text()[:100])
  with pytest.raises(UserError, match=r"weights\.json is damaged"):
    jaxfer.load(tmp_path)


@pytest.fixture(scope="module")
def arm_weights(tmp_path_factory):
  return load_weights(_arm(tmp_path_factory.mktemp("weights")))


def _arm(folder):
  convert("arm", FIXTURES / "arm.pth", folder / "arm")
  return folder / "arm"


def test_colours_are_put_into_the_order_of_the_model():
  meta = {"model": "Mean", "mean": [0.0, 0.0, 0.2], "std": [1.0, 1.0, 0.5], "input_size": 4}
  meta |= {"colour_order": "BGR", "output": "logits"}
  images = np.broadcast_to(np.uint8([255, 0, 51]), (1, 4, 4, 3))
  got = converted.Converted(Mean(), {}, None, meta).outputs(images)
  np.testing.assert_allclose(got, [[0.2, 0, 1.6]], atol=1e-5)


@pytest.mark.parametrize(
  ("images", "match"),
  [
    (np.zeros((2, 8, 8, 3), np.float32), "array of float32"),
    (np.zeros((2, 3, 8, 8), np.uint8), "channels first"),
    (np.zeros((2, 8, 8), np.uint8), "grey channel"),
    (np.zeros((2, 8, 8, 1), np.uint8), "grey channel"),
    (np.zeros((8, 8, 3), np.uint8), r"shape \[8, 8, 3\]"),
    (np.zeros((1, 0, 8, 3), np.uint8), r"shape \[1, 0, 8, 3\]"),
    ([np.zeros((8, 8, 3), np.uint8)], "is a list"),
  ],
)
def test_other_pictures(loaded, images, match):
  # `predict_proba` accepts lists of images.
  more = [] if isinstance(images, list) else [loaded.predict_proba]
  for function in (loaded.outputs, loaded.frozen, *more):
    with pytest.raises(UserError, match=match):
      function(images)


def test_weights_of_another_model(tmp_path):
  save_weights(tmp_path, {"params": {"x": np.zeros(1)}}, {"model": "Other"})
  with pytest.raises(UserError, match="'Other'"):
    jaxfer.load(tmp_path)
  with pytest.raises(UserError, match="not a folder of weights"):
    jaxfer.load(tmp_path / "none")


def test_the_package_stays_light():
  code = (
    "import sys, jaxfer; assert not {'jax', 'numpy', 'PIL'} & set(sys.modules); assert callable(jaxfer.load)"
  )
  subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
  with pytest.raises(AttributeError, match="no attribute 'lod'"):
    jaxfer.lod  # noqa: B018
