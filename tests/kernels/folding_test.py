import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.kernels.conv import conv_reference, same_padding
from jaxfer.kernels.conv_recurrence import folding

CHANNELS, FEATURES, GATES = 3, 2, 2


def arrays(*shapes):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def folded_kernel(kernel, pixels):
  params = folding.fold_params({"state_kernel": kernel}, CHANNELS, FEATURES, pixels)
  return params["state_kernel"]


def folded_conv(x, kernel, pixels):
  """Convolves in blocks of pixels; returns features in the order of the plain convolution, gate by gate."""
  y = folding.conv(folding.fold(x, pixels), folded_kernel(kernel, pixels))
  return jnp.concatenate([folding.unfold(gate, pixels) for gate in jnp.split(y, GATES, axis=-1)], axis=-1)


@pytest.mark.parametrize("pixels", [2, 4, 8])
@pytest.mark.parametrize("width", [1, 3, 5, 7])  # The farthest pixel is none to two blocks away.
def test_a_folded_convolution_and_its_gradients_are_those_of_the_image(pixels, width):
  x, kernel, weights = arrays(
    (2, 4, 16, CHANNELS), (3, width, CHANNELS, GATES * FEATURES), (2, 4, 16, GATES * FEATURES)
  )

  def everything(conv):
    y, pull = jax.vjp(conv, x, kernel)
    return y, *pull(weights)

  got = everything(lambda x, kernel: folded_conv(x, kernel, pixels))
  want = everything(lambda x, kernel: conv_reference(x, kernel, (1, 1), same_padding(kernel.shape[:2])))
  for g, w in zip(got, want, strict=True):
    np.testing.assert_allclose(g, w, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
  ("pixels", "width", "seen", "convolutions"), [(4, 3, 6, 2), (2, 5, 6, 3), (4, 1, 4, 1)]
)
def test_a_block_sees_no_more_than_its_halo(pixels, width, seen, convolutions):
  (kernel,) = arrays((3, width, CHANNELS, GATES * FEATURES))
  folded = folded_kernel(kernel, pixels)
  assert folded.shape == (3, seen, CHANNELS, pixels * GATES * FEATURES)
  parts = folding.parts(folded, pixels * CHANNELS)
  assert [part.kernel.shape for part in parts] == [
    (3, 1, pixels * CHANNELS, pixels * GATES * FEATURES)
  ] * convolutions


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_of_a_bias_is_a_sum(dtype):
  y, bias, weights = (a.astype(dtype) for a in arrays((2, 40, 60, 5), (5,), (2, 40, 60, 5)))
  result, pull = jax.vjp(folding.plus, y, bias)
  d_y, d_bias = pull(weights)
  np.testing.assert_array_equal(result, y + bias)
  np.testing.assert_array_equal(d_y, weights)
  exact = np.asarray(weights, np.float64).sum((0, 1, 2))
  assert d_bias.dtype == bias.dtype
  np.testing.assert_allclose(np.asarray(d_bias, np.float64), exact, rtol=0, atol=4e-3 * np.abs(exact).max())
