"""2-D convolution whose gradients are fast on every backend, also inside loops.

XLA on CPU runs the weight gradient of a convolution inside a loop (time, `lax.map`, steps of an epoch) about thirty
times slower than outside, and input-dilated convolutions slowly everywhere. So on CPU convolutions here are matrix
products over patches, a few images at a time to stay in the cache, and a strided input gradient dilates explicitly;
elsewhere they are XLA's own. The branch is taken when the program is lowered (`lax.platform_dependent`), so one traced
program exports for every platform.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]

# Elements of a block of patches: 8 MB and 4 MB of float32, so that the product reads them from the cache. The smaller
# is for weight gradients, which read a second array of the kind beside them.
_BLOCK, _WEIGHT_BLOCK = 2**21, 2**20
# Below so many channels, features or output pixels an image, XLA's own forward convolution on CPU is the faster one.
_NARROW, _SMALL_IMAGE = 32, 256


def same_padding(kernel_size: Sequence[int]) -> Padding:
  """Zero padding that keeps height and width at stride 1 (odd kernels: the same on both sides)."""
  (top, bottom), (left, right) = (((k - 1) // 2, k // 2) for k in kernel_size)
  return (top, bottom), (left, right)


def conv_reference(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
  """The plain convolution that `conv` is compared with: same arguments, XLA's own gradients."""
  return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _plain_or_patches(
  x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding
) -> jax.Array:
  """`conv_reference` by the formulation that is fast on the platform; no gradient rule of its own."""
  by_xla = functools.partial(conv_reference, strides=strides, padding=padding)
  # The products' scratch is the narrower of patches (channels) and shifted products (features).
  if strides == (1, 1) and kernel.shape[2] > kernel.shape[3]:
    by_products = functools.partial(shift_conv, padding=padding)
  else:
    by_products = functools.partial(patch_conv, strides=strides, padding=padding)
  wide = min(kernel.shape[2:]) >= _NARROW and math.prod(_size(x, kernel, strides, padding)) >= _SMALL_IMAGE
  on_cpu = by_products if wide else by_xla
  return lax.platform_dependent(x, kernel, cpu=on_cpu, default=by_xla)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
  return _plain_or_patches(x, kernel, strides, padding)


def _conv_forward(x, kernel, strides, padding):
  return _plain_or_patches(x, kernel, strides, padding), (x, kernel)


def _conv_backward(strides, padding, residuals, dy):
  x, kernel = residuals
  return (
    input_gradient(dy, kernel, x.shape, strides, padding),
    weight_gradient(x, dy, kernel.shape, strides, padding).astype(kernel.dtype),
  )


_conv.defvjp(_conv_forward, _conv_backward)


def conv(
  x: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int] = (1, 1),
  padding: Padding | None = None,
) -> jax.Array:
  """Convolution (cross-correlation, as in every deep-learning library) with fast gradients.

  Args:
    x: [batch, height, width, channels].
    kernel: [kernel_height, kernel_width, channels, features], of x's dtype.
    strides: step in height and width.
    padding: zeros (before, after) of height and width; None keeps the size at stride 1.

  Returns:
    [batch, (height + pads - kernel_height) // stride + 1, ..., features], of x's dtype.
  """
  with jax.named_scope("conv"):
    return _conv(x, kernel, tuple(strides), padding or same_padding(kernel.shape[:2]))


def input_gradient(
  dy: jax.Array, kernel: jax.Array, shape: tuple[int, ...], strides: tuple[int, int], padding: Padding
) -> jax.Array:
  """Gradient of `conv` with respect to its input of `shape` [batch, height, width, channels], given dy."""
  flipped = kernel[::-1, ::-1].swapaxes(2, 3)
  # y[i] reads x[i s + u - lo], so dy, spread s apart, is convolved with the flipped kernel; what the last window did
  # not reach of x is the remainder on the right.
  pads = []
  for axis in (0, 1):
    k, s, lo = kernel.shape[axis], strides[axis], padding[axis][0]
    spread = (dy.shape[axis + 1] - 1) * s + 1
    pads.append((k - 1 - lo, shape[axis + 1] - spread + lo))
  if strides == (1, 1):
    return _plain_or_patches(dy, flipped, (1, 1), (pads[0], pads[1]))

  def dilated_by_xla(dy, flipped):
    return lax.conv_general_dilated(
      dy, flipped, (1, 1), pads, lhs_dilation=strides, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  def dilated_explicitly(dy, flipped):
    spread = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *((0, 0, s - 1) for s in strides), (0, 0, 0)))
    return _plain_or_patches(spread, flipped, (1, 1), (pads[0], pads[1]))

  return lax.platform_dependent(dy, flipped, cpu=dilated_explicitly, default=dilated_by_xla)


