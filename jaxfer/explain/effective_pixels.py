"""Finds the pixels on which the outputs of a dense net depend, and the share of them on parts of the face."""

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
  """Returns a limit for the weights of each layer: mean + kappa standard deviations, or a percentile (our choice).

  The paper (000, section 3.5) applies "a threshold" to the weights but does not give it. With one limit for a whole
  small last layer, a class may have no weight above it: uniformly drawn weights are never 2 standard deviations from
  their mean. With a percentile of the weights of each unit, every unit keeps its largest weights.

  Args:
    weights: see `effective_pixels`.
    kappa: number of standard deviations above the mean.
    percentile: in [0, 100]; used instead of `kappa` if it is given.
    signed: whether the limits are those of the weights; otherwise those of their magnitudes.
    by_unit: whether each unit has a separate limit, from the weights of its inputs.

  Returns:
    One array per layer, [], or [outputs] with `by_unit`.
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
  """Returns the inputs that are connected with each output of a dense net by large weights.

  This is section 3.5 and Fig. 6 of paper 000.

  A weight is effective if it exceeds the limit of its layer. A path from an input to an output is effective if all its
  weights are. An input is effective if it has an effective path; the number of such paths is a soft version of this.

  An input that is constant cannot distinguish records, but its weights may be large. For example, an input of zero gets
  no gradient, so its weights keep their initial values, and those of a tied decoder must still reconstruct it. With
  `input_std`, each weight of the first layer is multiplied by the standard deviation of its input. Constant inputs then
  are never effective by definition, whatever the net has learned.

  Args:
    weights: weights of the layers in order, [inputs, outputs] each.
    limits: one limit per layer, for all its weights or for each unit, [outputs]; by default `thresholds` of the values
      that are compared.
    signed: whether weights are compared with the limits (the paper's "large value"); otherwise their magnitudes.
    input_std: standard deviation of each input over the training examples, [inputs], in any unit if `limits` are the
      default.

  Returns:
    The mask of effective inputs, [outputs, inputs] bool, and the numbers of effective paths, [outputs, inputs] float64.

  Raises:
    ValueError: the shapes of layers, limits or standard deviations do not fit.
    UserError: a weight is not finite.
  """
  layers = [np.asarray(w, np.float64) for w in weights]
  for k, layer in enumerate(layers):
    if layer.ndim != 2 or (k > 0 and layers[k - 1].shape[1] != len(layer)):
      raise ValueError(f"shapes of consecutive layers do not match: {[w.shape for w in layers]}")
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
  # Multiplying from the outputs backwards keeps the number of columns small.
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
  """Returns the regions of the parts of the face in a set of pictures: boxes around brows, eyes and mouth.

  The box of a part contains, for each of its points, the mean over the pictures and one standard deviation in each
  direction. It is therefore larger if the positions of the faces vary more (our choice).

  Args:
    landmarks: [n, 37, 2] (x, y) in pixels, in the order of `data.synthetic.landmarks`.
    height: height of the pictures.
    width: width of the pictures.

  Returns:
    "brows", "eyes", "mouth" -> [height, width] bool. Brows and eyes have two boxes each, which may overlap.
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
  """Returns the share of each map that is inside a region, and the share expected by chance.

  Args:
    maps: [classes, height, width], masks or nonnegative weights.
    region: [height, width] bool.

  Returns:
    The share of each map, [classes] in [0, 1], NaN for a map of zeros; and the share of the picture that the region
    covers, which is the expected share of a random map.

  Raises:
    ValueError: the maps and the region differ in size.
  """
  values = np.asarray(maps, np.float64)
  if values.shape[1:] != region.shape:
    raise ValueError(f"maps of shape {values.shape} for a region of shape {region.shape}")
  total, inside = values.sum((1, 2)), values[:, region].sum(1)
  share = np.divide(inside, total, out=np.full(len(values), np.nan), where=total > 0)
  return share, float(region.mean())
