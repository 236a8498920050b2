"""Types for the numbers of a config, each with the range of its values.

The annotation of a numeric option gives the values that it accepts: `epochs: Count = 100`. `jaxfer.values.check` reads
these annotations and refuses other values before any data are read or anything is compiled. The upper limits are far
above useful values; they keep a typing mistake from filling the memory or overflowing an array.
"""

import dataclasses
import math
from typing import Annotated, Literal


@dataclasses.dataclass(frozen=True)
class Range:
  """Numbers from `low` to `high`.

  Attributes:
    low: the smallest number.
    high: the largest number.
    above: whether `low` itself is excluded.
    below: whether `high` itself is excluded.
    parity: "odd" or "even" if only such numbers are in the range; "" for all numbers.
  """

  low: int | float
  high: int | float
  above: bool = False
  below: bool = False
  parity: Literal["", "odd", "even"] = ""

  def holds(self, value: int | float) -> bool:
    """Returns whether `value` lies in the range; NaN and infinity never do."""
    if isinstance(value, float) and not math.isfinite(value):
      return False
    from_low = value > self.low if self.above else value >= self.low
    to_high = value < self.high if self.below else value <= self.high
    return from_low and to_high and self.parity in ("", ("even", "odd")[int(value) % 2])

  def __str__(self) -> str:
    if self.above:
      text = f"above {self.low} and {'below' if self.below else 'at most'} {self.high}"
    else:
      text = f"from {self.low} to {'below ' if self.below else ''}{self.high}"
    return text + (f", {self.parity}" if self.parity else "")


@dataclasses.dataclass(frozen=True)
class OneOf:
  """One of a few integers.

  Attributes:
    values: the integers.
  """

  values: tuple[int, ...]

  def holds(self, value: int | float) -> bool:
    """Returns whether `value` is one of the numbers."""
    return value in self.values

  def __str__(self) -> str:
    *others, last = map(str, self.values)
    return f"{', '.join(others)} or {last}"


@dataclasses.dataclass(frozen=True)
class Length:
  """The length of a tuple: 1 to `most` values.

  Attributes:
    most: the largest number of values.
  """

  most: int = 64


# Whole numbers.
Count = Annotated[int, Range(1, 1_000_000)]  # Epochs, rounds, people, images, steps.
CountOrZero = Annotated[int, Range(0, 1_000_000)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # JAX's keys use 32 bits of a seed: 2**32 equals 0.
Units = Annotated[int, Range(1, 65_536)]  # Channels, units of a layer, classes, examples of a batch, devices.
Classes = Annotated[int, Range(2, 1_000_000)]
ImageSize = Annotated[int, Range(1, 4096)]  # Edge of a model's input images, in pixels.
StoredSize = Annotated[int, Range(16, 4096)]  # Edge of a data set's images, in pixels.
Frames = Annotated[int, Range(1, 10_000)]
Channels = Annotated[int, OneOf((1, 3))]  # Grey or RGB.
Kernel = Annotated[int, Range(1, 99)]
# Block size of ARM's arrangement; half of it is the stride of a convolution.
Block = Annotated[int, Range(2, 64, parity="even")]
OddKernel = Annotated[int, Range(1, 99, parity="odd")]

# Numbers.
Rate = Annotated[float, Range(0, 1000)]  # A learning rate or weight decay; 0 leaves the parameters unchanged.
Factor = Annotated[float, Range(0, 1, above=True)]  # A factor by which a learning rate is decreased.
Weight = Annotated[float, Range(0, 1_000_000_000)]  # A factor of a loss term or of an input.
Share = Annotated[float, Range(0, 1)]  # A probability or a fraction.
ShareBelowOne = Annotated[float, Range(0, 1, below=True)]
Part = Annotated[float, Range(0, 1, above=True, below=True)]  # A fraction that is neither 0 nor 1.
Width = Annotated[float, Range(0, 16, above=True)]  # A factor of the number of channels of a model.
Seconds = Annotated[float, Range(0, 31_536_000)]  # Up to a year.
Norm = Annotated[float, Range(0, 1_000_000_000, above=True)]  # The largest allowed norm of a gradient.
Degrees = Annotated[float, Range(0, 180)]
Variance = Annotated[float, Range(0, 65_025)]  # The variance of grey levels, which range from 0 to 255.
