"""The forward kernel of `pallas`: runs all time steps of a block of images with the state in VMEM."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxfer.kernels.conv_recurrence.pallas_tiles import Plan, Tiles, replay

VMEM_LIMIT = 48 * 2**20


def whole(a) -> pl.BlockSpec:
  """Block spec of an operand that stays in VMEM from the first step to the last."""
  return pl.BlockSpec(a.shape, lambda b, t: (0,) * a.ndim, pipeline_mode=pl.Buffered(1))


def of_block(a) -> pl.BlockSpec:
  """Block spec of an array [blocks, ...]: the part of the block, the same for all time steps."""
  return pl.BlockSpec(
    (None, *a.shape[1:]), lambda b, t: (b, *(0,) * (a.ndim - 1)), pipeline_mode=pl.Buffered(1)
  )


def of_step(a, time=lambda t: t) -> pl.BlockSpec:
  """Block spec of an array [time, blocks, ...]: the part of a time step."""
  return pl.BlockSpec((None, None, *a.shape[2:]), lambda b, t: (time(t), b, *(0,) * (a.ndim - 2)))


def _kernel(plan: Plan, operands, first, x, mask, outputs, kept, *, carry, copies, values):
  tiles = Tiles(
    plan,
    operands,
    copies,
    values,
    lambda start: jax.tree.map(lambda ref: ref[:, tiles.lanes(start)].astype(jnp.float32), carry),
    x,
    mask,
  )

  @pl.when(pl.program_id(1) == 0)
  def _():
    tiles.zero_halos(copies.values())

    def begin(start):
      for ref, value in zip(jax.tree.leaves(carry), jax.tree.leaves(first), strict=True):
        ref[:, tiles.lanes(start)] = value[:, tiles.lanes(start)]

    tiles.loop(begin)

  tiles.sources()
  last = len(plan.maps)

  def finish(start):
    lanes = tiles.lanes(start)
    values, _ = tiles.known(last, start)
    run = functools.partial(replay, plan, last, mask=tiles.mask_of(start))
    new, output = run(*tiles.arguments(start, values))
    for ref, value in zip(jax.tree.leaves(carry), jax.tree.leaves(new), strict=True):
      ref[:, lanes] = value.astype(ref.dtype)
    outputs[:, lanes] = output.astype(outputs.dtype)
    for name, ref in kept.items():
      ref[:, lanes] = getattr(new, name).astype(ref.dtype)

  tiles.loop(finish)


def forward(plan: Plan, operands, first, x, mask, *, keep: dict[str, bool], interpret):
  """Runs the recurrence.

  Args:
    plan: plan of the recurrence.
    operands: weights, biases, points, constants and edges, as packed by `pallas`.
    first: the state before the first step, packed.
    x: [time, blocks, channels, lanes].
    mask: [time, blocks, 1, lanes], zero after the end of a sequence, or None.
    keep: names of the state's arrays to return; for all steps if True, else for the last one.
    interpret: whether to interpret the kernel instead of compiling it for a TPU.

  Returns:
    The outputs of all steps [time, blocks, features, lanes], and the arrays of the state in `keep` by name,
    [time, blocks, ...] or [blocks, ...].
  """
  time, blocks = x.shape[:2]
  size = plan.features, plan.layout.lanes
  outputs = jax.ShapeDtypeStruct((time, blocks, *size), plan.dtype)
  kept = {
    name: jax.ShapeDtypeStruct((*((time,) if every else ()), blocks, *size), getattr(first, name).dtype)
    for name, every in keep.items()
  }
  return pl.pallas_call(
    functools.partial(_kernel, plan),
    grid=(blocks, time),
    in_specs=[
      jax.tree.map(whole, operands),
      jax.tree.map(of_block, first),
      of_step(x),
      None if mask is None else of_step(mask),
    ],
    out_specs=(of_step(outputs), {k: (of_step if keep[k] else of_block)(a) for k, a in kept.items()}),
    out_shape=(outputs, kept),
    scratch_shapes={
      "carry": jax.tree.map(lambda a: pltpu.VMEM(size, a.dtype), first),
      "copies": plan.all_copies(),
      "values": {m.name: pltpu.VMEM((m.rows, size[1]), jnp.float32) for m in plan.maps[:-1]},
    },
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=VMEM_LIMIT
    ),
    interpret=interpret,
    name="conv_recurrence_forward",
  )(operands, first, x, mask)
