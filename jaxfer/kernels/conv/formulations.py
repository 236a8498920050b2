"""The three linear maps of a convolution, each in several formulations that give the same numbers at different speeds.

`forward` convolves; `transpose` is its adjoint in the input (the gradient of a convolution, or the value of a
transposed one); `weight_gradient` is the adjoint in the kernel. `ops` chooses among the formulations.

XLA on CPU runs the weight gradient of a convolution inside a loop (time, `lax.map`, steps of an epoch) about a hundred
times slower than outside, and input-dilated convolutions slowly everywhere (also on GPU). The alternatives are matrix
products over patches, for a few images at a time to stay in the cache, and transposed convolutions as one small
convolution per phase of the stride, or as one convolution whose channels are the phases. The layout is: images [batch,
height, width, channels], kernels [height, width, channels, features].
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
Forward = Callable[[jax.Array, jax.Array, Pair, Padding], jax.Array]

# Elements of a block of patches: 8 MB and 4 MB of float32, so that the product reads them from the cache. The smaller
# limit is for weight gradients, which also read a second array of this size.
_BLOCK, _WEIGHT_BLOCK = 2**21, 2**20
_IMAGES = ("NHWC", "HWIO", "NHWC")


def same_padding(kernel_size: Sequence[int]) -> Padding:
  """Returns the zero padding that keeps height and width at stride 1; for odd kernels it is equal on both sides."""
  (top, bottom), (left, right) = (((k - 1) // 2, k // 2) for k in kernel_size)
  return (top, bottom), (left, right)


def output_size(size: Sequence[int], kernel_size: Sequence[int], strides: Pair, padding: Padding) -> Pair:
  """Returns the height and width of a convolution's output."""
  height, width = (
    (n + sum(pads) - k) // s + 1 for n, pads, k, s in zip(size, padding, kernel_size, strides, strict=True)
  )
  return height, width


def _window(x: jax.Array, first: int, stride: int, size: int, axis: int) -> jax.Array:
  """Returns the elements along an axis that one entry of a kernel reads at `size` positions, `stride` apart."""
  return lax.slice_in_dim(x, first, first + (size - 1) * stride + 1, stride, axis)


def _blocks(batch: int, elements: int, limit: int) -> int:
  """Returns the least number of equal blocks of a batch that have at most `limit` elements, with `elements` per image.

  A batch of symbolic size, as in `jax.export`, is not split.
  """
  if not isinstance(batch, int):
    return 1
  return next(
    n for n in range(1, batch + 1) if batch % n == 0 and (batch // n * elements <= limit or n == batch)
  )


def _pad(x: jax.Array, padding: Padding) -> jax.Array:
  return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((lo, hi, 0) for lo, hi in padding), (0, 0, 0)))


def _in_blocks(product: Callable[[jax.Array], jax.Array], x: jax.Array, blocks: int) -> jax.Array:
  """Computes product(x) for a batch in `blocks` parts, one after another."""
  if blocks == 1:
    return product(x)
  y = lax.map(product, x.reshape(blocks, -1, *x.shape[1:]))
  return y.reshape(-1, *y.shape[2:])


def _sum_in_blocks(
  product: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, dy: jax.Array, blocks: int
) -> jax.Array:
  """Computes product(x, dy), a sum over the batch, in `blocks` parts, one after another."""
  if blocks == 1:
    return product(x, dy)
  split = jax.tree.map(lambda a: a.reshape(blocks, -1, *a.shape[1:]), (x, dy))
  part = jax.eval_shape(product, *jax.tree.map(lambda a: a[0], split))
  zero = jnp.zeros(part.shape, part.dtype)
  total, _ = lax.scan(lambda total, xy: (total + product(*xy), None), zero, split)
  return total


# forward: (x, kernel, strides, padding) -> [batch, out_height, out_width, features], of x's dtype


def conv_reference(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
  """The plain convolution by XLA, the reference for all others, also in its gradients."""
  return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_IMAGES)


