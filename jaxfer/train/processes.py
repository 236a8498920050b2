"""Exchanges between the processes of a training on several machines. A single process exchanges nothing.

The processes are those of `jax.distributed`, with one or more devices each, and all of them run the same program. Only
process 0 writes files, apart from the arrays of checkpoints, which Orbax writes from every process.

All processes must call the functions that exchange something, in the same order.
"""

import functools
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxfer.errors import UserError

T = TypeVar("T")
# Bytes of the shortest message. Longer ones are padded to a power of two, because JAX compiles for each length.
_SMALLEST = 512


def count() -> int:
  """Returns the number of processes."""
  return jax.process_count()


def is_first() -> bool:
  """Returns whether this is process 0, which writes the files and the log."""
  return jax.process_index() == 0


def gather(text: str) -> list[str]:
  """Sends this process's text to all processes.

  Returns:
    The texts of all processes. The index is the number of the process.
  """
  if count() == 1:
    return [text]
  data = np.frombuffer(text.encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.asarray([len(data)], np.int32)).reshape(-1)
  size = max(_SMALLEST, 1 << int(lengths.max()).bit_length())
  found = multihost_utils.process_allgather(np.pad(data, (0, size - len(data))))
  return [row[:length].tobytes().decode() for row, length in zip(found, lengths, strict=True)]


def each(make: Callable[[], T]) -> T:
  """Calls a function in every process, and returns its result in this process.

  Raises:
    UserError: the function raised it in at least one process. All processes then raise it. The message names the first
      of these processes and its machine, unless all processes failed with the same message.
  """
  if count() == 1:
    return make()
  value, error = None, None
  try:
    value = make()
  except UserError as raised:
    error = str(raised)
  told = [json.loads(text) for text in gather(json.dumps([socket.gethostname(), error]))]
  failed = [(number, host, text) for number, (host, text) in enumerate(told) if text is not None]
  if not failed:
    return value  # type: ignore[return-value]  # Without an error, it is what `make` returned.
  number, host, text = failed[0]
  if len({text for _, _, text in failed}) == 1 and len(failed) == count():
    raise UserError(text)
  raise UserError(f"process {number} of {count()} ({host}): {text}")


def decided(make: Callable[[], T]) -> T:
  """Calls a function in process 0 only, and returns its result in all processes. JSON must be able to hold it.

  Raises:
    UserError: the function raised it. All processes then raise it.
  """
  if count() == 1:
    return make()
  value, told = None, ""
  if is_first():
    try:
      value = make()
      told = json.dumps({"value": value})
    except UserError as raised:
      told = json.dumps({"error": str(raised)})
  found = json.loads(gather(told)[0])
  if "error" in found:
    raise UserError(found["error"])
  return value if is_first() else found["value"]  # type: ignore[return-value]


def alone(make: Callable[[], T], otherwise: T) -> T:
  """Calls a function in process 0 only. The other processes wait until it returns, and then return `otherwise`.

  Raises:
    UserError: the function raised it. All processes then raise it.
  """
  made = []
  decided(lambda: made.append(make()))
  return made[0] if made else otherwise


def smallest(number: int | None) -> int | None:
  """Returns the smallest number that a process passes. Ignores None. Returns None if all processes pass it."""
  if count() == 1:
    return number
  known = [found for text in gather(json.dumps(number)) if (found := json.loads(text)) is not None]
  return min(known, default=None)


def check_same(values: Mapping[str, Any]) -> None:
  """Checks that the values of all processes are the same.

  Args:
    values: values by name. JSON must be able to hold them.

  Raises:
    UserError: a value of a process differs from that of process 0. The message contains both.
  """
  if count() == 1:
    return
  told = [json.loads(text) for text in gather(json.dumps([socket.gethostname(), dict(values)]))]
  (first_host, first), *others = told
  for number, (host, own) in enumerate(others, start=1):
    for name in sorted({*first, *own}):
      one, other = (f"{name}={side[name]}" if name in side else f"no {name}" for side in (first, own))
      if one != other:
        raise UserError(
          f"process 0 ({first_host}) has {one}, process {number} ({host}) has {other}: "
          "start all processes with the same program, command and data"
        )


class Votes:
  """Lets the processes agree on numbers without waiting for the program that is running.

  The devices reduce the votes after the program that is running. The result is read at the next call.
  """

  def __init__(self) -> None:
    self._coming: jax.Array | None = None

  def turn(self, votes: tuple[int, ...]) -> tuple[int, ...]:
    """Casts this process's votes.

    Args:
      votes: one number per question, at least 0. All processes must answer the same number of questions.

    Returns:
      The highest vote of all processes on each question in the previous turn, and zeros in the first turn. A single
      process gets its own votes of this turn.
    """
    if count() == 1:
      return votes
    before = (0,) * len(votes) if self._coming is None else tuple(np.asarray(self._coming).tolist())
    # A question that has just been answered is not asked again.
    own = [0 if agreed else vote for vote, agreed in zip(votes, before, strict=True)]
    sharding, highest = _highest()
    local = np.asarray([own], np.int32)
    self._coming = highest(jax.make_array_from_process_local_data(sharding, local, (count(), len(votes))))
    return before


@functools.cache
def _highest() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
  """Returns the sharding of votes [processes, votes], and a function that gives all processes their maximum [votes]."""
  firsts = {device.process_index: device for device in reversed(jax.devices())}
  mesh = Mesh(np.array([firsts[number] for number in sorted(firsts)]), ("process",))
  everywhere = NamedSharding(mesh, PartitionSpec())
  return NamedSharding(mesh, PartitionSpec("process")), jax.jit(
    lambda votes: votes.max(0), out_shardings=everywhere
  )
