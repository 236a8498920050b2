"""The model against values computed by hand, against loops in NumPy, and against principal components."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.systems import create_model
from jaxfer.systems.stacked_autoencoder import SYSTEM
from jaxfer.systems.stacked_autoencoder.model import StackedAutoencoder, corrupt
from jaxfer.train import state, step
from jaxfer.train.stage import Context


def images(count=3, side=4, seed=0):
  return jnp.asarray(np.random.default_rng(seed).uniform(0, 1, (count, side, side, 1)), jnp.float32)


def layer_stage(model, layer, **options):
  stages, _ = SYSTEM.recipe(model, 1, **options)
  return stages[layer - 1]


def error_and_gradient(model, variables, image, layer, keys=None, **options):
  """The mean error of a layer over the batch, and its gradient with respect to the parameters."""
  (update,) = layer_stage(model, layer, **options).updates
  keys = jax.random.split(jax.random.key(3), len(image)) if keys is None else keys

  def mean(params):
    out = update.loss({"params": params}, {"image": image}, keys, Context({}))
    total, count = out.loss["error"]
    return total / count

  return jax.value_and_grad(mean)(variables["params"])


def test_the_default_model_has_the_parameter_counts_of_its_layers():
  model = create_model("stacked_autoencoder")
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))["params"]
  counts = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in shapes.items()}
  encoders = [counts[f"encoder{layer}"] for layer in (1, 2, 3, 4)]
  assert [*encoders, counts["classifier"]] == [4_097_000, 500_500, 125_250, 25_100, 707]


def test_initial_weights_are_uniform_in_their_range():
  params = create_model("stacked_autoencoder", sizes=(40,)).init(jax.random.key(0), images(side=6))["params"]
  limit = 4 * np.sqrt(6 / (36 + 40))
  for name in ("encoder1", "decoder1"):
    largest = np.abs(params[name]["kernel"]).max()
    assert 0.99 * limit < largest <= limit
    assert not params[name]["bias"].any()


@pytest.mark.parametrize(("reconstruction", "error"), [("squared", 0.25), ("cross_entropy", 2 * np.log(2))])
def test_error_and_gradient_equal_values_computed_by_hand(reconstruction, error):
  """The pixels are (1, 0), the layer has one unit, and all parameters are zero."""
  model = create_model("stacked_autoencoder", sizes=(1,))
  image = jnp.asarray([1.0, 0.0]).reshape(1, 2, 1, 1)
  variables = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), image))
  found, gradient = error_and_gradient(
    model, variables, image, 1, reconstruction=reconstruction, noise_layers=()
  )
  assert found == pytest.approx(error, rel=1e-6)
  # The gradient is (x' - x) x' (1 - x') y, where (x' - x) x' (1 - x') = (-0.125, 0.125) and y = 0.5.
  # With cross-entropy the factor x' (1 - x') = 1/4 drops out.
  slope = 1 if reconstruction == "squared" else 4
  np.testing.assert_allclose(gradient["decoder1"]["kernel"], [[-0.0625 * slope, 0.0625 * slope]], rtol=1e-6)
  np.testing.assert_allclose(gradient["decoder1"]["bias"], [-0.125 * slope, 0.125 * slope], rtol=1e-6)


def by_loops(params, image, layer, mask, squared, tied):
  """The mean error of a layer and its gradient, computed unit by unit in float64."""
  s = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
  cast = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  encoder, decoder = cast[f"encoder{layer}"], cast[f"decoder{layer}"]
  w, b, b_back = encoder["kernel"], encoder["bias"], decoder["bias"]
  w_back = w.T if tied else decoder["kernel"]
  n_in, n_hidden = w.shape
  g_w, g_b = np.zeros_like(w), np.zeros_like(b)
  g_w_back, g_b_back, total = np.zeros_like(w_back), np.zeros_like(b_back), 0.0
  for one, kept in zip(np.asarray(image, np.float64).reshape(len(image), -1), mask, strict=True):
    for below in range(1, layer):
      one = s(one @ cast[f"encoder{below}"]["kernel"] + cast[f"encoder{below}"]["bias"])
    x = [one[i] * kept[i] for i in range(n_in)]
    y = [s(sum(x[i] * w[i, j] for i in range(n_in)) + b[j]) for j in range(n_hidden)]
    back = [s(sum(y[j] * w_back[j, i] for j in range(n_hidden)) + b_back[i]) for i in range(n_in)]
    delta = []
    for i in range(n_in):
      if squared:
        total += (one[i] - back[i]) ** 2 / 2
        delta.append((back[i] - one[i]) * back[i] * (1 - back[i]))
      else:
        total -= one[i] * np.log(back[i]) + (1 - one[i]) * np.log(1 - back[i])
        delta.append(back[i] - one[i])
      g_b_back[i] += delta[i]
    for j in range(n_hidden):
      for i in range(n_in):
        g_w_back[j, i] += delta[i] * y[j]
      hidden = sum(delta[i] * w_back[j, i] for i in range(n_in)) * y[j] * (1 - y[j])
      g_b[j] += hidden
      for i in range(n_in):
        g_w[i, j] += hidden * x[i]
  if tied:
    g_w, g_w_back = g_w + g_w_back.T, None
  gradient = {"encoder": (g_w, g_b), "decoder": (g_w_back, g_b_back)}
  return total / len(image), jax.tree.map(lambda g: g / len(image), gradient)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("reconstruction", ["squared", "cross_entropy"])
def test_error_and_gradient_equal_a_loop_in_float64(layer, tied, reconstruction):
  model = create_model("stacked_autoencoder", sizes=(5, 4), tied=tied)
  image = images()
  variables = model.init(jax.random.key(0), image)
  keys = jax.random.split(jax.random.key(1), len(image))
  width = 16 if layer == 1 else 5
  mask = np.asarray(corrupt(jnp.ones((3, width)), keys, 0.4))
  assert 0 < mask.mean() < 1
  options = {"reconstruction": reconstruction, "noise_rate": 0.4}
  error, gradient = error_and_gradient(model, variables, image, layer, keys, **options)
  want, parts = by_loops(variables["params"], image, layer, mask, reconstruction == "squared", tied)
  assert error == pytest.approx(want, rel=1e-5)
  for name, (kernel, bias) in parts.items():
    found = gradient[f"{name}{layer}"]
    np.testing.assert_allclose(found["bias"], bias, rtol=1e-4, atol=1e-6)
    assert (kernel is None) == ("kernel" not in found)
    if kernel is not None:
      np.testing.assert_allclose(found["kernel"], kernel, rtol=1e-4, atol=1e-6)


class Linear(StackedAutoencoder):
  """The model without the logistic function."""

  def activation(self, x):
    return x


@pytest.mark.parametrize("tied", [False, True])
def test_a_linear_autoencoder_reaches_the_error_of_principal_components(tied):
  """The smallest error with 2 hidden units is half the sum of squares outside the first two components."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(40, 6)) + 0.3
  centred = x - x.mean(0)
  best = (np.linalg.svd(centred, compute_uv=False)[2:] ** 2).sum() / 2 / len(x)
  model = Linear(sizes=(2,), tied=tied)
  image = jnp.asarray(x, jnp.float32).reshape(40, 2, 3, 1)
  stage = layer_stage(model, 1, noise_layers=(), optimizer="adam")
  initial = model.init(jax.random.key(0), image)
  # The initial weights are scaled for logistic units. Smaller ones converge faster here.
  begun = state.begin(stage, jax.tree.map(lambda a: a / 8, initial))
  keys = jax.random.split(jax.random.key(1), 40)

  @jax.jit
  def descend(trained):
    def one(trained, k):
      context = Context({"pretrain_rate": 0.05 * 0.9985**k})
      trained, sums = step.step(stage, state.State(trained, begun.frozen), {"image": image}, keys, context)
      total, count = sums["net/error"]
      return trained, total / count

    return jax.lax.scan(one, trained, jnp.arange(5000, dtype=jnp.float32))

  errors = np.asarray(descend(begun.trainable)[1])
  assert errors[0] > 10 * best
  assert errors.min() > best * (1 - 1e-4)
  assert errors[-1] == pytest.approx(best, rel=1e-3)


def test_images_must_be_grey_and_blank_images_give_finite_logits():
  model = create_model("stacked_autoencoder", sizes=(3,))
  variables = model.init(jax.random.key(0), images())
  for blank in (jnp.zeros((1, 4, 4, 1)), jnp.ones((1, 4, 4, 1))):
    assert np.isfinite(model.apply(variables, blank)).all()
  with pytest.raises(UserError, match=r"images of shape \(1, 4, 4, 3\): give grey images"):
    model.apply(variables, jnp.zeros((1, 4, 4, 3)))
