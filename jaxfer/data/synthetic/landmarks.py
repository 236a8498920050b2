"""Landmarks of a drawn face, computed exactly from its geometry."""

import jax
import jax.numpy as jnp

from jaxfer.data.synthetic.geometry import Face, brow_curve, eye_edges, lip_thickness, mouth_edges, to_picture


def landmarks(face: Face, size: int) -> jax.Array:
  """Returns the 37 points of RAF-DB's automatic annotation, [37, 2] (x, y) in pixels (pixel i covers i to i + 1).

  The order is 0-2 left brow, 3-5 right brow, 6-12 nose (bridge, middle, tip, then the base from left to right), 13-18
  left eye, 19-24 right eye, 25-36 outline of the lips. Left is the picture's left, and loops run from the left corner
  over the top. `manual_points` returns the five points of the manual annotation.
  """
  who = face.identity
  eye, width = who.eye_x, who.eye_width
  brow_t = jnp.array([-1.0, 0.0, 1.0])
  brow_x, brow_y = brow_curve(who, brow_t)
  lid_t = jnp.array([-1.0, -0.4, 0.4, 1.0, 0.4, -0.4])
  lid_x = eye + width * lid_t
  rest = eye_edges(face, lid_x)
  lid_y = jnp.where(jnp.arange(6) < 4, rest.upper_rest, rest.lower_rest)
  # An offset of 0.0005 from the slit puts a point on its lid.
  lid_y = lid_y + jnp.array([0.0, -1.0, -1.0, 0.0, 1.0, 1.0]) * 5e-4
  mirror = jnp.array([3, 2, 1, 0, 5, 4])
  n, w = who.nose_length, who.nose_width
  nose_x = jnp.array([0.0, 0.0, 0.0, -1.0, -0.45, 0.45, 1.0]) * w
  nose_y = jnp.array([-0.02, 0.25, 0.44, n - 0.05, n + 0.01, n + 0.01, n - 0.05])
  lip_t = jnp.array([-1.0, -0.62, -0.25, 0.0, 0.25, 0.62, 1.0, 0.62, 0.28, 0.0, -0.28, -0.62])
  lip_x = who.mouth_width * lip_t
  upper, lower = lip_thickness(face, lip_x)
  slit = mouth_edges(face, lip_x).slit
  lip_y = slit + jnp.where(jnp.arange(12) < 7, -upper, lower)
  x = jnp.concatenate([-brow_x[::-1], brow_x, nose_x, -lid_x[mirror], lid_x, lip_x])
  y = jnp.concatenate([brow_y[::-1], brow_y, nose_y, lid_y[mirror], lid_y, lip_y])
  px, py = to_picture(face, x, y)
  return jnp.stack([px + 1.0, py + 1.0], -1) * (size / 2)


def manual_points(points: jax.Array) -> jax.Array:
  """Computes RAF-DB's five manual points [..., 5, 2] from the 37 points [..., 37, 2].

  They are the eyes, the tip of the nose and the corners of the mouth, left before right. The centre of an eye is the
  mean of its loop.
  """
  left, right = points[..., 13:19, :].mean(-2), points[..., 19:25, :].mean(-2)
  return jnp.stack([left, right, points[..., 8, :], points[..., 25, :], points[..., 31, :]], -2)
