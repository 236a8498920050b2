"""Tests that people stay on one side of every split."""

import numpy as np
import pytest

from jaxfer.data import folds, per_class
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


def test_two_or_three_people_of_each_data_set_are_tested():
  names = [f"{name}/{i}" for name, count in (("mug", 52), ("ck", 123), ("ravdess", 23)) for i in range(count)]
  subjects = np.repeat(names, 4)
  drawn = set()
  for seed in range(5):
    split = folds.people_per_set_split(subjects, 7, validation_fraction=0.1, seed=seed)
    tested = np.unique(subjects[split.test]).tolist()
    assert [sum(name.startswith(prefix) for name in tested) for prefix in ("ck/", "mug/", "ravdess/")] == [
      3,
      2,
      2,
    ]
    assert len(np.unique(subjects[split.validation])) == 19
    assert (split.train.astype(int) + split.validation + split.test == 1).all()
    drawn.add(tuple(tested))
  assert len(drawn) == 5


def test_people_of_data_sets_that_cannot_be_tested_are_refused():
  subjects = ["a/1", "a/2", "a/3", "b/1", "b/2"]
  for count, fraction, message in (
    (1, 0.0, "split.test_people=1: give at least 2, one of each data set"),
    (4, 0.0, "data set 'b' has 2 people, of whom 2 would be tested"),
    (3, 0.99, "validation_fraction 0.99 leaves none of 2 people"),
  ):
    with pytest.raises(UserError, match=message):
      folds.people_per_set_split(subjects, count, validation_fraction=fraction)
  with pytest.raises(UserError, match="subject S1 does not name its data set"):
    folds.people_per_set_split(["S1", "S2"], 1)


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


CLASSES = ("calm", "cross", "glad")


def _labelled(people=12, of_each=4, seed=0):
  """Twelve people with four records of each class; the last two show only one class."""
  subjects = np.repeat([f"p{i:02d}" for i in range(people)], 3 * of_each)
  labels = np.tile(np.repeat(np.arange(3), of_each), people)
  keep = (subjects < f"p{people - 2:02d}") | (labels == 2)
  order = np.random.default_rng(seed).permutation(int(keep.sum()))
  return subjects[keep][order], labels[keep][order]


def test_leave_one_out_is_a_fold_a_person():
  subjects, _ = _labelled()
  tested = [np.unique(subjects[folds.fold_split(subjects, k, 12).test]).tolist() for k in range(12)]
  assert tested == [[f"p{k:02d}"] for k in range(12)]


def test_per_class_tests_exactly_so_many_of_each():
  _, labels = _labelled()
  split = per_class.per_class_split(labels, CLASSES, 10, validation_fraction=0.2, seed=1)
  assert np.bincount(labels[split.test]).tolist() == [10, 10, 10]
  assert np.bincount(labels[split.validation]).tolist() == [6, 6, 8]  # A fifth of 30, 30 and 38.
  np.testing.assert_array_equal(split.train.astype(int) + split.validation + split.test, 1)
  again = per_class.per_class_split(labels, CLASSES, 10, validation_fraction=0.2, seed=1)
  np.testing.assert_array_equal(split.test, again.test)
  assert (per_class.per_class_split(labels, CLASSES, 10, seed=2).test != split.test).any()


def test_per_class_refuses_a_class_of_no_more():
  with pytest.raises(UserError, match=r"class 'calm' has 10 records, too few to test 10 of them"):
    per_class.per_class_split([0] * 10 + [1] * 11, ["calm", "cross"], 10)
  split = per_class.per_class_split([0] * 11 + [1] * 11, ["calm", "cross"], 10)
  assert (split.test.sum(), split.train.sum()) == (20, 2)


def test_people_of_few_pictures_are_trained_on_and_not_tested():
  labels, names = [0] * 4 + [2] * 2 + [3] * 5, ["a", "nobody", "b", "c"]
  split = per_class.per_class_split(labels, names, 2, few=True)
  assert np.bincount(np.asarray(labels)[split.test], minlength=4).tolist() == [2, 0, 0, 2]
  assert split.train[4:6].all()
  subjects = np.asarray(names)[labels]
  line = folds.describe(subjects, labels, names, split)
  assert ", no nobody to train on, " in line
  assert line.endswith(", no nobody, b is tested")
  many = [*names, *(f"d{k}" for k in range(6))]
  assert "no nobody, b, d0, d1, d2 and 3 more classes is" in folds.describe(subjects, labels, many, split)
  with pytest.raises(UserError, match="class 'b' has 2 records, too few"):
    per_class.per_class_split(labels, names, 2)
  with pytest.raises(UserError, match="no class has more than 5 records"):
    per_class.per_class_split(labels, names, 5, few=True)
  assert per_class.per_class_split(labels, names, 1).test.sum() == 3


