import numpy as np
import pytest

from jaxfer.data.datasets.nagoya import raters
from jaxfer.errors import UserError
from jaxfer.systems.elderly_transfer import published


def test_answers_are_counted_like_a_nets():
  """With the predictions of the best net as answers, one per picture, the table of that net results."""
  confusion = published.confusion()
  label = np.repeat(np.arange(9), confusion.sum(1))
  votes = np.repeat(np.concatenate([np.eye(9, 10, dtype=np.int32)] * 9), confusion.ravel(), 0)
  got = raters.judge(votes, label)
  np.testing.assert_array_equal(got.confusion[:, :9], confusion)
  assert got.answers == got.rated == published.TEST_IMAGES
  printed = published.MODEL
  for name in ("accuracy", "precision", "recall", "f1", "macro"):
    np.testing.assert_allclose(getattr(got, name), getattr(printed, name), atol=5.1e-4)


def test_both_means_of_several_answers_a_picture():
  rng = np.random.default_rng(0)
  label = rng.integers(0, 9, 40)
  votes = rng.integers(0, 3, (40, 10)).astype(np.int32)
  votes[np.arange(40), label] += 2
  votes[::7] = 0
  got = raters.judge(votes, label)
  said = [
    (truth, k) for truth, row in zip(label, votes, strict=True) for k in range(10) for _ in range(row[k])
  ]
  assert got.answers == len(said)
  assert got.rated == 40 - 6
  assert got.accuracy == pytest.approx(np.mean([truth == k for truth, k in said]))
  rates = []
  for c in range(9):
    right = sum(truth == k == c for truth, k in said)
    p, r = right / sum(k == c for _, k in said), right / sum(truth == c for truth, _ in said)
    rates.append((p, r, 2 * p * r / (p + r)))
  np.testing.assert_allclose(np.stack([got.precision, got.recall, got.f1], 1), rates)
  np.testing.assert_allclose(got.macro, np.mean(rates, 0))
  # "other" is a tenth answer that is never right.
  np.testing.assert_allclose(got.macro_of_answers, np.mean([*rates, (0, 0, 0)], 0))


def test_classes_that_nobody_names_or_saw():
  votes = np.zeros((3, 10), np.int32)
  votes[0, 0], votes[1, 9], votes[2, 0] = 2, 1, 1
  got = raters.judge(votes, np.array([0, 0, 1]))
  np.testing.assert_allclose(got.precision, [2 / 3, *[0] * 8])
  np.testing.assert_allclose(got.recall, [2 / 3, 0, *[np.nan] * 7])
  np.testing.assert_allclose(got.macro, (2 / 27, 2 / 27, 2 / 27))
  with pytest.raises(
    UserError, match="none of 3 pictures has ratings: prepare the data set with ratings=FILE"
  ):
    raters.judge(0 * votes, np.array([0, 0, 1]))
