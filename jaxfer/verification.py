"""Face verification, whether two images show the same person, by the protocol of LFW.

A pair is predicted to show one person if the squared distance of its unit embeddings (2 - 2 cos of their angle) is
below a threshold.
The pairs are split into ten parts, in the order given. Each part uses the threshold, out of 0, 0.01, ..., 3.99, with
the highest accuracy on the other nine parts; ties go to the lowest threshold. The accuracy is the mean over the parts.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer.errors import UserError

_THRESHOLDS = np.arange(0.0, 4.0, 0.01)
_FARS = (1e-2, 1e-3)
_CHUNK = 256  # Number of images decoded and embedded at a time.

# These people are drawn only for verification: no config uses their seed. Expressions, poses and backgrounds differ.
_DRAWN = {"num_subjects": 50, "images_per_subject": 8, "seed": 4242, "aligned": True}
_DRAWN_PAIRS = 600
DRAWN = (
  f"pairs of {_DRAWN['num_subjects']} drawn young people that no study uses, {_DRAWN['images_per_subject']} images "
  f"each (synthetic_faces, aligned, seed {_DRAWN['seed']})"
)


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Pairs of images, by their indices in a data set.

  Attributes:
    first: int [n], index of the first image of each pair.
    second: int [n], index of the second image, which differs from the first.
    same: bool [n], whether both images show one person.
  """

  first: np.ndarray
  second: np.ndarray
  same: np.ndarray


def pairs(subjects: Sequence[str] | np.ndarray, rng: np.random.Generator, count: int) -> Pairs:
  """Draws distinct pairs, alternately of one person and of two people, so that every part is balanced.

  Args:
    subjects: [n], the person on each image. To test a model, give people that it was not trained on.
    rng: random generator. All pairs of one person are equally likely, and so are all pairs of two people.
    count: number of pairs, at least 2.

  Raises:
    UserError: there are too few pairs of one person or of two people.
  """
  if count < 2:
    raise UserError(f"{count} pairs: give at least 2, one of one person and one of two")
  _, who = np.unique(np.asarray(subjects), return_inverse=True)
  rows = np.argsort(who, kind="stable")
  place = np.arange(len(rows))
  end = np.cumsum(np.bincount(who))[who[rows]]  # Where the person's images end in `rows`.
  first, second = np.zeros((2, count), int)
  same = np.arange(count) % 2 == 0
  # An image is paired with those after it: of the same person, or of the people after.
  for kind, start, after in ((True, place + 1, end - place - 1), (False, end, len(rows) - end)):
    wanted, last = int((same == kind).sum()), np.cumsum(after)
    there = int(last[-1]) if len(last) else 0
    if there < wanted:
      what = "one person" if kind else "two people"
      raise UserError(f"{count} pairs need {wanted} of {what}, but there are {there}: ask for fewer pairs")
    drawn = rng.choice(there, wanted, replace=False)
    left = np.searchsorted(last, drawn, side="right")
    right = start[left] + drawn - (last[left] - after[left])
    first[same == kind], second[same == kind] = rows[left], rows[right]
  return Pairs(first, second, same)


