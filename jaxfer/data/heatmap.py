"""Landmarks of RAF-DB in the aligned frame, and the dots that paper 002 draws of them (specs 3.4).

RAF-DB gives landmarks on the original pictures only. The aligned ones are 100 x 100 pixels with the eyes and the
middle of the mouth in fixed places, so the affine map of these three points carries any others over.
"""

import numpy as np

from jaxfer.data import align
from jaxfer.errors import UserError

FRAME = 100  # Pixels along an edge of the aligned frame.
TEMPLATE = np.array([[25.0, 35.0], [75.0, 35.0], [50.0, 75.0]])  # Image-left eye, image-right eye, mouth.
DOTS = ("disc", "gaussian")
_FLAT = 1e-3  # Twice a triangle's area over its longest edge squared: below, three points are on a line.


def alignment(points: np.ndarray) -> np.ndarray:
  """The affine map that takes eyes and mouth to `TEMPLATE`.

  Args:
    points: [3, 2] of (x, y): eye, eye, middle of the mouth; or [5, 2]: eye, eye, nose tip, mouth corner, mouth
      corner. Which eye is left is told by x, not by the order: annotators mean the person's or the picture's.

  Returns:
    float64 [2, 3], for `align.transform`.

  Raises:
    UserError: points that are not finite, on one line, or another number of them.
  """
  points = np.asarray(points, float)
  if points.shape not in ((3, 2), (5, 2)) or not np.isfinite(points).all():
    shape = " x ".join(map(str, points.shape))
    raise UserError(f"eyes and mouth are {shape} numbers: expected 3 x 2 or 5 x 2, finite")
  eyes = points[np.argsort(points[:2, 0], kind="stable")]
  mouth = points[2] if len(points) == 3 else points[3:].mean(axis=0)
  corners = np.stack([*eyes, mouth])
  edges = np.roll(corners, -1, axis=0) - corners
  area = abs(edges[0, 0] * edges[1, 1] - edges[0, 1] * edges[1, 0])
  if not area > _FLAT * (edges**2).sum(axis=1).max():
    raise UserError(f"eyes and mouth lie on one line ({corners.round(1).tolist()}): no alignment follows")
  return align.affine(corners, TEMPLATE)


def draw(points: np.ndarray, size: int, *, frame: int = FRAME, dot: str = "disc") -> np.ndarray:
  """Draws landmarks as white dots on black.

  The paper names neither scaling nor dot. A disc has a radius of 2 pixels, a Gaussian has sigma 2, both at any
  size; where dots meet the greater value holds. What lies outside is cut off.

  Args:
    points: [..., K, 2] of (x, y) in pixels of the frame, where pixel i covers i to i + 1, as the records have them;
      all NaN for a picture that has none, which stays black.
    size: edge of the result in pixels, >= 1.
    frame: edge of the frame that the points are given in.
    dot: a value of `DOTS`.

  Returns:
    float32 [..., size, size] in [0, 1].

  Raises:
    UserError: a point that is not finite beside others that are, or an unknown dot.
  """
  if dot not in DOTS:
    raise UserError(f"dots of a heatmap are {dot!r}: give one of {', '.join(DOTS)}")
  points = np.asarray(points, float)
  *lead, count, _ = points.shape
  flat = points.reshape(-1, count, 2)
  finite = np.isfinite(flat).all(axis=(1, 2))
  if not (finite | np.isnan(flat).all(axis=(1, 2))).all():
    raise UserError(
      f"landmarks of picture {int(np.argmin(finite))} are not finite: leave it out or repair them"
    )
  which = np.flatnonzero(finite)
  # Far outside is as good as just outside, and keeps the pixel numbers within what an integer holds.
  centres = np.clip(flat[which] * (size / frame) - 0.5, -100, size + 100)
  reach = 3 if dot == "disc" else 9
  steps = np.arange(-reach, reach + 1)
  offsets = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
  pixels = np.rint(centres).astype(int)[:, :, None] + offsets
  distance = ((pixels - centres[:, :, None]) ** 2).sum(-1)
  value = np.where(distance <= 4, 1.0, 0.0) if dot == "disc" else np.exp(-distance / 8)
  picture = np.broadcast_to(which[:, None, None], value.shape)
  inside = ((pixels >= 0) & (pixels < size)).all(-1)
  images = np.zeros((len(flat), size, size), np.float32)
  index = picture[inside], pixels[inside][:, 1], pixels[inside][:, 0]
  np.maximum.at(images, index, value[inside].astype(np.float32))
  return images.reshape(*lead, size, size)