def weight_gradient(
  x: jax.Array, dy: jax.Array, shape: tuple[int, ...], strides: tuple[int, int], padding: Padding
) -> jax.Array:
  """Gradient of `conv` with respect to its kernel of `shape`, given x and dy; float32 whatever their dtype."""

  def by_xla(x, dy):
    # The batch is contracted: it plays the channels, and x's channels play the batch. Windows that the stride left
    # out at the far end must not be visited, hence the trimmed (perhaps negative) padding there.
    pads = []
    for axis in (0, 1):
      k, s, lo = shape[axis], strides[axis], padding[axis][0]
      pads.append((lo, (dy.shape[axis + 1] - 1) * s + k - x.shape[axis + 1] - lo))
    return lax.conv_general_dilated(
      x, dy, (1, 1), pads, rhs_dilation=strides, dimension_numbers=("CHWN", "IHWO", "HWNC"),
      preferred_element_type=jnp.float32,
    )  # fmt: skip

  def by_patches(x, dy):
    return patch_product(x, dy, shape, strides, padding)

  with jax.named_scope("weight_gradient"):
    return lax.platform_dependent(x, dy, cpu=by_patches, default=by_xla)


def _window(x: jax.Array, first: int, stride: int, size: int, axis: int) -> jax.Array:
  """What one place of a kernel sees along an axis, when the kernel moves by `stride` to `size` positions."""
  return lax.slice_in_dim(x, first, first + (size - 1) * stride + 1, stride, axis)


def _blocks(batch: int, elements: int, limit: int) -> int:
  """Into how many equal blocks a batch is split: the fewest that hold at most `limit`, at `elements` an image."""
  return next(
    n for n in range(1, batch + 1) if batch % n == 0 and (batch // n * elements <= limit or n == batch)
  )


def _size(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> tuple[int, int]:
  """Height and width of the output."""
  height, width = (
    (n + sum(pads) - k) // s + 1
    for n, pads, k, s in zip(x.shape[1:3], padding, kernel.shape[:2], strides, strict=True)
  )
  return height, width


def _pad(x: jax.Array, padding: Padding) -> jax.Array:
  return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((lo, hi, 0) for lo, hi in padding), (0, 0, 0)))


def patch_conv(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
  """`conv_reference` as matrix products of patches of x and the kernel, a few images at a time."""
  kh, kw, channels, features = kernel.shape
  size = _size(x, kernel, strides, padding)
  blocks = _blocks(x.shape[0], size[0] * size[1] * kh * kw * channels, _BLOCK)
  columns = kernel.reshape(-1, features)

  def product(x):
    x = _pad(x, padding)
    rows = [_window(x, u, strides[0], size[0], axis=1) for u in range(kh)]
    return (
      jnp.concatenate([_window(row, v, strides[1], size[1], axis=2) for row in rows for v in range(kw)], -1)
      @ columns
    )

  if blocks == 1:
    return product(x)
  return lax.map(product, x.reshape(blocks, -1, *x.shape[1:])).reshape(-1, *size, features)


def shift_conv(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
  """`conv_reference` at stride 1 as one matrix product of pixels and kernel, whose parts are shifted and added."""
  kh, kw, channels, features = kernel.shape
  height, width = _size(x, kernel, (1, 1), padding)
  blocks = _blocks(x.shape[0], (height + kh - 1) * (width + kw - 1) * kh * kw * features, _BLOCK)
  columns = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)

  def product(x):
    parts = jnp.split(_pad(x, padding) @ columns, kh * kw, axis=-1)
    shifts = [(u, v) for u in range(kh) for v in range(kw)]
    return sum(part[:, u : u + height, v : v + width] for part, (u, v) in zip(parts, shifts, strict=True))

  if blocks == 1:
    return product(x)
  return lax.map(product, x.reshape(blocks, -1, *x.shape[1:])).reshape(-1, height, width, features)


def patch_product(
  x: jax.Array, dy: jax.Array, shape: tuple[int, ...], strides: tuple[int, int], padding: Padding
) -> jax.Array:
  """`weight_gradient` as matrix products of patches of x and dy, a few images at a time.

  The patches are one kernel row wide: a product for each kernel row reads them at its own height. They fill a third of
  the memory that whole 3 x 3 patches would.
  """
  kh, kw, channels, features = shape
  batch, *size, _ = dy.shape

  def product(x, dy):
    x = _pad(x, padding)
    wide = jnp.concatenate([_window(x, v, strides[1], size[1], axis=2) for v in range(kw)], -1)
    heights = (_window(wide, u, strides[0], size[0], axis=1) for u in range(kh))
    rows = dy.reshape(-1, features)
    contract = (((0,), (0,)), ((), ()))
    return jnp.stack([
      lax.dot_general(at.reshape(-1, kw * channels), rows, contract, preferred_element_type=jnp.float32)
      for at in heights
    ])  # fmt: skip

  blocks = _blocks(batch, size[0] * size[1] * kh * kw * channels, _WEIGHT_BLOCK)
  if blocks == 1:
    return product(x, dy).reshape(shape)
  split = jax.tree.map(lambda a: a.reshape(blocks, -1, *a.shape[1:]), (x, dy))
  zero = jnp.zeros((kh, kw * channels, features), jnp.float32)
  total, _ = lax.scan(lambda total, xy: (total + product(*xy), None), zero, split)
  return total.reshape(shape)
