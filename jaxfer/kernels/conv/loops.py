"""Marks the bodies of loops, because XLA's own convolutions are slow inside loops on CPU but fast outside of them.

A convolution is traced in the same way inside and outside a loop, so it cannot know where it will run. Whoever writes a
loop therefore marks its body with `looped`.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
T = TypeVar("T")

# Part of the key of JAX's caches, so a jitted function that was traced outside a loop is traced again inside one.
_inside = jax.make_user_context(False)


def inside_loop() -> bool:
  """Whether the body of a loop is being traced."""
  return bool(_inside.value)


def looped(body: Callable[P, T]) -> Callable[P, T]:
  """Returns the body of a loop, such as that of `lax.scan`, with its convolutions chosen for the inside of a loop."""

  @functools.wraps(body)
  def run(*args: P.args, **kwargs: P.kwargs) -> T:
    with _inside(True):
      return body(*args, **kwargs)

  return run
