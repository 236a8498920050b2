"""The published tables of paper 000: their sums and means, and where the printed numbers disagree."""

import numpy as np
import pytest

from jaxfer.systems.stacked_autoencoder import published


def test_each_printed_accuracy_except_those_of_two_people_follows_from_its_counts():
  wrong = {
    (title, key)
    for title, table in (("model", published.NET), ("people", published.PEOPLE))
    for key, row in table.items()
    if abs(sum(row.correct) / 70 - row.printed) > 0.0006
  }
  assert wrong == {("people", 3), ("people", 9)}
  assert sum(published.PEOPLE[3].correct) == 46
  assert sum(published.PEOPLE[9].correct) == 33


def test_the_printed_numbers_that_disagree_with_the_counts_are_listed():
  assert published.disagreements() == [
    ("Table 2, mean", 0.6835, 287, 420),
    ("Table 3, person 3", 0.729, 46, 70),
    ("Table 3, person 9", 0.5, 33, 70),
    ("Table 3, mean", 0.6601, 455, 700),
    ("abstract, five emotions", 0.75, 229, 300),
  ]


def test_the_printed_means_are_the_means_of_the_printed_accuracies():
  for table, mean in ((published.NET, published.NET_MEAN), (published.PEOPLE, published.PEOPLE_MEAN)):
    assert np.mean([row.printed for row in table.values()]) == pytest.approx(mean, abs=5e-5)
  assert published.counts(published.NET).sum() == 287
  assert published.counts(published.PEOPLE).sum() == 455
  assert published.accuracy(published.NET) == pytest.approx(287 / 420)
  assert published.accuracy(published.PEOPLE) == pytest.approx(455 / 700)
  assert published.accuracy(published.NET, published.FIVE) == pytest.approx(229 / 300)


def test_the_means_by_class_are_those_printed_below_the_columns():
  people = published.counts(published.PEOPLE).mean(0)
  np.testing.assert_allclose(people, [5.1, 4.2, 2.3, 9.2, 9.3, 5.9, 9.5])
  model = published.counts(published.NET).mean(0)
  np.testing.assert_allclose(model, [6.7, 8.5, 4.7, 8.7, 6.2, 5, 8.2], atol=0.05)