def embed(predict: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
  """Computes unit embeddings from images and their mirror images.

  The features of an image and of its mirror image are added, and the sum is normalised to length 1. As in AdaFace, this
  weights each by its length.

  Args:
    predict: maps images to features [n, features] that are not normalised.
    images: [n, height, width, channels].

  Returns:
    Embeddings [n, features], float64. An embedding is 0 if the sum of the features is 0.

  Raises:
    UserError: the features are not finite.
  """
  features = np.asarray(predict(images), np.float64) + np.asarray(predict(images[:, :, ::-1]), np.float64)
  if bad := int((~np.isfinite(features).all(-1)).sum()):
    raise UserError(
      f"the features of {bad} of {len(features)} images are not finite: train or convert the model again"
    )
  length = np.linalg.norm(features, axis=-1, keepdims=True)
  return features / np.where(length > 0, length, 1.0)


@dataclasses.dataclass(frozen=True)
class Verification:
  """Results of a face verification.

  Attributes:
    accuracy: mean accuracy over the parts.
    std: standard deviation of the accuracy over the parts.
    parts: accuracy of each part.
    sizes: number of pairs in each part.
    thresholds: threshold for the squared distance in each part, chosen on the other parts.
    auc: area under the ROC curve: the probability that a pair of one person is closer than a pair of two people.
    tar: false accept rate (FAR) -> true accept rate: the share of the pairs of one person that are accepted when the
      share of accepted pairs of two people is at most the FAR. FARs that would need more pairs are left out.
    num_same: number of pairs of one person.
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
      f"accuracy {self.accuracy:.4f} +- {self.std:.4f} over {split} pairs; the threshold of each part is chosen on the "
      f"others, {low:.2f} to {high:.2f}",
      f"{sum(self.sizes)} pairs, {self.num_same} of one person",
      f"area under the ROC curve {self.auc:.4f}",
    ]
    return "\n".join(lines + [f"TAR {tar:.4f} at FAR {far:g}" for far, tar in self.tar.items()])


def judge(first: np.ndarray, second: np.ndarray, same: np.ndarray, folds: int = 10) -> Verification:
  """Evaluates pairs of unit embeddings.

  Args:
    first: [n, features], the embedding of the first image of each pair.
    second: [n, features], the embedding of the second image.
    same: bool [n], whether a pair shows one person.
    folds: number of parts, taken in the order given. If n is not a multiple of it, the first parts have one pair more.

  Raises:
    UserError: there are fewer pairs than parts, or only pairs of one person, or only pairs of two people.
  """
  same = np.asarray(same, bool)
  num_same, n = int(same.sum()), len(same)
  if not 2 <= folds <= n:
    raise UserError(f"{n} pairs in {folds} parts: give at least 2 parts, and at least one pair for each")
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
  """Evaluates a face network on a verification set in InsightFace's format (lfw.bin, agedb_30.bin, ...).

  Args:
    predict: maps RGB images, uint8 [n, S, S, 3], to features that are not normalised, such as
      `inference.load_face_net(OUT).outputs`, which changes the colours to the order that the model was trained with.
    meta: the `meta` of the same model, with "model", "output" and "input_size" S.
    path: the .bin file, with faces aligned to S x S pixels.
    folds: number of parts, see `judge`.

  Raises:
    UserError: the model is a classifier, the file is not a verification set, or its images are damaged or of another
      size. See also `judge`.
  """
  from jaxfer.data import decode
  from jaxfer.data.datasets.casia_webface.verification import read_pairs

  size = _size(meta)
  try:
    packed = read_pairs(path)
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path} is not a verification set: {error}; give one of InsightFace's, such as lfw.bin"
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
          f"{path}: picture {number} of pair {number // 2} has {width} x {height} pixels: the model reads faces "
          f"aligned to {size} x {size}"
        )
      images.append(pixels)
    embeddings.append(embed(predict, np.stack(images)))
  unit = np.concatenate(embeddings)
  return judge(unit[::2], unit[1::2], packed.same, folds)


def verify_drawn(
  predict: Callable[[np.ndarray], np.ndarray], meta: Mapping[str, Any], folds: int = 10
) -> Verification:
  """Evaluates a face network on 600 pairs of drawn people, see `DRAWN`. Arguments and errors are those of `verify`."""
  from jaxfer.data import synthetic

  drawn = synthetic.generate_stills(image_size=_size(meta), **_DRAWN)  # type: ignore[arg-type]
  chosen = pairs(drawn["subject"], np.random.default_rng(_DRAWN["seed"]), _DRAWN_PAIRS)
  unit = embed(predict, drawn["image"])
  return judge(unit[chosen.first], unit[chosen.second], chosen.same, folds)


def _size(meta: Mapping[str, Any]) -> int:
  """Height and width of the images that a face network reads; raises `UserError` for a classifier."""
  if meta["output"] != "embedding":
    raise UserError(f"{meta['model']} is a classifier: verification needs the features of a face network")
  return int(meta["input_size"])
