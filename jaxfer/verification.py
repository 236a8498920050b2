"""Are two pictures of one person? The protocol of LFW, by which face nets are judged.

A pair is called one person where the squared distance of its unit embeddings, 2 - 2 cos, is below a threshold. The
pairs lie in ten parts in the order given; the threshold of each part is the one of 0, 0.01, ... 3.99 by which most
pairs of the other nine are judged rightly (the lowest of several). The accuracy is the mean over the parts.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer.errors import UserError

_THRESHOLDS = np.arange(0.0, 4.0, 0.01)
_FARS = (1e-2, 1e-3)
_CHUNK = 256  # Pictures decoded and embedded at a time.

# People drawn for nothing but this: no config has their seed. Expressions, poses and places differ.
_DRAWN = {"num_subjects": 50, "images_per_subject": 8, "seed": 4242, "aligned": True}
_DRAWN_PAIRS = 600
DRAWN = (
  f"pairs of {_DRAWN['num_subjects']} drawn young people whom no study meets, {_DRAWN['images_per_subject']} pictures "
  f"each (synthetic_faces, aligned, seed {_DRAWN['seed']})"
)


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Pairs of rows of a set of pictures.

  Attributes:
    first: int [n], rows.
    second: int [n], rows; never that of `first`.
    same: bool [n], whether both show one person.
  """

  first: np.ndarray
  second: np.ndarray
  same: np.ndarray


def pairs(subjects: Sequence[str] | np.ndarray, rng: np.random.Generator, count: int) -> Pairs:
  """Draws pairs, no two alike, of one person and of two in turn, so that every part of them is balanced.

  Args:
    subjects: [rows], who is on each picture; people that the net never saw.
    rng: every pair of its kind is equally likely.
    count: how many pairs, at least 2.

  Raises:
    UserError: there are not as many pairs of one person, or of two.
  """
  if count < 2:
    raise UserError(f"{count} pairs: give at least 2, one of one person and one of two")
  _, who = np.unique(np.asarray(subjects), return_inverse=True)
  rows = np.argsort(who, kind="stable")
  place = np.arange(len(rows))
  end = np.cumsum(np.bincount(who))[who[rows]]  # Where the person's pictures end in `rows`.
  first, second = np.zeros((2, count), int)
  same = np.arange(count) % 2 == 0
  # The partners of a picture are those after it: of its person, or of the people after.
  for kind, start, after in ((True, place + 1, end - place - 1), (False, end, len(rows) - end)):
    wanted, last = int((same == kind).sum()), np.cumsum(after)
    there = int(last[-1]) if len(last) else 0
    if there < wanted:
      what = "one person" if kind else "two people"
      raise UserError(f"{count} pairs need {wanted} of {what}, and there are {there}: ask for fewer pairs")
    drawn = rng.choice(there, wanted, replace=False)
    left = np.searchsorted(last, drawn, side="right")
    right = start[left] + drawn - (last[left] - after[left])
    first[same == kind], second[same == kind] = rows[left], rows[right]
  return Pairs(first, second, same)


