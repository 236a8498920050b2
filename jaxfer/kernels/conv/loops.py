"""Marks the bodies of loops, because XLA's own convolutions are slow inside loops on CPU but fast outside of them.

A convolution cannot tell whether it is traced inside a loop. Code that writes a loop must therefore wrap its body in
`looped`.
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
  """Whether a body wrapped in `looped` is being traced."""
  return bool(_inside.value)


def looped(body: Callable[P, T]) -> Callable[P, T]:
  """Wraps the body of a loop, such as that of `lax.scan`: its convolutions use the formulations chosen for loops."""

  @functools.wraps(body)
  def run(*args: P.args, **kwargs: P.kwargs) -> T:
    with _inside(True):
      return body(*args, **kwargs)

  return run
