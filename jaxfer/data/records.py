"""Prepared data sets as host arrays: opens, generates and reads the TFDS builders of `jaxfer.data.datasets`.

A data set is read whole (nearly all data sets here fit in memory as uint8). The arrays are sorted by record key, so
their order depends neither on the shards nor on the hash by which TFDS shuffles.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer import folders
from jaxfer.data.datasets import DATASETS
from jaxfer.data.staging import put, staging
from jaxfer.errors import UserError, unknown
from jaxfer.values import check

_CHUNK = 256  # Records decoded at a time: enough to amortise a read, but little memory.


@dataclasses.dataclass(frozen=True)
class Records:
  """A data set in host memory, sorted by key.

  Attributes:
    arrays: name -> array of leading length n. `label` and `subject` are int32 indices into `label_names` and
      `subject_names`; sequences have `frames` [n, T, S, S, 3] uint8 and `flow` [n, T, S, S, 2] int16
      (pixels * 32767 / 20), stills have `image` [n, S, S, C] uint8; the builder declares further arrays.
    keys: the n record keys, ascending, unique.
    label_names: class names by label.
    subject_names: the people, ascending.
    fingerprint: SHA-256 (hex) of keys, names, array bytes and texts; equal exactly if the data are equal.
    texts: name -> the n strings of a further text feature; `arrays` holds numbers only. Imported stills have `split`:
      "train", "validation" or "test" as distributed, or "" if the distributor defines no split.
    notes: lines for reports; for a mixture, its composition.
  """

  arrays: dict[str, np.ndarray]
  keys: tuple[str, ...]
  label_names: tuple[str, ...]
  subject_names: tuple[str, ...]
  fingerprint: str
  texts: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.keys)

  @property
  def subjects(self) -> np.ndarray:
    """The n names of the people, one per record."""
    return np.asarray(self.subject_names)[self.arrays["subject"]]

  @classmethod
  def from_arrays(
    cls,
    arrays: Mapping[str, np.ndarray],
    keys: Sequence[str],
    label_names: Sequence[str],
    subjects: Sequence[str],
    texts: Mapping[str, Sequence[str]] | None = None,
  ) -> "Records":
    """Creates records: sorts and checks the arrays, and computes the fingerprint.

    Args:
      arrays: name -> array of leading length n, including `label`; `subject` is computed from `subjects`.
      keys: n unique record keys, in the order of the arrays.
      label_names: class names by label.
      subjects: the n people's names, in the order of the arrays.
      texts: name -> n texts, in the order of the arrays.

    Raises:
      UserError: there are no records, lengths differ, a key is repeated, or a label is outside `label_names`.
    """
    texts = texts or {}
    lengths = {"keys": len(keys), "subjects": len(subjects)} | {name: len(arrays[name]) for name in arrays}
    lengths |= {name: len(texts[name]) for name in texts}
    if len(keys) == 0 or len(set(lengths.values())) != 1:
      raise UserError(f"records need equal, non-zero lengths, found {lengths}")
    order = np.asarray(sorted(range(len(keys)), key=keys.__getitem__))
    keys = tuple(keys[i] for i in order)
    if repeated := next((a for a, b in itertools.pairwise(keys) if a == b), None):
      raise UserError(f"record key '{repeated}' occurs twice; keys must be unique")
    subject_names = tuple(sorted(set(subjects)))
    index = {name: i for i, name in enumerate(subject_names)}
    sorted_arrays = {name: np.ascontiguousarray(arrays[name][order]) for name in sorted(arrays)}
    sorted_arrays["label"] = sorted_arrays["label"].astype(np.int32)
    sorted_arrays["subject"] = np.asarray([index[subjects[i]] for i in order], np.int32)
    sorted_texts = {name: tuple(texts[name][i] for i in order) for name in sorted(texts)}
    label = sorted_arrays["label"]
    if label.min() < 0 or label.max() >= len(label_names):
      raise UserError(
        f"labels {label.min()}..{label.max()} do not fit the {len(label_names)} names {label_names}"
      )
    return cls(
      arrays=sorted_arrays,
      keys=keys,
      label_names=tuple(label_names),
      subject_names=subject_names,
      fingerprint=fingerprint(sorted_arrays, sorted_texts, keys, label_names, subject_names),
      texts=sorted_texts,
    )


def fingerprint(
  arrays: Mapping[str, np.ndarray], texts: Mapping[str, Sequence[str]], *names: Sequence[str]
) -> str:
  """Computes `Records.fingerprint` piece by piece, since arrays may be columns on disk (`stream.Column`)."""
  digest = hashlib.sha256()
  for group in names:
    digest.update(f"{len(group)}\n".encode() + "\0".join(group).encode())
  for name in sorted(arrays):
    array = arrays[name]
    digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
    for start in range(0, len(array), _CHUNK):
      digest.update(np.ascontiguousarray(array[start : start + _CHUNK]).data)
  for name in sorted(texts):
    digest.update(f"\n{name} text\n".encode() + "\0".join(texts[name]).encode())
  return digest.hexdigest()


def default_data_dir() -> Path:
  """Returns the default folder of prepared data: $JAXFER_DATA_DIR, else ~/jaxfer_data."""
  return Path(os.environ.get("JAXFER_DATA_DIR") or Path.home() / "jaxfer_data").expanduser()


def load(name: str, data_dir: str | Path, **options: Any) -> Records:
  """Reads a prepared data set; a synthetic one is generated on first use, and a mixture is composed of its parts.

  Args:
    name: a key of `jaxfer.data.datasets.DATASETS`.
    data_dir: folder of the prepared data sets.
    **options: fields of the builder's `Config`, e.g. `num_frames=16, image_size=64`; the others have the builder's
      defaults.

  Raises:
    UserError: the data set or an option is unknown, the set is not prepared (the message gives the command), the
      folder cannot be written, or files are damaged.
  """
  builder = prepared(name, data_dir, options)
  if builder is None:
    from jaxfer.data import mixed  # Imported here because it imports this module.

    return mixed.load(name, data_dir, options)
  return read(builder)


def prepared(name: str, data_dir: str | Path, options: Mapping[str, Any]) -> Any:
  """Returns the builder of a prepared data set, or None for a mixture; generates synthetic ones. Raises as `load`."""
  config = make_config(name, options)
  if DATASETS[name].parts:
    return None
  builder = open_builder(name, config, data_dir)
  if not builder.data_path.exists():
    if not DATASETS[name].generated:
      raise _not_prepared(name, config, options, Path(builder.data_path))
    generate(name, config, data_dir)
    builder = open_builder(name, config, data_dir)
  return builder


def make_config(name: str, options: Mapping[str, Any]) -> Any:
  """Returns the builder's `Config` for these options, with a name that only equal options share.

  Raises:
    UserError: the data set or an option is unknown, or a value has the wrong type or is out of range.
  """
  if name not in DATASETS:
    raise unknown("data set", name, DATASETS)
  module = importlib.import_module(DATASETS[name].module)
  own = option_fields(module.Config)
  given = {}
  for option, value in options.items():
    if option not in own:
      raise unknown(f"option of data set '{name}'", option, own)
    check(value, own[option].type, f"{name}.{option}")
    # Equal numbers must be written equally, or the same data would be prepared under two names.
    given[option] = float(value) if type(own[option].default) is float else value
  chosen = module.Config(name="unnamed", **given)
  named = [(field, getattr(chosen, field)) for field in own if own[field].metadata.get("in_name", True)]
  words = "_".join(f"{field}-{re.sub('[^A-Za-z0-9.]+', '-', str(value))}" for field, value in named)
  # The words are for readers; the digest makes the name unique.
  digest = hashlib.sha256(repr(named).encode()).hexdigest()[:8]
  return module.Config(name=f"{words[:150]}_{digest}", **given)


def embedded_version(name: str) -> int | None:
  """Returns the major version of an embedded data set, whose drawings change with it; None for imported sets."""
  if not DATASETS[name].generated:
    return None
  return importlib.import_module(DATASETS[name].module).Builder.VERSION.major


def option_fields(config_class: Any) -> dict[str, dataclasses.Field]:
  """Returns the options of a data set: the fields of the builder's `Config` that TFDS does not define."""
  base = next(c for c in config_class.__mro__ if c.__module__.startswith("tensorflow_datasets."))
  inherited = {field.name for field in dataclasses.fields(base)}
  return {f.name: f for f in dataclasses.fields(config_class) if f.name not in inherited}


