"""Random numbers that are equal on every machine, for the inputs, weights and directions of the goldens.

NumPy guarantees the raw bits of its bit generators, but not what `Generator` makes of them, and its transcendental
functions round differently from processor to processor. So the bits are turned into numbers by integer arithmetic and
single multiplications and additions, which IEEE 754 rounds alike everywhere.
"""

import math

import numpy as np


class Draws:
  """A stream of random numbers from the given whole numbers, all float64.

  Args:
    *seed: Non-negative integers.
  """

  def __init__(self, *seed: int):
    self._bits = np.random.PCG64(np.random.SeedSequence(seed))

  def _raw(self, shape):
    return np.reshape(self._bits.random_raw(math.prod(shape)), shape)

  def uniform(self, low, high, shape):
    """Uniform in [low, high)."""
    return low + (high - low) * ((self._raw(shape) >> 11).astype(np.float64) * 2.0**-53)

  def normal(self, shape):
    """Nearly normal, of mean 0 and deviation 1: the sum of four uniform numbers of 16 bits, at most 3.5 in size."""
    raw = self._raw(shape)
    total = sum(((raw >> (16 * k)) & 0xFFFF).astype(np.int64) for k in range(4)) - 2 * 0xFFFF
    return total.astype(np.float64) * (math.sqrt(3.0) / 2**16)

  def integers(self, high, shape):
    """Integers 0 to high - 1, int64."""
    return ((self._raw(shape) >> 32).astype(np.int64) * high) >> 32


def norm(array, axis):
  """Lengths along an axis, which is kept: float64, from sums that are rounded once."""

  def length(vector):
    return math.sqrt(math.fsum(np.square(vector, dtype=np.float64)))

  return np.expand_dims(np.apply_along_axis(length, axis, array), axis)
