"""The common part of the forward and backward kernels of `pallas`: a time step of a block of images, tile by tile.

The step of a cell (`cells._step`) is a chain of convolutions joined by pointwise operations. A pointwise operation can
run on some hundred lanes at a time and keep its values in registers, but a convolution needs the whole image of its
input. Therefore a step runs in stages. Stage k runs the chain up to the k-th convolution for all tiles, and stores the
input of that convolution; the values of the earlier convolutions are known by then. Every stage runs the same function
`cells._step`, and the compiler removes the parts that a stage does not need.

A convolution is one matrix product per tile. Its patches are not stored, but copies of the source are, one for each
column of the kernel, shifted by lanes and masked at the border of the image. A row of the kernel is a whole number of
vectors away (see `packed`) and is read directly from the copy. A halo of zeros before the first and after the last
row represents the pixels outside. Copies of bfloat16 are shifted as 32-bit words of two channels, which halves the
work.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxfer.kernels.conv_recurrence.packed import VECTOR, Layout

Refs = Mapping[str, Any]
_TILE = 2**18  # Limit of the numbers in the largest value of a tile.
SPATIAL_SKIP = "spatial_skip"
POINTWISE_OUTPUT = (((1,), (0,)), ((), ()))
OVER_ROWS = (((0,), (0,)), ((), ()))
OVER_LANES = (((1,), (1,)), ((), ()))


@dataclasses.dataclass(frozen=True)
class Map:
  """A convolution of a cell: its name, its (padded) features, and whether it reads the input besides the state."""

  name: str
  rows: int
  reads_input: bool


@dataclasses.dataclass(frozen=True)
class Plan:
  """The properties of a recurrence that are known when its kernels are traced.

  Attributes:
    step: (state, affine, constants) -> (state, output), channels on axis -2.
    maps: the convolutions in the order in which `step` calls them.
    layout: arrangement of the pixels.
    kernel_size: odd (height, width) of the convolutions.
    features: padded number of features of the state.
    channels: padded number of channels of the input.
    dtype: dtype of the input and the state.
    exact: whether to multiply in float32 instead of bfloat16.
  """

  step: Callable
  maps: tuple[Map, ...]
  layout: Layout
  kernel_size: tuple[int, int]
  features: int
  channels: int
  dtype: Any
  exact: bool

  @property
  def tile(self) -> int:
    """Number of lanes processed at a time: fewer if there are many features, which keeps the program short."""
    vectors = self.layout.tile // VECTOR
    numbers = _TILE // 4 if self.exact else _TILE  # A float32 product takes six bfloat16 products.
    most = max(1, numbers // max(m.rows for m in self.maps) // VECTOR)
    return VECTOR * max(n for n in range(1, vectors + 1) if vectors % n == 0 and n <= most)

  @property
  def product_dtype(self) -> Any:
    """Dtype in which the matrix unit multiplies; it adds in float32."""
    return jnp.float32 if self.exact else jnp.bfloat16

  @property
  def reach(self) -> int:
    """Number of lanes beside a tile that a shift by columns may read."""
    return -(-(self.kernel_size[1] // 2) // VECTOR) * VECTOR

  @property
  def halo(self) -> int:
    """Number of lanes of zeros before and after a block, as far as a convolution reads."""
    return max(self.reach, self.kernel_size[0] // 2 * self.layout.row)

  def words(self, channels: int) -> int:
    """Returns the number of rows of 32-bit words that hold `channels`."""
    return channels if self.exact else channels // 2

  def copies(self, channels: int) -> Any:
    """Returns scratch memory for the shifted copies of a source."""
    return pltpu.VMEM(
      (self.kernel_size[1], self.words(channels), self.layout.lanes + 2 * self.halo), jnp.int32
    )

  def all_copies(self) -> dict[str, Any]:
    """Returns scratch memory for the copies of the input ("x") and of each map's part of the state."""
    return {"x": self.copies(self.channels), **{m.name: self.copies(self.features) for m in self.maps}}

  def dot(self, a: jax.Array, b: jax.Array, dimensions) -> jax.Array:
    """Multiplies two matrices in `product_dtype` and sums in float32."""
    precision = lax.Precision.HIGHEST if self.exact else lax.Precision.DEFAULT
    a, b = a.astype(self.product_dtype), b.astype(self.product_dtype)
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(plan: Plan, weights: jax.Array, s: jax.Array) -> jax.Array:
  """Multiplies weights [features, channels] with s [channels, lanes]; gradients also have the plan's precision."""
  return plan.dot(weights, s, POINTWISE_OUTPUT)


