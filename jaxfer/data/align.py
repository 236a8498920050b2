"""Alignment of faces: square crops, resampling in space, and sampling in time."""

import dataclasses

import numpy as np
from PIL import Image

from jaxfer.errors import UserError

# The five points (eyes, nose tip, corners of the mouth; image-left first) in a face of 112 x 112 pixels, as in
# InsightFace and AdaFace. Their coordinates count from the middle of the first pixel, ours from its corner, so 0.5 is
# added.
TEMPLATE_112 = (
  np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
  )
  + 0.5
)
# A face may reach beyond its image by up to the longer side of the image, but the image padded with repeated edges may
# have at most this many times its pixels. Boxes beyond that are mistakes, and would exhaust the memory.
_MOST_PIXELS = 16


@dataclasses.dataclass(frozen=True)
class Square:
  """A square of an image in pixels, from corner to corner; may be fractional and reach beyond the image.

  Attributes:
    left: x of the left edge.
    top: y of the upper edge.
    side: length of an edge, above 0.
  """

  left: float
  top: float
  side: float


def landmark_square(landmarks: np.ndarray, margin: float) -> Square:
  """Returns the square around the landmarks' bounding box, enlarged on each side by `margin` x the box's longer edge.

  The square is not rotated: CK+ faces are upright within a few degrees, and training rotates them at random as much.

  Args:
    landmarks: [K, 2] of (x right, y down) in pixels.
    margin: >= 0.

  Raises:
    UserError: landmarks are not finite, or all in one point.
  """
  low, high = landmarks.min(axis=0), landmarks.max(axis=0)
  edge = float((high - low).max())
  if not np.isfinite(edge) or edge <= 0:
    raise UserError(f"landmarks span {edge:g} pixels: expected a face")
  side = edge * (1 + 2 * margin)
  centre = (low + high) / 2
  return Square(float(centre[0]) - side / 2, float(centre[1]) - side / 2, side)


def box_square(x: float, y: float, width: float, height: float) -> Square:
  """Returns the smallest square around the centre of a box that contains it (upper left corner x, y; pixels)."""
  side = max(width, height)
  return Square(x + (width - side) / 2, y + (height - side) / 2, side)


def centre_square(width: int, height: int) -> Square:
  """Returns the largest square in the middle of an image."""
  side = min(width, height)
  return Square((width - side) / 2, (height - side) / 2, side)


def crop(image: np.ndarray, square: Square, size: int) -> np.ndarray:
  """Crops a square and resamples it (bicubic, anti-aliased); edge pixels are repeated outside the image.

  Args:
    image: uint8 [H, W, C] or [H, W].
    square: square to crop.
    size: edge length of the result in pixels.

  Returns:
    uint8 [size, size, C] or [size, size].

  Raises:
    UserError: see `check_square`.
  """
  height, width = image.shape[:2]
  check_square(square, width, height)
  right, bottom = square.left + square.side, square.top + square.side
  pad = int(np.ceil(_reach(square.left, square.top, right, bottom, width, height)))
  if pad:
    image = np.pad(image, ((pad, pad), (pad, pad)) + ((0, 0),) * (image.ndim - 2), mode="edge")
  box = (square.left + pad, square.top + pad, right + pad, bottom + pad)
  return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box))


def check_square(square: Square, width: int, height: int) -> None:
  """Refuses an implausible square of a face, before memory is allocated for it.

  Raises:
    UserError: numbers are not finite, the side is not above 0, the square does not touch the image of the given width
      and height in pixels, or it reaches further beyond it than the image's longer side.
  """
  left, top, side = square.left, square.top, square.side
  if not np.isfinite([left, top, side]).all() or side <= 0:
    raise UserError(f"the face's square ({_shown(square)}) has no extent")
  if left + side <= 0 or top + side <= 0 or left >= width or top >= height:
    raise UserError(f"the face's square ({_shown(square)}) is outside the {width} x {height} image")
  reach = _reach(left, top, left + side, top + side, width, height)
  far = reach > max(width, height)
  if far or (reach >= 1 and (width + 2 * reach) * (height + 2 * reach) > _MOST_PIXELS * width * height):
    raise UserError(
      f"the face's square ({_shown(square)}) reaches {reach:g} pixels beyond the {width} x {height} image"
    )


def _shown(square: Square) -> str:
  return f"{square.side:g} pixels wide, from {square.left:g},{square.top:g}"


def check_points(points: np.ndarray, width: int, height: int) -> None:
  """Refuses implausible points [K, 2] of a face.

  Raises:
    UserError: a point is not finite, or further from the image (width and height in pixels) than its longer side.
  """
  for i, (x, y) in enumerate(np.asarray(points, float).tolist()):
    if not (np.isfinite([x, y]).all() and _reach(x, y, x, y, width, height) <= max(width, height)):
      raise UserError(f"point {i} of the face, {x:g},{y:g}, is far outside the {width} x {height} image")


def _reach(left: float, top: float, right: float, bottom: float, width: int, height: int) -> float:
  """Returns the number of pixels by which a box reaches beyond an image."""
  return float(max(0.0, -left, -top, right - width, bottom - height))


