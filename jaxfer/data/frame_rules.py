"""Rules that select frames of a sequence as stills: "middle:5", "equal:10", "last:3" or "all".

Paper 003 trains on equally spaced frames and evaluates on some in the middle (MUG, whose sequences run neutral, apex,
neutral) or the last ones (CK+, onset to peak).
"""

import numpy as np

from jaxfer.data.align import onset_to_peak
from jaxfer.errors import UserError

_LEAST = {"middle": 1, "equal": 2, "last": 1}


def parse(rule: str) -> tuple[str, int]:
  """Parses a rule to its kind and its number of frames, which is 0 for "all".

  Raises:
    UserError: the rule has another form.
  """
  kind, colon, digits = rule.partition(":")
  if rule == "all":
    return "all", 0
  number = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 7 else 0
  if kind not in _LEAST or not colon or number < _LEAST[kind]:
    raise UserError(f"frames is '{rule}': give middle:5, equal:10 (at least 2), last:3 or all")
  return kind, number


def choose(rule: str, length: int) -> list[int]:
  """Selects frames of a sequence by a rule; all of them if there are fewer than the rule asks for.

  Args:
    rule: "middle:N" for the N frames around the middle (one earlier if they cannot be centred), "equal:N" for N frames
      at equal steps from the first to the last, "last:N" or "all".
    length: n >= 0, number of frames in the sequence.

  Returns:
    Ascending positions without repetitions.

  Raises:
    UserError: there is no such rule.
  """
  kind, number = parse(rule)
  if kind == "all" or number >= length:
    return list(range(length))
  if kind == "equal":
    return [int(i) for i in np.unique(onset_to_peak(length, number))]
  start = length - number if kind == "last" else (length - number) // 2
  return list(range(start, start + number))
