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
  """Places a leaf on the devices as a strongly typed array.

  Args:
    leaf: the whole array. If the devices belong to several processes, all of them give the same one, and each places
      the parts of its own devices.
    sharding: where the array goes.
  """
  if not sharding.is_fully_addressable:
    return _put_own(leaf, sharding)
  if not is_key(leaf):
    leaf = np.asarray(leaf) if not isinstance(leaf, jax.Array) else lax.convert_element_type(leaf, leaf.dtype)
  return jax.device_put(leaf, sharding)


def _put_own(leaf: Any, sharding: NamedSharding) -> jax.Array:
  if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
    return leaf if leaf.sharding == sharding else jax.jit(lambda a: a, out_shardings=sharding)(leaf)
  if is_key(leaf):
    data = _put_own(jax.random.key_data(leaf), sharding)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
  host = np.asarray(leaf)
  host = host.astype(jax.dtypes.canonicalize_dtype(host.dtype), copy=False)
  return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def initializer(init: Callable[..., Variables], **options: Any) -> Callable[..., Variables]:
  """Compiles a function that draws initial variables. On CPU, most compiler optimizations are switched off.

  The function runs only once, and LLVM takes ten times as long to optimize a small model's draws as to compile them.
  """
  if jax.default_backend() == "cpu":
    options["compiler_options"] = {"xla_backend_optimization_level": 0}
  return jax.jit(init, **options)
