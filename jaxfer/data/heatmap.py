"""The aligned frame of RAF-DB, and the landmarks in it, which `kernels.heatmap` draws.

RAF-DB gives landmarks on the original pictures only. The aligned ones are 100 x 100 pixels with the eyes and the
middle of the mouth in fixed places, so the affine map of these three points applies to all other points.
"""

import math

import numpy as np

from jaxfer.errors import UserError
from jaxfer.kernels.heatmap import DOTS as DOTS

FRAME = 100  # Pixels along an edge of the aligned frame.
TEMPLATE = np.array([[25.0, 35.0], [75.0, 35.0], [50.0, 75.0]])  # Image-left eye, image-right eye, mouth.
_FLAT = (
  1e-3  # Twice the area of a triangle over its longest edge squared; below this, its corners are on one line.
)


def alignment(points: np.ndarray) -> np.ndarray:
  """Returns the affine map that takes eyes and mouth to `TEMPLATE`.

  Args:
    points: [3, 2] of (x, y): eye, eye, middle of the mouth; or [5, 2]: eye, eye, nose tip, mouth corner, mouth
      corner. The left one of a pair is found by x, not by the order, because annotators differ in whose left they mean.

  Returns:
    float64 [2, 3], for `align.transform`.

  Raises:
    UserError: the points are not finite or on one line, or their number is wrong.
  """
  # Imported here because it needs Pillow, which may be missing where this module is used.
  from jaxfer.data import align

  points = np.asarray(points, float)
  if points.shape not in ((3, 2), (5, 2)) or not np.isfinite(points).all():
    shape = " x ".join(map(str, points.shape))
    raise UserError(f"eyes and mouth are {shape} numbers: expected finite numbers, 3 x 2 or 5 x 2")
  eyes = points[np.argsort(points[:2, 0], kind="stable")]
  mouth = points[2] if len(points) == 3 else points[3:].mean(axis=0)
  corners = np.stack([*eyes, mouth])
  edges = np.roll(corners, -1, axis=0) - corners
  area = abs(edges[0, 0] * edges[1, 1] - edges[0, 1] * edges[1, 0])
  if not area > _FLAT * (edges**2).sum(axis=1).max():
    raise UserError(
      f"eyes and mouth are on one line ({corners.round(1).tolist()}): they do not determine an alignment"
    )
  return align.affine(corners, TEMPLATE)


def checked(landmarks: np.ndarray) -> int:
  """Checks that `kernels.heatmap.draw` can draw the landmarks: a picture must have all landmarks or none.

  Args:
    landmarks: [n, K, 2]; all NaN for a picture without landmarks.

  Returns:
    Number of pictures without landmarks.

  Raises:
    UserError: only some landmarks of a picture are finite.
  """
  count, *shape = np.shape(landmarks)
  flat = np.asarray(landmarks).reshape(count, math.prod(shape))  # An empty array cannot be reshaped with -1.
  missing, whole = np.isnan(flat).all(1), np.isfinite(flat).all(1)
  if not (missing | whole).all():
    first = int(np.argmin(missing | whole))
    raise UserError(f"landmarks of picture {first} are not all finite: leave it out, or make all of them NaN")
  return int(missing.sum())
