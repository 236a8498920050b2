"""Mixtures: data sets that are composed of prepared ones when they are loaded, without writing a copy.

A mixture is a module that `jaxfer.data.datasets.DATASETS` names with its parts. It defines `Config`, the mixture's
options; `mixture(config)`, which maps the records of each part to classes; and `IMAGE_SIZES`, the sizes that
the studies of its paper read. `prepare` imports all parts at all these sizes.
"""

import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer.data import records
from jaxfer.data.datasets import DATASETS
from jaxfer.data.prepare import Report
from jaxfer.data.prepare import prepare as prepare_one
from jaxfer.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Part:
  """A prepared data set in a mixture.

  Attributes:
    name: name of the data set.
    prefix: prefix of its keys and subjects, so that people of different sets are different people.
    options: options of the data set.
    labels: maps its class names to those of the mixture; records of other classes are dropped. None keeps the classes
      that have a name of the mixture.
    expected: published number of records per class of the mixture; 0 if none is published.
    purpose: use of the records, "training" or "recognition"; empty for both. It is part of the keys, not of the
      subjects.
    source: name of the distributor's folder in `prepare`; empty for the name of the data set.
  """

  name: str
  prefix: str
  options: Mapping[str, Any]
  labels: Mapping[str, str] | None = None
  expected: Mapping[str, int] | None = None
  purpose: str = ""
  source: str = ""


@dataclasses.dataclass(frozen=True)
class Mixture:
  """A mixture of data sets.

  Attributes:
    label_names: class names by label.
    parts: the parts, in order.
    source: citation of the expected numbers.
    draw_seed: seed of a draw that reduces each class of each part to its expected number; None keeps all records.
    published: the paper's numbers for each purpose, in words, such as "29085 images of 195 people".
  """

  label_names: tuple[str, ...]
  parts: tuple[Part, ...]
  source: str
  draw_seed: int | None = None
  published: Mapping[str, str] = dataclasses.field(default_factory=dict)


def load(name: str, data_dir: str | Path, options: Mapping[str, Any]) -> records.Records:
  """Loads the parts of a mixture and combines their pictures; see `compose`.

  Args:
    name: a key of `DATASETS` that has parts.
    data_dir: folder of the prepared data sets.
    options: options of the mixture.

  Raises:
    UserError: an option is unknown, a part is not prepared (the message gives the command), or as in `compose`.
  """
  mixture = _mixture(name, options)
  return compose(mixture, [records.load(part.name, data_dir, **part.options) for part in mixture.parts])


def prepare(
  name: str,
  sources: Mapping[str, str | Path],
  data_dir: str | Path,
  *,
  skip_bad: bool = False,
  **options: Any,
) -> Iterator[Report]:
  """Imports every part of a mixture, in each form that the studies of its paper read.

  Args:
    name: a key of `DATASETS` that has parts.
    sources: the distributor's folder of each part, by `source_names`.
    data_dir: folder of the prepared data sets.
    skip_bad: see `jaxfer.data.prepare.prepare`.
    **options: options of the mixture. Without `image_size`, the parts are imported at all `IMAGE_SIZES` of the mixture.

  Yields:
    The report of each import.

  Raises:
    UserError: an option is unknown, a source is missing or unknown, or as in `jaxfer.data.prepare.prepare`.
  """
  known = source_names(name)
  for given in sources:
    if given not in known:
      raise unknown(f"source of data set '{name}'", given, known)
  if missing := [source for source in known if source not in sources]:
    raise UserError(
      f"data set '{name}' needs the folders of {', '.join(known)}: add "
      f"{' '.join(f'{source}=DIR' for source in missing)} to --source"
    )
  for part in forms(name, options):
    source = sources[part.source or part.name]
    yield prepare_one(part.name, source, data_dir, skip_bad=skip_bad, **part.options)


def forms(name: str, options: Mapping[str, Any]) -> list[Part]:
  """Returns the parts that `prepare` imports, without duplicates of name and options."""
  studied = importlib.import_module(DATASETS[name].module).IMAGE_SIZES
  sizes = (options["image_size"],) if "image_size" in options else studied
  found: dict[tuple[str, str], Part] = {}
  for size in sizes:
    for part in _mixture(name, {**options, "image_size": size}).parts:
      found.setdefault((part.name, records.make_config(part.name, part.options).name), part)
  return list(found.values())


def source_names(name: str) -> tuple[str, ...]:
  """Returns the names of the folders of a mixture's parts in `prepare`, such as ("mug", "ckplus", "ravdess")."""
  return tuple(dict.fromkeys(part.source or part.name for part in _mixture(name, {}).parts))


def _mixture(name: str, options: Mapping[str, Any]) -> Mixture:
  config = records.make_config(name, options)
  found: Mixture = importlib.import_module(DATASETS[name].module).mixture(config)
  return found


