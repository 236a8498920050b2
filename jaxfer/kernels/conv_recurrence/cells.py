"""ConvLSTM and ConvGRU, plain and enhanced, as steps of one recurrence.

Equations (specs 2.2 and 2.3; `*` is a convolution, juxtaposition is elementwise, s the logistic function):

  temporal gate    g = s(W_xg * X + W_gg * H[t-2] + b_g);  S = g H[t-2], or S = H[t-2] without the gate
  temporal skip    H' = P_T [H[t-1]; S] + b_T;  with the gate alone H' = H[t-1] + S;  with neither H' = H[t-1]
  ConvLSTM         i, f, o = s(W_x * X + W_h * H' + b) (+ peephole weights times C: C[t-1] for i and f, C[t] for o)
                   C = f C[t-1] + i tanh(W_xc * X + W_hc * H' + b_c);  H = o tanh(C)
  ConvGRU          z, r = s(W_x * X + W_h * H' + b);  N = tanh(W_xn * X + W_hn * (r H') + b_n)
                   H = (1 - z) H' + z N
  spatial skip     Y = P_S [H; X] + b_S, given to the next layer; the recurrence goes on with H

Parameters are a flat dict (C = features, K = kernel size, D = channels of the input):

  input_kernel [K, K, D, gates C], input_bias [gates C]      gates: ConvLSTM i f c o, ConvGRU z r n
  state_kernel [K, K, C, 4 C] or [K, K, C, 2 C] (z r), candidate_kernel [K, K, C, C] (ConvGRU)
  gate_input_kernel [K, K, D, C], gate_state_kernel [K, K, C, C], gate_bias [C]
  temporal_skip_kernel [2 C, C], temporal_skip_bias [C], spatial_skip_kernel [C + D, C], spatial_skip_bias [C]
  peephole [3, height, width, C] (i f o)
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxfer.kernels import conv as convolution
from jaxfer.kernels.conv_recurrence.scan import scan

Params = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Cell:
  """Which recurrence: the kind of cell and its switches."""

  kind: Literal["conv_lstm", "conv_gru"]
  temporal_gate: bool = False
  temporal_skip: bool = False
  spatial_skip: bool = False
  gate_sees_x: bool = True
  peephole: bool = False

  @property
  def gates(self) -> int:
    """Blocks of features that the input convolution makes, the temporal gate's not counted."""
    return 4 if self.kind == "conv_lstm" else 3

  @property
  def looks_back(self) -> bool:
    """Whether the cell reads the state of two steps ago."""
    return self.temporal_gate or self.temporal_skip


