"""Random numbers that are equal on every machine, for the inputs, weights and directions of the goldens.

NumPy guarantees the raw bits of its bit generators, but not the numbers that `Generator` computes from them, and its
transcendental functions round differently on different processors. Therefore the bits are converted to numbers by
integer arithmetic and single multiplications and additions, which IEEE 754 rounds equally everywhere.
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
    """Nearly normal with mean 0 and deviation 1: sums of four uniform 16-bit numbers, at most 3.5 in magnitude."""
    raw = self._raw(shape)
    total = sum(((raw >> (16 * k)) & 0xFFFF).astype(np.int64) for k in range(4)) - 2 * 0xFFFF
    return total.astype(np.float64) * (math.sqrt(3.0) / 2**16)

  def integers(self, high, shape):
    """Integers 0 to high - 1, int64."""
    return ((self._raw(shape) >> 32).astype(np.int64) * high) >> 32


def norm(array, axis):
  """Returns lengths along an axis, which is kept, in float64, from sums that are rounded once."""

  def length(vector):
    return math.sqrt(math.fsum(np.square(vector, dtype=np.float64)))

  return np.expand_dims(np.apply_along_axis(length, axis, array), axis)
