"""Faces brought to one place, size and length: square crops, resampling in space, sampling in time."""

import dataclasses

import numpy as np
from PIL import Image

from jaxfer.errors import UserError


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
  """The square about the landmarks' bounding box, each side moved out by `margin` x the box's longer edge.

  No rotation: CK+ faces are upright to a few degrees, and training turns them as much at random (specs 2.5).

  Args:
    landmarks: [K, 2] of (x right, y down) in pixels.
    margin: >= 0.

  Raises:
    UserError: landmarks that are not finite or all in one point.
  """
  low, high = landmarks.min(axis=0), landmarks.max(axis=0)
  edge = float((high - low).max())
  if not np.isfinite(edge) or edge <= 0:
    raise UserError(f"landmarks span {edge:g} pixels: expected a face")
  side = edge * (1 + 2 * margin)
  centre = (low + high) / 2
  return Square(float(centre[0]) - side / 2, float(centre[1]) - side / 2, side)


def box_square(x: float, y: float, width: float, height: float) -> Square:
  """The smallest square about a box's centre that holds the box (upper left corner x, y; pixels)."""
  side = max(width, height)
  return Square(x + (width - side) / 2, y + (height - side) / 2, side)


def centre_square(width: int, height: int) -> Square:
  """The largest square in the middle of an image."""
  side = min(width, height)
  return Square((width - side) / 2, (height - side) / 2, side)


def crop(image: np.ndarray, square: Square, size: int) -> np.ndarray:
  """Cuts a square out and resamples it, anti-aliased (bicubic); beyond the image its edge pixels repeat.

  Args:
    image: uint8 [H, W, C] or [H, W].
    square: where.
    size: edge length of the result in pixels.

  Returns:
    uint8 [size, size, C] or [size, size].

  Raises:
    UserError: a square that does not touch the image.
  """
  height, width = image.shape[:2]
  right, bottom = square.left + square.side, square.top + square.side
  if right <= 0 or bottom <= 0 or square.left >= width or square.top >= height:
    raise UserError(f"face square {square} lies outside the {width} x {height} image")
  beyond = max(0.0, -square.left, -square.top, right - width, bottom - height)
  pad = int(np.ceil(beyond))
  if pad:
    image = np.pad(image, ((pad, pad), (pad, pad)) + ((0, 0),) * (image.ndim - 2), mode="edge")
  box = (square.left + pad, square.top + pad, right + pad, bottom + pad)
  return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box))


def onset_to_peak(length: int, num_frames: int) -> np.ndarray:
  """Which frames to take of a sequence that runs from onset to peak: round(k (n - 1) / (T - 1)) (specs 2.5).

  Args:
    length: n >= 1, frames there are.
    num_frames: T >= 1, frames wanted; above n some repeat, and 1 takes the peak alone.

  Returns:
    int [T], ascending; the last is n - 1.

  Raises:
    UserError: a length or T below 1.
  """
  if length < 1 or num_frames < 1:
    raise UserError(f"cannot sample {num_frames} frames of {length}: both must be at least 1")
  if num_frames == 1:
    return np.array([length - 1])
  return np.rint(np.arange(num_frames) * (length - 1) / (num_frames - 1)).astype(int)
