"""Dropout with one key per example, so that its mask does not depend on how a batch is split over devices."""

import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dropout(nn.Module):
  """Zeroes each unit with probability `rate` in training and scales the rest by 1 / (1 - rate).

  Flax's own dropout uses one key for the whole batch, so every device repeats the same mask.
  """

  rate: float

  def __call__(self, x: jax.Array, keys: jax.Array | None, *, train: bool) -> jax.Array:
    """Drops units of x [batch, ...]; `keys` [batch] are typed keys, which are needed only in training."""
    if not train or self.rate == 0:
      return x
    if keys is None:
      raise ValueError(f"dropout at {'/'.join(self.path)} needs keys [batch] in training")
    place = zlib.crc32("/".join(self.path).encode())
    kept = jax.vmap(
      lambda key: jax.random.bernoulli(jax.random.fold_in(key, place), 1 - self.rate, x.shape[1:])
    )(keys)
    return jnp.where(kept, x / (1 - self.rate), jnp.zeros((), x.dtype))
