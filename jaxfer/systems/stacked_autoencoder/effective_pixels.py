"""The figure of what a stacked net rests on: effective pixels over the mean face (paper 000, section 3.5, Fig. 6)."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfer.data.records import Records
from jaxfer.explain import effective_pixels
from jaxfer.report import grids


def draw(
  weights: Sequence[np.ndarray],
  records: Records,
  rows: np.ndarray,
  folder: pathlib.Path,
  *,
  percentile: float = 97.7,
  signed: bool = True,
) -> Mapping[str, str]:
  """Draws `effective_pixels.png`, every class over the mean face, and says how much of it lies on the face's parts.

  Our choice of the paper's threshold: the largest 2.3 % of each unit's weights, as many as lie beyond two standard
  deviations where weights are normal; by unit, so that every class has paths (`effective_pixels.thresholds`). Weights
  are compared as they are, as the paper does; but pixels that never change are left out, as no gradient may have
  reached their weights.

  Args:
    weights: W1, W2, ... of the net, [inputs, outputs] each; the inputs are the pixels, row by row.
    records: `image` [n, height, width, 1 or 3] and perhaps `landmarks` [n, 37, 2], which the drawn faces have.
    rows: of the records, those trained on: their mean is the face, their landmarks tell where its parts lie.
    folder: where to write.
    percentile: above which of a unit's weights one is effective, in [0, 100].
    signed: large weights alone; else large magnitudes.

  Returns:
    {"effective_pixels.png": caption}.
  """
  images = np.asarray(records.arrays["image"][rows])
  face, changes = images.mean((0, -1)), np.ptp(images, axis=0).any(-1).ravel()
  used = [weights[0] * changes[:, None], *weights[1:]]
  limits = effective_pixels.thresholds(used, percentile=percentile, signed=signed, by_unit=True)
  mask, paths = (
    values.reshape(-1, *face.shape)
    for values in effective_pixels.effective_pixels(used, limits, signed=signed)
  )
  names = list(records.label_names)
  caption = (
    f"Pixels from which a path of large {'weights' if signed else 'magnitudes'} leads to a class (the largest "
    f"{100 - percentile:.3g} % of each unit's), over the mean face; the darker, the more paths."
  )
  if still := int((~changes).sum()):
    caption += f" {still} of {changes.size} pixels never change and are left out."
  regions = {}
  if "landmarks" in records.arrays:
    regions = effective_pixels.part_regions(records.arrays["landmarks"][rows], *face.shape)
    share, chance = inside(paths, regions)
    names = [f"{name}\n{_percent(one)}" for name, one in zip(names, share, strict=True)]
    of_mask, _ = inside(mask, regions)
    caption += (
      f" On brows, eyes and mouth lie {_mean(share)} of the paths and {_mean(of_mask)} of the pixels, on average "
      f"over the classes that have any; by chance it would be {100 * chance:.0f} %."
    )
  grids.over_face_png(
    face, paths, names, folder / "effective_pixels.png", "Pixels that the classes rest on", regions
  )
  return {"effective_pixels.png": caption}


def inside(maps: np.ndarray, regions: Mapping[str, np.ndarray]) -> tuple[np.ndarray, float]:
  """The share of each map [classes, height, width] on any of the regions, and the share that chance would give."""
  return effective_pixels.share_inside(maps, np.any(list(regions.values()), axis=0))


def _percent(share: float) -> str:
  return "no path" if np.isnan(share) else f"{100 * share:.0f} % on the parts"


def _mean(shares: np.ndarray) -> str:
  known = shares[~np.isnan(shares)]
  return f"{100 * known.mean():.0f} %" if len(known) else "none"
