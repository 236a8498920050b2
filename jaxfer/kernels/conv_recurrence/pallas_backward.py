"""The backward kernel of `pallas`: runs all time steps in reverse with the gradients of state and weights in VMEM.

A step first recomputes the inputs of all convolutions, and the values of all but the last (`Tiles.sources`). Then the
cotangent of the new state is propagated through the pointwise operations, by `jax.vjp` of the replay, to the value of
the last convolution; through the adjoint of the convolution to its input; from there through the preceding pointwise
operations to the previous convolution, and so on. Each of these legs propagates one cotangent, and the results are
summed.

The adjoint of a convolution is one matrix product per tile, of the transposed weights with the cotangent at as many
rows as the kernel has, followed by a shift for every column of the kernel.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxfer.kernels.conv_recurrence.pallas_forward import VMEM_LIMIT, of_block, of_step, whole
from jaxfer.kernels.conv_recurrence.pallas_tiles import (
  OVER_LANES,
  POINTWISE_OUTPUT,
  SPATIAL_SKIP,
  Map,
  Plan,
  Tiles,
  replay,
  shift,
)


def _read_by(function: Callable, arguments) -> list[bool]:
  """Returns, for each leaf of the arguments, whether the function's result depends on it."""
  jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
  needed = {v for v in jaxpr.outvars if not hasattr(v, "val")}
  for equation in reversed(jaxpr.eqns):
    if needed.intersection(equation.outvars):
      needed.update(v for v in equation.invars if not hasattr(v, "val"))
  return [v in needed for v in jaxpr.invars]


def _pull(function: Callable, arguments, cotangent):
  """Returns the cotangents of the arguments of `replay`; None for leaves that the result does not depend on."""
  leaves: list[Any]
  tree: Any
  leaves, tree = jax.tree.flatten(arguments)
  read = _read_by(function, arguments)

  def of_read(some):
    some = iter(some)
    return function(
      *tree.unflatten([next(some) if r else leaf for r, leaf in zip(read, leaves, strict=True)])
    )

  _, pull = jax.vjp(of_read, [leaf for r, leaf in zip(read, leaves, strict=True) if r])
  found = iter(pull(cotangent)[0])
  return tree.unflatten([next(found) if r else None for r in read])


