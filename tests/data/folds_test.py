"""People stay on one side of every split."""

import numpy as np
import pytest

from jaxfer.data import folds
from jaxfer.errors import UserError


def _ckplus_like():
  """327 records of 118 people, unsorted."""
  rng = np.random.default_rng(0)
  names = np.array([f"S{i:03d}" for i in rng.choice(999, 118, replace=False)])
  return rng.permutation(np.concatenate([names, names, rng.choice(names, 91)]))


def test_ckplus_counts():
  subjects = _ckplus_like()
  fold = folds.person_independent_folds(subjects)
  people = [len(np.unique(subjects[fold == j])) for j in range(10)]
  assert people == [12] * 8 + [11] * 2
  assert sum(folds.fold_split(subjects, j).test.sum() for j in range(10)) == 327
  tested = np.stack([folds.fold_split(subjects, j).test for j in range(10)])
  assert (tested.sum(axis=0) == 1).all()


def test_dealing_follows_sorted_names():
  assert folds.person_independent_folds(["S10", "S02", "S30", "S02", "S11"], 3).tolist() == [1, 0, 0, 0, 2]


@pytest.mark.parametrize("fold", [0, 9])
def test_validation_is_cut_from_training_people(fold):
  subjects = _ckplus_like()
  plain = folds.fold_split(subjects, fold)
  split = folds.fold_split(subjects, fold, validation_fraction=0.1, seed=3)
  np.testing.assert_array_equal(split.test, plain.test)
  np.testing.assert_array_equal(split.train | split.validation, plain.train)
  assert len(np.unique(subjects[split.validation])) == round(0.1 * len(np.unique(subjects[plain.train])))
  again = folds.fold_split(subjects, fold, validation_fraction=0.1, seed=3)
  np.testing.assert_array_equal(split.validation, again.validation)
  other = folds.fold_split(subjects, fold, validation_fraction=0.1, seed=4)
  assert (split.validation != other.validation).any()
  assert not plain.validation.any()


def test_holdout_shares():
  subjects = np.repeat([f"p{i:02d}" for i in range(20)], 3)
  split = folds.holdout_split(subjects, (0.7, 0.1, 0.2), seed=1)
  assert [int(mask.sum()) // 3 for mask in (split.train, split.validation, split.test)] == [14, 2, 4]
  np.testing.assert_array_equal(split.train.astype(int) + split.validation + split.test, np.ones(60))
  assert (folds.holdout_split(subjects, (0.7, 0.1, 0.2), seed=2).test != split.test).any()
  assert not folds.holdout_split(subjects, (1.0, 0.0, 0.0)).test.any()


def test_a_person_on_both_sides_is_named():
  subjects = ["S005", "S010", "S010"]
  train, test = np.array([True, True, False]), np.array([False, False, True])
  with pytest.raises(UserError, match="subject S010 is in both train and test"):
    folds.assert_disjoint(subjects, folds.Split(train, np.zeros(3, bool), test))
  with pytest.raises(UserError, match="subject S010 is in both validation and test"):
    folds.assert_disjoint(subjects, folds.Split(np.zeros(3, bool), train, test))
  with pytest.raises(UserError, match=r"mask 'test' is int64\(1,\): give bool\(3,\)"):
    folds.assert_disjoint(subjects, folds.Split(train, np.zeros(3, bool), np.array([2])))


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: folds.person_independent_folds(["a", "b"], 3), "num_folds is 3: give 2 to 2"),
    (lambda: folds.person_independent_folds(["a", "b"], 1), "num_folds is 1"),
    (lambda: folds.person_independent_folds(["a", ""], 2), "no subject name"),
    (lambda: folds.fold_split(["a", "b"], 2, 2), "fold is 2: give 0 to 1"),
    (lambda: folds.fold_split(["a", "b"], 0, 2, validation_fraction=0.5), "leaves none of 1 people"),
    (lambda: folds.holdout_split(["a", "b"], (0.5, 0.2, 0.2)), "sum to 0.9"),
    (lambda: folds.holdout_split(["a", "b"], (0.8, 0.1, 0.1)), "too few"),
    (lambda: folds.holdout_split(["a", "b"], (1.5, -0.5, 0.0)), "give a share from 0 to 1"),
  ],
)
def test_bad_splits_are_refused(call, message):
  with pytest.raises(UserError, match=message):
    call()
