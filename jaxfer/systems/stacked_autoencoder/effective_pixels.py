"""Draws the pixels on which each class depends, over the mean face (paper 000, section 3.5, Fig. 6)."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.data.records import Records
from jaxfer.explain import effective_pixels
from jaxfer.report import grids
from jaxfer.systems.explanation import Explanation
from jaxfer.systems.stacked_autoencoder.model import StackedAutoencoder
from jaxfer.train.stage import Batch, Variables

PERCENTILE = 97.7  # Percentile of a unit's weights above which a weight is large.


def draw(
  weights: Sequence[np.ndarray],
  records: Records,
  indices: np.ndarray,
  folder: pathlib.Path,
  *,
  percentile: float = PERCENTILE,
  kappa: float | None = None,
  signed: bool = True,
  share: float = 0.05,
  constant_pixels: bool = True,
) -> dict[str, str]:
  """Draws `effective_pixels.png`: for each class its effective pixels, and beside them the number of paths.

  A path connects a pixel to a class by large weights (`explain.effective_pixels`). The paper puts one threshold on the
  weights and does not state it. With one threshold for each layer (`kappa`), a class of the nets that we looked at has
  either no path or paths from most pixels (README, section 4). By our choice the largest 2.3 % of the weights into each
  unit count as large, so that every class has paths. This is the share of a normal distribution that is more than two
  standard deviations above the mean. A pixel is effective if it is among those with the most paths.

  If the records have landmarks, the caption also gives the shares on brows, eyes and mouth.

  Args:
    weights: W1, W2, ... of the model, [inputs, outputs] each. The inputs are the pixels in row-major order.
    records: records with `image` [n, height, width, 1 or 3]. `landmarks` [n, 37, 2] are optional.
    indices: indices of the training records, from which the mean face and the parts of the face are computed.
    folder: an existing folder.
    percentile: percentile in [0, 100] of a unit's weights above which a weight is large.
    kappa: if it is given, a weight is large if it is more than so many standard deviations above the mean of its layer.
      This is one threshold for each layer, and replaces `percentile`.
    signed: whether to compare the signed weights, like the paper. Otherwise their magnitudes are compared.
    share: share of the pixels that are effective for each class, see `most_paths`. 1 takes every pixel with a path, as
      in the paper.
    constant_pixels: whether pixels that are constant over the training images can be effective. Their weights stay as
      they were drawn if the pixels are black.

  Returns:
    The caption by file name.
  """
  images = np.asarray(records.arrays["image"][indices])
  face, varies = images.mean((0, -1)), np.ptp(images, axis=0).any(-1).ravel()
  kept = np.ones_like(varies) if constant_pixels else varies
  paths = np.zeros((len(records.label_names), face.size))
  used = [weights[0][kept], *weights[1:]]
  paths[:, kept] = effective(used, percentile=percentile, kappa=kappa, signed=signed)[1]
  maps = {"set": effective_pixels.most_paths(paths, share), "paths": paths}
  maps = {name: values.reshape(-1, *face.shape) for name, values in maps.items()}
  regions = {}
  if "landmarks" in records.arrays:
    regions = effective_pixels.part_regions(records.arrays["landmarks"][indices], *face.shape)
  large = (
    f"the largest {100 - percentile:.3g} % of each unit"
    if kappa is None
    else f"more than {kappa:.3g} standard deviations above the mean of a layer"
  )
  sentences = [
    f"The set of effective pixels of each class, with its share of all pixels, and beside it the paths of large "
    f"{'weights' if signed else 'magnitudes'} ({large}) from each pixel to the class. A darker pixel has more paths.",
    _shares(maps["set"], share),
    _constant(maps["set"], varies, constant_pixels),
    _on_parts(maps, regions),
  ]
  title = "Pixels on which the classes depend"
  drawn, names = _panels(maps, records.label_names, regions)
  grids.over_face_png(face, drawn, names, folder / "effective_pixels.png", title, regions)
  return {"effective_pixels.png": " ".join(filter(None, sentences))}


def _shares(mask: np.ndarray, share: float) -> str:
  """Describes the sizes of the sets [classes, height, width]."""
  found = 100 * mask.mean((1, 2))
  rule = (
    "Every pixel with a path is effective" if share == 1 else "The pixels with the most paths are effective"
  )
  told = f"{rule}: {found.mean():.1f} % of the pixels on average ({found.min():.1f} to {found.max():.1f} % by class)."
  return told + (f" {n} of {len(mask)} classes have no path." if (n := int((found == 0).sum())) else "")


def _constant(mask: np.ndarray, varies: np.ndarray, counted: bool) -> str:
  """Describes how many pixels are constant over the training images, and how many effective ones among them."""
  if varies.all():
    return ""
  constant = f"{(~varies).sum()} of {varies.size} pixels are constant over the training images"
  if not counted:
    return f"{constant} and are left out."
  among = mask.reshape(len(mask), -1)[:, ~varies].sum()
  return f"{constant}; {among} of the {mask.sum()} effective pixels are."


def _on_parts(maps: Mapping[str, np.ndarray], regions: Mapping[str, np.ndarray]) -> str:
  """Describes the shares of the sets and of the paths that are on the parts of the face."""
  if not regions:
    return ""
  (sets, chance), (paths, _) = (inside(values, regions) for values in maps.values())
  return (
    f"On average over the classes that have paths, {_mean(sets)} of the effective pixels and {_mean(paths)} of the "
    f"paths lie on brows, eyes and mouth. By chance it would be {100 * chance:.0f} %."
  )


def _panels(
  maps: Mapping[str, np.ndarray], label_names: Sequence[str], regions: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, list[str]]:
  """Returns the maps [2 * classes, height, width] in the order in which they are drawn, and a title for each."""
  drawn, names = [], []
  for k, label in enumerate(label_names):
    for name, values in maps.items():
      own = values[k : k + 1]
      told = f"set, {100 * own.mean():.1f} %" if name == "set" else "paths"
      if not own.any():
        told = "no path"
      elif regions:
        told += f"\n{100 * inside(own, regions)[0][0]:.0f} % on the parts"
      drawn.append(own[0].astype(np.float64))
      names.append(f"{label}: {told}")
  return np.stack(drawn), names


def weights_of(model: StackedAutoencoder, variables: Variables) -> list[np.ndarray]:
  """Returns the weights W1, W2, ... from the pixels to the classes, [inputs, outputs] each."""
  params: Any = variables["params"]
  layers = [*(f"encoder{k + 1}" for k in range(len(model.sizes))), "classifier"]
  return [np.asarray(params[name]["kernel"]) for name in layers]


def effective(
  weights: Sequence[np.ndarray],
  *,
  percentile: float = PERCENTILE,
  kappa: float | None = None,
  signed: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns where paths lead and their number, [classes, inputs] each; see `draw` for the arguments."""
  limits = (
    effective_pixels.thresholds(weights, percentile=percentile, signed=signed, by_unit=True)
    if kappa is None
    else effective_pixels.thresholds(weights, kappa=kappa, signed=signed)
  )
  return effective_pixels.effective_pixels(weights, limits, signed=signed)


