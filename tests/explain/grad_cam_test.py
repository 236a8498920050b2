"""Compares Grad-CAM++ with plain NumPy, and its inputs with gradients by finite differences."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.explain import grad_cam


def test_the_golden_of_the_spec():
  maps = grad_cam.grad_cam_plus_plus(
    jnp.asarray([[1.0, 0], [0, 2]])[None, :, :, None], jnp.full((1, 2, 2, 1), 0.5)
  )
  np.testing.assert_allclose(maps, [[[4 / 7, 0], [0, 8 / 7]]], rtol=1e-6)


def test_maps_are_those_of_the_definition():
  rng = np.random.default_rng(0)
  activations, gradients = rng.normal(0.3, 1, (3, 4, 5, 6)), rng.normal(0, 1, (3, 4, 5, 6))
  expected = np.zeros((3, 4, 5))
  for n in range(3):
    for k in range(6):
      a, g = activations[n, :, :, k], gradients[n, :, :, k]
      alpha = g**2 / (2 * g**2 + a.sum() * g**3)
      expected[n] += (alpha * np.maximum(g, 0)).sum() * a
  maps = grad_cam.grad_cam_plus_plus(
    jnp.asarray(activations, jnp.float32), jnp.asarray(gradients, jnp.float32)
  )
  np.testing.assert_allclose(maps, np.maximum(expected, 0), rtol=1e-3, atol=1e-4)


def test_no_denominator_and_no_positive_gradient_give_zeros():
  ones = jnp.ones((1, 2, 2, 1))
  for gradients in (0 * ones, -ones):
    np.testing.assert_array_equal(grad_cam.grad_cam_plus_plus(ones, gradients), jnp.zeros((1, 2, 2)))
  # 2 + sum(A) g = 2 - 2.
  np.testing.assert_array_equal(grad_cam.grad_cam_plus_plus(-0.5 * ones, ones), jnp.zeros((1, 2, 2)))


def test_small_gradients_give_a_map():
  """Gradients are 5e-5, with squares of 2.5e-9. If the activations do not matter, the map grows with them."""
  activations = jnp.asarray([[1.0, 0], [0, 2]])[None, :, :, None]
  for gradient in (5e-5, 1e-12):
    maps = grad_cam.grad_cam_plus_plus(activations, jnp.full((1, 2, 2, 1), gradient))
    weight = 4 * gradient / (2 + 3 * gradient)
    np.testing.assert_allclose(maps, [[[weight, 0], [0, 2 * weight]]], rtol=1e-5)
    np.testing.assert_allclose(grad_cam.over_picture(maps, 2, 2), [[[0.5, 0], [0, 1]]], rtol=1e-5)


class Body(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(3, (2, 2), name="first")(x))
    return nn.relu(nn.Conv(4, (2, 2), name="second")(x)).mean((1, 2))


class Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(5, name="fc")(jnp.tanh(Body(name="body")(x)))


@pytest.fixture(scope="module")
def net():
  x = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
  return jax.jit(Net().init)(jax.random.key(0), x), x


@functools.partial(jax.jit, static_argnames=("path", "side"))
def compiled(variables, x, path, classes=None, side="output"):
  logits_of = functools.partial(Net().apply, variables)
  return grad_cam.class_activations(logits_of, (x,), path, classes, side=side)


def rest(variables, a):
  """Computes the rest of the net from the rectified activations of `first`."""
  body = variables["params"]["body"]
  x = nn.relu(nn.Conv(4, (2, 2)).apply({"params": body["second"]}, a)).mean((1, 2))
  return nn.Dense(5).apply({"params": variables["params"]["fc"]}, jnp.tanh(x))


def test_activations_and_gradients_are_those_of_the_net_cut_in_two(net):
  variables, x = net
  classes = jnp.asarray([4, 0, 2])
  a, g = compiled(variables, x, ("body", "second"), classes, side="input")
  first = nn.Conv(3, (2, 2)).apply({"params": variables["params"]["body"]["first"]}, x)
  np.testing.assert_allclose(a, nn.relu(first), rtol=1e-5, atol=1e-6)
  assert (a == 0).any()
  for n in range(3):  # Each example alone; also where the ReLU is shut.
    one = jax.grad(lambda a, n=n: rest(variables, a)[0, classes[n]])(a[n : n + 1])[0]
    np.testing.assert_allclose(g[n], one, rtol=1e-4, atol=1e-7)
  before, through = compiled(variables, x, ("body", "first"), classes)
  np.testing.assert_allclose(before, first, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(through, g * (first > 0), rtol=1e-4, atol=1e-7)


def test_without_classes_the_predicted_one_is_explained(net):
  variables, x = net
  predicted = Net().apply(variables, x).argmax(-1)
  path = ("body", "second")
  chex.assert_trees_all_close(
    compiled(variables, x, path), compiled(variables, x, path, predicted), rtol=1e-6
  )


def test_a_submodule_that_is_not_called_is_refused(net):
  with pytest.raises(ValueError, match=r"calls body.third 0 times"):
    compiled(*net, ("body", "third"))


def test_maps_are_shown_from_nought_to_one_at_the_picture_s_size():
  maps = jnp.stack([jnp.zeros((2, 2)), jnp.full((2, 2), 3.0), jnp.asarray([[1.0, 3], [3, 5]])])
  shown = np.asarray(grad_cam.over_picture(maps, 4, 6))
  assert shown.shape == (3, 4, 6)
  assert not shown[:2].any()
  np.testing.assert_allclose(shown[2][[0, 0, 3, 3], [0, 5, 0, 5]], [0, 0.5, 0.5, 1])
  assert (np.diff(shown[2], axis=1) >= 0).all()


def test_the_nets_of_paper_002_are_looked_at_where_it_says():
  """Footnote 3 names layer4 of the RGB net and the fifth convolution of the landmark net."""
  from jaxfer.systems.landmark_fusion.model import LandmarkFusion

  model = LandmarkFusion(3, 1 / 8, 4, (5, 3, 3, 3, 1, 2), affinity="alone")
  images, dots = (jax.ShapeDtypeStruct((2, 112, 112, c), jnp.float32) for c in (3, 1))
  variables = jax.eval_shape(model.init, jax.random.key(0), images, dots, 0.6)
  sides = (("rgb", ("rgb", "trunk"), "output"), ("landmark", ("landmark", "conv6"), "input"))
  for logits, path, side in sides:

    def run(variables, images, dots, logits=logits, path=path, side=side):
      logits_of = lambda *x: getattr(model.apply(variables, *x, 0.6), logits)  # noqa: E731
      return grad_cam.class_activations(logits_of, (images, dots), path, side=side)

    a, g = jax.eval_shape(run, variables, images, dots)
    assert a.shape == g.shape == (2, 4 + (side == "input"), 4 + (side == "input"), 64)


class Branches(nn.Module):
  """Modules of every kind that `layers_with_maps` tells apart."""

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(2, (3, 3), name="once")(x)
    twice = nn.Conv(2, (3, 3), name="twice")
    x = twice(twice(x))
    small = nn.Conv(2, (4, 4), padding="VALID", name="pixel")(x)
    x = nn.Conv(2, (3, 3), name="last")(x)
    return nn.Dense(3, name="head")(jnp.concatenate([x.mean((1, 2)), small[:, 0, 0]], -1))


def test_layers_with_maps_are_those_with_several_pixels_that_are_called_once():
  x = jnp.zeros((2, 4, 4, 3))
  variables = jax.eval_shape(Branches().init, jax.random.key(0), x)
  logits_of = lambda x: Branches().apply(variables, x)  # noqa: E731
  variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables)
  for _ in range(2):  # Also when JAX has already traced the function.
    assert grad_cam.layers_with_maps(logits_of, (x,)) == ["once", "last"]
