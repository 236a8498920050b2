"""Stacked autoencoders and the classifier on top of them (paper 000, Figs. 1, 2, 3 and 5).

  pixels -> encoder1 -> encoder2 -> encoder3 -> encoder4 -> classifier -> logits
                |
            decoder1 -> pixels again; the other decoders likewise, each to the input of its encoder

The paper fixes four hidden layers of logistic units and one output a class (W1 to W5). Our choices for the rest:
1000, 500, 250 and 100 units, softmax outputs, decoders with weights of their own, weights uniform in
+-4 sqrt(6 / (inputs + outputs)), biases zero. Sigmoid outputs, of which the paper reads the largest too, are the
recipe's other loss on the same logits.
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

# Uniform in +-4 sqrt(6 / (inputs + outputs)): the usual choice for logistic units.
_KERNEL = nn.initializers.variance_scaling(16.0, "fan_avg", "uniform")


class Decoder(nn.Module):
  """Weighted sums of hidden units; the weights are its own unless the encoder's are passed."""

  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, hidden: jax.Array, units: int, kernel: jax.Array | None) -> jax.Array:
    """`hidden` [batch, inputs] -> [batch, units]; `kernel` [inputs, units], or None."""
    if kernel is None:
      kernel = self.param("kernel", _KERNEL, (hidden.shape[-1], units), self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (units,), self.param_dtype)
    hidden, kernel, bias = nn.dtypes.promote_dtype(hidden, kernel, bias, dtype=self.dtype)
    return hidden @ kernel + bias


class StackedAutoencoder(nn.Module):
  """The stack; its layers count from 1.

  Attributes:
    num_classes: length of the logits.
    sizes: units of the hidden layers.
    tied: a decoder's weights are the transpose of its encoder's; then it has a bias alone.
    dtype: of the layers' computation; logits are float32.
    param_dtype: of the parameters.
  """

  num_classes: Classes = 7
  sizes: Annotated[tuple[Units, ...], Length()] = (1000, 500, 250, 100)
  tied: bool = False
  dtype: Any = None
  param_dtype: Any = jnp.float32

  def setup(self):
    """Makes the layers; the names are the checkpoint format."""
    settings: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    dense: Callable[..., nn.Dense] = functools.partial(nn.Dense, kernel_init=_KERNEL, **settings)
    numbered = list(enumerate(self.sizes, start=1))
    self.encoders = [dense(units, name=f"encoder{layer}") for layer, units in numbered]
    self.decoders = [Decoder(**settings, name=f"decoder{layer}") for layer, _ in numbered]
    self.classifier = dense(self.num_classes, name="classifier")

  def activation(self, x: jax.Array) -> jax.Array:
    """Of hidden and of reconstructed units: the logistic function."""
    return nn.sigmoid(x)

  def __call__(self, image: jax.Array, *, train: bool = False, keys: jax.Array | None = None) -> jax.Array:
    """Classifies pictures [batch, height, width, 1] in [0, 1]: logits [batch, num_classes], float32."""
    del train, keys  # Noise is a matter of pre-training alone.
    if self.is_initializing():
      for layer in range(1, len(self.sizes) + 1):
        self.reconstruct(self.encode(image, layer - 1), layer)
    return self.classifier(self.encode(image, len(self.sizes))).astype(jnp.float32)

  def encode(self, image: jax.Array, depth: int) -> jax.Array:
    """Units [batch, sizes[depth - 1]] of hidden layer `depth`; of layer 0 the pixels [batch, height * width].

    Raises:
      UserError: pictures that are not grey.
    """
    if image.ndim != 4 or image.shape[-1] != 1:
      raise UserError(f"pictures of shape {image.shape}: give grey ones, [batch, height, width, 1]")
    units = image.reshape(len(image), -1)
    for encoder in self.encoders[:depth]:
      units = self.activation(encoder(units))
    return units

  def reconstruct(self, units: jax.Array, layer: int) -> jax.Array:
    """What `layer` makes of its input units [batch, n], noise and all: sums [batch, n] before the activation."""
    encoder, decoder = self.encoders[layer - 1], self.decoders[layer - 1]
    hidden = self.activation(encoder(units))
    kernel = encoder.variables["params"]["kernel"].T if self.tied else None
    return decoder(hidden, units.shape[-1], kernel).astype(jnp.float32)


def noised(units: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
  """Units [batch, n], each set to zero with probability `rate`; the others stay as they are. `keys` [batch]."""
  if rate == 0:
    return units
  tag = zlib.crc32(b"masking noise")
  kept = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, tag), 1 - rate, units.shape[1:]))(
    keys
  )
  return jnp.where(kept, units, 0)
