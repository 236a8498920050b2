"""The range of every number in a config, as part of its type.

An option that is a number says in its annotation which values it takes, `epochs: Count = 100`. `jaxfer.values.check`
reads these annotations and refuses any other value before data are read or anything is compiled. Upper limits are far
above what is useful; they keep a slip of the finger from filling the memory or overflowing an array.
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
    above: whether `low` itself is left out.
    below: whether `high` itself is left out.
    parity: "odd" or "even" where only such numbers count.
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
  """A few numbers.

  Attributes:
    values: the numbers.
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
  """How many values a tuple has: 1 to `most`.

  Attributes:
    most: the largest number of values.
  """

  most: int = 64


# Whole numbers.
Count = Annotated[int, Range(1, 1_000_000)]  # Epochs, rounds, people, pictures, steps.
CountOrZero = Annotated[int, Range(0, 1_000_000)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # JAX's keys take 32 bits: 2**32 would draw what 0 draws.
Units = Annotated[int, Range(1, 65_536)]  # Channels, units of a layer, classes, rows of a batch, devices.
Classes = Annotated[int, Range(2, 1_000_000)]
ImageSize = Annotated[int, Range(1, 4096)]  # Pixels that a model reads.
StoredSize = Annotated[int, Range(16, 4096)]  # Pixels of a data set's pictures.
Frames = Annotated[int, Range(1, 10_000)]
Channels = Annotated[int, OneOf((1, 3))]  # Grey or RGB.
Kernel = Annotated[int, Range(1, 99)]
Block = Annotated[
  int, Range(2, 64, parity="even")
]  # The block of ARM's arrangement, half of which is a stride.
OddKernel = Annotated[int, Range(1, 99, parity="odd")]

# Numbers.
Rate = Annotated[float, Range(0, 1000)]  # A learning rate or weight decay; 0 leaves parameters as they are.
Factor = Annotated[float, Range(0, 1, above=True)]  # A factor that a rate falls by.
Weight = Annotated[float, Range(0, 1_000_000_000)]  # A factor on a term of a loss, or on an input.
Share = Annotated[float, Range(0, 1)]  # A probability, or a part of a whole.
ShareBelowOne = Annotated[float, Range(0, 1, below=True)]
Part = Annotated[float, Range(0, 1, above=True, below=True)]  # Neither nothing nor all.
Width = Annotated[float, Range(0, 16, above=True)]  # A factor on the channels of a net.
Seconds = Annotated[float, Range(0, 31_536_000)]  # Up to a year.
Norm = Annotated[float, Range(0, 1_000_000_000, above=True)]  # The largest norm of a gradient.
Degrees = Annotated[float, Range(0, 180)]
Variance = Annotated[float, Range(0, 65_025)]  # The variance of grey levels, which go from 0 to 255.
