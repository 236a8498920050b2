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
  signed: bool = True,
) -> dict[str, str]:
  """Draws `effective_pixels.png`: the effective pixels of each class over the mean face.

  A pixel is effective for a class if a path of large weights connects them (`explain.effective_pixels`). The paper does
  not state its threshold. By our choice the largest 2.3 % of the weights into each unit count as large. This is the
  share of a normal distribution that lies more than two standard deviations above the mean. Each unit has its own
  threshold, so that every class has paths. Like the paper, we compare the raw weights. But we leave out pixels that are
  constant over the training images, because their weights may never have received a gradient.

  If the records have landmarks, the caption also gives the share of paths and pixels on brows, eyes and mouth.

  Args:
    weights: W1, W2, ... of the model, [inputs, outputs] each. The inputs are the pixels in row-major order.
    records: records with `image` [n, height, width, 1 or 3]. `landmarks` [n, 37, 2] are optional.
    indices: indices of the training records, from which the mean face and the parts of the face are computed.
    folder: an existing folder.
    percentile: percentile in [0, 100] of a unit's weights above which a weight is large.
    signed: whether to compare the signed weights. Otherwise their magnitudes are compared.

  Returns:
    The caption by file name.
  """
  images = np.asarray(records.arrays["image"][indices])
  face, varies = images.mean((0, -1)), np.ptp(images, axis=0).any(-1).ravel()
  used = [weights[0] * varies[:, None], *weights[1:]]
  mask, paths = (
    values.reshape(-1, *face.shape) for values in effective(used, percentile=percentile, signed=signed)
  )
  names = list(records.label_names)
  caption = (
    f"Pixels from which a path of large {'weights' if signed else 'magnitudes'} leads to a class (the largest "
    f"{100 - percentile:.3g} % of each unit), over the mean face. A darker pixel has more paths."
  )
  if constant := int((~varies).sum()):
    caption += f" {constant} of {varies.size} pixels are constant and are left out."
  regions = {}
  if "landmarks" in records.arrays:
    regions = effective_pixels.part_regions(records.arrays["landmarks"][indices], *face.shape)
    path_shares, chance = inside(paths, regions)
    names = [f"{name}\n{_percent(share)}" for name, share in zip(names, path_shares, strict=True)]
    pixel_shares, _ = inside(mask, regions)
    caption += (
      f" On average over the classes that have paths, {_mean(path_shares)} of the paths and {_mean(pixel_shares)} of "
      f"the pixels lie on brows, eyes and mouth. By chance it would be {100 * chance:.0f} %."
    )
  title = "Pixels on which the classes depend"
  grids.over_face_png(face, paths, names, folder / "effective_pixels.png", title, regions)
  return {"effective_pixels.png": caption}


def weights_of(model: StackedAutoencoder, variables: Variables) -> list[np.ndarray]:
  """Returns the weights W1, W2, ... from the pixels to the classes, [inputs, outputs] each."""
  params: Any = variables["params"]
  layers = [*(f"encoder{k + 1}" for k in range(len(model.sizes))), "classifier"]
  return [np.asarray(params[name]["kernel"]) for name in layers]


def effective(
  weights: Sequence[np.ndarray], *, percentile: float = PERCENTILE, signed: bool = True
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mask and the number of paths, [classes, inputs] each, see `draw` and `explain.effective_pixels`."""
  limits = effective_pixels.thresholds(weights, percentile=percentile, signed=signed, by_unit=True)
  return effective_pixels.effective_pixels(weights, limits, signed=signed)


@dataclasses.dataclass(frozen=True)
class EffectivePixels(Explanation):
  """The effective pixels of each class, over the mean of the given faces.

  They depend on the weights only, not on the faces. Unlike in `draw`, pixels that are constant in the training images
  are not left out, because the training images are not at hand.

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


def _percent(share: float) -> str:
  return "no path" if np.isnan(share) else f"{100 * share:.0f} % on the parts"


def _mean(shares: np.ndarray) -> str:
  known = shares[~np.isnan(shares)]
  return f"{100 * known.mean():.0f} %" if len(known) else "none"
