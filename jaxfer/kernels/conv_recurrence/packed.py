"""The array layout of the Pallas kernels: channels on sublanes, the pixels of several images on lanes.

A TPU computes on vectors of 8 sublanes by 128 lanes. XLA puts the channels of an image on the lanes, so a recurrence of
32 channels leaves three quarters of every vector idle. Here the lanes hold pixels, ordered as (row, image, column): the
images of a block are side by side. Rows of a block are padded to whole vectors, so the neighbour above or below is
a whole number of vectors away and lanes need not be shuffled; the neighbour to the right takes one rotation.

A packed array is [..., blocks, channels, lanes]. Channels are padded to a multiple of 16, the sublanes of a bfloat16
vector. Padding is zero after `pack`. The kernels may write any values to padded lanes, which `unpack` drops.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

VECTOR = 128  # Lanes of a vector.
_CHANNELS = 16
_TILES = (16, 12, 8)  # Vectors of lanes that a kernel may handle at a time.


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def choose(batch: int, height: int, width: int, fits: Callable[["Layout"], bool]) -> "Layout | None":
  """Returns the layout with the fewest lanes without a pixel and, among these, the largest block that fits.

  Args:
    batch: number of images.
    height: height of an image in pixels.
    width: width of an image in pixels.
    fits: whether kernels that work on blocks of a layout fit into VMEM.

  Returns:
    The layout, or None if not even blocks of one image fit.
  """
  layouts = [Layout(batch, height, width, block) for block in range(1, min(batch, VECTOR) + 1)]
  fitting = [layout for layout in layouts if fits(layout)]
  return min(fitting, key=lambda layout: (layout.blocks * layout.lanes, -layout.block), default=None)


def padded_channels(channels: int) -> int:
  """Returns the number of channels of a packed array."""
  return _round_up(channels, _CHANNELS)


@dataclasses.dataclass(frozen=True)
class Layout:
  """The arrangement of the pixels of a batch.

  Attributes:
    batch: number of images.
    height: height of an image in pixels.
    width: width of an image in pixels.
    block: number of images per block; the last block is filled up with images of zeros.
  """

  batch: int
  height: int
  width: int
  block: int

  @property
  def blocks(self) -> int:
    """Number of blocks."""
    return -(-self.batch // self.block)

  @property
  def row(self) -> int:
    """Number of lanes from a pixel to the one below it."""
    return _round_up(self.width * self.block, VECTOR)

  @property
  def tile(self) -> int:
    """Number of lanes that a kernel processes at a time."""
    vectors = self.height * self.row // VECTOR
    sizes = _TILES if vectors > min(_TILES) else (vectors,)
    return VECTOR * min(sizes, key=lambda size: (_round_up(vectors, size), -size))

  @property
  def lanes(self) -> int:
    """Number of lanes of a block, a whole number of tiles."""
    return _round_up(self.height * self.row, self.tile)

  @property
  def padded(self) -> bool:
    """Whether some lanes hold no pixel."""
    return self.lanes != self.height * self.width * self.block

  def pack(self, x: jax.Array) -> jax.Array:
    """Packs [batch, ..., height, width, channels] to [..., blocks, channels, lanes]."""
    batch, *between, height, width, channels = x.shape
    x = jnp.pad(x, [(0, self.blocks * self.block - batch), *[(0, 0)] * (x.ndim - 1)])
    x = x.reshape(self.blocks, self.block, *x.shape[1:])
    k = len(between)
    # (block, image, ..., y, x, c) -> (..., block, c, y, image, x)
    x = x.transpose(*range(2, 2 + k), 0, 4 + k, 2 + k, 1, 3 + k)
    x = x.reshape(*x.shape[:-2], width * self.block)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, self.row - x.shape[-1])])
    x = x.reshape(*x.shape[:-2], height * self.row)
    padding = (0, padded_channels(channels) - channels), (0, self.lanes - x.shape[-1])
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [*padding])

  def unpack(self, x: jax.Array, channels: int) -> jax.Array:
    """Unpacks [..., blocks, padded channels, lanes] to [batch, ..., height, width, channels]."""
    *between, _, _, _ = x.shape
    x = x[..., :channels, : self.height * self.row]
    x = x.reshape(*x.shape[:-1], self.height, self.row)[..., : self.width * self.block]
    x = x.reshape(*x.shape[:-1], self.block, self.width)
    k = len(between)
    # (..., block, c, y, image, x) -> (block, image, ..., y, x, c)
    x = x.transpose(k, k + 3, *range(k), k + 2, k + 4, k + 1)
    return x.reshape(self.blocks * self.block, *x.shape[2:])[: self.batch]

  def pack_pixels(self, a: jax.Array) -> jax.Array:
    """Packs [..., height, width, channels], the same for every image, to [..., channels, lanes]."""
    one = dataclasses.replace(self, batch=self.block)
    return one.pack(jnp.broadcast_to(a, (self.block, *a.shape)))[..., 0, :, :]

  def pack_images(self, a: jax.Array) -> jax.Array:
    """Packs [batch, ...], with one value per image, to [..., blocks, 1, lanes]."""
    a = a[..., None, None, None]
    a = jnp.broadcast_to(a, (*a.shape[:-3], self.height, self.width, 1))
    return self.pack(a)[..., :1, :]

  def edges(self, taps: int) -> np.ndarray:
    """Returns [taps, lanes] with all bits set if the neighbour of a pixel, `tap - taps // 2` columns right, exists."""
    lane = np.arange(self.lanes)
    column = lane % self.row % self.width
    inside = (lane % self.row < self.width * self.block) & (lane < self.height * self.row)
    neighbours = [column + tap - taps // 2 for tap in range(taps)]
    found = [inside & (n >= 0) & (n < self.width) for n in neighbours]
    return np.where(found, -1, 0).astype(np.int32)

  def grown(self, height: int, width: int) -> "Layout":
    """Returns a layout for images of another size: joins blocks of this one until few lanes are without a pixel."""
    joined = [
      Layout(self.batch, height, width, n * self.block) for n in range(1, -(-VECTOR // self.block) + 1)
    ]
    return min(joined, key=lambda layout: (layout.blocks * layout.lanes, layout.block))


def _selection(old: Layout, new: Layout, stride: int, offset: int) -> np.ndarray:
  """Returns [joined blocks, old row, new row], 1 if column `stride * x + offset` of an image becomes its column x."""
  joined = new.block // old.block
  found = np.zeros((joined, old.row, new.row), np.float32)
  j, image, x = np.meshgrid(np.arange(joined), np.arange(old.block), np.arange(new.width), indexing="ij")
  found[j, image * old.width + stride * x + offset, (j * old.block + image) * new.width + x] = 1
  return found


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
  """A sequence of images in a packed layout, which one layer can pass to the next.

  Its `shape` is that of the unpacked array.

  Attributes:
    data: [time, blocks, padded channels, lanes].
    layout: arrangement of the pixels.
    channels: number of channels of an image.
  """

  data: jax.Array
  layout: Layout = dataclasses.field(metadata={"static": True})
  channels: int = dataclasses.field(metadata={"static": True})

  @property
  def shape(self) -> tuple[int, int, int, int, int]:
    """Shape of the unpacked array: [batch, time, height, width, channels]."""
    at = self.layout
    return at.batch, self.data.shape[0], at.height, at.width, self.channels

  @property
  def ndim(self) -> int:
    """Of `shape`."""
    return 5

  @property
  def dtype(self) -> Any:
    """Of the data."""
    return self.data.dtype

  def astype(self, dtype: Any) -> "Packed":
    """The same in another dtype."""
    return dataclasses.replace(self, data=self.data.astype(dtype))

  def unpack(self) -> jax.Array:
    """Unpacks the data to [batch, time, height, width, channels]."""
    return self.layout.unpack(self.data, self.channels)

  def to(self, layout: Layout) -> "Packed":
    """The same images in another layout."""
    if layout == self.layout:
      return self
    if layout.block % self.layout.block:
      return dataclasses.replace(self, data=layout.pack(self.unpack()), layout=layout)
    return self._select(self._rows(1), layout, 1, 0)

  def pool(self) -> "Packed":
    """Maximum over 2 x 2 windows; an odd last row or column is dropped.

    The remaining columns are moved next to each other by a product with a matrix of zeros and ones, which is exact
    and, unlike a copy, keeps channels on sublanes.
    """
    old = self.layout
    new = old.grown(old.height // 2, old.width // 2)
    rows = self._rows(2)
    rows = jnp.maximum(rows[..., : old.row], rows[..., old.row :])
    even, odd = (self._select(rows, new, 2, offset) for offset in (0, 1))
    return dataclasses.replace(even, data=jnp.maximum(even.data, odd.data))

  def _rows(self, together: int) -> jax.Array:
    """[time, blocks, height / together, channels, together rows]; what does not fill the last of them is dropped."""
    at = self.layout
    height = at.height // together
    rows = self.data[..., : height * together * at.row]
    return rows.reshape(*rows.shape[:-1], height, together * at.row).swapaxes(-2, -3)

  def _select(self, rows: jax.Array, new: Layout, stride: int, offset: int) -> "Packed":
    """Takes columns of `rows` [time, blocks, height, channels, row] into the layout `new`."""
    joined = new.block // self.layout.block
    missing = new.blocks * joined - rows.shape[1]
    rows = jnp.pad(rows, [(0, 0), (0, missing), *[(0, 0)] * 3])
    rows = rows.reshape(rows.shape[0], new.blocks, joined, *rows.shape[2:])
    data = jnp.einsum(
      "tnkhcr,krs->tnhcs",
      rows,
      jnp.asarray(_selection(self.layout, new, stride, offset), rows.dtype),
      precision=lax.Precision.HIGHEST,
    ).swapaxes(-2, -3)
    data = data.reshape(*data.shape[:-2], new.height * new.row)
    data = jnp.pad(data, [(0, 0)] * 3 + [(0, new.lanes - data.shape[-1])])
    return Packed(data, new, self.channels)
