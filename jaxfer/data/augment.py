"""Random transforms of training examples, drawn on the device with one key per example."""

import zlib

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def random_affine(
  keys: jax.Array, size: tuple[int, int], *, flip: bool = True, rotation: float = 0.0, shift: float = 0.0
) -> jax.Array:
  """Draws matrices for `kernels.warp.affine`: mirroring, rotation around the centre, shift.

  Args:
    keys: [batch] typed keys of the examples.
    size: (height, width) of the images.
    flip: whether to mirror left and right with probability 0.5.
    rotation: largest angle in degrees; drawn uniformly from -rotation to rotation.
    shift: largest shift as a share of the size; drawn uniformly from -shift to shift, in x and in y.

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


def flip_or_noise(
  keys: jax.Array, images: jax.Array, heatmaps: jax.Array, *, flip: bool = True, variance: float = 30.0
) -> tuple[jax.Array, jax.Array]:
  """Mirrors a quarter of the examples and adds noise to another quarter (the recipe of ARM's released code).

  The heatmap of a mirrored picture is mirrored too. Noise is added only to the picture, independent and Gaussian in
  every pixel and channel; the sum is clipped to 0..255 and truncated to whole numbers as in a cast to bytes. Half of
  the examples stay unchanged, and also the quarter of a transform that is turned off.

  Args:
    keys: [batch] typed keys of the examples.
    images: [batch, height, width, channels] float, 0 to 255.
    heatmaps: [batch, height', width', channels'].
    flip: whether to mirror.
    variance: variance of the noise in squared grey levels, >= 0; 0 turns it off.

  Returns:
    Both, transformed.
  """

  def one(key, image, heatmap):
    which, noise = jax.random.split(jax.random.fold_in(key, zlib.crc32(b"flip_or_noise")))
    drawn = jax.random.uniform(which)
    mirrored, noisy = flip & (drawn < 0.25), (variance > 0) & (drawn >= 0.75)
    added = image + variance**0.5 * jax.random.normal(noise, image.shape)
    image = jnp.where(mirrored, image[:, ::-1], jnp.where(noisy, jnp.floor(jnp.clip(added, 0, 255)), image))
    return image, jnp.where(mirrored, heatmap[:, ::-1], heatmap)

  return jax.vmap(one)(keys, images, heatmaps)


def resize(images: jax.Array, size: int) -> jax.Array:
  """Resizes images to size x size pixels like Pillow's bilinear filter, with half-pixel centres and anti-aliasing.

  Pillow rounds to bytes after each of its two passes (columns, then rows); this function does not round, so the two
  differ by at most one grey level.

  Args:
    images: [batch, height, width, channels] float.
    size: edge of the result in pixels.

  Returns:
    [batch, size, size, channels]; the images themselves if they already have that size.
  """
  batch, height, width, channels = images.shape
  if (height, width) == (size, size):
    return images
  return jax.image.resize(images, (batch, size, size, channels), "linear", antialias=True)


_TRIES = 10  # As in torchvision's RandomErasing and RandomResizedCrop.


def _box(
  key: jax.Array,
  size: tuple[int, ...],
  scale: tuple[float, float],
  ratio: tuple[float, float],
  *,
  wide: bool,
  spare: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Draws ten random boxes and takes the first that fits.

  Args:
    key: typed key of the draw.
    size: (height, width) of the image.
    scale: smallest and largest area of the box as a share of the image; drawn uniformly.
    ratio: smallest and largest aspect ratio; its logarithm is drawn uniformly.
    wide: whether the ratio is width over height; otherwise it is height over width.
    spare: least number of pixels by which the box is smaller than the image in both directions.

  Returns:
    Whether each pixel [height, width] is in the box, whether a box fitted, and a uniform number from 0 to 1.
  """
  height, width = size
  drawn = jax.random.uniform(key, (2 * _TRIES + 3,))
  area = height * width * (scale[0] + (scale[1] - scale[0]) * drawn[:_TRIES])
  low, high = jnp.log(jnp.asarray(ratio, jnp.float32))
  aspect = jnp.exp(low + (high - low) * drawn[_TRIES : 2 * _TRIES])
  sides = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
  rows, columns = sides[::-1] if wide else sides
  fits = (rows <= height - spare) & (columns <= width - spare)
  first = jnp.argmax(fits)
  rows, columns = rows[first], columns[first]
  chance, down, right = drawn[2 * _TRIES :]
  top, left = jnp.floor(down * (height - rows + 1)), jnp.floor(right * (width - columns + 1))
  y, x = jnp.arange(height)[:, None], jnp.arange(width)
  return (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns), fits.any(), chance


def random_erasing(
  keys: jax.Array,
  images: jax.Array,
  *,
  probability: float = 0.5,
  scale: tuple[float, float] = (0.02, 0.1),
  ratio: tuple[float, float] = (0.3, 3.3),
  value: float = 0.0,
) -> jax.Array:
  """Fills a random box of some images with one value (torchvision's RandomErasing; the recipe of ARM's code).

  Up to ten boxes are drawn, and the first that is smaller than the image in both directions is taken. If there is none,
  the image stays unchanged.

  Args:
    keys: [batch] typed keys of the examples.
    images: [batch, height, width, channels] float, on the same scale as `value`.
    probability: probability of a box per image, in [0, 1].
    scale: smallest and largest area of the box as a share of the image; drawn uniformly.
    ratio: smallest and largest height over width of the box; its logarithm is drawn uniformly.
    value: value that fills the box.

  Returns:
    Images of the same shape.
  """
  size = images.shape[1:3]

  def one(key, image):
    key = jax.random.fold_in(key, zlib.crc32(b"erasing"))
    inside, found, chance = _box(key, size, scale, ratio, wide=False, spare=1)
    erased = inside & found & (chance < probability)
    return jnp.where(erased[:, :, None], jnp.asarray(value, image.dtype), image)

  return jax.vmap(one)(keys, images)


def random_resized_crop(
  keys: jax.Array, images: jax.Array, *, scale: tuple[float, float] = (0.08, 1.0)
) -> jax.Array:
  """Resizes a random box of each image to the size of the image (torchvision's RandomResizedCrop).

  The box is drawn as in `crop_on_black`. Like Pillow's bilinear filter, the interpolation reads only pixels of the box.

  Args:
    keys: [batch] typed keys of the examples.
    images: [batch, height, width, channels] float.
    scale: smallest and largest area of the box as a share of the image, in (0, 1]; drawn uniformly.

  Returns:
    Images of the same shape.
  """
  size = images.shape[1:3]

  def one(key, image):
    key = jax.random.fold_in(key, zlib.crc32(b"resized crop"))
    inside, found, _ = _box(key, size, scale, (3 / 4, 4 / 3), wide=True, spare=0)
    inside |= ~found
    rows, columns = _enlarging(inside.any(1)), _enlarging(inside.any(0))
    return jnp.einsum("ay,yxc,bx->abc", rows, image, columns, precision="highest")

  return jax.vmap(one)(keys, images)


def _enlarging(inside: jax.Array) -> jax.Array:
  """Returns weights [n, n] (result x source) that enlarge the interval of pixels marked by `inside` [n] to n pixels."""
  count = len(inside)
  at = jnp.argmax(inside) + (jnp.arange(count) + 0.5) * inside.sum() / count - 0.5
  weights = jnp.where(inside, jax.nn.relu(1 - jnp.abs(at[:, None] - jnp.arange(count))), 0)
  return weights / weights.sum(1, keepdims=True)


def crop_on_black(keys: jax.Array, images: jax.Array, *, probability: float = 0.2) -> jax.Array:
  """Keeps a random box of some images in place and makes the rest black (AdaFace's training code).

  The box is drawn as in torchvision's RandomResizedCrop: its area is a uniform share from 0.2 to 1, and the logarithm
  of width over height is uniform between those of 3/4 and 4/3. The first of ten boxes that fits is taken, else the
  whole picture (torchvision takes the middle within these ratios, which for a square picture is the whole).

  Args:
    keys: [batch] typed keys of the examples.
    images: [batch, height, width, channels] float, where 0 is black.
    probability: probability of a box per image, in [0, 1].

  Returns:
    Images of the same shape.
  """
  size = images.shape[1:3]

  def one(key, image):
    key = jax.random.fold_in(key, zlib.crc32(b"crop"))
    inside, found, chance = _box(key, size, (0.2, 1.0), (3 / 4, 4 / 3), wide=True, spare=0)
    kept = inside | ~found | (chance >= probability)
    return jnp.where(kept[:, :, None], image, 0)

  return jax.vmap(one)(keys, images)


def low_resolution(keys: jax.Array, images: jax.Array, *, probability: float = 0.2) -> jax.Array:
  """Reduces some images and enlarges them to their size again (AdaFace's training code).

  The reduced size is a uniform share from 0.2 to 1. Each of the two steps uses one of OpenCV's interpolations at
  random: nearest, linear, area or cubic. Deviations: Lanczos is left out; cubic weights are normalised at the border,
  where OpenCV repeats the last pixel; area is linear when enlarging, as it nearly is in OpenCV.

  Args:
    keys: [batch] typed keys of the examples.
    images: [batch, size, size, channels] float, 0 to 255.
    probability: probability per image, in [0, 1].

  Returns:
    Images of the same shape.
  """
  size = images.shape[1]

  def one(key, image):
    share, down, up, chance = jax.random.split(jax.random.fold_in(key, zlib.crc32(b"low resolution")), 4)
    small = jnp.floor(size * jax.random.uniform(share, minval=0.2, maxval=1.0)).clip(1)
    there = _interpolation(size, small, size, jax.random.randint(down, (), 0, 4))
    back = _interpolation(small, size, size, jax.random.randint(up, (), 0, 4))
    matrix = back @ there
    coarse = jnp.einsum("ij,jkc,lk->ilc", matrix, image, matrix).clip(0, 255)
    return jnp.where(jax.random.uniform(chance) < probability, coarse, image)

  return jax.vmap(one)(keys, images)


def _interpolation(before: ArrayLike, after: ArrayLike, size: int, kind: jax.Array) -> jax.Array:
  """Returns weights [size, size] that resample the first `before` values to the first `after`; all others are zero.

  `kind` is 0 for nearest, 1 linear, 2 area, 3 cubic (as in OpenCV, a = -0.75); only area smooths.
  """
  i, j = jnp.arange(size)[:, None], jnp.arange(size)[None]
  ratio = before / jnp.asarray(after, jnp.float32)
  place = ((i + 0.5) * ratio - 0.5).clip(0, before - 1)
  away = jnp.abs(place - j)
  nearest = (j == jnp.floor(i * ratio)).astype(jnp.float32)
  linear = jnp.maximum(0, 1 - away)
  overlap = jnp.maximum(0, jnp.minimum((i + 1) * ratio, j + 1) - jnp.maximum(i * ratio, j))
  area = jnp.where(ratio > 1, overlap, linear)
  near = (1.25 * away - 2.25) * away**2 + 1
  far = ((-0.75 * away + 3.75) * away - 6) * away + 3
  cubic = jnp.where(away <= 1, near, jnp.where(away < 2, far, 0))
  weights = jnp.stack([nearest, linear, area, cubic])[kind]
  weights = jnp.where((j < before) & (i < after), weights, 0)
  return weights / jnp.where(i < after, weights.sum(1, keepdims=True), 1)


def colour_jitter(
  keys: jax.Array, images: jax.Array, *, strength: float = 0.5, probability: float = 1.0
) -> jax.Array:
  """Changes brightness, contrast and saturation of some images, in a random order (torchvision's ColorJitter).

  Each is changed by a factor drawn uniformly from 1 - strength to 1 + strength, then clipped to 0..255. The hue does
  not change, as in AdaFace's code.

  Args:
    keys: [batch] typed keys of the examples.
    images: [batch, height, width, 3] float, 0 to 255, RGB.
    strength: strength of each change, in [0, 1].
    probability: probability per image, in [0, 1].

  Returns:
    Images of the same shape.
  """
  luma = jnp.asarray((0.299, 0.587, 0.114), jnp.float32)

  def one(key, image):
    order, factors, chance = jax.random.split(jax.random.fold_in(key, zlib.crc32(b"colour jitter")), 3)
    drawn = jax.random.uniform(factors, (3,), minval=1 - strength, maxval=1 + strength)
    changed = image
    for which in jax.random.permutation(order, 3):
      grey = (changed * luma).sum(-1, keepdims=True)
      other = jnp.stack([jnp.zeros_like(grey), jnp.full_like(grey, grey.mean()), grey])[which]
      changed = (other + drawn[which] * (changed - other)).clip(0, 255)
    return jnp.where(jax.random.uniform(chance) < probability, changed, image)

  return jax.vmap(one)(keys, images)


def mirror(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Mirrors each image [height, width, channels], or sequence of images, left to right with probability 0.5."""

  def one(key, image):
    drawn = jax.random.bernoulli(jax.random.fold_in(key, zlib.crc32(b"mirror")))
    return jnp.where(drawn, image[..., ::-1, :], image)

  return jax.vmap(one)(keys, images)
