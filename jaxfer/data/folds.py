"""Splits of records into training, validation and test: person-independent folds, hold-outs, the distributor's split.

Every function takes one entry per record (such as `Records.subjects`) and returns masks over the records. A person is
identified by the subject name, which all sessions of the person share. Only `distributed_split` and the
`per_class_split` of per_class.py may put a person on two sides; `describe` counts such people.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxfer.errors import UserError


@dataclasses.dataclass(frozen=True)
class Split:
  """Boolean masks [n] over the records, disjoint.

  Attributes:
    train: records to train on.
    validation: records for model selection; all False if none were requested.
    test: records for the final evaluation only.
  """

  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray


def person_independent_folds(subjects: Sequence[str] | np.ndarray, num_folds: int = 10) -> np.ndarray:
  """Assigns people to folds: sorted by name, fold j gets positions j, j + num_folds, ... (our choice).

  Paper 001 says only "10-fold person-independence"; this assignment is the usual CK+ protocol. Its 118 people
  make eight folds of 12 and two of 11.

  Args:
    subjects: n subject names.
    num_folds: number of folds, at least 2.

  Returns:
    int32 [n], the fold in which each record is tested.

  Raises:
    UserError: there are fewer people than folds, fewer than two folds, or a record has no subject.
  """
  names, position = people_of(subjects)
  if not 2 <= num_folds <= len(names):
    raise UserError(f"num_folds is {num_folds}: give 2 to {len(names)}, the number of people")
  return (position % num_folds).astype(np.int32)


def fold_split(
  subjects: Sequence[str] | np.ndarray,
  fold: int,
  num_folds: int = 10,
  *,
  validation_fraction: float = 0.0,
  seed: int = 0,
) -> Split:
  """Returns the split for one of the person-independent folds.

  Args:
    subjects: n subject names.
    fold: the fold to test on, 0 to num_folds - 1.
    num_folds: number of folds.
    validation_fraction: share of the *training people* to use for validation, in [0, 1); at least one person if it is
      above 0. Test people are never used for validation.
    seed: seed of the choice of validation people; together with `fold` it determines them.

  Raises:
    UserError: as in `person_independent_folds`; or there is no such fold, or the fraction leaves nobody to train on.
  """
  folds = person_independent_folds(subjects, num_folds)
  if not 0 <= fold < num_folds:
    raise UserError(f"fold is {fold}: give 0 to {num_folds - 1}")
  test = folds == fold
  _, position = people_of(subjects)
  train_people = np.unique(position[~test])
  count = share_of(validation_fraction, len(train_people), "validation_fraction")
  if count >= len(train_people):
    raise UserError(
      f"validation_fraction {validation_fraction} leaves none of {len(train_people)} people to train on"
    )
  aside = np.random.default_rng([seed, fold]).permutation(train_people)[:count]
  validation = np.isin(position, aside)
  split = Split(train=~test & ~validation, validation=validation, test=test)
  assert_disjoint(subjects, split)
  return split


def holdout_split(
  subjects: Sequence[str] | np.ndarray, fractions: tuple[float, float, float], seed: int = 0
) -> Split:
  """Splits people at random.

  Args:
    subjects: n subject names.
    fractions: shares of the people for training, validation and test, which sum to 1. A share above 0 gets at least one
      person; training gets the remaining people.
    seed: seed of the assignment.

  Raises:
    UserError: the shares do not sum to 1 or are outside [0, 1], or there are too few people.
  """
  names, position = people_of(subjects)
  if abs(sum(fractions) - 1) > 1e-6:
    raise UserError(
      f"fractions {fractions} sum to {sum(fractions):g}: train, validation and test must sum to 1"
    )
  validation_count = share_of(fractions[1], len(names), "the validation fraction")
  test_count = share_of(fractions[2], len(names), "the test fraction")
  if len(names) - validation_count - test_count < (fractions[0] > 0):
    raise UserError(
      f"{len(names)} people are too few for the fractions {fractions}: add people, or use fewer shares"
    )
  order = np.random.default_rng(seed).permutation(len(names))
  test = np.isin(position, order[:test_count])
  validation = np.isin(position, order[test_count : test_count + validation_count])
  split = Split(train=~test & ~validation, validation=validation, test=test)
  assert_disjoint(subjects, split)
  return split


def people_per_set_split(
  subjects: Sequence[str] | np.ndarray,
  count: int,
  *,
  validation_fraction: float = 0.0,
  seed: int = 0,
) -> Split:
  """Tests people of each data set of a mixture, in numbers as equal as possible.

  Paper 003 tests "two or three people of each" of three data sets, seven in all. Here the largest sets provide the
  third person.

  Args:
    subjects: n subject names, which begin with the name of their data set and a slash, as in `jaxfer.data.mixed`.
    count: number of people to test, at least one of each data set.
    validation_fraction: share of the other people to use for validation, in [0, 1).
    seed: seed of the choice of people.

  Raises:
    UserError: a subject does not begin with the name of a data set, there are fewer test people than data sets, a data
      set has too few people, or the fraction leaves nobody to train on.
  """
  names, position = people_of(subjects)
  if strangers := [name for name in names.tolist() if "/" not in name]:
    raise UserError(
      f"subject {strangers[0]} does not name its data set, as in mug/{strangers[0]}: choose another split.kind"
    )
  sets, own = np.unique([name.partition("/")[0] for name in names.tolist()], return_inverse=True)
  sizes = np.bincount(own)
  if count < len(sets):
    raise UserError(f"split.test_people={count}: give at least {len(sets)}, one of each data set")
  rng = np.random.default_rng(seed)
  tested: list[int] = []
  for turn, k in enumerate(np.argsort(-sizes, kind="stable")):
    share = count // len(sets) + (turn < count % len(sets))
    if share >= sizes[k]:
      raise UserError(
        f"data set '{sets[k]}' has {sizes[k]} people, of whom {share} would be tested: lower split.test_people"
      )
    tested += rng.permutation(np.flatnonzero(own == k))[:share].tolist()
  others = rng.permutation(np.setdiff1d(np.arange(len(names)), tested))
  aside = share_of(validation_fraction, len(others), "validation_fraction")
  if aside >= len(others):
    raise UserError(
      f"validation_fraction {validation_fraction} leaves none of {len(others)} people to train on"
    )
  test, validation = np.isin(position, tested), np.isin(position, others[:aside])
  split = Split(train=~test & ~validation, validation=validation, test=test)
  assert_disjoint(subjects, split)
  return split


def distributed_split(
  subjects: Sequence[str] | np.ndarray,
  sides: Sequence[str] | np.ndarray,
  *,
  validation_fraction: float = 0.0,
  seed: int = 0,
) -> Split:
  """Returns the distributor's own split. If it has no test records, the validation records are tested (AffectNet).

  Args:
    subjects: n subject names.
    sides: n times "train", "validation" or "test".
    validation_fraction: share of the training people to use for validation, in [0, 1), if the distributor defines no
      validation records.
    seed: seed of the choice of validation people.

  Raises:
    UserError: a record has no side or an unknown one, there is nobody to train on or to test, or a fraction is given
      although there are validation records already.
  """
  sides = np.asarray(sides)
  train, validation, test = (sides == side for side in ("train", "validation", "test"))
  if strangers := np.unique(sides[~(train | validation | test)]).tolist():
    raise UserError(
      f"{int((~(train | validation | test)).sum())} of {len(sides)} records are on side '{strangers[0]}' of the "
      "distributor's split, which is not train, validation or test: choose another split.kind"
    )
  if not test.any():
    validation, test = test, validation
  if not train.any() or not test.any():
    raise UserError(
      f"the distributor's split has {train.sum()} records to train on and {test.sum()} to test: "
      "choose another split.kind"
    )
  if validation_fraction and validation.any():
    raise UserError(
      f"split.validation={validation_fraction}: the distributor's split sets {validation.sum()} records aside; leave "
      "it out"
    )
  _, position = people_of(subjects)
  people = np.unique(position[train])
  count = share_of(validation_fraction, len(people), "validation_fraction")
  if count:
    if count >= len(people):
      raise UserError(
        f"validation_fraction {validation_fraction} leaves none of {len(people)} people to train on"
      )
    validation = train & np.isin(position, np.random.default_rng(seed).permutation(people)[:count])
  return Split(train=train & ~validation, validation=validation, test=test)


def describe(
  subjects: Sequence[str] | np.ndarray,
  labels: Sequence[int] | np.ndarray,
  label_names: Sequence[str],
  split: Split,
) -> str:
  """Describes in one line how many records and people are on each side, and anything unusual.

  If every record has a different subject, the people are unknown. They are not counted then, and the line warns that
  the accuracy may be too high.
  """
  subjects, labels = np.asarray(subjects), np.asarray(labels)
  named = not anonymous(subjects)
  sides = {field.name: getattr(split, field.name) for field in dataclasses.fields(split)}
  people = {name: np.unique(subjects[mask]) for name, mask in sides.items()}
  parts = [
    f"{name} {sides[name].sum()} records" + (f" of {len(people[name])} people" if named else "")
    for name in sides
    if sides[name].any()
  ]
  if unused := int((~(split.train | split.validation | split.test)).sum()):
    parts.append(f"{unused} of tested people unused" if named else f"{unused} unused")
  if missing := _absent(label_names, labels[split.train]):
    parts.append(f"no {missing} to train on")
  if split.validation.any() and (missing := _absent(label_names, labels[split.validation])):
    parts.append(
      f"no {missing} in validation (another split.seed or a larger split.validation may change that)"
    )
  tested = np.bincount(labels[split.test], minlength=len(label_names))
  if both := len(np.intersect1d(people["train"], people["test"])):
    parts.append(f"{both} people are in both training and test")
  if split.test.any() and (missing := _absent(label_names, labels[split.test])):
    parts.append(f"no {missing} is tested")
  elif len(set(tested.tolist())) == 1:
    parts.append(f"{tested[0]} of each class tested")
  elif unused:
    counts = [f"{name} {count}" for name, count in zip(label_names, tested, strict=True)]
    parts.append(f"tested {', '.join(counts)}")
  if not named:
    parts.append(
      "the people are unknown: a person may be in both training and test, and the accuracy too high"
    )
  return ", ".join(parts)


def _absent(label_names: Sequence[str], labels: np.ndarray) -> str:
  """Names the classes without records, at most five of them; "" if all classes have records."""
  there = set(labels.tolist())
  absent = [name for k, name in enumerate(label_names) if k not in there]
  more = f" and {len(absent) - 5} more classes" if len(absent) > 5 else ""
  return f"{', '.join(absent[:5])}{more}"


def assert_disjoint(subjects: Sequence[str] | np.ndarray, split: Split) -> None:
  """Refuses a split in which a person is on two sides.

  Raises:
    UserError: a person is on two sides (the message names all three), or a mask does not have one entry per record.
  """
  subjects = np.asarray(subjects)
  parts = [(field.name, getattr(split, field.name)) for field in dataclasses.fields(split)]
  for name, mask in parts:
    if mask.shape != subjects.shape or mask.dtype != bool:
      raise UserError(
        f"split mask '{name}' is {mask.dtype}{mask.shape}: give bool{subjects.shape}, one entry per record"
      )
  for i, (first, first_mask) in enumerate(parts):
    for second, second_mask in parts[i + 1 :]:
      shared = np.intersect1d(subjects[first_mask], subjects[second_mask])
      if len(shared):
        raise UserError(
          f"subject {shared[0]} is in both {first} and {second} ({len(shared)} people are): "
          "a person belongs to one side only"
        )


def assert_of_use(labels: Sequence[int] | np.ndarray, label_names: Sequence[str], split: Split) -> None:
  """Refuses a split without anything to learn or to test.

  Args:
    labels: n labels.
    label_names: class names by label.
    split: split of the n records.

  Raises:
    UserError: there are no records to train on or to test, or those to train on are all of one class.
  """
  labels = np.asarray(labels)
  for what, mask in (("train on", split.train), ("test", split.test)):
    if not mask.any():
      raise UserError(f"the split leaves no records to {what}: change split, or add records")
  learned = np.unique(labels[split.train])
  if len(learned) < 2:
    raise UserError(
      f"all {split.train.sum()} records to train on are of class '{label_names[learned[0]]}', so there is "
      "nothing to learn: check the folders or labels of the source, or change split"
    )


def anonymous(subjects: Sequence[str] | np.ndarray) -> bool:
  """Whether every record has a different subject, as in data sets of unknown people."""
  return len(np.unique(subjects)) == len(subjects)


def people_of(subjects: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the sorted names and the index of each record's name; raises UserError if a record has no name."""
  names, position = np.unique(np.asarray(subjects), return_inverse=True)
  if names.dtype.kind == "U" and len(names) and names[0] == "":
    raise UserError("a record has no subject name: without it people cannot be kept apart")
  return names, position


def share_of(fraction: float, people: int, what: str) -> int:
  """Converts a share from 0 to 1 to a number of people (or records): at least one if the share is above 0."""
  if not 0 <= fraction <= 1:
    raise UserError(f"{what} is {fraction}: give a share from 0 to 1")
  return max(1, round(fraction * people)) if fraction > 0 else 0
