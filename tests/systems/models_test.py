"""Tests common requirements of all registered models, with one row per model; a model without a row fails."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.systems import MODELS, create_model
from jaxfer.systems.elderly_transfer.model import FaceClassifier
from jaxfer.systems.landmark_fusion.model import LandmarkFusion
from tests import drawn

FULL = {"temporal_gate": True, "temporal_skip": True, "spatial_skip": True}


class Fusion(LandmarkFusion):
  """Returns all logits side by side, with the paper's w and norms in evaluation mode."""

  def __call__(self, images, heatmaps, *, train=False, keys=None):
    del train, keys
    return jnp.concatenate(super().__call__(images, heatmaps, 0.6)[:3], -1)


class Classifier(FaceClassifier):
  """Returns the logits for training, with norms in evaluation mode."""

  def __call__(self, x, *, train=False, keys=None):
    del train, keys
    return super().__call__(x)[0]


@dataclasses.dataclass(frozen=True)
class Spec:
  """Attributes of a tiny instance, and shapes of its inputs and outputs; all inputs have the leading axis 2.

  `beside` names submodules that the outputs do not depend on.
  """

  attributes: dict[str, Any]
  inputs: tuple[tuple[int, ...], ...]
  output: tuple[int, ...]
  differs_in_training: bool = True
  beside: tuple[str, ...] = ()


CLIP = ((2, 3, 8, 8, 3), (2, 3, 8, 8, 2))
SPECS = {
  "conditional_vae": Spec(
    {"image_size": 32, "width": 1 / 32, "latent": 3, "subjects": 3}, ((2, 32, 32, 3), (2, 3)), (2, 32, 32, 3)
  ),
  "face_classifier": Spec(
    {"num_classes": 5, "net": "face_resnet18", "width": 1 / 16, "image_size": 16},
    ((2, 16, 16, 3),),
    (2, 5),
    differs_in_training=False,
  ),
  "identity_expression_vae": Spec(
    {"image_size": 32, "width": 1 / 32, "latent": 3},
    ((2, 32, 32, 3),),
    (2, 32, 32, 3),
    beside=("discriminator",),
  ),
  "landmark_fusion": Spec(
    {"num_classes": 5, "width": 0.125, "block": 4, "kernel_sizes": (1, 1, 1, 1, 1, 3), "affinity": "alone"},
    ((2, 64, 64, 3), (2, 64, 64, 1)),
    (2, 15),
    differs_in_training=False,
  ),
  "stacked_autoencoder": Spec(
    {"sizes": (8, 6), "num_classes": 5},
    ((2, 6, 6, 1),),
    (2, 5),
    differs_in_training=False,
    beside=("decoder1", "decoder2"),
  ),
  "two_stream_conv_rnn": Spec({**FULL, "features": (4, 6), "dense": (8, 8), "num_classes": 5}, CLIP, (2, 5)),
  "vae": Spec({"image_size": 32, "width": 1 / 32, "latent": 3}, ((2, 32, 32, 3),), (2, 32, 32, 3)),
}


# Models that take more than pictures, or return more than logits.
ADAPTED = {"face_classifier": Classifier, "landmark_fusion": Fusion}


def create(name, **attributes):
  model = create_model(name, **{**SPECS[name].attributes, **attributes})
  fields = {
    f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.name not in ("parent", "name")
  }
  return ADAPTED.get(name, MODELS[name])(**fields)


@functools.cache
def build(name):
  """Returns a model, variables, inputs, its compiled call and its compiled gradient, which all tests share.

  The gradient is a function of (params, keys) that returns that of a scalar of the outputs in training, and the
  outputs.
  """
  spec = SPECS[name]
  model = create(name)
  rng = np.random.default_rng(0)
  inputs = [jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32) for shape in spec.inputs]
  variables = drawn.variables(model.init, *inputs)

  def scalar(params, keys):
    outputs = model.apply({**variables, "params": params}, *inputs, train=True, keys=keys)
    return (outputs * jnp.arange(1, outputs.size + 1).reshape(outputs.shape)).sum(), outputs

  return model, variables, inputs, jax.jit(model.apply), jax.jit(jax.grad(scalar, has_aux=True))


def test_every_model_has_a_row():
  assert set(SPECS) == set(MODELS)


@pytest.mark.parametrize("name", SPECS)
def test_shapes_and_dtypes(name):
  _, variables, inputs, apply, _ = build(name)
  outputs = apply(variables, *inputs)
  assert outputs.shape == SPECS[name].output
  assert outputs.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", SPECS)
def test_every_parameter_gets_a_gradient_and_bfloat16_computes_close(name):
  _, variables, inputs, apply, gradient = build(name)
  slopes, _ = gradient(variables["params"], jax.random.split(jax.random.key(1), 2))
  for path, leaf in jax.tree.leaves_with_path(slopes):
    assert np.isfinite(leaf).all()
    assert (np.abs(leaf).max() > 0) == (path[0].key not in SPECS[name].beside), jax.tree_util.keystr(path)
  low = create(name, dtype=jnp.bfloat16)
  got, want = jax.jit(low.apply)(variables, *inputs), apply(variables, *inputs)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=0, atol=0.05 * np.abs(want).max())
  assert (got != want).any()


@pytest.mark.parametrize("name", SPECS)
def test_training_differs_only_where_it_should(name):
  model, variables, inputs, apply, gradient = build(name)
  keys = jax.random.split(jax.random.key(1), 2)
  run = lambda keys: gradient(variables["params"], keys)[1]  # noqa: E731
  np.testing.assert_array_equal(run(keys), run(keys))
  for other in (apply(variables, *inputs), run(keys[::-1])):
    # Two programs round differently.
    same = np.allclose(run(keys), other, rtol=1e-4, atol=1e-5)
    assert same != SPECS[name].differs_in_training
  if "dropout_rate" in {f.name for f in dataclasses.fields(model)}:
    frozen = create(name, dropout_rate=0.0)
    got = jax.jit(lambda: frozen.apply(variables, *inputs, train=True, keys=keys))()
    np.testing.assert_allclose(got, apply(variables, *inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_examples_do_not_see_each_other(name):
  _, variables, inputs, apply, _ = build(name)
  swapped = apply(variables, *(x[::-1] for x in inputs))[::-1]
  np.testing.assert_allclose(swapped, apply(variables, *inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SPECS)
def test_submodules_have_given_names(name):
  """Names are part of the checkpoint format; Flax's automatic names end in a number."""
  variables = build(name)[1]
  for path, _ in jax.tree.leaves_with_path(variables):
    assert not any(str(part.key).rpartition("_")[2].isdigit() for part in path), path


@pytest.mark.parametrize("name", SPECS)
def test_submodules_and_their_sizes_are_as_committed(name):
  """They are the format of checkpoints. `parameters.json` stores them for the models of this file."""
  committed = json.loads(pathlib.Path(__file__).with_name("parameters.json").read_text())
  sizes: dict[str, int] = {}
  for path, leaf in jax.tree.leaves_with_path(build(name)[1]):
    module = "/".join(str(part.key) for part in path[:-1])
    sizes[module] = sizes.get(module, 0) + leaf.size
  assert sizes == committed.get(name), f"parameters.json should hold: {json.dumps({name: sizes})}"


def test_unknown_models_and_attributes_are_refused_with_the_nearest_name():
  with pytest.raises(UserError, match="unknown model 'two_stream': did you mean 'two_stream_conv_rnn'"):
    create_model("two_stream")
  with pytest.raises(UserError, match="'temporal_gates': did you mean 'temporal_gate'"):
    create_model("two_stream_conv_rnn", temporal_gates=True)
