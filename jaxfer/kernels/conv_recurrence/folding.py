"""Folds neighbouring pixels of a row into channels, so that few channels fill a TPU's lanes. The result is exact.

XLA puts the channels of an image on the 128 lanes of a TPU's vectors. A recurrence of 32 channels on [height, width] is
a recurrence of 128 channels on [height, width / 4] with other parameters: a kernel joins blocks of four pixels, and its
entries are zero where two pixels are further apart than the kernel reaches. This multiplies more, four times as much
for 3 x 3 kernels and four pixels, but the pointwise operations leave no lane idle.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Params = Mapping[str, jax.Array]


def fold(a: jax.Array, pixels: int) -> jax.Array:
  """[..., width, channels] -> [..., width / pixels, pixels channels]."""
  *rest, width, channels = a.shape
  return a.reshape(*rest, width // pixels, pixels * channels)


def unfold(a: jax.Array, pixels: int) -> jax.Array:
  """Undoes `fold`."""
  *rest, blocks, channels = a.shape
  return a.reshape(*rest, blocks * pixels, channels // pixels)


def _taps(width: int, pixels: int) -> np.ndarray:
  """[blocks, pixels, pixels, width], 1 where a column of a kernel joins a block's pixel to one of the middle block."""
  reach = width // 2
  blocks = -(-reach // pixels)
  block, source, target = np.ogrid[-blocks : blocks + 1, :pixels, :pixels]
  column = block * pixels + source - target + reach
  return (column[..., None] == np.arange(width)).astype(np.float32)


def _kernel(kernel: jax.Array, channels: int, features: int, pixels: int) -> jax.Array:
  """[height, width, n channels, m features] -> [height, blocks, n pixels channels, m pixels features]."""
  height, width, *_ = kernel.shape
  taps = jnp.asarray(_taps(width, pixels), kernel.dtype)
  parts = kernel.reshape(height, width, -1, channels, kernel.shape[3] // features, features)
  folded = jnp.einsum("bstw,hwncmf->hbnscmtf", taps, parts, precision=lax.Precision.HIGHEST)
  return folded.reshape(height, taps.shape[0], pixels * kernel.shape[2], pixels * kernel.shape[3])


def _bias(bias: jax.Array, features: int, pixels: int) -> jax.Array:
  return jnp.repeat(bias.reshape(-1, 1, features), pixels, axis=1).reshape(-1)


def fold_params(params: Params, channels: int, features: int, pixels: int) -> dict[str, jax.Array]:
  """Parameters of a cell (`cells.parameter_shapes`) for frames and states that are folded by `pixels`."""

  def pointwise(kernel, channels):
    return _kernel(kernel[None, None], channels, features, pixels)[0, 0]

  def one(name, a):
    if name == "peephole":
      return fold(a, pixels)
    if name.endswith("bias"):
      return _bias(a, features, pixels)
    if name == "temporal_skip_kernel":
      return pointwise(a, features)
    if name == "spatial_skip_kernel":  # Its first rows read the state, the others the input.
      return jnp.concatenate([pointwise(a[:features], features), pointwise(a[features:], channels)])
    return _kernel(a, channels if "input" in name else features, features, pixels)

  return {name: one(name, a) for name, a in params.items()}
