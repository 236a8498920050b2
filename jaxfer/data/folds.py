"""Who trains and who is tested: person-independent folds and hold-outs, a number a class, the distributor's own split.

Every function takes one entry a record (`Records.subjects` and the like) and answers with masks over the records. A
person is a subject name, never a folder: sessions of one person share it. `distributed_split` and the `per_class_split`
of per_class.py alone may have a person on two sides; `describe` says how many.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxfer.errors import UserError


@dataclasses.dataclass(frozen=True)
class Split:
  """Boolean masks [n] over the records, disjoint.

  Attributes:
    train: what a training draws from.
    validation: what it may be selected on; all False where none was asked for.
    test: what it is judged on, and nothing else.
  """

  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray


def person_independent_folds(subjects: Sequence[str] | np.ndarray, num_folds: int = 10) -> np.ndarray:
  """Deals the people into folds: sorted by name, fold j gets positions j, j + num_folds, ... (our choice).

  Paper 001 says only "10-fold person-independence"; the dealing is the usual CK+ protocol. Its 118 people
  make eight folds of 12 and two of 11.

  Args:
    subjects: n subject names.
    num_folds: how many folds, at least 2.

  Returns:
    int32 [n], the fold in which each record is tested.

  Raises:
    UserError: fewer people than folds, fewer than two folds, or a record without a subject.
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
  """Splits for one of the person-independent folds.

  Args:
    subjects: n subject names.
    fold: the fold to test on, 0 to num_folds - 1.
    num_folds: how many folds.
    validation_fraction: share of the *training people* to set aside for selection, in [0, 1); at least one
      person where it is above 0. Test people are never used for it.
    seed: which people are set aside; together with `fold` it decides them.

  Raises:
    UserError: as `person_independent_folds`, no such fold, or a fraction that leaves no training.
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
  """Splits once, by people, at random.

  Args:
    subjects: n subject names.
    fractions: shares of the people for train, validation and test; they sum to 1. A share above 0 gets at
      least one person; training gets what the others leave.
    seed: which people go where.

  Raises:
    UserError: shares that do not sum to 1 or fall outside [0, 1], or too few people for them.
  """
  names, position = people_of(subjects)
  if abs(sum(fractions) - 1) > 1e-6:
    raise UserError(f"fractions {fractions} sum to {sum(fractions):g}: train, validation and test sum to 1")
  validation_count = share_of(fractions[1], len(names), "the validation fraction")
  test_count = share_of(fractions[2], len(names), "the test fraction")
  if len(names) - validation_count - test_count < (fractions[0] > 0):
    raise UserError(
      f"{len(names)} people are too few for the fractions {fractions}: add people or a share less"
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
  """Tests people of each of the data sets that a mixture is composed of, as equally many of each as possible.

  Paper 003 tests "two or three people of each" of three data sets, seven in all. Here the larger sets get the third.

  Args:
    subjects: n subject names, which begin with the name of their data set and a slash, as in `jaxfer.data.mixed`.
    count: people to test, at least one of each data set.
    validation_fraction: share of the other people to set aside, in [0, 1).
    seed: which people.

  Raises:
    UserError: a subject without the name of a data set, fewer test people than data sets, a data set with too few
      people, or a fraction that leaves nobody to train on.
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
  """The distributor's own split. Where it has no test records, those for validation are tested (AffectNet).

  Args:
    subjects: n subject names.
    sides: n times "train", "validation" or "test".
    validation_fraction: share of the training people to set aside, in [0, 1), where the distributor sets none aside.
    seed: which people are set aside.

  Raises:
    UserError: records on no side or an unknown one, nobody to train on or to test, or a fraction where there is a
      validation side already.
  """
  sides = np.asarray(sides)
  train, validation, test = (sides == side for side in ("train", "validation", "test"))
  if strangers := np.unique(sides[~(train | validation | test)]).tolist():
    raise UserError(
      f"{int((~(train | validation | test)).sum())} of {len(sides)} records stand on side '{strangers[0]}' of the "
      "distributor's split, which is none of train, validation, test: choose another split.kind"
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
  """Says in a line how many records of how many people stand on each side, and what is out of the ordinary.

  Where every record has a subject of its own, nobody knows who is who: no people are counted, and the line warns that
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
    parts.append(f"{both} people both train and are tested")
  if split.test.any() and (missing := _absent(label_names, labels[split.test])):
    parts.append(f"no {missing} is tested")
  elif len(set(tested.tolist())) == 1:
    parts.append(f"{tested[0]} of each class tested")
  elif unused:
    counts = [f"{name} {count}" for name, count in zip(label_names, tested, strict=True)]
    parts.append(f"tested {', '.join(counts)}")
  if not named:
    parts.append("nobody knows who is who: a person may be in training and test, and the accuracy too high")
  return ", ".join(parts)


def _absent(label_names: Sequence[str], labels: np.ndarray) -> str:
  """The classes that none of some records belongs to, the first five by name; "" if all are there."""
  there = set(labels.tolist())
  absent = [name for k, name in enumerate(label_names) if k not in there]
  more = f" and {len(absent) - 5} more classes" if len(absent) > 5 else ""
  return f"{', '.join(absent[:5])}{more}"


def assert_disjoint(subjects: Sequence[str] | np.ndarray, split: Split) -> None:
  """Refuses a split in which a person stands on two sides.

  Raises:
    UserError: naming the person and the two sides; or masks that are not one entry a record.
  """
  subjects = np.asarray(subjects)
  parts = [(field.name, getattr(split, field.name)) for field in dataclasses.fields(split)]
  for name, mask in parts:
    if mask.shape != subjects.shape or mask.dtype != bool:
      raise UserError(
        f"split mask '{name}' is {mask.dtype}{mask.shape}: give bool{subjects.shape}, one a record"
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
  """Refuses a split by which nothing can be learned or tested.

  Args:
    labels: n labels.
    label_names: class names by label.
    split: of the n records.

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
      f"all {split.train.sum()} records to train on are of class '{label_names[learned[0]]}', and a training of one "
      "class is no result: check the folders or labels of the source, or change split"
    )


def anonymous(subjects: Sequence[str] | np.ndarray) -> bool:
  """Whether every record has a subject of its own, as where a distributor does not say who is who."""
  return len(np.unique(subjects)) == len(subjects)


def people_of(subjects: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the names, ascending, and each record's position among them; refuses a record without a name."""
  names, position = np.unique(np.asarray(subjects), return_inverse=True)
  if names.dtype.kind == "U" and len(names) and names[0] == "":
    raise UserError("a record has no subject name: without it people cannot be kept apart")
  return names, position


def share_of(fraction: float, people: int, what: str) -> int:
  """How many of some people (or records) a share from 0 to 1 is: at least one where it is above 0."""
  if not 0 <= fraction <= 1:
    raise UserError(f"{what} is {fraction}: give a share from 0 to 1")
  return max(1, round(fraction * people)) if fraction > 0 else 0
