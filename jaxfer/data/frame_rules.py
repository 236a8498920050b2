"""Which frames of a sequence become stills: "middle:5", "equal:10", "last:3" or "all".

Paper 003 trains on frames at equal spacing and judges on some in the middle (MUG, whose sequences run neutral, apex,
neutral) or the last ones (CK+, onset to peak).
"""

import numpy as np

from jaxfer.data.align import onset_to_peak
from jaxfer.errors import UserError

_LEAST = {"middle": 1, "equal": 2, "last": 1}


def parse(rule: str) -> tuple[str, int]:
  """Reads a rule as its kind and its number of frames; of "all" the number is 0.

  Raises:
    UserError: anything else.
  """
  kind, colon, digits = rule.partition(":")
  if rule == "all":
    return "all", 0
  number = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 7 else 0
  if kind not in _LEAST or not colon or number < _LEAST[kind]:
    raise UserError(f"frames is '{rule}': give middle:5, equal:10 (at least 2), last:3 or all")
  return kind, number


def choose(rule: str, length: int) -> list[int]:
  """Which frames of a sequence a rule takes; all of them where there are fewer than it asks for.

  Args:
    rule: "middle:N": the N about the middle, one earlier where they cannot be centred; "equal:N": from the first to
      the last at equal steps; "last:N"; "all".
    length: n >= 0, frames there are.

  Returns:
    Positions, ascending, each once.

  Raises:
    UserError: no such rule.
  """
  kind, number = parse(rule)
  if kind == "all" or number >= length:
    return list(range(length))
  if kind == "equal":
    return [int(i) for i in np.unique(onset_to_peak(length, number))]
  start = length - number if kind == "last" else (length - number) // 2
  return list(range(start, start + number))
