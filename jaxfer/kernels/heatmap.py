"""Draws landmarks as white dots on black, on the device (paper 002, section 4.4)."""

import functools

import chex
import jax
import jax.numpy as jnp

from jaxfer.errors import unknown

# Value of a pixel as a function of its squared distance, in pixels^2, to the nearest landmark.
DOTS = {
  "disc": lambda squared: (squared <= 4.0).astype(jnp.float32),
  "gaussian": lambda squared: jnp.exp(-squared / 8.0),
}


def draw(landmarks: jax.Array, size: int, *, frame: float, dot: str = "disc") -> jax.Array:
  """Draws landmarks as white dots on black.

  The paper specifies neither the scaling nor the dots; both are our choice. A disc has a radius of 2 pixels and a
  Gaussian a sigma of 2 pixels, at any size. Where dots overlap, the larger value applies, which is that of the nearest
  landmark. Parts outside the image are cut off.

  Args:
    landmarks: [batch, K, 2], (x, y) in pixels of the frame, as in the records; pixel i covers i to i + 1. Landmarks
      that are NaN or infinite are not drawn, so an image stays black if all its landmarks are NaN.
    size: edge of the result in pixels, >= 1.
    frame: edge of the frame of the landmarks, in pixels.
    dot: a key of `DOTS`.

  Returns:
    float32 [batch, size, size, 1] in [0, 1].

  Raises:
    UserError: the dot is unknown.
  """
  if dot not in DOTS:
    raise unknown("dot of heatmaps", dot, DOTS)
  chex.assert_shape(landmarks, (None, None, 2))
  centres = landmarks.astype(jnp.float32) * (size / frame) - 0.5
  centres = jnp.where(jnp.isfinite(centres), centres, jnp.inf)  # A dot at infinity is not drawn.
  squared = jnp.square(jnp.arange(size, dtype=jnp.float32) - centres[..., None])  # [batch, K, 2, size]
  x, y = squared[:, :, 0], squared[:, :, 1]
  # The minimum is taken landmark by landmark, so that XLA compiles it to one loop over pixels and never allocates an
  # array [batch, K, size, size]. A minimum over the axis K also gives one loop, except on CPU with jaxlib 0.10, where
  # it takes 18 times as long.
  nearest = functools.reduce(jnp.minimum, (y[:, k, :, None] + x[:, k, None, :] for k in range(x.shape[1])))
  return DOTS[dot](nearest)[..., None]