def compose(mixture: Mixture, loaded: Sequence[records.Records]) -> records.Records:
  """Combines the records of the parts under the mixture's classes.

  Args:
    mixture: the mixture.
    loaded: the parts' records, each with `image` [n, S, S, C] of equal shape.

  Returns:
    The images and labels, with keys and subjects as "prefix/key", and the text `purpose` if parts have purposes.
    `notes` has, for each part, the found and expected records by class, and the numbers of dropped and undrawn records.

  Raises:
    UserError: pictures have different shapes.
  """
  shapes = {part.name: own.arrays["image"].shape[1:] for part, own in zip(mixture.parts, loaded, strict=True)}
  if len(set(shapes.values())) > 1:
    raise UserError(f"pictures of different shapes cannot be mixed: {shapes}")
  images, labels, keys, subjects, purposes, notes = [], [], [], [], [], []
  for number, (part, own) in enumerate(zip(mixture.parts, loaded, strict=True)):
    taken = {name: name for name in mixture.label_names} if part.labels is None else part.labels
    index = [mixture.label_names.index(taken[name]) if name in taken else -1 for name in own.label_names]
    label = np.asarray(index, np.int32)[own.arrays["label"]]
    rows = _drawn(mixture, number, label)
    images.append(own.arrays["image"][rows])
    labels.append(label[rows])
    ending = f"/{part.purpose}" if part.purpose else ""
    keys += [f"{part.prefix}/{own.keys[row]}{ending}" for row in rows]
    purposes += [part.purpose] * len(rows)
    subjects += [f"{part.prefix}/{name}" for name in own.subjects[rows]]
    notes += [_counts(mixture, part, label[rows]), *_dropped(part, own, label < 0)]
    if left := int((label >= 0).sum()) - len(rows):
      notes.append(f"{part.name}: {left} records left out by a draw (seed {mixture.draw_seed})")
  whole = f"{len(keys)} records"
  if all(part.expected for part in mixture.parts):
    total = sum(sum((part.expected or {}).values()) for part in mixture.parts)
    whole += f", expected {total} ({mixture.source})"
  notes += _by_purpose(mixture, purposes, subjects)
  arrays = {"image": np.concatenate(images), "label": np.concatenate(labels)}
  texts = {"purpose": purposes} if any(purposes) else None
  made = records.Records.from_arrays(arrays, keys, mixture.label_names, subjects, texts)
  return dataclasses.replace(made, notes=(*notes, whole))


def _drawn(mixture: Mixture, number: int, label: np.ndarray) -> np.ndarray:
  """Returns the indices of the records of a part that are used, in ascending order.

  Args:
    mixture: the mixture.
    number: index of the part.
    label: [n], label of each record of the part in the mixture; -1 for records of other classes.
  """
  expected = mixture.parts[number].expected
  if mixture.draw_seed is None or expected is None:
    return np.flatnonzero(label >= 0)
  taken = []
  for k, name in enumerate(mixture.label_names):
    rows, rng = np.flatnonzero(label == k), np.random.default_rng((mixture.draw_seed, number, k))
    taken.append(rng.permutation(rows)[: expected.get(name, 0)])
  return np.sort(np.concatenate(taken))


def _by_purpose(mixture: Mixture, purposes: Sequence[str], subjects: Sequence[str]) -> list[str]:
  """Returns lines with the records and people of each purpose, and the published numbers."""
  lines = []
  for purpose, published in mixture.published.items():
    people = [subject for subject, own in zip(subjects, purposes, strict=True) if own == purpose]
    lines.append(
      f"{purpose}: {len(people)} records of {len(set(people))} people, {mixture.source}: {published}"
    )
  return lines


def _counts(mixture: Mixture, part: Part, label: np.ndarray) -> str:
  found = np.bincount(label, minlength=len(mixture.label_names)).tolist()
  name = f"{part.name}, {part.purpose}" if part.purpose else part.name
  if part.expected is None:
    counts = [f"{label_name} {count}" for label_name, count in zip(mixture.label_names, found, strict=True)]
    return f"{name}: {len(label)} records: {', '.join(counts)}"
  expected = [part.expected.get(name, 0) for name in mixture.label_names]
  counts = [
    f"{label_name} {count}" + (f" (expected {want})" if count != want else "")
    for label_name, count, want in zip(mixture.label_names, found, expected, strict=True)
  ]
  agree = "as expected" if found == expected else f"expected {sum(expected)}"
  return f"{name}: {len(label)} records, {agree}: {', '.join(counts)}"


def _dropped(part: Part, own: records.Records, dropped: np.ndarray) -> list[str]:
  counts = np.bincount(own.arrays["label"][dropped], minlength=len(own.label_names))
  named = [f"{name} {count}" for name, count in zip(own.label_names, counts, strict=True) if count]
  return [f"{part.name}: {dropped.sum()} records dropped: {', '.join(named)}"] if named else []
