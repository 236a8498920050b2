"""How a function of one device's members becomes one of all devices: `vmap` over members, `pmap` over shards."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from jaxfer.train.stage import PyTree

MEMBER, DATA = "member", "data"


def each(fn: Callable, axes: tuple[int | None, ...], count: int) -> Callable:
  """fn for each of `count` members, where an argument of axis 0 has a leading axis; one does without `vmap`."""
  if count > 1:
    return jax.vmap(fn, axes)

  def alone(*args):
    firsts = [
      arg if axis is None else jax.tree.map(lambda a: a[0], arg) for arg, axis in zip(args, axes, strict=True)
    ]
    return jax.tree.map(lambda a: a[None], fn(*firsts))

  return alone


class Pmapped:
  """pmap over the shards of one training's batch, called as `jit` of `shard_map` is.

  An argument is split along the dimension where its spec says "data"; its other dimensions are whole on every device.
  Results are equal on all devices and come back once.
  """

  def __init__(self, fn: Callable, specs: Sequence[PartitionSpec], devices: Sequence[Any], donated: tuple):
    # Where an argument's dimension "data" stands, or None. A window's, the leading one, is split already.
    self._places = [spec.index(DATA) if DATA in spec else None for spec in specs]
    self._shards = len(devices)
    first, *rest = (None if place is None else 0 for place in self._places)
    # Flat arguments would be misread: JAX 0.10 takes `in_axes` leaf by leaf where there happen to be as many leaves as
    # arguments.
    self._mapped = jax.pmap(
      lambda first, rest: fn(first, *rest),
      DATA,
      in_axes=(first, tuple(rest)),
      out_axes=None,
      devices=devices,
      donate_argnums=donated,
    )

  def _split(self, place: int | None, tree: PyTree) -> PyTree:
    if not place:
      return tree

    def split(array):
      parts = array.reshape(*array.shape[:place], self._shards, -1, *array.shape[place + 1 :])
      return np.moveaxis(parts, place, 0)

    return jax.tree.map(split, tree)

  def _arguments(self, args: Sequence[Any]) -> tuple[Any, tuple]:
    first, *rest = map(self._split, self._places, args)
    return first, tuple(rest)

  def __call__(self, *args: Any) -> Any:
    """Runs the function on all devices."""
    return self._mapped(*self._arguments(args))

  def lower(self, *args: Any) -> Any:
    """Lowers the program, as `jax.jit(...).lower` does."""
    return self._mapped.lower(*self._arguments(args))
