"""Random transforms of training examples, drawn on the device from each example's own key."""

import zlib

import jax
import jax.numpy as jnp


def random_affine(
  keys: jax.Array, size: tuple[int, int], *, flip: bool = True, rotation: float = 0.0, shift: float = 0.0
) -> jax.Array:
  """Matrices for `kernels.warp.affine`: mirroring, rotation about the centre, shift.

  Args:
    keys: [batch] typed keys of the examples.
    size: (height, width) of the images.
    flip: mirror left and right with probability one half.
    rotation: largest angle, degrees; drawn uniformly on both sides.
    shift: largest shift as a share of the size; drawn uniformly on both sides, in x and in y.

  Returns:
    [batch, 2, 3].
  """
  height, width = size
  centre = jnp.asarray([(width - 1) / 2, (height - 1) / 2])

  def one(key):
    mirrored, angle, moved = jax.random.split(jax.random.fold_in(key, zlib.crc32(b"affine")), 3)
    sign = jnp.where(jax.random.bernoulli(mirrored) & flip, -1.0, 1.0)
    radians = jnp.deg2rad(jax.random.uniform(angle, minval=-rotation, maxval=rotation))
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    linear = jnp.stack([jnp.stack([sign * cos, -sign * sin]), jnp.stack([sin, cos])])
    offset = jax.random.uniform(moved, (2,), minval=-shift, maxval=shift) * jnp.asarray([width, height])
    return jnp.concatenate([linear, (centre + offset - linear @ centre)[:, None]], axis=1)

  return jax.vmap(one)(keys)