def _product_forward(plan, weights, s):
  return _product(plan, weights, s), (weights, s)


def _product_backward(plan, residuals, d_value):
  weights, s = residuals
  return plan.dot(d_value, s, OVER_LANES), plan.dot(weights, d_value, OVER_ROWS)


_product.defvjp(_product_forward, _product_backward)


class _Reached(Exception):
  """Carries the input of a convolution out of the step that has called it."""

  def __init__(self, source):
    super().__init__()
    self.source = source


def replay(plan: Plan, stage: int, carry, values, points, constants, x, mask=None):
  """Runs the step on a tile up to the input of map `stage`, or to its results for the stage after the last map.

  Args:
    plan: plan of the recurrence.
    stage: index of a map, or the number of maps.
    carry: the state, float32, each [features, lanes].
    values: name -> value [rows, lanes] of the maps before `stage`.
    points: name -> (weights, bias) of the pointwise maps.
    constants: further arrays that the step reads.
    x: the input, float32, [channels, lanes].
    mask: [1, lanes], zero after the end of a sequence, or None.

  Returns:
    The input of map `stage`, or the new state and the output, which is arbitrary after the end of a sequence.
  """

  def affine(name, s):
    if name in points:
      weights, bias = points[name]
      return _product(plan, weights, s) + bias
    if stage < len(plan.maps) and name == plan.maps[stage].name:
      raise _Reached(s)
    return values[name]

  try:
    new, _ = plan.step(carry, affine, constants)
  except _Reached as reached:
    return reached.source
  if mask is not None:
    running = jnp.broadcast_to(mask, new.h.shape) != 0
    new = jax.tree.map(lambda new, old: jnp.where(running, new, old), new, carry)
  if SPATIAL_SKIP in points:
    return new, affine(SPATIAL_SKIP, jnp.concatenate([new.h, x], axis=0))
  return new, new.h


def shift(window: jax.Array, lanes: int, reach: int) -> jax.Array:
  """Shifts a window and drops `reach` lanes on either side: out[n] = window[reach + n + lanes]."""
  size = window.shape[-1]
  moved = pltpu.roll(window, -lanes % size, 1) if lanes else window
  return moved[:, reach : size - reach]


