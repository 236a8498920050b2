"""Residual nets that recognise faces, "Face-ResNet" of paper 004: picture -> feature.

The paper does not define the name; that it trains them with AdaFace speaks for the nets of that paper's released code
(Kim et al. 2022: IR-18 and IR-50, family `adaface`, our choice). The other family, `insightface`, is the IResNet of
InsightFace's released code. Both: a 3 x 3 stem of stride 1, then four stages of blocks

  BatchNorm - 3 x 3 - BatchNorm - PReLU - 3 x 3 (stride 2 in the first block) - BatchNorm,
  plus a shortcut, no activation

and BatchNorm, dropout, flattening in the order channel, row, column, a dense layer, BatchNorm. Depth 50 has blocks of
3, 4, 14, 3 as well: no bottlenecks. They differ in

              adaface                               insightface
  shortcut    every second pixel where channels     1 x 1 convolution and norm in the
              stay, else 1 x 1 convolution, norm    first block of every stage
  last norm   no scale, no bias                     bias; its scale stays 1, so it is no parameter
  dropout     0.4                                   0
  first       He's normal of the fan-out,           N(0, 0.1), PyTorch's default
  weights     zero bias                             in the dense layer
  pictures    BGR                                   RGB; both (x / 255 - 0.5) / 0.5, an aligned face of 112 px

AdaFace's code returns feature / |feature| and |feature|, InsightFace's the feature: here both give the feature, and
`unit` the pair. Deviations: BatchNorm's running variance, see `layers.resnet`; a feature of zeros has the unit feature
zero, where the code divides by zero.
"""

import functools
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxfer.errors import UserError, unknown
from jaxfer.layers.conv import Conv, fan_in_uniform, he_fan_out
from jaxfer.layers.dropout import Dropout

Family = Literal["adaface", "insightface"]
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 14, 3)}
_DROPOUT = {"adaface": 0.4, "insightface": 0.0}
_SHORTEST = 1e-12  # Length of a feature below which it has no direction.


class Embedding(NamedTuple):
  """A feature's direction [batch, features], of length 1, and its length [batch]; both float32."""

  unit: jax.Array
  norm: jax.Array


def unit(feature: jax.Array) -> Embedding:
  """Splits features [batch, features] into direction and length; below 1e-12 into zeros and 0, NaN into NaN."""
  feature = feature.astype(jnp.float32)
  square = (feature**2).sum(-1)
  short = square <= _SHORTEST**2  # No NaN is: a broken net must not pass for one that sees nothing.
  # The root and the quotient must not meet a zero even where they are not taken: their gradient would be NaN.
  norm = jnp.sqrt(jnp.where(short, 1, square))
  return Embedding(jnp.where(short[:, None], 0, feature / norm[:, None]), jnp.where(short, 0, norm))


class PReLU(nn.Module):
  """x where it is positive, else `slope` x, one slope a channel, 0.25 at first (Flax's: one for all, 0.01)."""

  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., channels] -> the same."""
    slope = self.param("slope", nn.initializers.constant(0.25), x.shape[-1:], self.param_dtype)
    return jnp.where(x > 0, x, slope.astype(x.dtype) * x)


class _Block(nn.Module):
  """See the file's docstring; parameters as InsightFace names them."""

  features: int
  strides: int
  family: Family
  dtype: Any
  param_dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None) -> jax.Array:
    norm, conv = _layers(self.family, self.dtype, self.param_dtype, train, axis_name)
    y = norm(name="bn1")(x)
    y = norm(name="bn2")(conv(self.features, 3, 1, 1, name="conv1")(y))
    y = PReLU(self.param_dtype, name="prelu")(y)
    y = norm(name="bn3")(conv(self.features, 3, self.strides, 1, name="conv2")(y))
    if x.shape[-1] != self.features or (self.strides > 1 and self.family == "insightface"):
      return y + norm(name="downsample_bn")(conv(self.features, 1, self.strides, name="downsample_conv")(x))
    return y + x[:, :: self.strides, :: self.strides]


class _Stage(nn.Module):
  """Blocks `block0`, of stride 2, `block1`, ..."""

  blocks: int
  features: int
  family: Family
  dtype: Any
  param_dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None) -> jax.Array:
    for k in range(self.blocks):
      strides = 1 if k else 2
      block = _Block(self.features, strides, self.family, self.dtype, self.param_dtype, name=f"block{k}")
      x = block(x, train=train, axis_name=axis_name)
    return x


