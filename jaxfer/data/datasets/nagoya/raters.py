"""What people make of the pictures: their answers, counted like a classifier's (paper 004)."""

import dataclasses

import numpy as np

from jaxfer.errors import UserError


@dataclasses.dataclass(frozen=True)
class Raters:
  """People's answers to pictures of known classes. Rates are 0 to 1, by class in the order of `scan.LABELS`.

  Attributes:
    answers: how many there are in all.
    rated: pictures with an answer or more.
    confusion: int [9, 10], answers by class and answer; the last answer is "other", which no class is.
    accuracy: of all answers.
    precision: [9], of the answers that name the class; 0 where none does.
    recall: [9], of the answers to pictures of the class; NaN where there are none.
    f1: [9], 2 P R / (P + R); 0 where nothing is right.
    macro: mean precision, recall and F1 over the nine classes, an unknown recall counted as 0; a net's are such means.
    macro_of_answers: the same sums over the ten answers, as paper 004 seems to print people's: "other" is never right.
  """

  answers: int
  rated: int
  confusion: np.ndarray
  accuracy: float
  precision: np.ndarray
  recall: np.ndarray
  f1: np.ndarray
  macro: tuple[float, float, float]
  macro_of_answers: tuple[float, float, float]


def judge(votes: np.ndarray, label: np.ndarray) -> Raters:
  """Counts every answer once (our choice; the paper does not say how it weighs pictures with more answers).

  Args:
    votes: int [n, 10], of each picture how many gave which answer, in the order of `scan.ANSWERS`; zeros where nobody
      was asked. The importer's array `votes`, or rows of it: those that a net is tested on, to compare like with like.
    label: int [n], the class that was meant to be shown.

  Raises:
    UserError: nobody answered.
  """
  confusion = np.zeros((votes.shape[1] - 1, votes.shape[1]), np.int64)
  np.add.at(confusion, label, votes)
  answers = int(confusion.sum())
  if not answers:
    raise UserError(f"none of {len(votes)} pictures has ratings: prepare the data set with ratings=FILE")
  right, named, shown = np.diagonal(confusion), confusion.sum(0)[:-1], confusion.sum(1)
  precision = right / np.maximum(named, 1)
  found = right / np.maximum(shown, 1)
  f1 = 2 * right / np.maximum(named + shown, 1)  # The same as 2 P R / (P + R), without its 0 / 0.
  sums = [float(each.sum()) for each in (precision, found, f1)]
  classes, kinds = confusion.shape
  return Raters(
    answers=answers,
    rated=int(votes.any(1).sum()),
    confusion=confusion,
    accuracy=float(right.sum() / answers),
    precision=precision,
    recall=np.where(shown > 0, found, np.nan),
    f1=f1,
    macro=(sums[0] / classes, sums[1] / classes, sums[2] / classes),
    macro_of_answers=(sums[0] / kinds, sums[1] / kinds, sums[2] / kinds),
  )
