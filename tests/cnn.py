"""A user's network, written only with stock Flax layers."""

import flax.linen as nn


class CNN(nn.Module):
  """One convolution, BatchNorm, dropout and a classifier."""

  num_classes: int
  features: int = 8
  dropout: float = 0.0
  axis_name: str | None = "data"
  dtype: str | None = None

  @nn.compact
  def __call__(self, x, train):
    x = nn.Conv(self.features, (3, 3), strides=(4, 4), dtype=self.dtype)(x)
    x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name, dtype=self.dtype)(x)
    x = nn.relu(x).mean((1, 2))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=self.dtype)(x)


class Plain(nn.Module):
  """Flattens its input, without attributes for the number of classes or the dtype."""

  @nn.compact
  def __call__(self, x, train):
    del train
    return nn.Dense(4)(x.reshape(len(x), -1))
