"""Arrays on devices: placing them, and drawing initial ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding

from jaxfer.train.stage import Variables


def is_key(leaf: Any) -> bool:
  """Whether a leaf of a tree is a typed PRNG key."""
  return jnp.issubdtype(getattr(leaf, "dtype", jnp.float32), jax.dtypes.prng_key)


def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
  """Places a leaf on the devices as a strongly typed array."""
  if not is_key(leaf):
    leaf = np.asarray(leaf) if not isinstance(leaf, jax.Array) else lax.convert_element_type(leaf, leaf.dtype)
  return jax.device_put(leaf, sharding)


def initializer(init: Callable[..., Variables], **options: Any) -> Callable[..., Variables]:
  """Compiles a function that draws initial variables. On CPU, most compiler optimizations are switched off.

  The function runs only once, and LLVM takes ten times as long to optimize a small model's draws as to compile them.
  """
  if jax.default_backend() == "cpu":
    options["compiler_options"] = {"xla_backend_optimization_level": 0}
  return jax.jit(init, **options)
