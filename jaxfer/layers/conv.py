"""Linen modules for the convolutions of `kernels.conv`, and the initialisers that the systems use.

Padding is always explicit, because JAX's 'SAME' differs from PyTorch at stride 2 and for transposed convolutions with a
3 x 3 kernel. The parameters are `kernel` [kernel_height, kernel_width, channels, features] and `bias` [features].
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import UserError
from jaxfer.kernels import conv as kernels

Dtype = Any
Initializer = nn.initializers.Initializer
Pair = tuple[int, int]
Pads = int | tuple[int | Pair, int | Pair]

# PyTorch's `kaiming_normal_`, for layers that are followed by a ReLU.
he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def fan_in_uniform(fan_in: int) -> Initializer:
  """Returns PyTorch's default initialiser of both kernels and biases: U(-1, 1) / sqrt(fan_in)."""
  bound = fan_in**-0.5

  def init(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def as_pair(value: int | Pair) -> Pair:
  """Returns (height, width) as a pair; a single number applies to both."""
  return (value, value) if isinstance(value, int) else (value[0], value[1])


def as_pads(padding: Pads) -> kernels.Padding:
  """Returns the padding as pairs (before, after) for height and width; a single number applies to both of a pair."""
  if isinstance(padding, str):
    raise UserError(f"padding '{padding}': give numbers of zeros, such as 1 or ((1, 1), (1, 1))")
  height, width = (padding, padding) if isinstance(padding, int) else padding
  return as_pair(height), as_pair(width)


class _Layer(nn.Module):
  """The attributes and parameters that both layers share."""

  features: int
  kernel_size: int | Pair
  strides: int | Pair = 1
  padding: Pads = 0
  use_bias: bool = True
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: Initializer = he_fan_in
  bias_init: Initializer = nn.initializers.zeros

  def _cast(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Declares the parameters and returns x, kernel and bias (or None) in the dtype of the computation."""
    shape = (*as_pair(self.kernel_size), x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    bias = self.param("bias", self.bias_init, shape[-1:], self.param_dtype) if self.use_bias else None
    dtype = self.dtype or jnp.promote_types(x.dtype, self.param_dtype)
    return x.astype(dtype), kernel.astype(dtype), None if bias is None else bias.astype(dtype)


class Conv(_Layer):
  """Convolution.

  Attributes:
    features: number of output channels.
    kernel_size: height and width; a single number applies to both, here and below.
    strides: strides in height and width.
    padding: number of zeros around the input: one number, one each for height and width, or pairs (before, after).
    use_bias: whether to add a bias.
    dtype: dtype of the computation; None for the promoted dtype of input and parameters.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the kernel; by default He's normal initialisation by fan-in.
    bias_init: initialiser of the bias; zeros by default.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> [batch, (height + pads - kernel) // stride + 1, ..., features]."""
    x, kernel, bias = self._cast(x)
    y = kernels.conv(x, kernel, as_pair(self.strides), as_pads(self.padding))
    return y if bias is None else y + bias


class ConvTranspose(_Layer):
  """Transposed convolution. All attributes have PyTorch's meaning; those not listed here are as in `Conv`.

  Attributes:
    padding: number of rows and columns removed from each side of the output.
    output_padding: number of rows and columns added at the bottom and right of the output; less than the stride.
  """

  output_padding: int | Pair = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> [batch, (height - 1) stride - pads + kernel + output_padding, ...]."""
    x, kernel, bias = self._cast(x)
    y = kernels.conv_transpose(
      x, kernel, as_pair(self.strides), as_pads(self.padding), as_pair(self.output_padding)
    )
    return y if bias is None else y + bias
