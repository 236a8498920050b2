"""Finds copies of a picture in a data set: with two labels, of two people, in two splits, or harmless ones."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from jaxfer.data import align
from jaxfer.data.stills import UNLABELLED, Still

_RANK = {
  "": 0,
  "train": 0,
  "validation": 1,
  "test": 2,
}  # If a picture leaks, its copies of the lower rank are dropped.
_LEAST_OVERLAP = 0.5  # Intersection over union, above which two boxes show the same face.


@dataclasses.dataclass
class Verdict:
  """Consequences of the copies in a data set.

  Attributes:
    dropped: for each still that must not be used, by its position, the reason. All copies that contradict each other
      (in label or person) are dropped. If copies are in several splits, those in the test split are kept, else those in
      the validation split.
    repeats: harmless copies, by position, with the same label, person and split as an earlier still.
    notes: messages with the count of each.
  """

  dropped: dict[int, str] = dataclasses.field(default_factory=dict)
  repeats: dict[int, str] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)


def judge(
  stills: Sequence[Still], digests: Sequence[bytes | None], label_names: Sequence[str], faces_apart: bool
) -> Verdict:
  """Finds stills that show the same picture.

  Args:
    stills: n stills.
    digests: n digests of their pixels; None for a picture that cannot be used.
    label_names: class names by label.
    faces_apart: whether two faces that are cropped from one picture are different stills.
  """
  groups: dict[bytes, list[int]] = defaultdict(list)
  for i, digest in enumerate(digests):
    if digest is not None:
      groups[digest].append(i)
  verdict = Verdict()
  contradictions = leaks = 0
  for members in groups.values():
    if len(members) == 1:
      continue
    for same in _same_face(stills, members) if faces_apart else [members]:
      before = len(verdict.dropped)
      if _contradict(stills, same, label_names, verdict):
        contradictions += 1
      else:
        _leak(stills, same, verdict)
        leaks += len(verdict.dropped) - before
  contradicting = len(verdict.dropped) - leaks
  if contradictions:
    verdict.notes.append(
      f"contradictions: {contradictions} pictures occur {contradicting} times under more than one label or person; "
      "--skip-bad leaves all of these copies out"
    )
  if leaks:
    verdict.notes.append(
      f"leaks: {leaks} pictures occur again in the test or validation split; --skip-bad keeps the copies there and "
      "leaves the others out"
    )
  if verdict.repeats:
    verdict.notes.append(f"{len(verdict.repeats)} pictures repeat one of the same label and split: kept")
  return verdict


def _contradict(stills: Sequence[Still], same: list[int], names: Sequence[str], verdict: Verdict) -> bool:
  """Drops all copies if their labels, or the known people, differ."""
  for what, values in (
    ("labelled", [names[stills[i].label] if names else str(stills[i].label) for i in same]),
    ("of", [stills[i].subject if stills[i].subject != stills[i].key else "" for i in same]),
  ):
    if len({*values} - {UNLABELLED}) <= 1:
      continue
    for i, value in zip(same, values, strict=True):
      j, other = next((j, other) for j, other in zip(same, values, strict=True) if other != value)
      verdict.dropped[i] = f"{what} '{value}', but the same picture {_name(stills[j])} is {what} '{other}'"
    return True
  return False


def _leak(stills: Sequence[Still], same: list[int], verdict: Verdict) -> None:
  """Keeps only the copies in one split."""
  best = max(same, key=lambda i: _RANK[stills[i].split])  # The first of the highest rank.
  for i in same:
    if _RANK[stills[i].split] < _RANK[stills[best].split]:
      own, other = (
        f"the {split} split" if split else "no split" for split in (stills[i].split, stills[best].split)
      )
      verdict.dropped[i] = f"in {own}, but the same picture {_name(stills[best])} is in {other}"
    elif i != best:
      verdict.repeats[i] = f"same content as {stills[best].source}"


def _same_face(stills: Sequence[Still], members: list[int]) -> list[list[int]]:
  """Groups copies of a picture by the cropped face; a copy without a place counts as the first face."""
  groups: list[tuple[align.Square | None, list[int]]] = []
  for i in members:
    square = _square(stills[i])
    for other, group in groups:
      if square is None or other is None or _overlap(square, other) > _LEAST_OVERLAP:
        group.append(i)
        break
    else:
      groups.append((square, [i]))
  return [group for _, group in groups]


def _square(still: Still) -> align.Square | None:
  if still.points is None:
    return still.square
  try:
    return align.points_square(still.points)
  except (ValueError, np.linalg.LinAlgError):
    return None


def _overlap(one: align.Square, other: align.Square) -> float:
  """Intersection over union of two squares."""
  width = min(one.left + one.side, other.left + other.side) - max(one.left, other.left)
  height = min(one.top + one.side, other.top + other.side) - max(one.top, other.top)
  shared = max(width, 0.0) * max(height, 0.0)
  return shared / (one.side * one.side + other.side * other.side - shared)


def _name(still: Still) -> str:
  return f"{still.source} ({still.where})" if still.where else str(still.source)
