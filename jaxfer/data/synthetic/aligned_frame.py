"""Drawn faces in the frame of RAF-DB's aligned pictures, with eyes and mouth in fixed places."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.data import heatmap
from jaxfer.data.synthetic.geometry import Face
from jaxfer.data.synthetic.landmarks import landmarks, manual_points
from jaxfer.kernels import warp


def _from_frame(points: jax.Array) -> jax.Array:
  """Returns the affine map [2, 3] from the aligned frame, with edges 0 and 1, to the coordinates of the 37 points."""
  five = manual_points(points)
  source = jnp.stack([five[0], five[1], 0.5 * (five[3] + five[4])])
  # Published positions count from the middle of the first pixel.
  target = np.concatenate([(heatmap.TEMPLATE + 0.5) / heatmap.FRAME, np.ones((3, 1))], 1)
  return (jnp.asarray(np.linalg.inv(target), source.dtype) @ source).T


@jax.jit
def framed(faces: Face) -> Face:
  """Moves and scales faces [batch], so that the picture is the smallest upright square around the aligned frame.

  Then the picture contains all that `align` needs.
  """

  def one(face: Face) -> Face:
    frame = _from_frame(landmarks(face, 2) - 1.0)  # In half-sides of the picture.
    corners = frame @ jnp.array([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    low, high = corners.min(1), corners.max(1)
    (x, y), half = 0.5 * (low + high), 0.5 * (high - low).max()
    pose = face.pose
    moved = {"x": (pose.x - x) / half, "y": (pose.y - y) / half, "scale": pose.scale / half}
    return face._replace(pose=pose._replace(**moved))

  return jax.vmap(one)(faces)


def align(picture: jax.Array, points: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
  """Warps a picture to the aligned frame by its own landmarks, with bilinear interpolation.

  Args:
    picture: [S, S, channels] float, S >= size. S should not be much larger than size, since the picture is not
      smoothed.
    points: [37, 2], landmarks of the picture in pixels.
    size: edge of the result in pixels.

  Returns:
    The picture [size, size, channels] and its landmarks [37, 2] in pixels.
  """
  linear, shift = jnp.split(_from_frame(points) / jnp.array([size, size, 1.0]), [2], 1)
  # The warp counts from the middle of the first pixel.
  matrix = jnp.concatenate([linear, shift + linear @ jnp.full((2, 1), 0.5) - 0.5], 1)
  moved = warp.affine(picture[None], matrix[None])[0, :size, :size]
  (a, b), (c, d) = linear
  inverse = jnp.array([[d, -b], [-c, a]]) / (a * d - b * c)
  return moved, (points - shift[:, 0]) @ inverse.T
