"""Paper 004's models: parameter counts of the published architectures, submodules by head, and normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.systems import create_model
from jaxfer.systems.elderly_transfer.model import PICTURES, FaceClassifier


def shapes(**attributes):
  model = FaceClassifier(**attributes)
  size = model.image_size
  return model, jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, size, size, 3)))


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  ("net", "parameters"),
  [
    ("resnet18", 11_181_129),
    ("resnet50", 23_526_473),
    ("face_resnet18", 24_024_969),
    ("face_resnet50", 43_590_217),
  ],
)
def test_models_for_nine_classes_have_the_published_sizes(net, parameters):
  _, variables = shapes(net=net, num_classes=9)
  assert count(variables["params"]) == parameters


@pytest.mark.parametrize("net", ["resnet18", "resnet50", "face_resnet18"])
@pytest.mark.parametrize("head", ["classes", "softmax", "cosface", "arcface", "adaface"])
def test_the_trunk_is_the_same_whatever_the_head(net, head):
  model, variables = shapes(net=net, head=head, num_classes=7, width=0.25, image_size=32)
  assert set(variables["params"]) == set(model.parts)
  assert ("embedding" in model.parts) == (head != "classes" and net.startswith("resnet"))
  _, plain = shapes(net=net, num_classes=3, width=0.25, image_size=32)
  for collection in ("params", "batch_stats"):
    assert variables[collection]["trunk"] == plain[collection]["trunk"]
  assert ("margin" in variables) == (head == "adaface")
  if head != "classes":
    assert variables["params"]["head"]["kernel"].shape == (128, 7)


def test_images_are_normalised_in_the_models_colour_order():
  red = jnp.asarray([255.0, 0.0, 0.0])
  face, plain = (FaceClassifier(num_classes=2, net=net) for net in ("face_resnet18", "resnet18"))
  np.testing.assert_allclose(face.normalised(red), [-1, -1, 1])
  known = PICTURES["imagenet"]
  np.testing.assert_allclose(plain.normalised(red), (np.eye(3)[0] - known["mean"]) / known["std"], rtol=1e-5)
  assert face.seen == {"colour_order": "BGR", "mean": [0.5] * 3, "std": [0.5] * 3, "input_size": 112}
  other = FaceClassifier(num_classes=2, net="resnet18", pictures="insightface", image_size=32)
  np.testing.assert_allclose(other.normalised(red), [1, -1, -1])
  assert other.seen["input_size"] == 32


@pytest.mark.parametrize("wrong", [{"net": "resnet34"}, {"head": "cosine"}, {"pictures": "caffe"}])
def test_an_unknown_value_of_an_attribute_is_refused(wrong):
  (name,) = wrong
  with pytest.raises(UserError, match=f"value of model.{name}"):
    create_model("face_classifier", num_classes=2, **wrong).seen  # noqa: B018


def test_a_margin_changes_only_the_logit_of_the_true_class():
  model = FaceClassifier(num_classes=3, net="resnet18", head="cosface", width=1 / 64, image_size=32)
  x, label = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32), jnp.arange(4) % 3

  @jax.jit
  def both(x):
    variables = model.init(jax.random.key(0), x)
    return model.apply(variables, x, label), model.apply(variables, x)

  (trained, plain), (first, second) = both(x)
  np.testing.assert_allclose(plain - trained, 64 * 0.4 * jax.nn.one_hot(label, 3), atol=1e-3)
  np.testing.assert_array_equal(first, second)
  np.testing.assert_allclose(first, plain, atol=1e-3)