@pytest.mark.parametrize("seed", range(4))
def test_per_class_people_keeps_people_apart(seed):
  subjects, labels = _labelled()
  split = per_class.per_class_people_split(subjects, labels, CLASSES, 10, validation_fraction=0.2, seed=seed)
  folds.assert_disjoint(subjects, split)
  assert np.bincount(labels[split.test]).tolist() == [10, 10, 10]
  unused = ~(split.train | split.validation | split.test)
  assert set(subjects[unused]) <= set(subjects[split.test])  # Only records of tested people are unused.
  # Three people have ten of each class, and the two with a single class may be taken before them.
  assert len(np.unique(subjects[split.test])) <= 5
  again = per_class.per_class_people_split(subjects, labels, CLASSES, 10, validation_fraction=0.2, seed=seed)
  np.testing.assert_array_equal(split.test, again.test)


def test_per_class_people_says_what_it_reached():
  """Only one person shows class 1. If this person were tested, class 1 would have no training records."""
  subjects = np.asarray(["a"] * 8 + ["b"] * 3 + ["c"] * 3)
  labels = np.asarray([0, 0, 1, 1, 1, 1, 1, 1] + [0] * 6)
  split = per_class.per_class_people_split(subjects, labels, ["calm", "cross"], 4)
  folds.assert_disjoint(subjects, split)
  assert "a" not in subjects[split.test]
  line = folds.describe(subjects, labels, ["calm", "cross"], split)
  assert (
    line
    == "train 8 records of 1 people, test 4 records of 2 people, 2 of tested people unused, no cross is tested"
  )


def test_the_distributors_split():
  sides = np.asarray(["train", "test", "validation", "train", "train"])
  subjects = np.asarray(["a", "b", "c", "b", "d"])
  split = folds.distributed_split(subjects, sides)
  for name in ("train", "validation", "test"):
    np.testing.assert_array_equal(getattr(split, name), sides == name)
  own = folds.describe(np.arange(5).astype(str), np.arange(5) % 2, ["calm", "cross"], split)
  validation = "no cross in validation (another split.seed or a larger split.validation may change that)"
  warning = "the people are unknown: a person may be in both training and test, and the accuracy too high"
  assert own == (
    f"train 3 records, validation 1 records, test 1 records, {validation}, no calm is tested, {warning}"
  )
  assert folds.describe(subjects, np.arange(5) % 2, ["calm", "cross"], split) == (
    "train 3 records of 3 people, validation 1 records of 1 people, test 1 records of 1 people, "
    f"{validation}, 1 people are in both training and test, no calm is tested"
  )
  without = folds.distributed_split(subjects, np.where(sides == "test", "validation", sides))
  assert (without.test.tolist(), without.validation.any()) == ([False, True, True, False, False], False)
  aside = folds.distributed_split(
    subjects, np.where(sides == "validation", "test", sides), validation_fraction=0.3
  )
  assert (aside.validation.sum(), (aside.train | aside.validation).sum()) == (1, 3)


@pytest.mark.parametrize(
  ("sides", "options", "message"),
  [
    (["train", "test", ""], {}, "1 of 3 records are on side ''"),
    (["train", "train", "train"], {}, "3 records to train on and 0 to test"),
    (["train", "validation", "test"], {"validation_fraction": 0.1}, "sets 1 records aside"),
    (["train", "train", "test"], {"validation_fraction": 0.9}, "leaves none of 2 people"),
  ],
)
def test_a_distributors_split_that_cannot_be_used(sides, options, message):
  with pytest.raises(UserError, match=message):
    folds.distributed_split(["a", "b", "c"], sides, **options)


def test_a_split_by_which_nothing_is_learned_or_tested_is_refused():
  labels, names = np.asarray([0, 0, 1, 1]), ("happy", "sad")
  some = lambda *rows: np.isin(np.arange(4), rows)  # noqa: E731
  folds.assert_of_use(labels, names, folds.Split(some(0, 2), some(), some(1)))
  for split, message in (
    (folds.Split(some(), some(1), some(0, 2)), "the split leaves no records to train on"),
    (folds.Split(some(0, 2), some(1), some()), "the split leaves no records to test"),
    (
      folds.Split(some(2, 3), some(), some(0)),
      "all 2 records to train on are of class 'sad', so there is nothing to learn",
    ),
  ):
    with pytest.raises(UserError, match=message):
      folds.assert_of_use(labels, names, split)
