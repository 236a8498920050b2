"""Linen modules over the convolutions of `kernels.conv`, and the initialisers that the systems name.

Pads are always explicit: 'SAME' of JAX differs from PyTorch at stride 2, and for transposed convolutions of kernel 3
it gives another result altogether. Parameters: `kernel` [kernel_height, kernel_width, channels, features]
and `bias` [features].
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

# PyTorch's `kaiming_normal_`, for layers that a ReLU follows.
he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def fan_in_uniform(fan_in: int) -> Initializer:
  """PyTorch's default for kernels and biases alike: U(-1, 1) / sqrt(fan_in)."""
  bound = fan_in**-0.5

  def init(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def as_pair(value: int | Pair) -> Pair:
  """For height and width; one number stands for both."""
  return (value, value) if isinstance(value, int) else (value[0], value[1])


def as_pads(padding: Pads) -> kernels.Padding:
  """Zeros (before, after) of height and width; one number stands for both of a pair."""
  if isinstance(padding, str):
    raise UserError(f"padding '{padding}': give zeros as numbers, as 1 or ((1, 1), (1, 1))")
  height, width = (padding, padding) if isinstance(padding, int) else padding
  return as_pair(height), as_pair(width)


class _Layer(nn.Module):
  """What both layers share: the attributes and the parameters."""

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
    """x, kernel and bias (or None) in the dtype of computation; declares the parameters."""
    shape = (*as_pair(self.kernel_size), x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    bias = self.param("bias", self.bias_init, shape[-1:], self.param_dtype) if self.use_bias else None
    dtype = self.dtype or jnp.promote_types(x.dtype, self.param_dtype)
    return x.astype(dtype), kernel.astype(dtype), None if bias is None else bias.astype(dtype)


class Conv(_Layer):
  """Convolution.

  Attributes:
    features: channels of the output.
    kernel_size: height and width; here and below one number stands for both.
    strides: step in height and width.
    padding: zeros around the input: a number, one for height and width each, or pairs (before, after).
    use_bias: whether to add a bias.
    dtype: of the computation; None takes that of input and parameters.
    param_dtype: of the parameters.
    kernel_init: He's normal by default, from the fan-in.
    bias_init: zeros by default.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> [batch, (height + pads - kernel) // stride + 1, ..., features]."""
    x, kernel, bias = self._cast(x)
    y = kernels.conv(x, kernel, as_pair(self.strides), as_pads(self.padding))
    return y if bias is None else y + bias


class ConvTranspose(_Layer):
  """Transposed convolution, by PyTorch's definition of every attribute; the others are those of `Conv`.

  Attributes:
    padding: rows and columns that the output loses on each side.
    output_padding: rows and columns that it gains at the far end, less than the stride.
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
