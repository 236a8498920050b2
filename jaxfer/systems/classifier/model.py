"""A small network for your own pictures; `configs/own_images.py` trains it."""

import flax.linen as nn
import jax

from jaxfer.layers.conv import Conv


class SmallCNN(nn.Module):
  """Convolutions with BatchNorm and max pooling, the mean over space, and a dense layer.

  Attributes:
    num_classes: number of classes, taken from the data.
    features: number of channels of each convolution; each halves the size of the image.
    dropout: rate of dropout before the dense layer.
  """

  num_classes: int
  features: tuple[int, ...] = (32, 64, 128, 128)
  dropout: float = 0.3

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps images [batch, height, width, channels] in [-1, 1] to logits [batch, classes]."""
    for features in self.features:
      # In the loop of a training, the gradient of `nn.Conv` is many times slower on CPU.
      x = Conv(features, 3, padding=1, use_bias=False)(x)
      # The statistics of a small data set need a momentum below Flax's 0.99; "data" is the axis of devices.
      x = nn.BatchNorm(use_running_average=not train, momentum=0.9, axis_name="data")(x)
      x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
    x = nn.Dropout(self.dropout, deterministic=not train)(x.mean((1, 2)))
    return nn.Dense(self.num_classes)(x)
