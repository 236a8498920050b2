"""Prints the number of Pallas kernels in a conv-RNN gradient on four chips: by pmap, and for members by shard_map."""

from benchmarks import tpu_compile  # isort: skip  Before JAX: it settles what JAX looks for.

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxfer.kernels import conv_recurrence

CELL = conv_recurrence.Cell("conv_lstm")
DEVICES = tpu_compile.devices("v5e:2x2")


def gradient(params, x):
  """Returns the gradient with respect to the parameters, summed over the devices."""

  def loss(params):
    outputs, _ = conv_recurrence.unroll(CELL, params, x, implementation="pallas")
    return outputs.astype(jnp.float32).sum()

  return jax.lax.psum(jax.grad(loss)(params), "data")


def shapes(members, sharding=None):
  """Returns the shapes of n members' parameters."""
  one = conv_recurrence.parameter_shapes(CELL, 16, 16, (3, 3), (8, 8))
  return {k: jax.ShapeDtypeStruct((members, *s), jnp.bfloat16, sharding=sharding) for k, s in one.items()}


def kernels(lowered):
  """Returns the number of Pallas kernels in the compiled program."""
  return lowered.compile().as_text().count('custom_call_target="tpu_custom_call"')


x = jax.ShapeDtypeStruct((4, 2, 3, 8, 8, 16), jnp.bfloat16)
print("pmap", kernels(jax.pmap(gradient, axis_name="data", devices=DEVICES).lower(shapes(4), x)))

mesh = Mesh(np.array(DEVICES).reshape(2, 2), ("member", "data"))
members, data = PartitionSpec("member"), PartitionSpec("data")
split = jax.shard_map(
  lambda params, x: jax.vmap(gradient, (0, None))(params, x),
  mesh=mesh,
  in_specs=(members, data),
  out_specs=members,
  check_vma=False,
)
x = jax.ShapeDtypeStruct((4, 3, 8, 8, 16), jnp.bfloat16, sharding=NamedSharding(mesh, data))
print("members", kernels(jax.jit(split).lower(shapes(4, NamedSharding(mesh, members)), x)))
