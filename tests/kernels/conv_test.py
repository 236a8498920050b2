import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.kernels import conv as convolution

# (batch, height, width, channels, features, kernel, strides, padding); None keeps the size.
SHAPES = {
  "3x3": (3, 7, 6, 2, 5, (3, 3), (1, 1), None),
  "1x1": (2, 5, 4, 3, 2, (1, 1), (1, 1), None),
  "even kernel, stride 2, uneven padding": (2, 8, 9, 3, 2, (4, 4), (2, 2), ((1, 2), (0, 1))),
  "stride skips the last column": (2, 9, 10, 3, 2, (3, 3), (2, 2), ((1, 1), (0, 0))),
  "7x7 stem, unequal strides": (1, 10, 8, 1, 2, (7, 7), (2, 3), ((3, 3), (3, 3))),
  "1x1 downsample": (2, 5, 5, 2, 3, (1, 1), (2, 2), ((0, 0), (0, 0))),
  "non-square kernel": (2, 6, 7, 2, 3, (3, 5), (1, 1), None),
}
TOLERANCE = {jnp.float32: 1e-5, jnp.bfloat16: 2e-2}  # Of the largest value.


def close(got, want, tolerance):
  got, want = np.asarray(got, np.float32), np.asarray(want, np.float32)
  assert got.shape == want.shape
  np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def arrays(case, dtype=jnp.float32):
  batch, height, width, channels, features, kernel, strides, padding = SHAPES[case]
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((batch, height, width, channels)), dtype)
  w = jnp.asarray(rng.standard_normal((*kernel, channels, features)), dtype)
  return x, w, strides, padding or convolution.same_padding(kernel)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("small", [True, False], ids=["xla", "patches"])
@pytest.mark.parametrize("case", SHAPES)
def test_values_and_gradients_equal_the_reference(case, small, dtype, monkeypatch):
  monkeypatch.setattr(convolution, "_SMALL_IMAGE", 10**9 if small else 0)
  monkeypatch.setattr(convolution, "_NARROW", 0)
  x, w, strides, padding = arrays(case, dtype)

  def value_and_pull(f):
    y, pull = jax.vjp(f, x, w)
    return y, *pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(dtype))

  got = jax.jit(lambda: value_and_pull(lambda x, w: convolution.conv(x, w, strides, padding)))()
  want = value_and_pull(lambda x, w: convolution.conv_reference(x, w, strides, padding))
  for g, v in zip(got, want, strict=True):
    assert g.dtype == dtype
    close(g, v, TOLERANCE[dtype])


@pytest.mark.parametrize("case", SHAPES)
def test_patch_products_in_blocks_equal_the_reference(case, monkeypatch):
  for limit in ("_BLOCK", "_WEIGHT_BLOCK"):
    monkeypatch.setattr(convolution, limit, 1)  # One image at a time.
  x, w, strides, padding = arrays(case)
  y, pull = jax.vjp(lambda x, w: convolution.conv_reference(x, w, strides, padding), x, w)
  close(convolution.patch_conv(x, w, strides, padding), y, 1e-5)
  if strides == (1, 1):
    close(convolution.shift_conv(x, w, padding), y, 1e-5)
  close(convolution.patch_product(x, y, w.shape, strides, padding), pull(y)[1], 1e-5)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("case", SHAPES)
def test_other_platforms_take_xlas_own_convolutions(case, platform):
  x, w, strides, padding = arrays(case)

  def gradient(x, w):
    return jax.grad(lambda x, w: convolution.conv(x, w, strides, padding).sum(), (0, 1))(x, w)

  module = jax.export.export(jax.jit(gradient), platforms=[platform])(x, w).mlir_module()
  assert module.count("stablehlo.convolution") == 2  # Input and weight gradient; the value is not asked for.


@pytest.mark.parametrize("case", SHAPES)
def test_the_weight_gradient_that_other_platforms_take(case, monkeypatch):
  """The branch that a CPU never lowers, run on it all the same."""
  monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
  x, w, strides, padding = arrays(case)
  y, pull = jax.vjp(lambda x, w: convolution.conv_reference(x, w, strides, padding), x, w)
  dx, dw = pull(y)
  close(convolution.weight_gradient(x, y, w.shape, strides, padding), dw, 1e-5)
  close(convolution.input_gradient(y, w, x.shape, strides, padding), dx, 1e-5)


def test_blocks_divide_the_batch():
  assert convolution._blocks(12, 10, 40) == 3
  assert convolution._blocks(7, 10, 40) == 7
  assert convolution._blocks(5, 100, 40) == 5
  assert convolution._blocks(5, 1, 40) == 1
