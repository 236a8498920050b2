"""Variables for tests that need some, but not those that a training starts from."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def variables(init: Callable[..., Any], *inputs: Any, seed: int = 0) -> Any:
  """Variables of the shapes that `init(key, *inputs)` returns, drawn by NumPy.

  XLA compiles the draws of a small network's `init` for longer than a step of its training.

  Returns:
    The tree of `init`: kernels with the variance of He's initialisation, ones for scales and variances, and small
    numbers for all the rest.
  """
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = str(path[-1].key)
    if name in ("scale", "var"):
      return np.ones(leaf.shape, leaf.dtype)
    size = math.sqrt(2 / math.prod(leaf.shape[:-1])) if name.endswith("kernel") else 0.05
    return (size * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

  return jax.tree.map_with_path(draw, jax.eval_shape(init, jax.random.key(0), *inputs))
