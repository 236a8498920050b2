"""Random numbers that are equal on every machine. One draw serves many traits, since every draw adds compile time.

Uniform numbers are multiples of 2**-23, which float32 holds exactly on every processor and in every version of JAX.
Values computed from them have the precision of JAX's default float type; `dataset` explains how it avoids differences
from rounding.
"""

import math

import jax
import jax.numpy as jnp


def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Uniform in [0, 1), in JAX's default float type: float64 where it is enabled, from the same bits as in float32."""
  return jax.random.uniform(key, shape, jnp.float32).astype(float)


def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Standard normal, in JAX's default float type."""
  # Excludes -1 and 1, where the inverse error function is infinite.
  centred = 2.0 * uniform(key, shape) - (1.0 - 2.0**-23)
  return math.sqrt(2.0) * jax.lax.erf_inv(centred)


class Draws:
  """Returns the numbers of one draw in the order in which they are requested.

  Args:
    key: A typed key.
    count: Largest number of values.
  """

  def __init__(self, key: jax.Array, count: int):
    self._uniform = uniform(key, (count,))
    self._normal = math.sqrt(2.0) * jax.lax.erf_inv(1.9444 * self._uniform - 0.9722)
    self._at = 0

  def _take(self, values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    start, self._at = self._at, self._at + math.prod(shape)
    if self._at > len(values):
      raise ValueError(f"{self._at} numbers asked for, {len(values)} drawn")
    return values[start : self._at].reshape(shape)

  def uniform(self, low: float, high: float, *shape: int) -> jax.Array:
    """Uniform in [low, high)."""
    return low + (high - low) * self._take(self._uniform, shape)

  def normal(self, scale: float, *shape: int) -> jax.Array:
    """Normal with the given standard deviation, clipped at 2.2 standard deviations."""
    return scale * self._take(self._normal, shape)

  def chance(self, probability: jax.Array | float) -> jax.Array:
    """Returns 1.0 with the given probability, else 0.0."""
    return (self.uniform(0.0, 1.0) < probability).astype(float)