class Tiles:
  """The refs of a kernel while it is traced, and the operations that both kernels share.

  Attributes:
    plan: plan of the recurrence.
    operands: refs of weights, biases, points, constants and edges.
    copies: scratch memory from `Plan.all_copies`.
    values: scratch memory for the values of all maps but the last, by name.
    carry: function of a start lane that returns the state before the step, float32, for the tile that starts there.
    x: ref [channels, lanes].
    mask: ref [1, lanes], or None.
  """

  def __init__(self, plan: Plan, operands: Refs, copies: Refs, values: Refs, carry: Callable, x, mask):
    self.plan, self.operands, self.copies, self.values = plan, operands, copies, values
    self.carry, self.x, self.mask = carry, x, mask

  def loop(self, body: Callable[[Any], None]) -> None:
    """Calls body(first lane) for every tile."""
    tile = self.plan.tile
    count = self.plan.layout.lanes // tile
    if count == 1:
      return body(0)

    def one(k, carry):
      body(pl.multiple_of(k * tile, VECTOR))
      return carry

    lax.fori_loop(0, count, one, 0)
    return None

  def lanes(self, start, before: int = 0, after: int = 0):
    """Returns the slice of the tile's lanes, extended by `before` and `after`."""
    return pl.ds(start - before, self.plan.tile + before + after)

  def zero_halos(self, refs) -> None:
    """Clears the lanes around the block in scratch [..., halo + lanes + halo]."""
    for ref in refs:
      halo = (ref.shape[-1] - self.plan.layout.lanes) // 2
      if halo:
        zeros = jnp.zeros((*ref.shape[:-1], halo), ref.dtype)
        ref[..., :halo] = zeros
        ref[..., halo + self.plan.layout.lanes :] = zeros

  def edge(self, tap: int, start) -> jax.Array:
    """Returns [1, lanes] of bits that are set if the column that `tap` reads is inside the image."""
    return self.operands["edges"][tap : tap + 1, self.lanes(start)]

  def keep(self, name: str, start, source: jax.Array) -> None:
    """Stores a tile of the input of a convolution as the copy that is not shifted."""
    plan = self.plan
    middle = plan.kernel_size[1] // 2
    words = pltpu.bitcast(source.astype(plan.product_dtype), jnp.int32)
    if plan.layout.padded:
      words &= self.edge(middle, start)
    self.copies[name][middle, :, self.lanes(plan.halo + start)] = words

  def spread(self, name: str) -> None:
    """Makes the shifted copies, once `keep` has stored all tiles."""
    plan, ref = self.plan, self.copies[name]
    taps = plan.kernel_size[1]
    if taps == 1:
      return

    def body(start):
      window = ref[taps // 2, :, self.lanes(plan.halo + start - plan.reach, after=2 * plan.reach)]
      for tap in range(taps):
        if tap != taps // 2:
          moved = shift(window, tap - taps // 2, plan.reach)
          ref[tap, :, self.lanes(plan.halo + start)] = moved & self.edge(tap, start)

    self.loop(body)

  def patches(self, map_: Map, start) -> jax.Array:
    """Returns the patches that the map multiplies for a tile, [columns of the map's weights, lanes]."""
    plan, parts = self.plan, []
    rows, columns = plan.kernel_size
    for name in (map_.name, "x") if map_.reads_input else (map_.name,):
      for row in range(rows):
        lanes = self.lanes(plan.halo + start + (row - rows // 2) * plan.layout.row)
        parts += [pltpu.bitcast(self.copies[name][k, :, lanes], plan.product_dtype) for k in range(columns)]
    return jnp.concatenate(parts, axis=0)

  def value(self, map_: Map, patches: jax.Array) -> jax.Array:
    """Computes the map's value from its patches, float32."""
    value = self.plan.dot(self.operands["weights"][map_.name][...], patches, POINTWISE_OUTPUT)
    return value + self.operands["biases"][map_.name][...]

  def arguments(self, start, values: Mapping[str, jax.Array]):
    """Returns (carry, values, points, constants, x) of `replay` for a tile."""
    points = {
      name: (weights[...].astype(jnp.float32), bias[...])
      for name, (weights, bias) in self.operands["points"].items()
    }
    constants = {
      name: ref[:, :, self.lanes(start)].astype(jnp.float32)
      for name, ref in self.operands["constants"].items()
    }
    x = self.x[:, self.lanes(start)].astype(jnp.float32)
    return self.carry(start), values, points, constants, x

  def mask_of(self, start) -> jax.Array | None:
    """Returns the mask [1, lanes] of the tile, or None."""
    return None if self.mask is None else self.mask[:, self.lanes(start)]

  def known(self, stage: int, start) -> tuple[dict[str, jax.Array], jax.Array]:
    """Returns the values of the maps before `stage` >= 1, and the patches of the last one, whose value is computed."""
    last = self.plan.maps[stage - 1]
    patches = self.patches(last, start)
    return self.stored(stage - 1, start) | {last.name: self.value(last, patches)}, patches

  def stored(self, stage: int, start) -> dict[str, jax.Array]:
    """Returns the values of the maps before `stage` that `sources` has stored."""
    return {m.name: self.values[m.name][:, self.lanes(start)] for m in self.plan.maps[:stage]}

  def sources(self) -> None:
    """Runs all stages but the last: stores the inputs of all maps, and the values of all maps but the last."""
    self.loop(lambda start: self.keep("x", start, self.x[:, self.lanes(start)]))
    self.spread("x")
    for stage, map_ in enumerate(self.plan.maps):

      def body(start, stage=stage, map_=map_):
        values: dict[str, jax.Array] = {}
        if stage:
          values, _ = self.known(stage, start)
          before = self.plan.maps[stage - 1].name
          self.values[before][:, self.lanes(start)] = values[before]
        self.keep(map_.name, start, replay(self.plan, stage, *self.arguments(start, values)))

      self.loop(body)
      self.spread(map_.name)
