"""Affine warps of images and of optical flow, on the device."""

import chex
import jax
import jax.numpy as jnp


def affine(images: jax.Array, matrices: jax.Array) -> jax.Array:
  """Warps the images of each example by an affine map, with bilinear sampling. Pixels of the border are repeated.

  Args:
    images: [batch, ..., height, width, channels]; all images of an example are warped by the same map.
    matrices: [batch, 2, 3]; the output at pixel (x, y) is the input at matrix @ (x, y, 1). Pixel centres have integer
      coordinates, and (0, 0) is the upper left pixel.

  Returns:
    The warped images, in the shape and dtype of `images`.
  """
  chex.assert_shape(matrices, (len(images), 2, 3))
  height, width, channels = images.shape[-3:]
  y, x = jnp.meshgrid(
    jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32), indexing="ij"
  )
  grid = jnp.stack([x, y, jnp.ones_like(x)]).reshape(3, -1)

  def one(images, matrix):
    x, y = jnp.clip(matrix @ grid, 0, jnp.asarray([[width - 1], [height - 1]], jnp.float32))
    left, top = jnp.floor(x), jnp.floor(y)
    a, b = (x - left)[:, None], (y - top)[:, None]
    left, top = left.astype(jnp.int32), top.astype(jnp.int32)
    right, bottom = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)
    flat = images.reshape(-1, height * width, channels)

    def at(row, column):
      return jnp.take(flat, row * width + column, axis=1)

    upper = (1 - a) * at(top, left) + a * at(top, right)
    lower = (1 - a) * at(bottom, left) + a * at(bottom, right)
    return ((1 - b) * upper + b * lower).reshape(images.shape).astype(images.dtype)

  return jax.vmap(one)(images, matrices)


def affine_flow(flow: jax.Array, matrices: jax.Array) -> jax.Array:
  """Warps flow fields [batch, ..., height, width, 2] (u to the right, v down) like `affine` warps the images.

  The vectors are transformed too: a displacement d in the input is inverse(linear part) @ d in the output. So mirroring
  negates u, and enlarging makes the vectors longer.
  """
  chex.assert_axis_dimension(flow, -1, 2)
  moved = affine(flow, matrices)
  turn = jnp.linalg.inv(matrices[:, :, :2])
  return jnp.einsum("nij,n...j->n...i", turn, moved).astype(flow.dtype)