@dataclasses.dataclass(frozen=True)
class EffectivePixels(Explanation):
  """The paths from the pixels to each class, over the mean of the given faces.

  They depend on the weights only, not on the faces.

  Attributes:
    weights: see `weights_of`.
    label_names: names of the classes.
  """

  weights: Sequence[np.ndarray]
  label_names: Sequence[str]
  most = 64
  together = True
  note = "effective pixels depend on the weights only: they are the same for every face"

  def draw(
    self, crops: np.ndarray, batch: Batch, names: Sequence[str], target: pathlib.Path, title: str
  ) -> Sequence[tuple[pathlib.Path, int]]:
    """Draws `effective_pixels.png` into the folder `target`. See `Explanation`."""
    del batch, title
    face, path = crops.mean((0, -1)), target / "effective_pixels.png"
    _, paths = effective(self.weights)
    over = names[0] if len(names) == 1 else f"the mean of {len(names)} faces"
    title = f"Pixels on which the classes depend,\nover {over}"
    grids.over_face_png(face, paths.reshape(-1, *face.shape), list(self.label_names), path, title)
    return [(path, len(crops))]


def inside(maps: np.ndarray, regions: Mapping[str, np.ndarray]) -> tuple[np.ndarray, float]:
  """Returns how much of each map lies in the regions, [classes] in [0, 1], and the share expected by chance.

  Args:
    maps: [classes, height, width], masks or nonnegative weights. The share of a map of zeros is NaN.
    regions: [height, width] bool, by name. The union of all regions counts.
  """
  return effective_pixels.share_inside(maps, np.any(list(regions.values()), axis=0))


def _mean(shares: np.ndarray) -> str:
  known = shares[~np.isnan(shares)]
  return f"{100 * known.mean():.0f} %" if len(known) else "none"
