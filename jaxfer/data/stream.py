"""Data sets too large for memory: read lazily from disk, and gathered on the host ahead of their use.

`load` is `records.load` for data sets of any size. If the decoded pictures do not fit in memory, they stay on disk as
`Column`s, which replace arrays and decode the requested records. Keys, labels, people and small features are read once,
without decoding pictures. A `Stream` yields the records of an index plan, window after window. Grain reads them ahead
in threads; its own shuffling is off.
"""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer import files
from jaxfer.data import records

_SMALL = 4096  # Features of up to this many bytes per record are read into memory.
_CHUNK = 1024  # Records parsed at a time for their small features.
_SLICE = 32  # Records that a thread reads at a time.


class Reader:
  """Decodes chosen features of chosen records of a prepared set; threads may share it.

  Attributes:
    folder: folder of the data set.
    infos: name -> shape and dtype of a feature's decoded value.
    count: number of records.
  """

  def __init__(self, builder: Any):
    self.folder = Path(builder.data_path)
    self.infos = builder.info.features.get_tensor_info()
    self.count = builder.info.splits["train"].num_examples
    self._features = builder.info.features
    self._order: np.ndarray | None = None
    with records.damaged(self.folder):
      self._source = records.open_source(builder, raw=True)

  def sort(self, order: np.ndarray) -> None:
    """Sorts the records: from now on, record i is the one at `order[i]` in the files."""
    self._order = order

  def read(self, rows: np.ndarray, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields the features `names` of the records `rows`; raises `UserError` if files are damaged."""
    import tensorflow_datasets as tfds

    with records.damaged(self.folder):
      part = tfds.features.FeaturesDict({name: self._features[name] for name in names})
      at = rows if self._order is None else self._order[rows]
      for record in self._source.__getitems__(at.tolist()):
        yield part.deserialize_example_np(record)


@dataclasses.dataclass(frozen=True)
class Column:
  """A feature that stays on disk, in place of an array [n, ...]; `column[rows]` decodes one or several records.

  It cannot be converted to an array: `np.asarray` raises an error.
  """

  reader: Reader
  name: str

  @property
  def shape(self) -> tuple[int, ...]:
    """Same as for an array."""
    return (self.reader.count, *self.reader.infos[self.name].shape)

  @property
  def dtype(self) -> np.dtype:
    """Same as for an array."""
    return np.dtype(self.reader.infos[self.name].np_dtype)

  @property
  def nbytes(self) -> int:
    """Size in bytes of the array that it replaces."""
    return math.prod(self.shape) * self.dtype.itemsize

  def __len__(self) -> int:
    return self.reader.count

  def __getitem__(self, rows: Any) -> np.ndarray:
    index = np.arange(len(self))[rows]
    values = _decode(self.reader, np.atleast_1d(index), [self])[self.name]
    return values if index.ndim else values[0]

  def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
    raise TypeError(
      f"'{self.name}' stays on disk ({self.nbytes >> 20} MiB decoded): take the rows that are needed"
    )


def _decode(reader: Reader, rows: np.ndarray, columns: Sequence[Column]) -> dict[str, np.ndarray]:
  values = {c.name: np.empty((len(rows), *c.shape[1:]), c.dtype) for c in columns}
  for i, example in enumerate(reader.read(rows, list(values))):
    for name, array in values.items():
      array[i] = example[name]
  return values


def decoded_bytes(builder: Any) -> int:
  """Returns the size in bytes of a prepared set's decoded arrays."""
  infos = builder.info.features.get_tensor_info().values()
  return sum(_bytes(info) for info in infos) * builder.info.splits["train"].num_examples


def _bytes(info: Any) -> int:
  return math.prod(side or 1 for side in info.shape) * np.dtype(info.np_dtype).itemsize


def load(name: str, data_dir: str | Path, options: Mapping[str, Any], limit: int | None) -> records.Records:
  """Like `records.load`, but opens a set of more than `limit` decoded bytes lazily, unless it is a mixture."""
  builder = records.prepared(name, data_dir, options)
  if builder is None or limit is None or decoded_bytes(builder) <= limit:
    return records.load(name, data_dir, **options)
  return open_records(builder)


def open_records(builder: Any) -> records.Records:
  """Opens a prepared set with its large features as `Column`s; the rest equals `records.read`, with the fingerprint.

  The fingerprint is the one that `jaxfer prepare` recorded. A set without that report (a drawn one) is decoded once, in
  small pieces, to compute it.

  Raises:
    UserError: files are damaged.
  """
  reader = Reader(builder)
  large = [name for name, info in reader.infos.items() if _bytes(info) > _SMALL]
  small = [name for name in reader.infos if name not in large]
  starts = range(0, reader.count, _CHUNK)
  chunks = (np.arange(start, min(start + _CHUNK, reader.count)) for start in starts)
  with records.damaged(reader.folder):
    examples = (example for chunk in chunks for example in reader.read(chunk, small))
    arrays, texts = records.columns(examples, reader.count)
  position = ""  # Not the name of a feature: the position of each record, to be sorted with the rest.
  made = records.Records.from_arrays(
    arrays | {position: np.arange(reader.count)},
    texts.pop("key"),
    builder.info.features["label"].names,
    texts.pop("subject"),
    texts,
  )
  held: dict[str, Any] = dict(made.arrays)
  reader.sort(held.pop(position))
  held = dict(sorted({**held, **{name: Column(reader, name) for name in large}}.items()))
  report = reader.folder / "report.json"
  if report.is_file():
    fix = f"delete {reader.folder} and prepare again"
    fingerprint = files.read_json(report, fix, ["fingerprint"])["fingerprint"]
  else:
    fingerprint = records.fingerprint(held, made.texts, made.keys, made.label_names, made.subject_names)
  return dataclasses.replace(made, arrays=held, fingerprint=fingerprint)


@dataclasses.dataclass(frozen=True)
class Stream(Mapping[str, Any]):
  """Arrays and columns [n, ...] by name, read in windows of planned records.

  Attributes:
    arrays: arrays in host memory, or `Column`s on disk.
  """

  arrays: Mapping[str, Any]

  def __getitem__(self, name: str) -> Any:
    return self.arrays[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self.arrays)

  def __len__(self) -> int:
    return len(self.arrays)

  def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the values of the records `rows`; a record is read once for all of its columns."""
    columns: dict[Reader, list[Column]] = {}
    found = {}
    for name, array in self.arrays.items():
      if isinstance(array, Column):
        columns.setdefault(array.reader, []).append(array)
      else:
        found[name] = array[rows]
    for reader, own in columns.items():
      found |= _decode(reader, rows, own)
    return found

  def windows(self, rows: Sequence[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Yields the values of rows[0], rows[1], ...; each window has new arrays, and the next is read meanwhile."""
    import grain

    parts = [part for window in rows for part in np.split(window, range(_SLICE, len(window), _SLICE))]
    threads = min(16, os.cpu_count() or 1)
    ahead = max((-(-len(window) // _SLICE) for window in rows), default=0) + threads
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    read = iter(grain.MapDataset.source(_Parts(self, parts)).to_iter_dataset(options))
    for window in rows:
      values: dict[str, np.ndarray] = {}
      for start in range(0, len(window), _SLICE):
        for name, part in next(read).items():
          if name not in values:
            values[name] = np.empty((len(window), *part.shape[1:]), part.dtype)
          values[name][start : start + len(part)] = part
      yield values


@dataclasses.dataclass(frozen=True)
class _Parts:
  """A plan as a data source for Grain: element i is the values of parts[i]."""

  stream: Stream
  parts: Sequence[np.ndarray]

  def __len__(self) -> int:
    return len(self.parts)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    return self.stream.gather(self.parts[i])


def host_memory() -> int | None:
  """Returns the bytes of memory available to this process; None if unknown. Linux only, within its control group."""
  try:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) << 10
  except (OSError, KeyError, ValueError):
    return None
  group = Path("/sys/fs/cgroup")
  try:
    limit, used = ((group / name).read_text() for name in ("memory.max", "memory.current"))
    cache = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
    return min(free, int(limit) - int(used) + int(cache))
  except (OSError, KeyError, ValueError):  # No limit ("max"), or no such files.
    return free