def open_builder(name: str, config: Any, data_dir: str | Path) -> Any:
  """Returns the TFDS builder of a data set and configuration, without preparing the data."""
  module = importlib.import_module(DATASETS[name].module)
  with _quiet():
    return module.Builder(config=config, data_dir=Path(data_dir), file_format="array_record")


def generate(
  name: str,
  config: Any,
  data_dir: str | Path,
  *,
  replace: bool = False,
  finish: Callable[[Any, Path], None] | None = None,
) -> Path:
  """Writes a data set as array_record and returns its folder.

  Everything is written to a hidden folder inside `data_dir` and renamed at the end, so an interrupted run leaves an
  earlier copy untouched and no partial one. Folders of killed runs are removed here, see `staging`.

  Args:
    name: a key of `DATASETS`.
    config: from `make_config`.
    data_dir: folder of the prepared data sets.
    replace: whether to replace a prepared copy of the same configuration instead of keeping it.
    finish: called with the builder and the final folder before the renaming, to check the written files or add
      others in `builder.data_path`.

  Raises:
    UserError: `data_dir` cannot be written, or the builder finds an error in its source.
  """
  root = Path(data_dir)
  folders.check_data_dir(root)
  with staging(root) as folder, folders.explained(root):
    builder = open_builder(name, config, folder)
    with _quiet():
      builder.download_and_prepare(file_format="array_record")
    built = Path(builder.data_path)
    final = root / built.relative_to(folder)
    if finish:
      finish(builder, final)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
      put(built, final, folder, replace)
    except OSError:
      if replace or not final.exists():
        raise
      # Another process generated the same set in the meantime. Its copy is equal, so ours is deleted.
  return final