def _layers(
  family: Family, dtype: Any, param_dtype: Any, train: bool, axis_name: str | None
) -> tuple[Any, Any]:
  """(BatchNorm, convolution) with the settings that all of them share."""
  norm = functools.partial(
    nn.BatchNorm, not train, momentum=0.9, epsilon=1e-5, dtype=dtype, axis_name=axis_name if train else None
  )
  init = he_fan_out if family == "adaface" else nn.initializers.normal(0.1)
  conv = functools.partial(Conv, use_bias=False, kernel_init=init, dtype=dtype, param_dtype=param_dtype)
  return norm, conv


class FaceResNet(nn.Module):
  """The net.

  Attributes:
    depth: 18 or 50.
    family: see the file's docstring.
    width: factor on all channels and on the length of the feature; 64 times it must be a whole number.
    image_size: side of the pictures, pixels; 112 in both codes.
    dropout: probability, before the dense layer; None takes the family's.
    dtype: of the computation; norms' statistics, the last norm and the feature are float32.
    param_dtype: of kernels, biases and slopes.
  """

  depth: int = 18
  family: Family = "adaface"
  width: float = 1.0
  image_size: int = 112
  dropout: float | None = None
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool, keys: jax.Array | None = None, axis_name: str | None = None
  ) -> jax.Array:
    """Maps pictures to features, not normalised.

    Args:
      x: [batch, image_size, image_size, 3].
      train: whether norms take the batch's statistics and update the running ones (collection `batch_stats`), and
        units are dropped.
      keys: [batch] typed keys, for dropout in training.
      axis_name: mapped axis over which the batch's statistics are taken, if any.

    Returns:
      [batch, 512 width], float32.

    Raises:
      UserError: pictures of another size, a training batch of one in all, an attribute that does not exist.
    """
    features = self._check(x, train, axis_name)
    settings = self.family, self.dtype, self.param_dtype
    norm, conv = _layers(*settings, train, axis_name)
    x = norm(name="bn1")(conv(features, 3, 1, 1, name="conv1")(x))
    x = PReLU(self.param_dtype, name="prelu")(x)
    for k, blocks in enumerate(BLOCKS[self.depth]):
      stage = _Stage(blocks, features << k, *settings, name=f"layer{k + 1}")
      x = stage(x, train=train, axis_name=axis_name)
    x = norm(name="bn2")(x).transpose(0, 3, 1, 2)
    x = x.reshape(x.shape[0], -1)
    rate = _DROPOUT[self.family] if self.dropout is None else self.dropout
    x = Dropout(rate, name="dropout")(x, keys, train=train)
    uniform, adaface = fan_in_uniform(x.shape[-1]), self.family == "adaface"
    fc = nn.Dense(
      8 * features, dtype=self.dtype, param_dtype=self.param_dtype, name="fc",
      kernel_init=he_fan_out if adaface else uniform, bias_init=nn.initializers.zeros if adaface else uniform,
    )  # fmt: skip
    x = fc(x).astype(jnp.float32)
    return norm(dtype=jnp.float32, use_scale=False, use_bias=not adaface, name="features")(x)

  def _check(self, x: jax.Array, train: bool, axis_name: str | None) -> int:
    """Channels of the stem."""
    if self.depth not in BLOCKS:
      raise UserError(f"Face-ResNet of depth {self.depth}: there is {' and '.join(map(str, BLOCKS))}")
    if self.family not in get_args(Family):
      raise unknown("family of Face-ResNet", self.family, get_args(Family))
    features = int(64 * self.width)
    if features != 64 * self.width or features < 1:
      raise UserError(f"width {self.width}: 64 channels times it must be a whole number, as with 0.125")
    if x.shape[1:] != (self.image_size, self.image_size, 3):
      said = " x ".join(map(str, x.shape[1:]))
      raise UserError(
        f"pictures of {said}: this net takes {self.image_size} x {self.image_size} x 3; resize them, or give "
        "another image_size to a net that is trained anew"
      )
    if train and len(x) * (1 if axis_name is None else lax.psum(1, axis_name)) < 2:
      raise UserError("a batch of 1 in training has no statistics for the last norm: give 2 pictures or more")
    return features