def parameter_shapes(
  cell: Cell, channels: int, features: int, kernel_size: tuple[int, int], size: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the cell's parameters; `size` (height, width) matters to the peephole weights alone."""
  shapes: dict[str, tuple[int, ...]] = {
    "input_kernel": (*kernel_size, channels, cell.gates * features),
    "input_bias": (cell.gates * features,),
    "state_kernel": (*kernel_size, features, (4 if cell.kind == "conv_lstm" else 2) * features),
  }
  if cell.kind == "conv_gru":
    shapes["candidate_kernel"] = (*kernel_size, features, features)
  if cell.temporal_gate:
    if cell.gate_sees_x:
      shapes["gate_input_kernel"] = (*kernel_size, channels, features)
    shapes["gate_state_kernel"] = (*kernel_size, features, features)
    shapes["gate_bias"] = (features,)
  if cell.temporal_skip:
    shapes["temporal_skip_kernel"] = (2 * features, features)
    shapes["temporal_skip_bias"] = (features,)
  if cell.spatial_skip:
    shapes["spatial_skip_kernel"] = (features + channels, features)
    shapes["spatial_skip_bias"] = (features,)
  if cell.peephole:
    shapes["peephole"] = (3, *size, features)
  return shapes


class State(NamedTuple):
  """What a cell carries from step to step, each [batch, height, width, features]."""

  h: jax.Array
  h_previous: jax.Array | None = None  # Where the cell looks two steps back.
  c: jax.Array | None = None  # ConvLSTM; float32 also in bfloat16 mode, since it sums over all of time.


def initial_state(cell: Cell, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> State:
  """Zeros of `shape` [batch, height, width, features]."""
  return State(
    h=jnp.zeros(shape, dtype),
    h_previous=jnp.zeros(shape, dtype) if cell.looks_back else None,
    c=jnp.zeros(shape, jnp.float32) if cell.kind == "conv_lstm" else None,
  )


def _reach_back(cell: Cell, state: State, affine) -> jax.Array:
  """H', what the plain equations read in place of the last state."""
  if not cell.looks_back:
    return state.h
  s = state.h_previous
  assert s is not None
  if cell.temporal_gate:
    s = (jax.nn.sigmoid(affine("gate", s).astype(jnp.float32)) * s).astype(s.dtype)
  if cell.temporal_skip:
    return affine("temporal_skip", jnp.concatenate([state.h, s], axis=-1))
  return state.h + s


def _lstm_step(cell: Cell, state: State, affine, constants) -> tuple[State, jax.Array]:
  assert state.c is not None
  h = _reach_back(cell, state, affine)
  i, f, g, o = jnp.split(affine("state", h).astype(jnp.float32), 4, axis=-1)
  if cell.peephole:
    w_i, w_f, w_o = constants["peephole"]
    i, f = i + w_i * state.c, f + w_f * state.c
  c = (jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)).astype(state.c.dtype)
  if cell.peephole:
    o = o + w_o * c
  h = (jax.nn.sigmoid(o) * jnp.tanh(c)).astype(state.h.dtype)
  return State(h, state.h if cell.looks_back else None, c), h


def _gru_step(cell: Cell, state: State, affine, constants) -> tuple[State, jax.Array]:
  del constants
  h = _reach_back(cell, state, affine)
  z, r = jnp.split(jax.nn.sigmoid(affine("state", h).astype(jnp.float32)), 2, axis=-1)
  n = jnp.tanh(affine("candidate", (r * h).astype(h.dtype)).astype(jnp.float32))
  h = ((1 - z) * h + z * n).astype(state.h.dtype)
  return State(h, state.h if cell.looks_back else None), h


def _input_maps(cell: Cell, params: Params, x: jax.Array) -> dict[str, jax.Array]:
  """The input's share of every affine map: one convolution of x [batch, height, width, channels]."""
  kernels, biases = [params["input_kernel"]], [params["input_bias"]]
  gate_reads = cell.temporal_gate and cell.gate_sees_x
  if gate_reads:
    kernels.append(params["gate_input_kernel"])
    biases.append(params["gate_bias"])
  maps = convolution.conv(x, jnp.concatenate(kernels, axis=-1)) + jnp.concatenate(biases)
  features = params["input_bias"].shape[0] // cell.gates
  sizes = {"state": 4} if cell.kind == "conv_lstm" else {"state": 2, "candidate": 1}
  if gate_reads:
    sizes["gate"] = 1
  ends = [sum(list(sizes.values())[: k + 1]) * features for k in range(len(sizes) - 1)]
  return dict(zip(sizes, jnp.split(maps, ends, axis=-1), strict=True))


def _state_maps(cell: Cell, params: Params) -> tuple[dict, dict, dict]:
  """Kernels, biases and constants of the recurrence, by the name of their affine map."""
  kernels, biases, constants = {"state": params["state_kernel"]}, {}, {}
  if cell.kind == "conv_gru":
    kernels["candidate"] = params["candidate_kernel"]
  if cell.temporal_gate:
    kernels["gate"] = params["gate_state_kernel"]
    if not cell.gate_sees_x:
      biases["gate"] = params["gate_bias"]
  if cell.temporal_skip:
    kernels["temporal_skip"] = params["temporal_skip_kernel"][None, None]
    biases["temporal_skip"] = params["temporal_skip_bias"]
  if cell.peephole:
    constants["peephole"] = params["peephole"]
  return kernels, biases, constants


def _spatial_skip(params: Params, h: jax.Array, x: jax.Array) -> jax.Array:
  kernel = params["spatial_skip_kernel"][None, None]
  return convolution.conv(jnp.concatenate([h, x], axis=-1), kernel) + params["spatial_skip_bias"]


def _step_of(cell: Cell):
  return functools.partial(_lstm_step if cell.kind == "conv_lstm" else _gru_step, cell)


def unroll(
  cell: Cell,
  params: Params,
  x: jax.Array,
  state: State | None = None,
  mask: jax.Array | None = None,
  *,
  recompute: bool = False,
  checkpoint_every: int | None = None,
) -> tuple[jax.Array, State]:
  """Runs the cell over a sequence.

  What the backward pass needs grows with time: by default the state and the gates before their nonlinearities of every
  step. Both options trade memory for the forward pass again (measured in benchmarks/memory.py).

  Args:
    cell: kind and switches.
    params: as the module docstring lists them, all of x's dtype.
    x: [batch, time, height, width, channels].
    state: the state before the first step; None is zeros.
    mask: [batch, time], True where a sequence is still running. Masked steps leave the state as it was and give zeros.
    recompute: keep the states and the inputs' maps, and take the gates again in the reverse scan.
    checkpoint_every: keep x and the state at every so many steps alone, and run these steps again (`jax.checkpoint`).

  Returns:
    outputs [batch, time, height, width, features] (Y of the equations) and the last state.
  """
  batch, time, height, width, _ = x.shape
  features = params["input_bias"].shape[0] // cell.gates
  first = initial_state(cell, (batch, height, width, features), x.dtype) if state is None else state
  run = functools.partial(_unroll, cell, recompute)
  sequence = x.swapaxes(0, 1), None if mask is None else mask.swapaxes(0, 1)
  if checkpoint_every is None:
    outputs, last = run(params, first, sequence)
    return outputs.swapaxes(0, 1), last

  whole = time // checkpoint_every
  chunks, rest = (
    jax.tree.map(lambda a, part=part: a[part], sequence)
    for part in (slice(whole * checkpoint_every), slice(whole * checkpoint_every, None))
  )
  chunks = jax.tree.map(lambda a: a.reshape(whole, checkpoint_every, *a.shape[1:]), chunks)
  # Inside a scan nothing can merge the second run with the first.
  again = jax.checkpoint(run, prevent_cse=False)

  def body(state, chunk):
    outputs, state = again(params, state, chunk)
    return state, outputs

  last, outputs = jax.lax.scan(body, first, chunks)
  outputs = outputs.reshape(whole * checkpoint_every, *outputs.shape[2:])
  if time % checkpoint_every:
    end, last = jax.checkpoint(run)(params, last, rest)
    outputs = jnp.concatenate([outputs, end])
  return outputs.swapaxes(0, 1), last


def _unroll(cell: Cell, recompute: bool, params: Params, state: State, sequence) -> tuple[jax.Array, State]:
  """`unroll` of x and mask with time first; outputs have time first too."""
  x, mask = sequence
  time, batch = x.shape[:2]
  flat = x.reshape(time * batch, *x.shape[2:])
  inputs = {name: a.reshape(time, batch, *a.shape[1:]) for name, a in _input_maps(cell, params, flat).items()}
  outputs, state = scan(_step_of(cell), recompute, *_state_maps(cell, params), inputs, state, mask)
  if cell.spatial_skip:
    outputs = _spatial_skip(params, outputs.reshape(time * batch, *outputs.shape[2:]), flat)
    outputs = outputs.reshape(time, batch, *outputs.shape[1:])
    if mask is not None:
      outputs = jnp.where(mask[..., None, None, None], outputs, 0)
  return outputs, state


def step(cell: Cell, params: Params, state: State, x: jax.Array) -> tuple[State, jax.Array]:
  """One step on x [batch, height, width, channels]: `unroll` of one frame. Returns the state and Y."""
  outputs, state = unroll(cell, params, x[:, None], state)
  return state, outputs[:, 0]
