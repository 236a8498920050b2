"""Tests the rules that select frames of a sequence as stills."""

import pytest

from jaxfer.data import frame_rules
from jaxfer.errors import UserError


@pytest.mark.parametrize(
  ("rule", "length", "chosen"),
  [
    ("middle:5", 11, [3, 4, 5, 6, 7]),  # The centre and two to each side.
    ("middle:5", 10, [2, 3, 4, 5, 6]),
    ("middle:1", 3, [1]),
    ("last:3", 7, [4, 5, 6]),
    ("last:3", 2, [0, 1]),
    ("equal:3", 9, [0, 4, 8]),
    ("equal:10", 4, [0, 1, 2, 3]),  # No still is repeated.
    ("all", 3, [0, 1, 2]),
    ("middle:5", 0, []),
  ],
)
def test_rules(rule, length, chosen):
  assert frame_rules.choose(rule, length) == chosen


def test_equal_steps_run_from_end_to_end():
  for length in range(10, 60):
    chosen = frame_rules.choose("equal:10", length)
    assert (len(chosen), chosen[0], chosen[-1]) == (10, 0, length - 1)


@pytest.mark.parametrize(
  "rule", ["", "middle", "middle:", "middle:0", "equal:1", "last:-1", "first:3", "all:2", "last:²"]
)
def test_other_rules_are_refused(rule):
  with pytest.raises(UserError, match="give middle:5"):
    frame_rules.parse(rule)