def template_points(count: int) -> np.ndarray:
  """Returns 2 (eyes), 3 (eyes, middle of the mouth) or 5 points of the 112-pixel template, [count, 2].

  Raises:
    ValueError: `count` has another value.
  """
  if count == 3:
    return np.concatenate([TEMPLATE_112[:2], TEMPLATE_112[3:].mean(axis=0, keepdims=True)])
  if count in (2, 5):
    return TEMPLATE_112[:count]
  raise ValueError(f"{count} points: expected the eyes (2), the eyes and the mouth (3), or 5")


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
  """Returns the least-squares rotation, scale and shift from points to others, without reflection (Umeyama 1991).

  Args:
    source: [K, 2], K >= 2, (x, y).
    target: [K, 2].

  Returns:
    float64 [2, 3]: target is near source @ A[:, :2].T + A[:, 2].

  Raises:
    ValueError: the source points are not finite, or all equal.
  """
  # In complex numbers, target = a source + b with complex a, b: linear least squares.
  z, w = (np.asarray(points, float) @ [1, 1j] for points in (source, target))
  centred = z - z.mean()
  spread = np.vdot(centred, centred).real
  if not np.isfinite(z).all() or spread < 1e-12:
    raise ValueError(f"points {np.asarray(source).tolist()} do not place a face")
  a = np.vdot(centred, w - w.mean()) / spread
  b = w.mean() - a * z.mean()
  return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def affine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
  """Returns the affine map [2, 3] of three points (eyes, middle of the mouth) to three others.

  Raises:
    ValueError: the points are on one line, or not finite.
  """
  matrix = np.concatenate([np.asarray(source, float), np.ones((3, 1))], axis=1)
  if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-6:
    raise ValueError(f"points {np.asarray(source).tolist()} are on one line")
  return np.linalg.solve(matrix, np.asarray(target, float)).T


def transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
  """Applies an affine map [2, 3] to points [K, 2]."""
  return points @ matrix[:, :2].T + matrix[:, 2]


def square_matrix(square: Square, size: int) -> np.ndarray:
  """Returns the affine map [2, 3] from an image to a square cropped from it, `size` pixels wide."""
  scale = size / square.side
  return np.array([[scale, 0, -square.left * scale], [0, scale, -square.top * scale]])


def points_square(points: np.ndarray) -> Square:
  """Returns the upright square that shows a face as the 112-pixel template does, from 2, 3 or 5 of its points.

  Raises:
    ValueError: the points do not determine the square.
  """
  matrix = similarity(points, template_points(len(points)))
  side = 112 / float(np.hypot(matrix[0, 0], matrix[1, 0]))
  # The middle of the template in the image; the rotation is ignored.
  centre = np.linalg.solve(matrix[:, :2], np.array([56.0, 56.0]) - matrix[:, 2])
  return Square(float(centre[0]) - side / 2, float(centre[1]) - side / 2, side)


def warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
  """Warps an image by an affine map to a square, with anti-aliasing; edge pixels are repeated outside the image.

  Args:
    image: uint8 [H, W, C] or [H, W].
    matrix: [2, 3], from pixels of the image to pixels of the result.
    size: edge length of the result in pixels.

  Returns:
    uint8 [size, size, C] or [size, size].

  Raises:
    ValueError: the map has a reflection or no extent, or its square is far outside the image.
  """
  determinant = float(np.linalg.det(matrix[:, :2]))
  if not np.isfinite(matrix).all() or determinant <= 1e-12:
    raise ValueError("the points give a mirrored face or one without extent")
  height, width = image.shape[:2]
  linear, shift = matrix[:, :2], matrix[:, 2]
  corners = np.linalg.solve(linear, np.array([[0, 0, size, size], [0, size, 0, size]]) - shift[:, None])
  low, high = np.floor(corners.min(axis=1)), np.ceil(corners.max(axis=1))
  if (high <= 0).any() or low[0] >= width or low[1] >= height:
    raise ValueError(f"the face would be outside the {width} x {height} image")
  reach = _reach(low[0], low[1], high[0], high[1], width, height)
  if reach > max(width, height) or np.prod(high - low) > _MOST_PIXELS * width * height:
    raise ValueError(f"the face would reach {reach:g} pixels beyond the {width} x {height} image")
  # Only the required part, padded outside the image, with 2 more pixels for the interpolation.
  left, top = (int(v) - 2 for v in low)
  right, bottom = (int(v) + 2 for v in high)
  inside = image[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
  beyond = (max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0))
  part = np.pad(inside, beyond + ((0, 0),) * (image.ndim - 2), mode="edge")
  picture, ratio = Image.fromarray(part), np.ones(2)
  if determinant < 1:
    # A transform reads 4 x 4 pixels per output pixel. To skip none, the image is first reduced to the result's scale.
    reduced = np.maximum(np.rint(np.array(picture.size) * np.sqrt(determinant)), 1).astype(int)
    ratio = reduced / picture.size
    picture = picture.resize((int(reduced[0]), int(reduced[1])), Image.Resampling.BICUBIC)
  # Map from the result to the reduced part: invert the map, move to the corner of the part, reduce.
  inverse = np.linalg.inv(linear)
  back = np.concatenate([inverse, (inverse @ -shift - [left, top])[:, None]], axis=1) * ratio[:, None]
  return np.asarray(
    picture.transform((size, size), Image.Transform.AFFINE, tuple(back.ravel()), Image.Resampling.BICUBIC)
  )


def onset_to_peak(length: int, num_frames: int) -> np.ndarray:
  """Selects frames of a sequence that runs from onset to peak: round(k (n - 1) / (T - 1)).

  Args:
    length: n >= 1, number of frames in the sequence.
    num_frames: T >= 1, number of frames to select. If T > n, some repeat; T = 1 selects only the peak.

  Returns:
    int [T], ascending indices; the last is n - 1.

  Raises:
    UserError: n or T is below 1.
  """
  if length < 1 or num_frames < 1:
    raise UserError(f"cannot sample {num_frames} frames of {length}: both must be at least 1")
  if num_frames == 1:
    return np.array([length - 1])
  return np.rint(np.arange(num_frames) * (length - 1) / (num_frames - 1)).astype(int)
