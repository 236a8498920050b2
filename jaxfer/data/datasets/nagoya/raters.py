"""Evaluates people's answers to the pictures like the predictions of a classifier (paper 004)."""

import dataclasses

import numpy as np

from jaxfer.errors import UserError


@dataclasses.dataclass(frozen=True)
class Raters:
  """Metrics of people's answers to pictures of known classes. Rates are from 0 to 1, in the order of `scan.LABELS`.

  Attributes:
    answers: number of answers.
    rated: number of pictures with at least one answer.
    confusion: int [9, 10], answers by class and answer; the last answer is "other", which is not a class.
    accuracy: share of right answers.
    precision: [9], share of right answers among those that name the class; 0 if none names it.
    recall: [9], share of right answers to pictures of the class; NaN if there are none.
    f1: [9], 2 P R / (P + R); 0 if no answer is right.
    macro: mean precision, recall and F1 over the nine classes, where an unknown recall counts as 0, as for networks.
    macro_of_answers: the same sums divided by ten, the number of answers, since paper 004 seems to print these for
      people: "other" is never right.
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
    votes: int [n, 10], the number of each answer for each picture, in the order of `scan.ANSWERS`; zeros if nobody was
      asked. This is the importer's array `votes`, or its rows for the pictures that a network is tested on, so that
      both can be compared.
    label: int [n], the class that the person was meant to show.

  Raises:
    UserError: there are no answers.
  """
  confusion = np.zeros((votes.shape[1] - 1, votes.shape[1]), np.int64)
  np.add.at(confusion, label, votes)
  answers = int(confusion.sum())
  if not answers:
    raise UserError(f"none of {len(votes)} pictures has ratings: prepare the data set with ratings=FILE")
  right, named, shown = np.diagonal(confusion), confusion.sum(0)[:-1], confusion.sum(1)
  precision = right / np.maximum(named, 1)
  found = right / np.maximum(shown, 1)
  f1 = 2 * right / np.maximum(named + shown, 1)  # Equals 2 P R / (P + R), but avoids 0 / 0.
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
