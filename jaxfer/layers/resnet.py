"""ResNet18 and ResNet50 (He et al. 2016) as in torchvision, used by papers 002 and 004.

The bottleneck of ResNet50 is "v1.5": the stride is in its 3 x 3 convolution. Convolutions have no bias and are
initialised with He's normal initialisation by fan-out. BatchNorm starts from scale 1 and bias 0, and the classifier has
PyTorch's default initialisation.

BatchNorm keeps 0.9 of its running statistics at each step (PyTorch's momentum 0.1). Deviation: the running variance
averages the biased variance of the batches, while PyTorch's averages the unbiased one, which is n / (n - 1) times
larger for n values per channel. Outputs and gradients in training are the same, because both normalise by the biased
variance.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import UserError
from jaxfer.layers.conv import Conv, fan_in_uniform, he_fan_out

# Number of blocks in each of the four layers, and ratio of a block's output channels to its width.
_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
_EXPANSION = {18: 1, 50: 4}


class _Block(nn.Module):
  """Two 3 x 3 convolutions (expansion 1), or 1 x 1, 3 x 3 and 1 x 1 convolutions (expansion 4), plus a shortcut."""

  features: int
  expansion: int
  strides: int
  dtype: Any
  param_dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None) -> jax.Array:
    conv = functools.partial(
      Conv, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=he_fan_out
    )
    norm = functools.partial(_norm, train=train, axis_name=axis_name, dtype=self.dtype)
    features, strides, wide = self.features, self.strides, self.features * self.expansion
    if self.expansion == 1:
      y = nn.relu(norm("bn1")(conv(features, 3, strides, 1, name="conv1")(x)))
      y = norm("bn2")(conv(features, 3, 1, 1, name="conv2")(y))
    else:
      y = nn.relu(norm("bn1")(conv(features, 1, name="conv1")(x)))
      y = nn.relu(norm("bn2")(conv(features, 3, strides, 1, name="conv2")(y)))
      y = norm("bn3")(conv(wide, 1, name="conv3")(y))
    if strides != 1 or x.shape[-1] != wide:
      x = norm("downsample_bn")(conv(wide, 1, strides, name="downsample_conv")(x))
    return nn.relu(x + y)


def _norm(name: str, *, train: bool, axis_name: str | None, dtype: Any) -> nn.BatchNorm:
  """Returns a BatchNorm. Its parameters, and the statistics and their computation, are float32 for any dtype."""
  return nn.BatchNorm(
    not train, momentum=0.9, epsilon=1e-5, dtype=dtype, axis_name=axis_name if train else None, name=name
  )


class _Layer(nn.Module):
  """Blocks `block0`, `block1`, ...; the first has the stride."""

  blocks: int
  features: int
  expansion: int
  strides: int
  dtype: Any
  param_dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None) -> jax.Array:
    for k in range(self.blocks):
      block = _Block(
        self.features,
        self.expansion,
        1 if k else self.strides,
        self.dtype,
        self.param_dtype,
        name=f"block{k}",
      )
      x = block(x, train=train, axis_name=axis_name)
    return x


class ResNetTrunk(nn.Module):
  """All layers before the global pooling, as used in papers 002 (Table 1) and 004.

  Attributes:
    depth: 18 or 50.
    width: factor of the numbers of channels; 64 * width must be a whole number.
    dtype: dtype of the computation; the statistics of BatchNorm are float32.
    param_dtype: dtype of the kernels of the convolutions.
  """

  depth: int = 18
  width: float = 1.0
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None = None) -> jax.Array:
    """Maps images to the features of layer4, after its last ReLU.

    Args:
      x: [batch, height, width, 3]; any height and width, 224 or 112 in the papers.
      train: whether BatchNorm uses the statistics of the batch and updates the running ones (collection
        `batch_stats`).
      axis_name: name of the mapped axis over which the statistics of the batch are computed, if any.

    Returns:
      [batch, ceil(height / 32), ceil(width / 32), C] in `dtype`, where C is 512 times the attribute `width` for
      ResNet18 and 2048 times for ResNet50.
    """
    if self.depth not in _BLOCKS:
      raise UserError(f"ResNet of depth {self.depth}: choose {' or '.join(map(str, _BLOCKS))}")
    features = int(64 * self.width)
    if features != 64 * self.width or features < 1:
      raise UserError(f"width {self.width}: 64 * width must be a whole number, as for 0.125")
    settings = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    x = Conv(features, 7, 2, 3, use_bias=False, kernel_init=he_fan_out, **settings, name="conv1")(x)
    x = nn.relu(_norm("bn1", train=train, axis_name=axis_name, dtype=self.dtype)(x))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for k, blocks in enumerate(_BLOCKS[self.depth]):
      layer = _Layer(
        blocks, features << k, _EXPANSION[self.depth], 2 if k else 1, **settings, name=f"layer{k + 1}"
      )
      x = layer(x, train=train, axis_name=axis_name)
    return x


class ResNet(nn.Module):
  """A classifier: `trunk`, the mean over height and width, and a dense layer `fc`.

  Attributes:
    num_classes: number of logits.
    depth: see `ResNetTrunk`.
    width: see `ResNetTrunk`.
    dtype: see `ResNetTrunk`; logits are float32.
    param_dtype: see `ResNetTrunk`.
  """

  num_classes: int
  depth: int = 18
  width: float = 1.0
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None = None) -> jax.Array:
    """Maps images [batch, height, width, 3] to logits [batch, num_classes], float32. Arguments: see `ResNetTrunk`."""
    trunk = ResNetTrunk(self.depth, self.width, self.dtype, self.param_dtype, name="trunk")
    x = trunk(x, train=train, axis_name=axis_name).astype(jnp.float32).mean((1, 2))
    uniform = fan_in_uniform(x.shape[-1])
    fc = nn.Dense(
      self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype,
      kernel_init=uniform, bias_init=uniform, name="fc",
    )  # fmt: skip
    return fc(x).astype(jnp.float32)
