import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxfer.errors import UserError
from jaxfer.kernels import conv_recurrence as recurrence
from jaxfer.kernels.conv_recurrence import Cell, packed, pallas, reference

CELLS = {
  "lstm": Cell("conv_lstm"),
  "lstm gate skip input": Cell("conv_lstm", temporal_gate=True, temporal_skip=True, peephole=True),
  "lstm gate output": Cell("conv_lstm", temporal_gate=True, gate_sees_x=False, temporal_merge="output"),
  "lstm skip output": Cell(
    "conv_lstm", temporal_skip=True, spatial_skip=True, peephole=True, temporal_merge="output"
  ),
  "gru": Cell("conv_gru", spatial_skip=True),
  "gru gate input": Cell("conv_gru", temporal_gate=True, gate_sees_x=False),
  "gru skip input": Cell("conv_gru", temporal_skip=True),
  "gru gate skip output": Cell(
    "conv_gru", temporal_gate=True, temporal_skip=True, spatial_skip=True, temporal_merge="output"
  ),
}
KERNELS = functools.partial(recurrence.unroll, implementation="pallas")


def problem(cell, *, batch=3, time=3, size=(5, 7), kernel=(3, 3), channels=3, features=4, dtype=jnp.float32):
  """Parameters, input, first state and a mask with a gap."""
  rng = np.random.default_rng(0)
  shapes = recurrence.parameter_shapes(cell, channels, features, kernel, size)
  params = {name: jnp.asarray(0.4 * rng.standard_normal(shape), dtype) for name, shape in shapes.items()}
  x = jnp.asarray(rng.standard_normal((batch, time, *size, channels)), dtype)
  zeros = recurrence.initial_state(cell, (batch, *size, features), dtype)
  state = jax.tree.map(lambda a: jnp.asarray(0.5 * rng.standard_normal(a.shape), a.dtype), zeros)
  mask = jnp.asarray([[True] * 3, [True, False, False], [False, True, True]])
  return params, x, state, mask[:batch, :time]


def everything(unroll, cell, params, x, state, mask):
  """Outputs, last state, and gradients of a scalar of both with respect to parameters, input and first state."""

  def both(params, x, state):
    results, pull = jax.vjp(lambda *args: unroll(cell, *args, mask), params, x, state)
    waves = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=jnp.float32)).reshape(a.shape), results)
    return results, pull(jax.tree.map(lambda w, a: w.astype(a.dtype), waves, results))

  return jax.jit(both)(params, x, state)


def assert_close(got, want, tolerance):
  for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
    g, w = np.asarray(g, np.float32), np.asarray(w, np.float32)
    np.testing.assert_allclose(g, w, rtol=0, atol=tolerance * max(np.abs(w).max(), 1e-3), err_msg=str(path))


@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients_equal_the_reference(name):
  cell = CELLS[name]
  arguments = problem(cell)
  with jax.default_matmul_precision("highest"):
    got = everything(KERNELS, cell, *arguments)
    want = everything(reference.unroll, cell, *arguments)
  assert_close(got, want, 1e-5)
