"""Splits the records of a config into training, validation and test."""

import zlib
from typing import Any

import numpy as np

from jaxfer.config import RunConfig
from jaxfer.data import folds, per_class, records
from jaxfer.errors import UserError


def folds_of(config: RunConfig, data: records.Records) -> int:
  """Returns the number of folds that a config trains; 0 if it is a single training."""
  split = config.split
  if split.fold is not None:
    return 0
  return len(data.subject_names) if split.kind == "leave_one_out" else split.folds


def split_of(config: RunConfig, data: records.Records) -> folds.Split:
  """Splits the records of a config into training, validation and test.

  Records whose text `purpose` is "training" are used only for training. Those whose `purpose` is "recognition" are used
  only for validation and test.

  Returns:
    The split, as masks over the records.

  Raises:
    UserError: the records cannot be split in this way, or nothing could be learned or tested with the split.
  """
  split = _all_of(config, data)
  if "purpose" in data.texts:
    purpose = np.asarray(data.texts["purpose"])
    learned, judged = (np.isin(purpose, ("", own)) for own in ("training", "recognition"))
    split = folds.Split(split.train & learned, split.validation & judged, split.test & judged)
  try:
    folds.assert_of_use(data.arrays["label"], data.label_names, split)
  except UserError as error:
    raise UserError(f"data set '{config.data.name}': {error}") from error
  return split


def _all_of(config: RunConfig, data: records.Records) -> folds.Split:
  split, subjects, labels = config.split, data.subjects, data.arrays["label"]
  seed = _split_seed(config.seed) if split.seed is None else split.seed
  aside: Any = {"validation_fraction": split.validation, "seed": seed}
  if split.kind == "per_class":
    people = set(data.subject_names) <= set(data.label_names)  # The classes are the people themselves.
    return per_class.per_class_split(labels, data.label_names, split.per_class, few=people, **aside)
  if split.kind == "per_class_people":
    return per_class.per_class_people_split(subjects, labels, data.label_names, split.per_class, **aside)
  if split.kind == "distributed":
    if "split" not in data.texts:
      raise UserError(
        f"data set '{config.data.name}' has no split by its distributor: choose another split.kind"
      )
    return folds.distributed_split(subjects, data.texts["split"], **aside)
  if split.kind == "people_per_set":
    return folds.people_per_set_split(subjects, split.test_people, **aside)
  count = len(data.subject_names) if split.kind == "leave_one_out" else split.folds
  if count:
    return folds.fold_split(subjects, split.fold or 0, count, **aside)
  watched = (1 - split.test) * split.validation
  return folds.holdout_split(subjects, (1 - split.test - watched, watched, split.test), seed)


def _split_seed(seed: int) -> int:
  """Returns the seed of a split that each run draws anew. Its random numbers are independent of the batches' order."""
  return int(np.random.SeedSequence([seed, zlib.crc32(b"split")]).generate_state(1)[0])
