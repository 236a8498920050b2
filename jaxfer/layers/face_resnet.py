"""Residual models for face recognition, "Face-ResNet" in paper 004. They map an image to a feature vector.

The paper does not define the name. It trains the models with AdaFace, so they are probably those of AdaFace's released
code (Kim et al. 2022: IR-18 and IR-50). This is the family `adaface`, our choice. The other family, `insightface`, is
the IResNet of InsightFace's released code. Both have a 3 x 3 stem of stride 1, then four stages of blocks

  BatchNorm - 3 x 3 - BatchNorm - PReLU - 3 x 3 (stride 2 in the first block) - BatchNorm,
  plus a shortcut, no activation

then BatchNorm, dropout, flattening in the order channel, row, column, a dense layer and BatchNorm. At depth 50 the
stages have 3, 4, 14 and 3 of these blocks; there are no bottlenecks. The families differ in

              adaface                               insightface
  shortcut    every second pixel if the channels    1 x 1 convolution and norm in the
              are equal, else 1 x 1 conv and norm   first block of every stage
  last norm   no scale, no bias                     bias; the scale stays 1, so it is not a parameter
  dropout     0.4                                   0
  initial     He's normal by fan-out,               N(0, 0.1); PyTorch's default
  weights     zero bias                             in the dense layer
  images      BGR                                   RGB; both (x / 255 - 0.5) / 0.5, an aligned face of 112 pixels

AdaFace's code returns feature / |feature| and |feature|, and InsightFace's code returns the feature. Here both families
return the feature, and `unit` computes the pair. Deviations: BatchNorm's running variance, see `layers.resnet`; and the
unit feature of a zero feature is zero, while AdaFace's code divides by zero.
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
_SHORTEST = 1e-12  # Features of at most this length have no direction.


class Embedding(NamedTuple):
  """Features as direction and length, both float32.

  Attributes:
    unit: [batch, features], features divided by their length.
    norm: [batch], lengths of the features.
  """

  unit: jax.Array
  norm: jax.Array


def unit(feature: jax.Array) -> Embedding:
  """Splits features [batch, features] into direction and length.

  Features of at most length 1e-12 give zeros and length 0; features with a NaN give NaN.
  """
  feature = feature.astype(jnp.float32)
  square = (feature**2).sum(-1)
  short = square <= _SHORTEST**2  # False for NaN, so NaN features are not mistaken for zero features.
  # Root and quotient must not be computed from zeros, even where they are not selected: their gradient would be NaN.
  norm = jnp.sqrt(jnp.where(short, 1, square))
  return Embedding(jnp.where(short[:, None], 0, feature / norm[:, None]), jnp.where(short, 0, norm))


class PReLU(nn.Module):
  """Returns x where it is positive, otherwise `slope` x.

  There is one slope per channel, initially 0.25, while Flax's PReLU has a single slope, initially 0.01.
  """

  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [..., channels] to the same shape."""
    slope = self.param("slope", nn.initializers.constant(0.25), x.shape[-1:], self.param_dtype)
    return jnp.where(x > 0, x, slope.astype(x.dtype) * x)


class _Block(nn.Module):
  """A residual block, see the docstring of the module; the parameters have InsightFace's names."""

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
  """Blocks `block0`, `block1`, ...; the first has stride 2."""

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
  """Returns (BatchNorm, convolution) with the settings that all layers of a family share."""
  norm = functools.partial(
    nn.BatchNorm, not train, momentum=0.9, epsilon=1e-5, dtype=dtype, axis_name=axis_name if train else None
  )
  init = he_fan_out if family == "adaface" else nn.initializers.normal(0.1)
  conv = functools.partial(Conv, use_bias=False, kernel_init=init, dtype=dtype, param_dtype=param_dtype)
  return norm, conv


class FaceResNet(nn.Module):
  """The face recognition model.

  Attributes:
    depth: 18 or 50.
    family: see the docstring of the module.
    width: factor of the numbers of channels and of the size of the feature; 64 * width must be a whole number.
    image_size: edge of the images in pixels; 112 in both released codes.
    dropout: dropout probability before the dense layer; None for that of the family.
    dtype: dtype of the computation; the statistics of the norms, the last norm and the feature are float32.
    param_dtype: dtype of kernels, biases and slopes.
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
    """Maps images to features that are not normalised.

    Args:
      x: [batch, image_size, image_size, 3].
      train: whether norms use the statistics of the batch and update the running ones (collection `batch_stats`), and
        whether units are dropped.
      keys: [batch] typed keys, for dropout in training.
      axis_name: name of the mapped axis over which the statistics of the batch are computed, if any.

    Returns:
      [batch, 512 width], float32.

    Raises:
      UserError: the images have another size, a training batch has a single example over all devices, or an attribute
        has an invalid value.
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
    """Checks the attributes and the input; returns the number of channels of the stem."""
    if self.depth not in BLOCKS:
      raise UserError(f"Face-ResNet of depth {self.depth}: choose {' or '.join(map(str, BLOCKS))}")
    if self.family not in get_args(Family):
      raise unknown("family of Face-ResNet", self.family, get_args(Family))
    features = int(64 * self.width)
    if features != 64 * self.width or features < 1:
      raise UserError(f"width {self.width}: 64 * width must be a whole number, as for 0.125")
    if x.shape[1:] != (self.image_size, self.image_size, 3):
      said = " x ".join(map(str, x.shape[1:]))
      raise UserError(
        f"images of {said}: this model reads {self.image_size} x {self.image_size} x 3; resize the images, or train a "
        "new model with another image_size"
      )
    if train and len(x) * (1 if axis_name is None else lax.psum(1, axis_name)) < 2:
      raise UserError("a training batch of 1 has no statistics for the last norm: give at least 2 images")
    return features
