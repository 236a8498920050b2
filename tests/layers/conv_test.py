"""Compares `Conv` and `ConvTranspose` with Flax's layers, a case computed by hand, and PyTorch's golden."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import nets_cases
import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.layers.conv import Conv, ConvTranspose, fan_in_uniform, he_fan_out

TOLERANCE = 1e-5  # Relative to the largest value, in float32.


def close(got, want, tolerance=TOLERANCE):
  got, want = np.asarray(got, np.float32), np.asarray(want, np.float32)
  chex.assert_equal_shape([got, want])
  np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def drawn(module, x):
  """Returns random variables of the module, including biases."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  leaves, tree = jax.tree.flatten(shapes)
  return tree.unflatten([random(*leaf.shape, seed=k) for k, leaf in enumerate(leaves)])


@pytest.mark.parametrize(
  "settings",
  [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 5), "strides": (2, 1), "padding": ((1, 0), 2), "use_bias": False},
    {"kernel_size": 7, "strides": 2, "padding": 3},
  ],
)
def test_conv_equals_flax(settings):
  x = random(2, 8, 9, 3)
  ours = Conv(4, **settings)
  pads = settings["padding"]
  height, width = (pads, pads) if isinstance(pads, int) else pads
  theirs = nn.Conv(
    4, settings["kernel_size"] if isinstance(settings["kernel_size"], tuple) else (settings["kernel_size"],) * 2,
    settings.get("strides", 1), [p if isinstance(p, tuple) else (p, p) for p in (height, width)],
    use_bias=settings.get("use_bias", True),
  )  # fmt: skip
  variables = drawn(ours, x)
  chex.assert_trees_all_equal_shapes(variables, jax.eval_shape(theirs.init, jax.random.key(0), x))
  close(ours.apply(variables, x), theirs.apply(variables, x))


@pytest.mark.parametrize(("kernel", "padding", "extra"), [(4, 1, 0), (3, 1, 1), (3, ((0, 1), 2), (1, 0))])
def test_conv_transpose_equals_flax_with_a_flipped_kernel_and_its_pads(kernel, padding, extra):
  x = random(2, 5, 4, 3)
  ours = ConvTranspose(2, kernel, 2, padding, output_padding=extra)
  height, width = (padding, padding) if isinstance(padding, int) else padding
  more = (extra, extra) if isinstance(extra, int) else extra
  pairs = [p if isinstance(p, tuple) else (p, p) for p in (height, width)]
  pads = [(kernel - 1 - lo, kernel - 1 - hi + m) for (lo, hi), m in zip(pairs, more, strict=True)]
  theirs = nn.ConvTranspose(2, (kernel, kernel), (2, 2), pads)
  variables = drawn(ours, x)
  flipped = {"params": {**variables["params"], "kernel": variables["params"]["kernel"][::-1, ::-1]}}
  close(ours.apply(variables, x), theirs.apply(flipped, x))


def test_conv_transpose_worked_by_hand():
  """Computed by hand: x = [1, 2], w = [a, b, c], stride 2, padding 1, output padding 1 gives [b, c + 2a, 2b, 2c]."""
  a, b, c = 3.0, 5.0, 7.0
  layer = ConvTranspose(1, (1, 3), (1, 2), (0, 1), use_bias=False, output_padding=(0, 1))
  kernel = jnp.asarray([a, b, c]).reshape(1, 3, 1, 1)
  y = layer.apply({"params": {"kernel": kernel}}, jnp.asarray([1.0, 2.0]).reshape(1, 1, 2, 1))
  np.testing.assert_allclose(y.ravel(), [b, c + 2 * a, 2 * b, 2 * c], rtol=1e-6)


@pytest.mark.parametrize("layer", [Conv(4, 3, 1, 1), ConvTranspose(4, 4, 2, 1)])
def test_computes_in_the_dtype_that_is_asked_for_and_keeps_parameters(layer):
  x = random(2, 6, 6, 3)
  variables = drawn(layer, x)
  low = layer.clone(dtype=jnp.bfloat16)
  assert jax.eval_shape(low.init, jax.random.key(0), x)["params"]["kernel"].dtype == jnp.float32
  assert low.apply(variables, x).dtype == jnp.bfloat16
  assert layer.apply(variables, x.astype(jnp.bfloat16)).dtype == jnp.float32
  close(low.apply(variables, x), layer.apply(variables, x), 0.03)


def test_padding_by_name_is_refused():
  with pytest.raises(UserError, match="padding 'SAME': give numbers of zeros"):
    Conv(4, 3, padding="SAME").init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))


def test_initialisers_have_the_spread_that_they_are_named_after():
  shape = (3, 3, 64, 128)
  kernel = he_fan_out(jax.random.key(0), shape, jnp.float32)
  assert kernel.std() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
  bias = fan_in_uniform(25)(jax.random.key(0), (10_000,), jnp.float32)
  assert 0.199 < jnp.abs(bias).max() <= 0.2


@pytest.mark.golden
def test_values_and_gradients_equal_pytorch():
  y, gradients, _ = nets_cases.run("layers")
  nets_cases.compare("layers", y, gradients)
