"""The index plan: the records of each training batch in order, drawn on the host.

The device only gathers, so every way to run a training (devices, backends, resident or streamed data) reads the same
records in the same order.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxfer.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Plan:
  """Shuffled training batches over some records of a data set.

  Attributes:
    rows: indices of the records that may be drawn.
    batch_size: number of records per batch, over all devices.
    remainder: "drop" leaves the records of an incomplete last batch out of the epoch; "wrap" completes the batch with
      records from the start of the epoch. Batches are never padded, so statistics over a batch see only real records.
    seed: words of entropy; the order of an epoch depends on (seed, stage, epoch).
    subjects: [n], subject of each record of the data set as an integer; needed only for targets and partners.
  """

  rows: np.ndarray
  batch_size: int
  remainder: Literal["drop", "wrap"]
  seed: Sequence[int]
  subjects: np.ndarray | None = None

  def __post_init__(self):
    if self.batch_size < 1:
      raise UserError(f"batch_size={self.batch_size}: a batch needs at least one row")
    if len(self.rows) < (self.batch_size if self.remainder == "drop" else 1):
      raise UserError(
        f"batch_size={self.batch_size}: there are {len(self.rows)} training rows, fewer than a batch; "
        f"take batch_size={max(len(self.rows), 1)} or remainder=wrap"
      )

  @property
  def steps(self) -> int:
    """Number of batches per epoch."""
    full, rest = divmod(len(self.rows), self.batch_size)
    return full + (1 if rest and self.remainder == "wrap" else 0)

  def epoch(self, stage: int, epoch: int) -> np.ndarray:
    """Returns the record indices of an epoch's batches, [steps, batch_size] int32."""
    order = np.random.default_rng([*self.seed, stage, epoch]).permutation(self.rows)
    return (
      np.resize(order, self.steps * self.batch_size).astype(np.int32).reshape(self.steps, self.batch_size)
    )

  def columns(self, stage: int, epoch: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the record indices of an epoch's batches by column name, each [steps, batch_size] int32.

    Args:
      stage: position of the stage in the list of stages.
      epoch: number of the epoch within the stage.
      names: "row", the record itself; "target", a record of the same subject, uniformly drawn and possibly the same;
        "partner", a record of another subject from the same batch, or any record of another subject if the batch has
        only one. All are drawn from `rows`, so held-out people never occur.

    Raises:
      UserError: partners are requested although all records are of one subject.
    """
    drawn = {"row": self.epoch(stage, epoch)}
    for name in names:
      if name not in _DRAWS and name != "row":
        raise unknown("column of a stage's plan", name, ("row", *_DRAWS))
      if name in _DRAWS:
        assert self.subjects is not None, "a plan of targets or partners needs to know the subjects"
        rng = np.random.default_rng([*self.seed, stage, epoch, zlib.crc32(name.encode())])
        draw = _DRAWS[name](np.asarray(self.rows), np.asarray(self.subjects), drawn["row"], rng)
        drawn[name] = draw.astype(np.int32)
    return {name: drawn[name] for name in names}


def _targets(
  rows: np.ndarray, subjects: np.ndarray, drawn: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Draws, for each drawn record, one of `rows` with the same subject."""
  ordered, first, count = _by_subject(rows, subjects, drawn)
  return ordered[first + (rng.random(drawn.shape) * count).astype(int)]


def _partners(
  rows: np.ndarray, subjects: np.ndarray, drawn: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Draws, for each drawn record, one with another subject."""
  ordered, first, count = _by_subject(rows, subjects, drawn)
  if (others := len(rows) - count).min() == 0:
    raise UserError(
      f"all {len(rows)} training rows are of one subject, but pairs of two subjects are needed: add people to the data"
    )
  chance = rng.random(drawn.shape)
  # The k-th record of all other subjects, in the order of subjects: skips the records of the own subject.
  place = (chance * others).astype(int)
  anyone = ordered[np.where(place < first, place, place + count)]
  who = subjects[drawn]
  differs = who[:, :, None] != who[:, None, :]
  mates = differs.sum(-1)
  # The k-th place in the batch with another subject.
  wanted = (chance * mates).astype(int)
  place = (differs.cumsum(-1) > wanted[..., None]).argmax(-1)
  return np.where(mates > 0, np.take_along_axis(drawn, place, 1), anyone)


def _by_subject(
  rows: np.ndarray, subjects: np.ndarray, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Sorts records by subject; also returns the start and the number of those of each drawn record's subject."""
  ordered = rows[np.argsort(subjects[rows], kind="stable")]
  who = subjects[ordered]
  first, end = (np.searchsorted(who, subjects[drawn], side) for side in ("left", "right"))
  return ordered, first, end - first


_DRAWS = {"target": _targets, "partner": _partners}


def evaluation(rows: np.ndarray, batch_size: int, batches: int = 1) -> list[dict[str, np.ndarray]]:
  """Splits record indices, in order, into equal batches: "row" [batch_size] int32 and "real" [batch_size] bool.

  The last batch is padded with records from the start, or record 0, whose "real" is False; so are further batches,
  until there are `batches`.
  """
  count = max(-(-len(rows) // batch_size), batches)
  padded = np.resize(rows if len(rows) else [0], count * batch_size).astype(np.int32)
  real = np.arange(count * batch_size) < len(rows)
  return [
    {"row": row, "real": own}
    for row, own in zip(padded.reshape(count, -1), real.reshape(count, -1), strict=True)
  ]


def chunks(steps: int, start: int, per_call: int) -> list[tuple[int, int]]:
  """Divides steps start..steps into calls of equal length, never of one step.

  An epoch of S steps has k = ceil(S / per_call) chunks of ceil(S / k) steps. The last chunk may reach beyond S; those
  steps are inactive. A loop of one step would compile to another program than a longer one.

  Returns:
    (first, end) of each chunk. The first chunk begins at `start`. It may lie within a chunk of the whole epoch, if a
    training is resumed with another `per_call`.
  """
  count = -(-steps // max(per_call, 2))
  length = max(-(-steps // count), 2)
  return [(first, first + length) for first in range(start, steps, length)]
