"""What paper 000 prints: its net's and its people's answers by class (Tables 2 and 3).

Table 1, how many pictures, is in `data.datasets.paper000`; Tables 4 and 5, the action units, are in
`data.synthetic.action_units`. Numbers are kept as printed.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfer.data.synthetic import action_units

CLASSES: tuple[str, ...] = action_units.LABELS  # The columns of Tables 2 and 3, in the printed order.
PER_CLASS = 10  # Tested pictures of each class, 70 in all (section 3.1).
FIVE = ("anger", "disgust", "happiness", "neutral", "surprise")  # The abstract's five emotions.


@dataclasses.dataclass(frozen=True)
class Answers:
  """A row of Table 2 or 3.

  Attributes:
    printed: the accuracy beside the row, 0..1.
    correct: how many of the 10 pictures of each class were named correctly, in the order of `CLASSES`.
  """

  printed: float
  correct: tuple[int, int, int, int, int, int, int]


# Table 2: the net, by seed.
NET: dict[int, Answers] = {
  0: Answers(0.729, (6, 10, 6, 8, 8, 6, 7)),
  10: Answers(0.643, (5, 7, 5, 8, 6, 4, 10)),
  20: Answers(0.757, (9, 8, 5, 10, 8, 4, 9)),
  30: Answers(0.643, (6, 9, 5, 7, 4, 5, 9)),
  40: Answers(0.600, (8, 9, 2, 9, 4, 3, 7)),
  50: Answers(0.729, (6, 8, 5, 10, 7, 8, 7)),
}
NET_MEAN = 0.6835

# Table 3: ten people, who saw one labelled picture of each class before (section 3.3).
PEOPLE: dict[int, Answers] = {
  1: Answers(0.643, (5, 6, 3, 8, 9, 4, 10)),
  2: Answers(0.786, (7, 7, 2, 10, 10, 9, 10)),
  3: Answers(0.729, (5, 5, 3, 9, 10, 5, 9)),
  4: Answers(0.671, (6, 4, 2, 9, 10, 6, 10)),
  5: Answers(0.614, (5, 3, 4, 9, 8, 4, 10)),
  6: Answers(0.629, (4, 3, 1, 10, 10, 6, 10)),
  7: Answers(0.729, (4, 5, 4, 10, 10, 8, 10)),
  8: Answers(0.686, (5, 5, 2, 9, 10, 7, 10)),
  9: Answers(0.500, (4, 2, 0, 9, 8, 4, 6)),
  10: Answers(0.614, (6, 2, 2, 9, 8, 6, 10)),
}
PEOPLE_MEAN = 0.6601

# Where the printed numbers do not agree with one another:
# - Table 2's mean of 68.35 % is that of the six rounded rows; its counts give 287 of 420, 68.33 %.
# - Table 3, person 3: 72.9 % is printed, the counts give 46 of 70, 65.7 %.
# - Table 3, person 9: 50 % is printed, the counts give 33 of 70, 47.1 %.
# - Table 3's mean of 66.01 % is that of the ten printed rows, those two among them; its counts give 455 of 700,
#   65.00 %. The text calls people and net alike about 68 %.
# - The abstract's about 75 % for five emotions (without fear and sadness) is 229 of 300, 76.33 %, by Table 2's counts.


def counts(table: Mapping[int, Answers]) -> np.ndarray:
  """Correct answers [rows, 7 classes] of Table 2 or 3."""
  return np.array([row.correct for row in table.values()])


def accuracy(table: Mapping[int, Answers], classes: Sequence[str] = CLASSES) -> float:
  """Pooled accuracy, by the counts and not by what is printed, of some classes in all rows of a table."""
  columns = [CLASSES.index(name) for name in classes]
  return float(counts(table)[:, columns].mean()) / PER_CLASS
