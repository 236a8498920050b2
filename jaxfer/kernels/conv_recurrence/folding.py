"""Folds neighbouring pixels of a row into channels, so that they fill a TPU's lanes. The result is exact.

XLA puts the channels of an image on the 128 lanes of a TPU's vectors. A recurrence of 32 channels on [height, width] is
a recurrence of 128 channels on [height, width / 4] with other parameters, in which the pointwise operations leave no
lane idle. With a 3 x 3 kernel, a block of four pixels reads six: its own, and one on either side, its halo. A folded
kernel [height, pixels + 2 reach, channels, pixels features] therefore has an entry for each pixel that a block reads:
first the block's own, then those after it, then those before it. Half of its entries are zero. `conv`, `input_gradient`
and `weight_gradient` take such kernels, and those of unfolded images.

Two other forms were compiled for a v5e, not run. A convolution of the unfolded state with a stride of `pixels` needs no
halo, but its gradient in the state costs more than twice as many cycles. If a row is shifted until a block's halo
is within two blocks, a third more products are needed, because two whole blocks are read.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfer.kernels import conv as convolution

Params = Mapping[str, jax.Array]


def fold(a: jax.Array, pixels: int) -> jax.Array:
  """Folds [..., width, channels] to [..., width / pixels, pixels channels]."""
  *rest, width, channels = a.shape
  return a.reshape(*rest, width // pixels, pixels * channels)


def unfold(a: jax.Array, pixels: int) -> jax.Array:
  """Undoes `fold`."""
  *rest, blocks, channels = a.shape
  return a.reshape(*rest, blocks * pixels, channels // pixels)


def _taps(width: int, pixels: int) -> np.ndarray:
  """Returns [pixels read, pixels, width], 1 if a kernel column connects a pixel that a block reads with its own."""
  seen = pixels + width - 1
  source, target = np.ogrid[:seen, :pixels]
  column = (source + width // 2) % seen - target
  return (column[..., None] == np.arange(width)).astype(np.float32)


def _kernel(kernel: jax.Array, features: int, pixels: int) -> jax.Array:
  """Folds a kernel [height, width, channels, m features] to [height, pixels read, channels, m pixels features]."""
  height, width, channels, _ = kernel.shape
  taps = jnp.asarray(_taps(width, pixels), kernel.dtype)
  parts = kernel.reshape(height, width, channels, -1, features)
  folded = jnp.einsum("stw,hwcmf->hscmtf", taps, parts, precision=lax.Precision.HIGHEST)
  return folded.reshape(height, len(taps), channels, -1)


def _pointwise(kernel: jax.Array, channels: int, features: int, pixels: int) -> jax.Array:
  """Folds a pointwise kernel [n channels, features] to [n pixels channels, pixels features]."""
  parts = kernel.reshape(-1, 1, channels, features)
  return _kernel(parts, features, pixels).reshape(-1, pixels * features)


def _bias(bias: jax.Array, features: int, pixels: int) -> jax.Array:
  return jnp.repeat(bias.reshape(-1, 1, features), pixels, axis=1).reshape(-1)


def fold_params(params: Params, channels: int, features: int, pixels: int) -> dict[str, jax.Array]:
  """Returns the parameters of a cell (`cells.parameter_shapes`) for frames and states folded by `pixels`."""

  def one(name, a):
    if name == "peephole":
      return fold(a, pixels)
    if name.endswith("bias"):
      return _bias(a, features, pixels)
    if name == "temporal_skip_kernel":
      return _pointwise(a, features, features, pixels)
    if name == "spatial_skip_kernel":  # Its first rows read the state, the others the input.
      state, x = a[:features], a[features:]
      return jnp.concatenate([
        _pointwise(state, features, features, pixels), _pointwise(x, channels, features, pixels)
      ])  # fmt: skip
    return _kernel(a, features, pixels)

  return {name: one(name, a) for name, a in params.items()}


def _plain(kernel: tuple[int, ...], channels: int) -> tuple[int, ...]:
  """Returns the shape of a kernel for a plain convolution of an image of `channels` with its halo."""
  height, seen, each, features = kernel
  return (height, 1, seen * each, features) if each < channels else kernel


def _shifted(a: jax.Array, blocks: int) -> jax.Array:
  """Replaces each block by the one `blocks` places to its right; zeros beyond the edge."""
  edges = [(0, 0, 0)] * a.ndim
  edges[-2] = (-blocks, blocks, 0)
  return lax.pad(a, jnp.zeros((), a.dtype), edges)


def _with_halo(a: jax.Array, channels: int) -> jax.Array:
  """Extends [..., blocks, own] to [..., blocks, channels]: a block, the pixels after it, and as many before it."""
  own = a.shape[-1]
  halo = (channels - own) // 2
  if halo == 0:
    return a
  reach = -(-halo // own)
  after = jnp.concatenate([_shifted(a, k) for k in range(1, reach + 1)], axis=-1)
  before = jnp.concatenate([_shifted(a, -k) for k in range(reach, 0, -1)], axis=-1)
  return jnp.concatenate([a, after[..., :halo], before[..., reach * own - halo :]], axis=-1)


def weight_gradient(x: jax.Array, dy: jax.Array, kernel: tuple[int, ...], loop: bool) -> jax.Array:
  """The adjoint of `conv` in the kernel, whose shape is given; float32 for all dtypes.

  `loop` says whether it runs inside a loop.
  """
  height, width, channels, _ = _plain(kernel, x.shape[-1])
  size = height, width
  padding = convolution.same_padding(size)
  d_kernel = convolution.weight_gradient(_with_halo(x, channels), dy, size, (1, 1), padding, loop)
  return d_kernel.reshape(kernel)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Part:
  """The part of a kernel that reads at some distance.

  Attributes:
    kernel: [height, width, channels, features] of a plain convolution.
    distance: distance in blocks.
    after: number of channels that it reads from the block after; it reads the others from the block before.
  """

  kernel: jax.Array
  distance: int = dataclasses.field(metadata={"static": True})
  after: int = dataclasses.field(metadata={"static": True})


def parts(kernel: jax.Array, channels: int) -> list[Part]:
  """Splits a kernel by distance, for `input_gradient`.

  For a folded kernel, `channels` is the number of channels of the image that it reads; an unfolded kernel reads as many
  or more.

  A block's halo often fills at most half of a neighbour. Then the parts of both neighbours form one kernel, and XLA
  sums the products without moving lanes.
  """
  if kernel.shape[2] >= channels:
    return [Part(kernel, 0, 0)]
  kernel = kernel.reshape(_plain(kernel.shape, channels))
  halo = (kernel.shape[2] - channels) // 2
  own, after, before = jnp.split(kernel, (channels, channels + halo), axis=2)
  found = [Part(own, 0, 0)]
  for first in range(0, halo, channels):
    last, distance = min(first + channels, halo), first // channels + 1
    idle = [(0, 0), (0, 0), (0, channels - last + first), (0, 0)]
    right = jnp.pad(after[:, :, first:last], idle)
    left = jnp.pad(before[:, :, halo - last : halo - first], [pad[::-1] for pad in idle])
    if 2 * (last - first) <= channels:
      found.append(Part(right + left, distance, channels // 2))
    else:
      found += [Part(right, distance, channels), Part(left, distance, 0)]
  return found


def input_gradient(dy: jax.Array, kernel: list[Part], size: tuple[int, int], loop: bool) -> jax.Array:
  """The adjoint of `conv` in an image of `size` (height, blocks).

  `loop` says whether it runs inside a loop.
  """
  total = None
  for part in kernel:
    padding = convolution.same_padding(part.kernel.shape[:2])
    d = convolution.input_gradient(dy, part.kernel, size, (1, 1), padding, loop)
    if part.distance:
      after = np.arange(d.shape[-1]) < part.after
      d = jnp.where(after, _shifted(d, -part.distance), _shifted(d, part.distance))
    total = d if total is None else total + d
  assert total is not None
  return total


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves an image with a plain kernel (`conv.conv`), or a folded image with a folded kernel."""
  return _conv(x, kernel, convolution.inside_loop())


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: jax.Array, kernel: jax.Array, loop: bool) -> jax.Array:
  del loop  # The forward pass is traced where `conv` is called. The gradients may be traced elsewhere.
  kernel = kernel.reshape(_plain(kernel.shape, x.shape[-1]))
  return convolution.conv(_with_halo(x, kernel.shape[2]), kernel)


def _conv_forward(x, kernel, loop):
  return _conv(x, kernel, loop), (x, kernel)


def _conv_backward(loop, residuals, dy):
  x, kernel = residuals
  d_x = input_gradient(dy, parts(kernel, x.shape[-1]), x.shape[1:3], loop)
  return d_x, weight_gradient(x, dy, kernel.shape, loop).astype(kernel.dtype)


_conv.defvjp(_conv_forward, _conv_backward)


@jax.custom_vjp
def plus(y: jax.Array, bias: jax.Array) -> jax.Array:
  """Adds bias [features] to y [..., features]. The gradient of the bias is a matrix product, which is fast on a TPU."""
  return y + bias


def _plus_forward(y, bias):
  return y + bias, None


def _plus_backward(_, dy):
  rows = dy.reshape(-1, dy.shape[-1])
  ones = jnp.ones((8, len(rows)), dy.dtype)  # With a single row, XLA would turn the product into a sum.
  total = jnp.matmul(
    ones,
    rows,
    precision=lax.Precision.HIGHEST,
    preferred_element_type=jnp.promote_types(dy.dtype, jnp.float32),
  )
  return dy, total[0].astype(dy.dtype)


plus.defvjp(_plus_forward, _plus_backward)
