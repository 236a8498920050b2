"""Variables for tests that do not need the initial values of a training."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def variables(init: Callable[..., Any], *inputs: Any, seed: int = 0) -> Any:
  """Returns variables with the shapes of `init(key, *inputs)`, drawn by NumPy.

  XLA takes longer to compile the draws of a small network's `init` than a step of its training.

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
