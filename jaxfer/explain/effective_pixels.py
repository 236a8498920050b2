"""Which pixels the outputs of a dense net rest on, and how many of them lie on parts of the face."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from jaxfer.errors import UserError


def thresholds(
  weights: Sequence[ArrayLike],
  *,
  kappa: float = 2.0,
  percentile: float | None = None,
  signed: bool = True,
  by_unit: bool = False,
) -> list[np.ndarray]:
  """A limit for each layer's weights: mean + kappa standard deviations, or a percentile (our choice).

  The paper (000, section 3.5) puts "a threshold" on the weights and does not say which. One limit for all of a small
  last layer can leave a class no weight at all, as none of weights drawn uniformly lies 2 standard deviations off; a
  percentile of each unit's own weights leaves every unit its largest.

  Args:
    weights: as `effective_pixels` takes them.
    kappa: standard deviations above the mean.
    percentile: in [0, 100], taken instead where given.
    signed: of the weights; else of their magnitudes.
    by_unit: of the weights into each unit, not of the layer's.

  Returns:
    One a layer, [] or, by unit, [outputs].
  """
  axis = 0 if by_unit else None
  sized = [np.asarray(w, np.float64) if signed else np.abs(np.asarray(w, np.float64)) for w in weights]
  if percentile is not None:
    return [np.asarray(np.percentile(w, percentile, axis)) for w in sized]
  return [np.asarray(w.mean(axis) + kappa * w.std(axis)) for w in sized]


def effective_pixels(
  weights: Sequence[ArrayLike],
  limits: Sequence[ArrayLike] | None = None,
  *,
  signed: bool = True,
  input_std: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Which inputs of a dense net each output rests on by its large weights (paper 000, section 3.5, Fig. 6).

  A weight is effective where it exceeds its layer's limit, and a path from an input to an output where all its weights
  are. Inputs with a path are effective; the number of paths is the soft version.

  An input that never changes drives nothing apart, but its raw weights may be large: an input of zero gets no gradient,
  so its weights stay as they were drawn, and those of a tied decoder must still restore it. With `input_std` the
  first layer's weights count as how far each input moves a unit, weight times standard deviation. Inputs that are
  constant then drop out by construction, so their absence says nothing of what was learned.

  Args:
    weights: of the layers in order, [inputs, outputs] each.
    limits: one a layer, of all its weights or by unit, [outputs]; by default `thresholds` of what is compared.
    signed: compare weights (the paper's "large value"); else magnitudes.
    input_std: standard deviation of each input over the training examples, [inputs]; the unit does not matter where
      `limits` are the default.

  Returns:
    The mask [outputs, inputs] bool and the numbers of effective paths [outputs, inputs] float64.

  Raises:
    ValueError: the shapes of layers, limits or standard deviations do not fit.
    UserError: a weight is not finite.
  """
  layers = [np.asarray(w, np.float64) for w in weights]
  for k, layer in enumerate(layers):
    if layer.ndim != 2 or (k > 0 and layers[k - 1].shape[1] != len(layer)):
      raise ValueError(f"layers do not follow one another: {[w.shape for w in layers]}")
    if not np.isfinite(layer).all():
      raise UserError(f"layer {k + 1} has weights that are not finite: train with a lower learning rate")
  if input_std is not None:
    deviation = np.asarray(input_std, np.float64)
    if deviation.shape != layers[0].shape[:1]:
      raise ValueError(f"{deviation.shape} standard deviations for {len(layers[0])} inputs")
    layers[0] = layers[0] * deviation[:, None]
  limits = thresholds(layers, signed=signed) if limits is None else limits
  effective = [
    ((layer if signed else np.abs(layer)) > np.asarray(limit)).astype(np.float64)
    for layer, limit in zip(layers, limits, strict=True)
  ]
  # From the outputs back: few columns all the way.
  paths = functools.reduce(lambda later, layer: layer @ later, reversed(effective)).T
  return paths > 0, paths


def most_paths(paths: np.ndarray, share: float) -> np.ndarray:
  """Returns the inputs with the most effective paths to each output, a given share of all inputs.

  Args:
    paths: [outputs, inputs] numbers of paths, see `effective_pixels`.
    share: share of the inputs to take for each output, above 0 and at most 1. Inputs with equally many paths are taken
      or left out together, and inputs without a path are never taken, so this is the nearest share that is possible.

  Returns:
    [outputs, inputs] bool.
  """
  mask = np.zeros(paths.shape, bool)
  for own, taken in zip(paths, mask, strict=True):
    numbers, counts = np.unique(own[own > 0], return_counts=True)
    if len(numbers):
      sizes = counts[::-1].cumsum()[::-1]  # Number of inputs with at least so many paths.
      taken[:] = own >= numbers[np.abs(sizes - share * len(own)).argmin()]
  return mask


def part_regions(landmarks: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
  """Where the parts of the face lie in a set of pictures: boxes around brows, eyes and mouth.

  A part's box holds its points' means over the pictures, and one standard deviation of each to either side: so it is
  as wide as the faces wander (our choice).

  Args:
    landmarks: [n, 37, 2] (x, y) in pixels, as `data.synthetic.landmarks` orders them.
    height: of the pictures.
    width: of the pictures.

  Returns:
    "brows", "eyes", "mouth" -> [height, width] bool; brows and eyes are two boxes each, and may overlap.
  """
  mean, std = landmarks.mean(0), landmarks.std(0)
  x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5  # Pixel i covers i to i + 1.
  regions = {}
  for part, groups in _PARTS.items():
    region = np.zeros((height, width), bool)
    for points in groups:
      (left, top), (right, bottom) = (mean - std)[points].min(0), (mean + std)[points].max(0)
      region |= (x > left) & (x < right) & (y > top) & (y < bottom)
    regions[part] = region
  return regions


_PARTS = {
  "brows": (slice(0, 3), slice(3, 6)),
  "eyes": (slice(13, 19), slice(19, 25)),
  "mouth": (slice(25, 37),),
}


def share_inside(maps: ArrayLike, region: np.ndarray) -> tuple[np.ndarray, float]:
  """How much of each map lies inside a region, against chance.

  Args:
    maps: [classes, height, width], masks or weights of at least 0.
    region: [height, width] bool.

  Returns:
    The share of each map, [classes] in [0, 1], NaN for one of zeros; and the share of the picture that the region
    covers: what a map has inside that knows nothing of faces.

  Raises:
    ValueError: maps and region differ in size.
  """
  values = np.asarray(maps, np.float64)
  if values.shape[1:] != region.shape:
    raise ValueError(f"maps of shape {values.shape} for a region of shape {region.shape}")
  total, inside = values.sum((1, 2)), values[:, region].sum(1)
  share = np.divide(inside, total, out=np.full(len(values), np.nan), where=total > 0)
  return share, float(region.mean())
