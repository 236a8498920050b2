"""A plain reference of the recurrences: every convolution is inside `lax.scan`, and JAX computes the gradients.

It is slow on purpose. Tests compare values and gradients of `cells.unroll` with it.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxfer.kernels.conv import conv_reference, same_padding
from jaxfer.kernels.conv_recurrence.cells import Cell, Params, State, initial_state


def _conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return conv_reference(x, kernel, (1, 1), same_padding(kernel.shape[:2]))


def unroll(
  cell: Cell, params: Params, x: jax.Array, state: State | None = None, mask: jax.Array | None = None
) -> tuple[jax.Array, State]:
  """Runs the cell over a sequence; arguments and results are those of `cells.unroll`."""
  p = params
  features = p["input_bias"].shape[0] // cell.gates
  if state is None:
    state = initial_state(cell, (x.shape[0], *x.shape[2:4], features), x.dtype)

  def look_back(state, x):
    s = state.h_previous
    if cell.temporal_gate:
      gate = _conv(s, p["gate_state_kernel"]) + p["gate_bias"]
      if cell.gate_sees_x:
        gate = gate + _conv(x, p["gate_input_kernel"])
      s = jax.nn.sigmoid(gate) * s
    return s

  def merge(h, s):
    if cell.temporal_skip:
      return jnp.concatenate([h, s], -1) @ p["temporal_skip_kernel"] + p["temporal_skip_bias"]
    return h + s if cell.temporal_gate else h

  def lstm(h, state, x):
    i, f, g, o = jnp.split(_conv(x, p["input_kernel"]) + p["input_bias"] + _conv(h, p["state_kernel"]), 4, -1)
    w_i, w_f, w_o = p["peephole"] if cell.peephole else (0, 0, 0)
    c = jax.nn.sigmoid(f + w_f * state.c) * state.c + jax.nn.sigmoid(i + w_i * state.c) * jnp.tanh(g)
    return jax.nn.sigmoid(o + w_o * c) * jnp.tanh(c), c

  def gru(h, state, x):
    del state
    x_z, x_r, x_n = jnp.split(_conv(x, p["input_kernel"]) + p["input_bias"], 3, -1)
    h_z, h_r = jnp.split(_conv(h, p["state_kernel"]), 2, -1)
    z, r = jax.nn.sigmoid(x_z + h_z), jax.nn.sigmoid(x_r + h_r)
    n = jnp.tanh(x_n + _conv(r * h, p["candidate_kernel"]))
    return (1 - z) * h + z * n, None

  def body(state, at):
    x, running = at
    h, s = state.h, look_back(state, x)
    if cell.temporal_merge == "input":
      h = merge(h, s)
    h, c = (lstm if cell.kind == "conv_lstm" else gru)(h, state, x)
    if cell.temporal_merge == "output":
      h = merge(h, s)
    h = h.astype(state.h.dtype)
    y = h
    if cell.spatial_skip:
      y = jnp.concatenate([h, x], -1) @ p["spatial_skip_kernel"] + p["spatial_skip_bias"]
    new = State(h, state.h if cell.looks_back else None, c)
    running = running[:, None, None, None]
    return jax.tree.map(lambda n, o: jnp.where(running, n, o), new, state), jnp.where(running, y, 0)

  if mask is None:
    mask = jnp.ones(x.shape[:2], bool)
  last, outputs = lax.scan(body, state, (x.swapaxes(0, 1), mask.swapaxes(0, 1)))
  return outputs.swapaxes(0, 1), last