def read(builder: Any) -> Records:
  """Reads a whole prepared data set.

  Raises:
    UserError: files are damaged.
  """
  with damaged(Path(builder.data_path)):
    source = open_source(builder)
    expected = len(source)
    chunks = (range(start, min(start + _CHUNK, expected)) for start in range(0, expected, _CHUNK))
    examples = itertools.chain.from_iterable(source.__getitems__(chunk) for chunk in chunks)
    arrays, texts = columns(examples, expected)
  keys, subjects = texts.pop("key"), texts.pop("subject")
  return Records.from_arrays(arrays, keys, builder.info.features["label"].names, subjects, texts)


def open_source(builder: Any, *, raw: bool = False) -> Any:
  """Returns the records of a prepared set, decoded or as `raw` bytes; raises ValueError if some are missing."""
  import tensorflow_datasets as tfds

  method = tfds.decode.DeserializeMethod
  with _quiet():
    source = builder.as_data_source(
      split="train", deserialize_method=method.RAW_BYTES if raw else method.DESERIALIZE_AND_DECODE
    )
  expected = builder.info.splits["train"].num_examples
  if len(source) != expected:
    raise ValueError(f"{len(source)} records of {expected}")
  return source


@contextlib.contextmanager
def damaged(folder: Path) -> Iterator[None]:
  """Turns all exceptions from reading a prepared set into `UserError`; array_record and codecs raise many kinds."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    raise UserError(
      f"prepared data in {folder} are damaged ({reason[0]}): delete that folder and prepare again"
    ) from error


def columns(
  examples: Iterator[Mapping[str, Any]], count: int
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
  """Stacks `count` examples to one array or list per feature, filled in place to avoid a second copy."""
  arrays: dict[str, np.ndarray] = {}
  texts: dict[str, list[str]] = {}
  for i, example in enumerate(examples):
    for name, value in example.items():
      if isinstance(value, bytes):
        texts.setdefault(name, []).append(value.decode())
        continue
      array = np.asarray(value)
      if i == 0:
        arrays[name] = np.empty((count, *array.shape), array.dtype)
      arrays[name][i] = array
  return arrays, texts


def _not_prepared(name: str, config: Any, options: Mapping[str, Any], path: Path) -> UserError:
  others = sorted(folder.name for folder in path.parent.parent.glob("*_*"))
  there = f" (prepared there: {', '.join(others)})" if others else ""
  chosen = "".join(f" {key}={value}" for key, value in options.items())
  data_dir = path.parent.parent.parent
  return UserError(
    f"data set '{name}' is not prepared as {config.name} in {data_dir}{there}: run "
    f"`jaxfer prepare {name} --source DIR --data-dir {data_dir}{chosen}`"
  )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Suppresses TFDS's prints, progress bars and warnings about custom configurations."""
  import tensorflow_datasets as tfds

  logger = logging.getLogger("absl")
  level = logger.level
  tfds.disable_progress_bar()  # Permanently, because TFDS offers no way to ask whether it was on.
  logger.setLevel(logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logger.setLevel(level)
