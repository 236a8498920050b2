"""Networks of the weakly supervised identity/expression VAE (paper 003, Tables 1 and 2; specs 4.2-4.4).

  image -> identity encoder   -> z_i -+
                                      +-> decoder -> image -> discriminator -> logit
  image -> expression encoder -> z_e -+

The layer that the tables number 1.1 is `conv1a` or `deconv1a` here, 1.2 is `conv1b`; the layers in brackets (`conv5a`,
`conv5b`, `deconv5a`) exist at 128 px alone. Our choices where the tables are silent or contradict themselves:

- the average pool has no padding: with the printed 1 its output would be 3 x 3, not 1 x 1;
- `fc_log_variance` ("fc sigma") gives the logarithm of the variance;
- ReLU follows every convolution and fc1 (He initialisation is printed), nothing follows the fc layers of the encoder;
  a sigmoid follows conv6; there is no normalisation;
- deconvolutions with the printed kernel 3 have output padding 1, as only then do their outputs have the printed sizes;
  `uniform_4x4` takes kernel 4 instead, which needs none;
- fc1's 4096 numbers are reshaped to channels, height, width (256, 4, 4), in that order, as where images are channels
  first;
- "He" of a deconvolution counts features x kernel area, as PyTorch and Chainer do; biases start at zero.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import UserError
from jaxfer.layers.conv import Conv, ConvTranspose, he_fan_in

LATENT = 64  # Of each encoder; the decoder reads both.
_STAGES = {64: 4, 128: 5}  # Convolutions that halve the image, by its size.
_WIDTHS = (32, 64, 128, 256, 256)
_DECODER_WIDTHS = (128, 64, 32, 16, 8)
# The tables' deconvolutions: four of kernel 4 would be uniform.
_DECODER_KERNELS = (4, 4, 3, 3, 3)
_he_transposed = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=-1, out_axis=-2)


def _stages(size: int) -> int:
  if size not in _STAGES:
    raise UserError(f"images of {size} px: the networks of paper 003 take {' or '.join(map(str, _STAGES))}")
  return _STAGES[size]


def _channels(full: int, width: float) -> int:
  if (channels := full * width) != int(channels) or channels < 1:
    raise UserError(f"width {width}: {full} channels times it must be a whole number, as with 0.25")
  return int(channels)


class _Net(nn.Module):
  """What all three share."""

  width: float = 1.0
  dtype: Any = None
  param_dtype: Any = jnp.float32

  def _dense(self, features: int, name: str) -> nn.Dense:
    return nn.Dense(
      features, dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=he_fan_in, name=name
    )

  def _conv(self, full: int, name: str, strides: int = 1) -> Conv:
    features = _channels(full, self.width)
    return Conv(features, 3, strides, 1, dtype=self.dtype, param_dtype=self.param_dtype, name=name)

  def _trunk(self, x: jax.Array) -> jax.Array:
    """[batch, size, size, 3] -> [batch, 256 width], float32: Table 1 up to the average pool."""
    if x.ndim != 4 or x.shape[1] != x.shape[2] or x.shape[3] != 3:
      raise UserError(f"an encoder reads images [batch, size, size, 3], not {x.shape}")
    for k, full in enumerate(_WIDTHS[: _stages(x.shape[1])], 1):
      x = nn.relu(self._conv(full, f"conv{k}a", strides=2)(x))
      x = nn.relu(self._conv(full, f"conv{k}b")(x))
    return x.astype(jnp.float32).mean((1, 2))


class Encoder(_Net):
  """q(z | image), of identity or expression (Table 1).

  Attributes:
    width: factor on all channels.
    dtype: of the computation; results are float32.
    param_dtype: of the parameters.
  """

  @nn.compact
  def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images [batch, size, size, 3] in [0, 1], size 64 or 128 -> mean and log-variance, [batch, 64] each."""
    x = self._trunk(images)
    mean, log_variance = self._dense(LATENT, "fc_mean")(x), self._dense(LATENT, "fc_log_variance")(x)
    return mean.astype(jnp.float32), log_variance.astype(jnp.float32)


class Discriminator(_Net):
  """Table 1 up to the average pool and one output (section "Discriminator"); attributes as in `Encoder`."""

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Images [batch, size, size, 3] in [0, 1], size 64 or 128 -> logits [batch] of being real, float32."""
    return self._dense(1, "fc")(self._trunk(images))[:, 0].astype(jnp.float32)


class Decoder(_Net):
  """Images from z = (z_i, z_e) (Table 2).

  Attributes:
    image_size: 64 or 128.
    uniform_4x4: kernel 4 in all deconvolutions, in place of the printed kernels 4, 4, 3, 3, (3).
    width: factor on all channels but the image's.
    dtype: of the computation; the result is float32.
    param_dtype: of the parameters.
  """

  image_size: int = 64
  uniform_4x4: bool = False

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    """[batch, latent] (128 in the paper) -> images [batch, image_size, image_size, 3] in (0, 1), float32."""
    stages, channels = _stages(self.image_size), _channels(256, self.width)
    x = nn.relu(self._dense(channels * 16, "fc1")(z))
    x = x.reshape(-1, channels, 4, 4).transpose(0, 2, 3, 1)
    for k in range(stages):
      kernel = 4 if self.uniform_4x4 else _DECODER_KERNELS[k]
      deconv = ConvTranspose(
        _channels(_DECODER_WIDTHS[k], self.width), kernel, 2, 1, output_padding=int(kernel == 3),
        dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=_he_transposed, name=f"deconv{k + 1}a",
      )  # fmt: skip
      x = nn.relu(deconv(x))
      x = nn.relu(self._conv(_DECODER_WIDTHS[k], f"conv{k + 1}b")(x))
    conv6 = Conv(3, 3, 1, 1, dtype=self.dtype, param_dtype=self.param_dtype, name="conv6")
    return nn.sigmoid(conv6(x).astype(jnp.float32))
