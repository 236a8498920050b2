"""Stacked autoencoders with a classifier on top (paper 000, Figs. 1, 2, 3 and 5).

  pixels -> encoder1 -> encoder2 -> encoder3 -> encoder4 -> classifier -> logits
                |
            decoder1 -> reconstructed pixels

Every other encoder has a decoder too, which reconstructs the input of its encoder.

The paper specifies four hidden layers of logistic units and one output per class (weights W1 to W5). The rest is our
choice (README, section 3): 1000, 500, 250 and 100 units, softmax outputs, decoders with separate weights, initial
weights uniform in +-4 sqrt(6 / (inputs + outputs)), and zero biases. Sigmoid outputs are an option of the recipe, which
then applies another loss to the same logits. In both cases the largest output is the predicted class, as in the paper.
"""

import functools
import zlib
from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import UserError
from jaxfer.ranges import Classes, Length, Units

# Uniform in +-4 sqrt(6 / (inputs + outputs)), the usual choice for logistic units.
_KERNEL = nn.initializers.variance_scaling(16.0, "fan_avg", "uniform")


class Decoder(nn.Module):
  """An affine map from hidden units back to the input. It has separate weights unless a kernel is passed.

  Attributes:
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
  """

  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, hidden: jax.Array, units: int, kernel: jax.Array | None) -> jax.Array:
    """Maps `hidden` [batch, inputs] to [batch, units].

    Args:
      hidden: [batch, inputs].
      units: number of outputs.
      kernel: [inputs, units] weights to use; None declares a parameter instead.
    """
    if kernel is None:
      kernel = self.param("kernel", _KERNEL, (hidden.shape[-1], units), self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (units,), self.param_dtype)
    hidden, kernel, bias = nn.dtypes.promote_dtype(hidden, kernel, bias, dtype=self.dtype)
    return hidden @ kernel + bias


class StackedAutoencoder(nn.Module):
  """A stack of autoencoders and a classifier. Layers are numbered from 1.

  Attributes:
    num_classes: number of classes, which is the length of the logits.
    sizes: number of units of each hidden layer.
    tied: whether each decoder uses the transposed weights of its encoder. It then has only a separate bias.
    dtype: dtype of the layers' computation. Logits are float32.
    param_dtype: dtype of the parameters.
  """

  num_classes: Classes = 7
  sizes: Annotated[tuple[Units, ...], Length()] = (1000, 500, 250, 100)
  tied: bool = False
  dtype: Any = None
  param_dtype: Any = jnp.float32

  def setup(self):
    """Creates the layers. Checkpoints store them by these names."""
    settings: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    dense: Callable[..., nn.Dense] = functools.partial(nn.Dense, kernel_init=_KERNEL, **settings)
    numbered = list(enumerate(self.sizes, start=1))
    self.encoders = [dense(units, name=f"encoder{layer}") for layer, units in numbered]
    self.decoders = [Decoder(**settings, name=f"decoder{layer}") for layer, _ in numbered]
    self.classifier = dense(self.num_classes, name="classifier")

  def activation(self, x: jax.Array) -> jax.Array:
    """Applies the logistic function, the activation of hidden and of reconstructed units, elementwise."""
    return nn.sigmoid(x)

  def __call__(self, image: jax.Array, *, train: bool = False, keys: jax.Array | None = None) -> jax.Array:
    """Classifies a batch of images.

    Args:
      image: [batch, height, width, 1], in [0, 1].
      train: ignored; the forward pass is the same in training.
      keys: ignored. Noise is only added in pre-training, by the recipe.

    Returns:
      Logits [batch, num_classes], float32.

    Raises:
      UserError: the images are not grey.
    """
    del train, keys
    if self.is_initializing():
      for layer in range(1, len(self.sizes) + 1):
        self.reconstruct(self.encode(image, layer - 1), layer)
    return self.classifier(self.encode(image, len(self.sizes))).astype(jnp.float32)

  def encode(self, image: jax.Array, depth: int) -> jax.Array:
    """Computes the units of a hidden layer.

    Args:
      image: [batch, height, width, 1], in [0, 1].
      depth: number of encoders to apply; 0 returns the pixels.

    Returns:
      [batch, sizes[depth - 1]], or [batch, height * width] for depth 0, in [0, 1].

    Raises:
      UserError: the images are not grey.
    """
    if image.ndim != 4 or image.shape[-1] != 1:
      raise UserError(f"images of shape {image.shape}: give grey images, [batch, height, width, 1]")
    units = image.reshape(image.shape[0], -1)
    for encoder in self.encoders[:depth]:
      units = self.activation(encoder(units))
    return units

  def reconstruct(self, units: jax.Array, layer: int) -> jax.Array:
    """Encodes and decodes the input of a layer.

    Args:
      units: [batch, n] input of the layer, which may be corrupted.
      layer: number of the layer, from 1.

    Returns:
      The reconstruction before its activation, [batch, n], float32.
    """
    encoder, decoder = self.encoders[layer - 1], self.decoders[layer - 1]
    hidden = self.activation(encoder(units))
    kernel = encoder.variables["params"]["kernel"].T if self.tied else None
    return decoder(hidden, units.shape[-1], kernel).astype(jnp.float32)


def corrupt(units: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
  """Applies masking noise: sets each unit to zero with probability `rate`, and does not rescale the others.

  Args:
    units: [batch, n].
    keys: [batch] typed keys, one per example.
    rate: in [0, 1).
  """
  if rate == 0:
    return units
  tag = zlib.crc32(b"masking noise")
  kept = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, tag), 1 - rate, units.shape[1:]))(
    keys
  )
  return jnp.where(kept, units, 0)
