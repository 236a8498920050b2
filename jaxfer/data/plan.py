"""The index plan: which row of the data stands where in which training batch, drawn on the host.

The device only gathers, so every way to run a training (devices, drivers, backends, resident or streamed data) reads
the same rows in the same order.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxfer.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Plan:
  """Shuffled training batches over some rows of a data set.

  Attributes:
    rows: indices of the rows that may be drawn.
    batch_size: rows of a batch, over all devices.
    remainder: "drop" leaves the rows of an incomplete last batch out of the epoch, "wrap" completes it with rows from
      the epoch's start. Batches are never padded, so statistics over a batch see real rows alone.
    seed: words of entropy; the epoch's order depends on (seed, stage, epoch).
    subjects: [n] who is in each row of the data set, as integers; only for columns that ask who.
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
    """Batches of an epoch."""
    full, rest = divmod(len(self.rows), self.batch_size)
    return full + (1 if rest and self.remainder == "wrap" else 0)

  def epoch(self, stage: int, epoch: int) -> np.ndarray:
    """The rows of an epoch's batches, [steps, batch_size] int32."""
    order = np.random.default_rng([*self.seed, stage, epoch]).permutation(self.rows)
    return (
      np.resize(order, self.steps * self.batch_size).astype(np.int32).reshape(self.steps, self.batch_size)
    )

  def columns(self, stage: int, epoch: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What stands at each place of an epoch's batches, [steps, batch_size] int32 row numbers, by name.

    Args:
      stage: its position in the list of stages.
      epoch: within the stage.
      names: "row"; "target", a row of the same subject, any with equal probability and so maybe the same; "partner", a
        row of another subject: any such place of the same batch, or any such row where a batch has but one subject.
        All are drawn from `rows`: nobody who is held out is met.

    Raises:
      UserError: partners are asked for where all rows are of one subject.
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
  """Of each drawn row, one of `rows` that shows the same subject."""
  ordered, first, count = _by_subject(rows, subjects, drawn)
  return ordered[first + (rng.random(drawn.shape) * count).astype(int)]


def _partners(
  rows: np.ndarray, subjects: np.ndarray, drawn: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Of each drawn row, one that shows another subject."""
  ordered, first, count = _by_subject(rows, subjects, drawn)
  if (others := len(rows) - count).min() == 0:
    raise UserError(
      f"all {len(rows)} training rows are of one subject: pairs of two subjects need another, add people to the data"
    )
  chance = rng.random(drawn.shape)
  # The k-th row of all others, in the order of the subjects: beyond the own ones from where those begin.
  place = (chance * others).astype(int)
  anyone = ordered[np.where(place < first, place, place + count)]
  who = subjects[drawn]
  differs = who[:, :, None] != who[:, None, :]
  mates = differs.sum(-1)
  # The k-th of the places that differ.
  wanted = (chance * mates).astype(int)
  place = (differs.cumsum(-1) > wanted[..., None]).argmax(-1)
  return np.where(mates > 0, np.take_along_axis(drawn, place, 1), anyone)


def _by_subject(
  rows: np.ndarray, subjects: np.ndarray, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The rows in the order of their subjects; where those of each drawn row's subject begin there, and how many."""
  ordered = rows[np.argsort(subjects[rows], kind="stable")]
  who = subjects[ordered]
  first, end = (np.searchsorted(who, subjects[drawn], side) for side in ("left", "right"))
  return ordered, first, end - first


_DRAWS = {"target": _targets, "partner": _partners}


def evaluation(rows: np.ndarray, batch_size: int, batches: int = 1) -> list[dict[str, np.ndarray]]:
  """Rows in the given order, in batches of equal size: "row" [batch_size] int32 and "real" [batch_size] bool.

  The last is completed with rows from the start, or row 0, that are not real; so are further ones, up to `batches`.
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

  An epoch of S steps is k = ceil(S / per_call) chunks of ceil(S / k) steps. The last may reach beyond S: those steps
  are planned inactive. A loop of one step would compile to another program than a longer one.

  Returns:
    (first, end) of each chunk that is not yet done, where `start` is the first step of one of them.
  """
  count = -(-steps // max(per_call, 2))
  length = max(-(-steps // count), 2)
  return [(first, first + length) for first in range(0, steps, length) if first >= start]