class _Gradients:
  """The refs of the backward kernel while it is traced.

  Attributes:
    tiles: tiles of the forward computation.
    adjoints: name -> weights of the map's adjoint.
    sums: gradients summed over time and blocks: "weights", "biases", "points", "constants".
    carry: gradient of the state.
    values: name -> the cotangent of a map's value, in the products' dtype, with a halo.
    parts: name -> the same during summation, float32, for all maps but the last.
    shifted: cotangents of the shifted copies of "state" and "x".
    x: cotangent of the input from the spatial skip, or None.
  """

  def __init__(self, tiles: Tiles, adjoints, sums, carry, values, parts, shifted, x):
    self.tiles, self.plan, self.adjoints = tiles, tiles.plan, adjoints
    self.sums, self.carry, self.values, self.parts, self.shifted = sums, carry, values, parts, shifted
    self.x = x
    self.written: set[str] = set()

  def begin(self) -> frozenset[str]:
    """Returns the arrays to which earlier legs have added; the first leg that adds to an array overwrites it."""
    return frozenset(self.written)

  def add(self, start, cotangents, written: frozenset[str]) -> None:
    """Adds the cotangents of a tile's arguments to the arrays in `written`, and stores the others."""
    d_carry, d_values, d_points, d_constants, d_x = cotangents
    lanes = self.tiles.lanes(start)
    parts = self.carry._asdict() | self.parts
    for name, value in (d_carry._asdict() | d_values).items():
      if value is None or name not in parts:
        continue
      if name in written:
        parts[name][:, lanes] += value
      else:
        parts[name][:, lanes] = value
      self.written.add(name)
    for name, (weights, bias) in d_points.items():
      if weights is not None:
        self.sums["points"][name][0][...] += weights
        self.sums["points"][name][1][...] += bias
    for name, value in d_constants.items():
      if value is not None:
        self.sums["constants"][name][:, :, lanes] += value
    if d_x is not None:
      self.x[:, lanes] = d_x

  def finish(self, map_: Map, start, d_value: jax.Array, patches: jax.Array) -> None:
    """Stores the cotangent of a map's value, and adds to the gradients of its weights and bias."""
    self.values[map_.name][:, self.tiles.lanes(self.plan.halo + start)] = d_value.astype(
      self.plan.product_dtype
    )
    self.sums["weights"][map_.name][...] += self.plan.dot(d_value, patches, OVER_LANES)
    self.sums["biases"][map_.name][...] += d_value.sum(1, keepdims=True)

  def from_state(self, d_outputs) -> None:
    """Runs the first leg backward: from the new state and the output to the value of the last convolution."""
    tiles, last = self.tiles, len(self.plan.maps)
    map_ = self.plan.maps[-1]
    written = self.begin()

    def body(start):
      values, patches = tiles.known(last, start)
      d_new = jax.tree.map(lambda ref: ref[:, tiles.lanes(start)], self.carry)
      d_output = d_outputs[:, tiles.lanes(start)].astype(jnp.float32)
      run = functools.partial(replay, self.plan, last, mask=tiles.mask_of(start))
      found = _pull(run, tiles.arguments(start, values), (d_new, d_output))
      self.add(start, found, written)
      self.finish(map_, start, found[1][map_.name], patches)

    tiles.loop(body)

  def adjoint(self, map_: Map, *, first: bool) -> None:
    """Computes the cotangents of the shifted copies from that of the value; those of the input are summed over maps."""
    plan, tiles = self.plan, self.tiles
    rows, columns = plan.kernel_size

    def body(start):
      parts = []
      for row in range(rows):
        lanes = tiles.lanes(plan.halo + start - (row - rows // 2) * plan.layout.row)
        parts.append(self.values[map_.name][:, lanes])
      d_copies = plan.dot(self.adjoints[map_.name][...], jnp.concatenate(parts, axis=0), POINTWISE_OUTPUT)
      at = 0
      for name in ("state", "x") if map_.reads_input else ("state",):
        ref = self.shifted[name]
        for column in range(columns):
          part = d_copies[at : at + ref.shape[1]]
          at += ref.shape[1]
          if column != columns // 2 or plan.layout.padded:
            part = pltpu.bitcast(pltpu.bitcast(part, jnp.int32) & tiles.edge(column, start), jnp.float32)
          lanes = tiles.lanes(plan.reach + start)
          if name == "state" or first:
            ref[column, :, lanes] = part
          else:
            ref[column, :, lanes] += part

    tiles.loop(body)

  def source(self, name: str, start) -> jax.Array:
    """Returns the cotangent of a tile of the array that was copied and shifted."""
    plan, columns = self.plan, self.plan.kernel_size[1]
    total = jnp.zeros((self.shifted[name].shape[1], plan.tile), jnp.float32)
    for column in range(columns):
      window = self.shifted[name][column, :, self.tiles.lanes(start, after=2 * plan.reach)]
      total += shift(window, columns // 2 - column, plan.reach)
    return total

  def from_source(self, stage: int) -> None:
    """Runs one leg: from the input of map `stage` to the previous state and the values of the maps before it."""
    tiles, plan = self.tiles, self.plan
    written = self.begin()

    def body(start):
      run = functools.partial(replay, plan, stage)
      arguments = tiles.arguments(start, tiles.stored(stage, start))
      self.add(start, _pull(run, arguments, self.source("state", start)), written)
      if stage:
        before = plan.maps[stage - 1]
        d_value = self.parts[before.name][:, tiles.lanes(start)]
        self.finish(before, start, d_value, tiles.patches(before, start))

    tiles.loop(body)


def _kernel(
  plan: Plan,
  operands,
  adjoints,
  first,
  x,
  before,
  d_outputs,
  mask,
  d_last,
  d_x,
  sums,
  d_first,
  *,
  copies,
  values,
  grads,
):
  step = pl.num_programs(1) - 1 - pl.program_id(1)

  def carry(start):
    """Returns the state before this step, as kept by the forward pass or, in the first steps, as given."""

    def of(field):
      lanes = tiles.lanes(start)
      value = getattr(first, field)[:, lanes].astype(jnp.float32)
      kept = before[field][:, lanes].astype(jnp.float32)
      if field == "h_previous" and mask is None:  # It equals h of two steps ago.
        kept = jnp.where(step == 1, first.h[:, lanes].astype(jnp.float32), kept)
      return jnp.where(step == 0, value, kept)

    return first._replace(**{field: of(field) for field in before})

  tiles = Tiles(plan, operands, copies, values, carry, x, mask)
  gradients = _Gradients(tiles, adjoints, sums, **grads)

  @pl.when(pl.program_id(1) == 0)
  def _():
    tiles.zero_halos([*copies.values(), *grads["values"].values(), *grads["shifted"].values()])

    def begin(start):
      for ref, value in zip(jax.tree.leaves(grads["carry"]), jax.tree.leaves(d_last), strict=True):
        ref[:, tiles.lanes(start)] = value[:, tiles.lanes(start)].astype(jnp.float32)

    tiles.loop(begin)

  @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
  def _():
    for ref in jax.tree.leaves(sums):
      ref[...] = jnp.zeros_like(ref)

  tiles.sources()
  gradients.from_state(d_outputs)
  readers = [m for m in plan.maps if m.reads_input]
  for stage in reversed(range(len(plan.maps))):
    gradients.adjoint(plan.maps[stage], first=plan.maps[stage] is readers[-1])
    gradients.from_source(stage)

  def finish(start):
    value = gradients.source("x", start)
    if gradients.x is not None:
      value += gradients.x[:, tiles.lanes(start)]
    d_x[:, tiles.lanes(start)] = value.astype(d_x.dtype)

  tiles.loop(finish)

  @pl.when(step == 0)
  def _():
    def end(start):
      for ref, value in zip(jax.tree.leaves(d_first), jax.tree.leaves(grads["carry"]), strict=True):
        ref[:, tiles.lanes(start)] = value[:, tiles.lanes(start)].astype(ref.dtype)

    tiles.loop(end)


def _scratch(plan: Plan, first, spatial_skip: bool) -> dict[str, Any]:
  lanes = plan.layout.lanes
  columns = plan.kernel_size[1]

  def rows(maps, dtype, halo=0):
    return {m.name: pltpu.VMEM((m.rows, lanes + 2 * halo), dtype) for m in maps}

  return {
    "copies": plan.all_copies(),
    "values": rows(plan.maps[:-1], jnp.float32),
    "grads": {
      "carry": jax.tree.map(lambda _: pltpu.VMEM((plan.features, lanes), jnp.float32), first),
      "values": rows(plan.maps, plan.product_dtype, plan.halo),
      "parts": rows(plan.maps[:-1], jnp.float32),
      "shifted": {
        name: pltpu.VMEM((columns, channels, lanes + 2 * plan.reach), jnp.float32)
        for name, channels in (("state", plan.features), ("x", plan.channels))
      },
      "x": pltpu.VMEM((plan.channels, lanes), jnp.float32) if spatial_skip else None,
    },
  }


def vmem_bytes(plan: Plan, first, spatial_skip: bool) -> int:
  """Returns the bytes of VMEM that the backward kernel, the larger of the two, takes for a state like `first`."""

  def size(a) -> int:
    return math.prod(a.shape) * jnp.dtype(a.dtype).itemsize

  lanes, states = plan.layout.lanes, jax.tree.leaves(first)
  streamed = 2 * plan.channels + plan.features  # x, its gradient, and the gradient of the outputs.
  step = lanes * (
    streamed * jnp.dtype(plan.dtype).itemsize + sum(plan.features * a.dtype.itemsize for a in states)
  )
  ends = 3 * sum(lanes * plan.features * a.dtype.itemsize for a in states)
  taps = math.prod(plan.kernel_size)
  weights = sum(m.rows * taps * (plan.features + m.reads_input * plan.channels) for m in plan.maps)
  scratch = sum(map(size, jax.tree.leaves(_scratch(plan, first, spatial_skip))))
  return scratch + 2 * step + ends + weights * (4 + 2 * jnp.dtype(plan.product_dtype).itemsize)


def backward(plan: Plan, operands, adjoints, first, x, kept, mask, d_outputs, d_last, *, interpret):
  """Computes the gradients of `forward`.

  Args:
    plan: plan of the recurrence.
    operands: as in `forward`.
    adjoints: name -> weights of the adjoint, [width (features + channels), height rows].
    first: as in `forward`.
    x: as in `forward`.
    kept: name -> array of the state after each step; h_previous is left out if there is no mask.
    mask: as in `forward`.
    d_outputs: cotangent of the outputs.
    d_last: cotangent of the state after the last step.
    interpret: as in `forward`.

  Returns:
    Gradients of x, of the operands ("weights", "biases", "points", "constants"), and of `first`.
  """
  time, blocks = x.shape[:2]

  def back(a, ago=0):
    return of_step(a, lambda t: jnp.maximum(time - 1 - t - ago, 0))

  before, ago = dict(kept), dict.fromkeys(kept, 1)
  if first.h_previous is not None and "h_previous" not in kept:
    before["h_previous"], ago["h_previous"] = kept["h"], 2
  sums = {
    key: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float32), operands[key])
    for key in ("weights", "biases", "points", "constants")
  }
  d_x = jax.ShapeDtypeStruct(x.shape, x.dtype)
  d_first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), first)
  return pl.pallas_call(
    functools.partial(_kernel, plan),
    grid=(blocks, time),
    in_specs=[
      jax.tree.map(whole, operands),
      jax.tree.map(whole, adjoints),
      jax.tree.map(of_block, first),
      back(x),
      {name: back(a, ago[name]) for name, a in before.items()},
      back(d_outputs),
      None if mask is None else back(mask),
      jax.tree.map(of_block, d_last),
    ],
    out_specs=(back(d_x), jax.tree.map(whole, sums), jax.tree.map(of_block, d_first)),
    out_shape=(d_x, sums, d_first),
    scratch_shapes=_scratch(plan, first, SPATIAL_SKIP in operands["points"]),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=VMEM_LIMIT
    ),
    interpret=interpret,
    name="conv_recurrence_backward",
  )(operands, adjoints, first, x, before, d_outputs, mask, d_last)
