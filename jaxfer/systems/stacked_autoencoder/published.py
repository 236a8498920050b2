"""The published results of paper 000 by class: its model (Table 2) and human observers (Table 3).

The numbers are kept as printed. Table 1, the number of images, is in `data.datasets.paper000`. Tables 4 and 5, the
action units, are in `data.synthetic.action_units`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfer.data.synthetic import action_units

CLASSES: tuple[str, ...] = action_units.LABELS  # The columns of Tables 2 and 3, in the printed order.
PER_CLASS = 10  # Test images of each class, 70 in all (section 3.1).
FIVE = ("anger", "disgust", "happiness", "neutral", "surprise")  # The five emotions of the abstract.


@dataclasses.dataclass(frozen=True)
class Answers:
  """A row of Table 2 or 3.

  Attributes:
    printed: the accuracy printed beside the row, in [0, 1].
    correct: number of correctly classified images of each class, out of 10, in the order of `CLASSES`.
  """

  printed: float
  correct: tuple[int, int, int, int, int, int, int]


# Table 2: the model, by seed.
NET: dict[int, Answers] = {
  0: Answers(0.729, (6, 10, 6, 8, 8, 6, 7)),
  10: Answers(0.643, (5, 7, 5, 8, 6, 4, 10)),
  20: Answers(0.757, (9, 8, 5, 10, 8, 4, 9)),
  30: Answers(0.643, (6, 9, 5, 7, 4, 5, 9)),
  40: Answers(0.600, (8, 9, 2, 9, 4, 3, 7)),
  50: Answers(0.729, (6, 8, 5, 10, 7, 8, 7)),
}
NET_MEAN = 0.6835

# Table 3: ten people, by number. Each saw one labelled image of every class beforehand (section 3.3).
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

FIVE_PRINTED = 0.75  # The abstract: "about 75%". The text puts both people and model at about 68 %.


def counts(table: Mapping[int, Answers]) -> np.ndarray:
  """Returns the correct answers of Table 2 or 3 as [rows, 7 classes], in the order of `CLASSES`."""
  return np.array([row.correct for row in table.values()])


def disagreements() -> list[tuple[str, float, int, int]]:
  """Returns the printed accuracies that disagree with the printed counts.

  Both means are those of the printed, rounded accuracies.

  Returns:
    (name, printed accuracy in [0, 1], correct, count) of each.
  """
  found: list[tuple[str, float, int, int]] = []
  tested = PER_CLASS * len(CLASSES)
  for title, who, table, mean in (
    ("Table 2", "seed", NET, NET_MEAN),
    ("Table 3", "person", PEOPLE, PEOPLE_MEAN),
  ):
    rows = [(f"{title}, {who} {key}", row.printed, sum(row.correct), tested) for key, row in table.items()]
    found += [row for row in rows if round(row[2] / row[3], 3) != row[1]]
    found.append((f"{title}, mean", mean, int(counts(table).sum()), tested * len(table)))
  five = accuracy(NET, FIVE)
  count = PER_CLASS * len(FIVE) * len(NET)
  return [*found, ("abstract, five emotions", FIVE_PRINTED, round(five * count), count)]


def accuracy(table: Mapping[int, Answers], classes: Sequence[str] = CLASSES) -> float:
  """Returns the accuracy in [0, 1] over all rows of a table and the given classes.

  It is computed from the counts, not from the printed accuracies.
  """
  columns = [CLASSES.index(name) for name in classes]
  return float(counts(table)[:, columns].mean()) / PER_CLASS