def embed(predict: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
  """Unit embeddings of pictures and their mirror images in one.

  Both are weighted by their length, as AdaFace's are: the sum of the features as they are, brought to length 1.

  Args:
    predict: pictures to features that are not normalised, [n, features].
    images: [n, height, width, channels].

  Returns:
    float64 [n, features]; 0 where the features are.

  Raises:
    UserError: features that are not finite.
  """
  features = np.asarray(predict(images), np.float64) + np.asarray(predict(images[:, :, ::-1]), np.float64)
  if bad := int((~np.isfinite(features).all(-1)).sum()):
    raise UserError(
      f"the features of {bad} of {len(features)} pictures are not finite: train or convert the net anew"
    )
  length = np.linalg.norm(features, axis=-1, keepdims=True)
  return features / np.where(length > 0, length, 1.0)


@dataclasses.dataclass(frozen=True)
class Verification:
  """How well pairs are told apart.

  Attributes:
    accuracy: mean over the parts.
    std: standard deviation over the parts.
    parts: accuracy of each part.
    sizes: pairs in each part.
    thresholds: squared distance, of each part; chosen on the others.
    auc: area under the ROC curve: how often a pair of one person is nearer than one of two.
    tar: by FAR, which share of one person's pairs is accepted where at most that share of the others is; only FARs
      that the pairs are enough for.
    num_same: pairs of one person.
  """

  accuracy: float
  std: float
  parts: tuple[float, ...]
  sizes: tuple[int, ...]
  thresholds: tuple[float, ...]
  auc: float
  tar: dict[float, float]
  num_same: int

  def __str__(self) -> str:
    sizes = sorted(set(self.sizes))
    split = " and ".join(f"{self.sizes.count(size)} parts of {size}" for size in sizes)
    low, high = min(self.thresholds), max(self.thresholds)
    lines = [
      f"accuracy {self.accuracy:.4f} +- {self.std:.4f} over {split} pairs; the threshold of each from the others, "
      f"{low:.2f} to {high:.2f}",
      f"{sum(self.sizes)} pairs, {self.num_same} of one person",
      f"area under the ROC curve {self.auc:.4f}",
    ]
    return "\n".join(lines + [f"TAR {tar:.4f} at FAR {far:g}" for far, tar in self.tar.items()])


def judge(first: np.ndarray, second: np.ndarray, same: np.ndarray, folds: int = 10) -> Verification:
  """Judges pairs of unit embeddings.

  Args:
    first: [n, features].
    second: [n, features].
    same: bool [n], whether a pair shows one person.
    folds: parts of the pairs, in the order given; where n is no multiple, the first ones have a pair more.

  Raises:
    UserError: fewer pairs than parts, or pairs of one kind alone.
  """
  same = np.asarray(same, bool)
  num_same, n = int(same.sum()), len(same)
  if not 2 <= folds <= n:
    raise UserError(f"{n} pairs in {folds} parts: give 2 parts or more, and a pair or more for each")
  if num_same in (0, n):
    raise UserError(f"{num_same} of {n} pairs show one person: both kinds are needed")
  distance = ((np.asarray(first, np.float64) - np.asarray(second, np.float64)) ** 2).sum(-1)
  right = (distance < _THRESHOLDS[:, None]) == same
  parts = np.array_split(np.arange(n), folds)
  correct = np.stack([right[:, part].sum(1) for part in parts])  # [folds, thresholds]
  chosen = (correct.sum(0) - correct).argmax(1)
  sizes = np.array([len(part) for part in parts])
  accuracies = correct[np.arange(folds), chosen] / sizes
  near, far = np.sort(distance[same]), np.sort(distance[~same])
  wins = len(far) - 0.5 * (np.searchsorted(far, near, "left") + np.searchsorted(far, near, "right"))
  allowed = {rate: int(rate * len(far)) for rate in _FARS}
  return Verification(
    accuracy=float(accuracies.mean()),
    std=float(accuracies.std()),
    parts=tuple(accuracies.tolist()),
    sizes=tuple(sizes.tolist()),
    thresholds=tuple(_THRESHOLDS[chosen].tolist()),
    auc=float(wins.mean() / len(far)),
    tar={rate: float((near < far[k]).mean()) for rate, k in allowed.items() if k},
    num_same=num_same,
  )


def verify(
  predict: Callable[[np.ndarray], np.ndarray], meta: Mapping[str, Any], path: Path, folds: int = 10
) -> Verification:
  """Judges a face net by a verification set as InsightFace packs them (lfw.bin, agedb_30.bin, ...).

  Args:
    predict: uint8 [n, S, S, 3], RGB, to features that are not normalised; such as `predict.load_face_net(OUT).predict`,
      which brings the colours into the order that the net was trained with.
    meta: of the same net, as `predict.load_face_net(OUT).meta`: its `model`, `output` and `input_size` S are read.
    path: the .bin, of faces aligned to S.
    folds: see `judge`.

  Raises:
    UserError: a classifier, a file that is no such set, damaged pictures, or pictures of another size; and see `judge`.
  """
  from jaxfer.data import decode
  from jaxfer.data.datasets.casia_webface.verification import read_pairs

  size = _size(meta)
  try:
    packed = read_pairs(path)
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path} is no verification set: {error}; give one of InsightFace's, such as lfw.bin"
    ) from None
  embeddings = []
  for start in range(0, len(packed.images), _CHUNK):
    images = []
    for number, data in enumerate(packed.images[start : start + _CHUNK], start):
      try:
        pixels = decode.decode(data).pixels
      except ValueError as error:
        raise UserError(f"{path}: picture {number} of pair {number // 2}: {error}") from None
      if pixels.shape[:2] != (size, size):
        height, width = pixels.shape[:2]
        raise UserError(
          f"{path}: picture {number} of pair {number // 2} has {width} x {height} pixels: the net takes faces aligned "
          f"to {size} x {size}"
        )
      images.append(pixels)
    embeddings.append(embed(predict, np.stack(images)))
  unit = np.concatenate(embeddings)
  return judge(unit[::2], unit[1::2], packed.same, folds)


def verify_drawn(
  predict: Callable[[np.ndarray], np.ndarray], meta: Mapping[str, Any], folds: int = 10
) -> Verification:
  """Judges a face net by 600 pairs of drawn people, see `DRAWN`; arguments and errors as of `verify`."""
  from jaxfer.data import synthetic

  drawn = synthetic.generate_stills(image_size=_size(meta), **_DRAWN)  # type: ignore[arg-type]
  chosen = pairs(drawn["subject"], np.random.default_rng(_DRAWN["seed"]), _DRAWN_PAIRS)
  unit = embed(predict, drawn["image"])
  return judge(unit[chosen.first], unit[chosen.second], chosen.same, folds)


def _size(meta: Mapping[str, Any]) -> int:
  """Side of the pictures that a face net takes."""
  if meta["output"] != "embedding":
    raise UserError(f"{meta['model']} is a classifier: pairs are judged by the features of a face net")
  return int(meta["input_size"])
