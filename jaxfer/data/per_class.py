"""Splits that test a fixed number of records per class: that of paper 000, and one that keeps people apart."""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxfer.data.folds import Split, assert_disjoint, people_of, share_of
from jaxfer.errors import UserError


def per_class_split(
  labels: Sequence[int] | np.ndarray,
  label_names: Sequence[str],
  count: int = 10,
  *,
  validation_fraction: float = 0.0,
  seed: int = 0,
  few: bool = False,
) -> Split:
  """Tests `count` records of each class, drawn without regard to people (paper 000).

  Args:
    labels: n labels.
    label_names: class names by label; classes without records are skipped.
    count: number of tested records per class.
    validation_fraction: share of the other records of each class to use for validation, in [0, 1).
    seed: seed of the choice of records.
    few: whether a class of at most `count` records is used for training and not tested, which is useful if the classes
      are people; otherwise such a class is refused.

  Raises:
    UserError: a class has at most `count` records, no class has more, or the fraction leaves a class no records to
      train on.
  """
  labels = np.asarray(labels)
  test, validation = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
  for label, rows, rng in _classes(labels, label_names, count, seed, few):
    rows = rng.permutation(rows)
    aside = share_of(validation_fraction, len(rows) - count, "validation_fraction")
    if count + aside >= len(rows):
      raise UserError(
        f"class '{label_names[label]}' has {len(rows)} records: {count} tested and {aside} for validation leave none "
        "to train on; lower split.per_class or split.validation"
      )
    test[rows[:count]] = True
    validation[rows[count : count + aside]] = True
  if not test.any():
    raise UserError(f"no class has more than {count} records: lower split.per_class")
  return Split(train=~test & ~validation, validation=validation, test=test)


def per_class_people_split(
  subjects: Sequence[str] | np.ndarray,
  labels: Sequence[int] | np.ndarray,
  label_names: Sequence[str],
  count: int = 10,
  *,
  validation_fraction: float = 0.0,
  seed: int = 0,
) -> Split:
  """Tests up to `count` records of each class, of people who are not trained on.

  People are chosen in a random order until every class has `count` test records. First, people are chosen if most of
  their records are of classes that need more records, then anyone with records of such classes. A person is not chosen
  if a class would have no training records left. Records of the chosen people beyond `count` are not used. A class
  therefore has `count` test records unless too few people show it; `describe` gives the numbers.

  Args:
    subjects: n subject names.
    labels: n labels.
    label_names: class names by label.
    count: largest number of tested records per class.
    validation_fraction: share of the other people to use for validation, in [0, 1).
    seed: seed of the choice of people and records.

  Raises:
    UserError: a class has at most `count` records, a record has no subject, the fraction leaves nobody to train on, or
      nobody can be tested.
  """
  names, position = people_of(subjects)
  labels = np.asarray(labels)
  classes = list(_classes(labels, label_names, count, seed))
  has = np.zeros((len(names), len(label_names)), int)  # Records of each person and class.
  np.add.at(has, (position, labels), 1)
  order = np.random.default_rng([seed, len(label_names)]).permutation(len(names))
  lacking, left = np.full(len(label_names), count), has.sum(0)
  tested: list[int] = []
  for wasteful in (False, True):
    for person in order:
      own = has[person]
      useful = np.minimum(own, lacking).sum()
      if person in tested or not useful or (not wasteful and 2 * useful <= own.sum()):
        continue
      if (own > 0)[left == own].any():
        continue
      tested.append(person)
      lacking, left = lacking - np.minimum(own, lacking), left - own
  if not tested:
    raise UserError(
      f"none of {len(names)} people can be tested: each has all records of some class; use split.kind=per_class"
    )
  apart = np.isin(position, tested)
  test = np.zeros(len(labels), bool)
  for _, rows, rng in classes:
    test[rng.permutation(rows[apart[rows]])[:count]] = True
  others = np.setdiff1d(order, tested)
  aside = share_of(validation_fraction, len(others), "validation_fraction")
  if aside >= len(others):
    raise UserError(
      f"validation_fraction {validation_fraction} leaves none of {len(others)} people to train on"
    )
  validation = np.isin(position, np.random.default_rng([seed, count]).permutation(others)[:aside])
  split = Split(train=~apart & ~validation, validation=validation, test=test)
  assert_disjoint(subjects, split)
  return split


def _classes(
  labels: np.ndarray, label_names: Sequence[str], count: int, seed: int, few: bool = False
) -> Iterator[tuple[int, np.ndarray, np.random.Generator]]:
  """Yields each class that can be tested, the indices of its records, and a separate random generator.

  A class with too few records is refused, unless it has none or `few` is true, in which case it is skipped.
  """
  if count < 1:
    raise UserError(f"split.per_class={count}: test at least one record of each class")
  # All classes in one pass: with 10,572 people as classes, separate passes would read the labels as often.
  order = np.argsort(labels, kind="stable")
  ends = np.cumsum(np.bincount(labels, minlength=len(label_names)))
  for label, rows in enumerate(np.split(order, ends[:-1])):
    if not len(rows) or (few and len(rows) <= count):
      continue
    if len(rows) <= count:
      raise UserError(
        f"class '{label_names[label]}' has {len(rows)} records, too few to test {count} of them and train on the "
        "rest: lower split.per_class"
      )
    yield label, rows, np.random.default_rng([seed, label])