def patch_conv(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
  """Convolves by matrix products of patches of x with the kernel."""
  kh, kw, channels, features = kernel.shape
  size = output_size(x.shape[1:3], (kh, kw), strides, padding)
  columns = kernel.reshape(-1, features)

  def product(x):
    x = _pad(x, padding)
    rows = [_window(x, u, strides[0], size[0], axis=1) for u in range(kh)]
    return (
      jnp.concatenate([_window(row, v, strides[1], size[1], axis=2) for row in rows for v in range(kw)], -1)
      @ columns
    )

  return _in_blocks(product, x, _blocks(x.shape[0], size[0] * size[1] * kh * kw * channels, _BLOCK))


def shift_conv(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
  """Convolves at stride 1 by one matrix product of pixels and kernel, whose parts are shifted and added.

  With few features, it needs less memory than patches.
  """
  kh, kw, channels, features = kernel.shape
  height, width = output_size(x.shape[1:3], (kh, kw), (1, 1), padding)
  columns = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)

  def product(x):
    parts = jnp.split(_pad(x, padding) @ columns, kh * kw, axis=-1)
    shifts = itertools.product(range(kh), range(kw))
    return sum(part[:, u : u + height, v : v + width] for part, (u, v) in zip(parts, shifts, strict=True))

  padded = [n + sum(pads) for n, pads in zip(x.shape[1:3], padding, strict=True)]
  return _in_blocks(product, x, _blocks(x.shape[0], padded[0] * padded[1] * kh * kw * features, _BLOCK))


def row_conv(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
  """Convolves at stride 1 by a product of patches of one kernel row with all rows, shifted in height and added.

  It is a compromise between `patch_conv` and `shift_conv` for narrow images, where either gives a long and thin
  product.
  """
  kh, kw, channels, features = kernel.shape
  height, width = output_size(x.shape[1:3], (kh, kw), (1, 1), padding)
  columns = kernel.transpose(1, 2, 0, 3).reshape(kw * channels, kh * features)

  def product(x):
    x = _pad(x, padding)
    wide = jnp.concatenate([_window(x, v, 1, width, axis=2) for v in range(kw)], -1)
    parts = jnp.split(wide @ columns, kh, axis=-1)
    return sum(part[:, u : u + height] for u, part in enumerate(parts))

  row = kw * channels + kh * features
  return _in_blocks(product, x, _blocks(x.shape[0], (height + kh - 1) * width * row, _BLOCK))


def _fold_padding(
  n: Sequence[int], taps: Sequence[int], size: Sequence[int], strides: Pair, padding: Padding
) -> Padding:
  """Returns the padding that makes images of n pixels as large as the strides that `size` outputs of `taps` read."""
  top, left = (
    (lo, (m - 1 + k) * s - pixels - lo)
    for pixels, k, m, s, (lo, _) in zip(n, taps, size, strides, padding, strict=True)
  )
  return top, left


def _fold(x: jax.Array, taps: Sequence[int], size: Pair, strides: Pair, padding: Padding) -> jax.Array:
  """Rearranges the pixels within a stride to channels (space to depth), for `size` outputs that each read `taps`."""
  steps = [n - 1 + k for n, k in zip(size, taps, strict=True)]
  x = _pad(x, _fold_padding(x.shape[1:3], taps, size, strides, padding))
  x = x.reshape(x.shape[0], steps[0], strides[0], steps[1], strides[1], -1)
  return x.swapaxes(2, 3).reshape(x.shape[0], *steps, -1)


def _folded_taps(kernel_size: Pair, strides: Pair) -> Pair:
  """Returns the kernel size after the pixels within a stride have become channels."""
  height, width = (-(-k // s) for k, s in zip(kernel_size, strides, strict=True))
  return height, width


def _folded_kernel(kernel: jax.Array, strides: Pair) -> jax.Array:
  """Rearranges the taps within a stride to channels, after padding the kernel with zeros to whole strides."""
  kh, kw, channels, features = kernel.shape
  taps = _folded_taps((kh, kw), strides)
  whole = [(0, k * s - n) for k, s, n in zip(taps, strides, (kh, kw), strict=True)]
  kernel = jnp.pad(kernel, (*whole, (0, 0), (0, 0)))
  kernel = kernel.reshape(taps[0], strides[0], taps[1], strides[1], channels, features).swapaxes(1, 2)
  return kernel.reshape(*taps, -1, features)


# transpose: (dy, kernel, size, strides, padding) -> [batch, *size, channels]; strides and padding are those of the
# convolution


def flipped(kernel: jax.Array) -> jax.Array:
  """Returns the kernel of the adjoint: flipped in space, with channels and features exchanged."""
  return kernel[::-1, ::-1].swapaxes(2, 3)


def spread_padding(dy: jax.Array, kernel: jax.Array, size: Pair, strides: Pair, padding: Padding) -> Padding:
  """Returns the padding of dy, dilated by `strides`, with which the flipped kernel gives an image of `size`."""
  # y[i] reads x[i s + u - lo]; the part of x beyond the last window is the remainder on the right.
  top, left = (
    (k - 1 - lo, n - ((m - 1) * s + 1) + lo)
    for k, (lo, _), n, m, s in zip(kernel.shape[:2], padding, size, dy.shape[1:3], strides, strict=True)
  )
  return top, left


def dilated_by_xla(
  dy: jax.Array, kernel: jax.Array, size: Pair, strides: Pair, padding: Padding
) -> jax.Array:
  """An input-dilated convolution by XLA."""
  pads = spread_padding(dy, kernel, size, strides, padding)
  return lax.conv_general_dilated(
    dy, flipped(kernel), (1, 1), pads, lhs_dilation=strides, dimension_numbers=_IMAGES
  )


def _phase(phase: int, k: int, stride: int, lo: int, small: int, full: int) -> tuple[int, Pair]:
  """Expresses one phase of the stride, along one axis, as a convolution of dy.

  Outputs o = phase + j stride read taps u = first, first + stride, ... of the kernel.

  Returns:
    first, and the padding of dy with which the flipped taps give `full` outputs (those beyond the image are unused).
  """
  first = (phase + lo) % stride
  taps = len(range(first, k, stride))
  offset = (phase + lo - first) // stride  # Output j reads dy[offset + j - m] by tap m.
  before = taps - 1 - offset
  return first, (before, full + taps - 1 - small - before)


def phases(
  forward: Forward, dy: jax.Array, kernel: jax.Array, size: Pair, strides: Pair, padding: Padding
) -> jax.Array:
  """Convolves dy once per phase of the stride, with the taps of that phase, and interleaves the results."""
  full = [-(-n // s) for n, s in zip(size, strides, strict=True)]
  rows = []
  for a in range(strides[0]):
    u, vertical = _phase(a, kernel.shape[0], strides[0], padding[0][0], dy.shape[1], full[0])
    row = []
    for b in range(strides[1]):
      v, horizontal = _phase(b, kernel.shape[1], strides[1], padding[1][0], dy.shape[2], full[1])
      taps = kernel[u :: strides[0], v :: strides[1]]
      if 0 in taps.shape:  # A stride wider than the kernel leaves pixels that nothing reads.
        row.append(jnp.zeros((dy.shape[0], *full, kernel.shape[2]), dy.dtype))
      else:
        row.append(forward(dy, flipped(taps), (1, 1), (vertical, horizontal)))
    rows.append(jnp.stack(row, axis=3))
  whole = jnp.stack(rows, axis=2)  # [batch, height, phase, width, phase, channels]
  whole = whole.reshape(dy.shape[0], full[0] * strides[0], full[1] * strides[1], -1)
  return whole[:, : size[0], : size[1]]


def folded_transpose(
  forward: Forward, dy: jax.Array, kernel: jax.Array, size: Pair, strides: Pair, padding: Padding
) -> jax.Array:
  """Convolves at stride 1 with the pixels within a stride as channels, then applies depth to space.

  This is the adjoint of space to depth followed by a convolution with a smaller, deeper kernel.
  """
  folded = _folded_kernel(kernel, strides)
  taps, outputs = folded.shape[:2], dy.shape[1:3]
  before, after = ((k - 1, k - 1) for k in taps)
  x = forward(dy, flipped(folded), (1, 1), (before, after))
  x = x.reshape(*x.shape[:3], *strides, kernel.shape[2]).swapaxes(2, 3)
  x = x.reshape(x.shape[0], x.shape[1] * strides[0], x.shape[3] * strides[1], -1)
  (top, bottom), (left, right) = _fold_padding(size, taps, outputs, strides, padding)
  return _pad(x, ((-top, -bottom), (-left, -right)))


# weight_gradient: (x, dy, kernel_size, strides, padding) -> [*kernel_size, channels, features], of `_sum_type(x)`


def _sum_type(x: jax.Array) -> jnp.dtype:
  """Returns the dtype of sums over the batch: float32, or float64 if x is float64."""
  return jnp.promote_types(x.dtype, jnp.float32)


def weights_by_xla(
  x: jax.Array, dy: jax.Array, kernel_size: Pair, strides: Pair, padding: Padding
) -> jax.Array:
  """A convolution by XLA that contracts the batch."""
  # The batch takes the role of the channels, and the channels of x that of the batch. Windows that the stride left out
  # at the far end must not be visited, so the padding there is trimmed and may be negative.
  pads = []
  for axis in (0, 1):
    k, s, lo = kernel_size[axis], strides[axis], padding[axis][0]
    pads.append((lo, (dy.shape[axis + 1] - 1) * s + k - x.shape[axis + 1] - lo))
  return lax.conv_general_dilated(
    x, dy, (1, 1), pads, rhs_dilation=strides, dimension_numbers=("CHWN", "IHWO", "HWNC"),
    preferred_element_type=_sum_type(x),
  )  # fmt: skip


def weights_by_patches(
  x: jax.Array, dy: jax.Array, kernel_size: Pair, strides: Pair, padding: Padding
) -> jax.Array:
  """Matrix products of patches of x with dy.

  The patches are one kernel row wide, and the product for each kernel row reads them at another height. They need a
  third of the memory of whole 3 x 3 patches.
  """
  kh, kw = kernel_size
  batch, *size, features = dy.shape
  channels = x.shape[3]

  def product(x, dy):
    x = _pad(x, padding)
    wide = jnp.concatenate([_window(x, v, strides[1], size[1], axis=2) for v in range(kw)], -1)
    heights = (_window(wide, u, strides[0], size[0], axis=1) for u in range(kh))
    rows = dy.reshape(-1, features)
    contract = (((0,), (0,)), ((), ()))
    return jnp.stack([
      lax.dot_general(at.reshape(-1, kw * channels), rows, contract, preferred_element_type=_sum_type(x))
      for at in heights
    ])  # fmt: skip

  blocks = _blocks(batch, size[0] * size[1] * kh * kw * channels, _WEIGHT_BLOCK)
  return _sum_in_blocks(product, x, dy, blocks).reshape(kh, kw, channels, features)


def weights_by_rows(
  x: jax.Array, dy: jax.Array, kernel_size: Pair, strides: Pair, padding: Padding
) -> jax.Array:
  """One product, at stride 1, of patches of x, one kernel row wide, with patches of dy, one kernel column high.

  With few channels and features, it does the same work in one product that is about square.
  """
  assert strides == (1, 1)
  kh, kw = kernel_size
  batch, height, width, features = dy.shape
  channels = x.shape[3]

  def product(x, dy):
    x = _pad(x, padding)[:, : height + kh - 1]
    wide = jnp.concatenate([_window(x, v, 1, width, axis=2) for v in range(kw)], -1)
    high = jnp.concatenate([_pad(dy, ((u, kh - 1 - u), (0, 0))) for u in range(kh)], -1)
    return lax.dot_general(
      wide.reshape(-1, kw * channels), high.reshape(-1, kh * features), (((0,), (0,)), ((), ())),
      preferred_element_type=_sum_type(x),
    )  # fmt: skip

  row = kw * channels + kh * features
  total = _sum_in_blocks(product, x, dy, _blocks(batch, (height + kh - 1) * width * row, _WEIGHT_BLOCK))
  return total.reshape(kw, channels, kh, features).transpose(2, 0, 1, 3)


def weights_by_patches_of_dy(
  x: jax.Array, dy: jax.Array, kernel_size: Pair, strides: Pair, padding: Padding
) -> jax.Array:
  """Like `weights_by_patches`, but with patches of dy, at stride 1; it needs less memory with few features."""
  assert strides == (1, 1)
  pads = tuple(
    (k - 1 - lo, n - m + lo)
    for k, (lo, _), n, m in zip(kernel_size, padding, x.shape[1:3], dy.shape[1:3], strict=True)
  )
  return flipped(weights_by_patches(dy, x, kernel_size, strides, (pads[0], pads[1])))


def folded_weights(
  weights: Callable[..., jax.Array],
  x: jax.Array,
  dy: jax.Array,
  kernel_size: Pair,
  strides: Pair,
  padding: Padding,
) -> jax.Array:
  """Applies space to depth to x, and computes the weight gradient of a smaller, deeper kernel at stride 1."""
  taps = _folded_taps(kernel_size, strides)
  x_folded = _fold(x, taps, (dy.shape[1], dy.shape[2]), strides, padding)
  d_kernel = weights(x_folded, dy, taps, (1, 1), ((0, 0), (0, 0)))
  d_kernel = d_kernel.reshape(*taps, *strides, x.shape[3], -1).swapaxes(1, 2)
  whole = d_kernel.reshape(taps[0] * strides[0], taps[1] * strides[1], x.shape[3], -1)
  return whole[: kernel_size[0], : kernel_size[1]]
