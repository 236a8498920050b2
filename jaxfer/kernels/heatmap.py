"""Landmarks drawn as white dots on black, on the device (paper 002, section 4.4)."""

import functools

import chex
import jax
import jax.numpy as jnp

from jaxfer.errors import unknown

# What a pixel shows by its squared distance, in pixels, from the nearest landmark.
DOTS = {
  "disc": lambda squared: (squared <= 4.0).astype(jnp.float32),
  "gaussian": lambda squared: jnp.exp(-squared / 8.0),
}


def draw(landmarks: jax.Array, size: int, *, frame: float, dot: str = "disc") -> jax.Array:
  """Draws landmarks as white dots on black.

  The paper names neither scaling nor dot; both are our choice. A disc has a radius of 2 pixels, a Gaussian has sigma 2,
  both at any size; where dots meet the greater value holds, which is the nearest landmark's. What lies outside is cut
  off.

  Args:
    landmarks: [batch, K, 2] of (x, y) in pixels of the frame, where pixel i covers i to i + 1, as the records have
      them. One that is NaN or infinite is not drawn, so a picture whose landmarks are all NaN stays black.
    size: edge of the result in pixels, >= 1.
    frame: edge of the frame that the landmarks are given in, in pixels.
    dot: a key of `DOTS`.

  Returns:
    float32 [batch, size, size, 1] in [0, 1].

  Raises:
    UserError: an unknown dot.
  """
  if dot not in DOTS:
    raise unknown("dot of heatmaps", dot, DOTS)
  chex.assert_shape(landmarks, (None, None, 2))
  centres = landmarks.astype(jnp.float32) * (size / frame) - 0.5
  centres = jnp.where(jnp.isfinite(centres), centres, jnp.inf)  # Infinitely far is not drawn.
  squared = jnp.square(jnp.arange(size, dtype=jnp.float32) - centres[..., None])  # [batch, K, 2, size]
  x, y = squared[:, :, 0], squared[:, :, 1]
  # Written landmark by landmark, all of it is one loop over pixels, and [batch, K, size, size] is never in memory. A
  # minimum over that axis is one loop, too, except on CPU with jaxlib 0.10, where it takes 18 times as long.
  nearest = functools.reduce(jnp.minimum, (y[:, k, :, None] + x[:, k, None, :] for k in range(x.shape[1])))
  return DOTS[dot](nearest)[..., None]
