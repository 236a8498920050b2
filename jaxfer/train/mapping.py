"""Maps functions over the members of a device with `vmap`, and over the shards of a batch with `pmap`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from jaxfer.train.stage import PyTree

MEMBER, DATA = "member", "data"


def each(fn: Callable, axes: tuple[int | None, ...], count: int) -> Callable:
  """Maps `fn` over `count` members; a single member needs no `vmap`.

  Args:
    fn: function of one member.
    axes: one entry per argument. 0 means that the argument has a leading axis [count], None that it has no such axis.
    count: number of members.
  """
  if count > 1:
    return jax.vmap(fn, axes)

  def alone(*args):
    firsts = [
      arg if axis is None else jax.tree.map(lambda a: a[0], arg) for arg, axis in zip(args, axes, strict=True)
    ]
    return jax.tree.map(lambda a: a[None], fn(*firsts))

  return alone


class Pmapped:
  """Runs a function with `pmap` over the shards of one training's batch. It is called like `jit` of `shard_map`.

  An argument is split along the dimension that its spec names "data", and every device gets its other dimensions whole.
  Results must be equal on all devices; one copy is returned.
  """

  def __init__(self, fn: Callable, specs: Sequence[PartitionSpec], devices: Sequence[Any], donated: tuple):
    # The dimension "data" of each argument, or None. In a window it is the leading one, which is already split.
    self._places = [spec.index(DATA) if DATA in spec else None for spec in specs]
    self._shards = len(devices)
    first, *rest = (None if place is None else 0 for place in self._places)
    # All arguments after the first are passed as one tuple. With flat arguments, JAX 0.10 would misread `in_axes`: it
    # applies it leaf by leaf if there happen to be as many leaves as arguments.
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
