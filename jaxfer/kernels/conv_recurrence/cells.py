"""ConvLSTM and ConvGRU, plain and enhanced, as steps of one recurrence.

The equations (`*` is a convolution, juxtaposition is an elementwise product, s is the logistic function, and X, C, H, Y
without an index are those of step t):

  temporal gate    g = s(W_xg * X + W_gg * H[t-2] + b_g);  S = g H[t-2], or S = H[t-2] without the gate
  merge            M(A) = P_T [A; S] + b_T with the temporal skip;  A + S with the gate alone;  A with neither
  input of cells   H' = M(H[t-1]) with temporal_merge="input";  H' = H[t-1] with temporal_merge="output"
  ConvLSTM         i, f, o = s(W_x * X + W_h * H' + b) (+ peephole weights times C: C[t-1] for i and f, C for o)
                   C = f C[t-1] + i tanh(W_xc * X + W_hc * H' + b_c);  H" = o tanh(C)
  ConvGRU          z, r = s(W_x * X + W_h * H' + b);  N = tanh(W_xn * X + W_hn * (r H') + b_n)
                   H" = (1 - z) H' + z N
  the new state    H = H" with temporal_merge="input";  H = M(H") with temporal_merge="output"
  spatial skip     Y = P_S [H; X] + b_S, given to the next layer; the recurrence goes on with H

The state before step 1 is H[0], H[-1] and C[0]. It is zero unless it is given, so S of the first two steps is zero. A
masked step does not change H[t-1], H[t-2] and C[t-1].

Paper 001 calls the temporal skip a path for gradients in time and names "concat + point-wise convolution" as the merge,
but prints no equation. With "input", S reaches the new state only through the cell's use of H': a ConvLSTM reads it in
its gates through W_h, and a ConvGRU also passes on (1 - z) H'. With "output", S is a linear part of the new state, and
the gradient goes from H to H[t-2] through the block of P_T that acts on S, past the cell. The initial P_T determines
whether that path is open when training starts (`merge_init` in `layers.conv_rnn`). These are our choices: M acts on H
and not on the ConvLSTM's C; the merged H, not H", goes on to steps t+1 and t+2, to the spatial skip and to the next
layer; the gate without the skip adds S.

Parameters are a flat dict (C = features, K = kernel size, D = channels of the input):

  input_kernel [K, K, D, gates C], input_bias [gates C]      gates: ConvLSTM i f c o, ConvGRU z r n
  state_kernel [K, K, C, 4 C] or [K, K, C, 2 C] (z r), candidate_kernel [K, K, C, C] (ConvGRU)
  gate_input_kernel [K, K, D, C], gate_state_kernel [K, K, C, C], gate_bias [C]
  temporal_skip_kernel [2 C, C], temporal_skip_bias [C], spatial_skip_kernel [C + D, C], spatial_skip_bias [C]
  peephole [3, height, width, C] (i f o)
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, cast, get_args

import chex
import jax
import jax.numpy as jnp

from jaxfer.errors import UserError, unknown
from jaxfer.kernels import conv as convolution
from jaxfer.kernels.conv import choices
from jaxfer.kernels.conv.ops import by_platform
from jaxfer.kernels.conv_recurrence import folding, pallas
from jaxfer.kernels.conv_recurrence.chip import tpu_kinds
from jaxfer.kernels.conv_recurrence.errors import Unsuitable
from jaxfer.kernels.conv_recurrence.packed import Packed
from jaxfer.kernels.conv_recurrence.scan import scan

Params = Mapping[str, jax.Array]
Kind = Literal["conv_lstm", "conv_gru"]
TemporalMerge = Literal["input", "output"]
Implementation = Literal["auto", "scan", "scan_folded2", "scan_folded4", "scan_folded8", "pallas"]
IMPLEMENTATIONS: tuple[Implementation, ...] = tuple(
  name for name in get_args(Implementation) if name != "auto"
)
_FOLDED = "scan_folded"


@dataclasses.dataclass(frozen=True)
class Cell:
  """The kind of a cell and its options.

  Attributes:
    kind: "conv_lstm" or "conv_gru".
    temporal_gate: whether the state of two steps ago passes through a learned gate.
    temporal_skip: whether the state of two steps ago is merged by a point-wise convolution.
    spatial_skip: whether the output is merged with the input by a point-wise convolution.
    gate_sees_x: whether the temporal gate also reads the input.
    peephole: whether the gates of a ConvLSTM read its cell state.
    temporal_merge: whether the state of two steps ago is merged with the input of the cell ("input") or with its new
      state ("output"). It makes no difference to a cell without temporal gate and temporal skip.

  Raises:
    UserError: the kind or the merge is unknown, or a ConvGRU has peepholes.
  """

  kind: Kind
  temporal_gate: bool = False
  temporal_skip: bool = False
  spatial_skip: bool = False
  gate_sees_x: bool = True
  peephole: bool = False
  temporal_merge: TemporalMerge = "input"

  def __post_init__(self):
    for name, values in (("kind", Kind), ("temporal_merge", TemporalMerge)):
      if getattr(self, name) not in get_args(values):
        raise unknown(f"{name} of a conv-RNN", str(getattr(self, name)), get_args(values))
    if self.peephole and self.kind == "conv_gru":
      raise UserError(
        "peephole=True: a ConvGRU has no cell state for peepholes; leave it out or use conv_lstm"
      )

  @property
  def gates(self) -> int:
    """Number of blocks of features that the input convolution computes, without that of the temporal gate."""
    return 4 if self.kind == "conv_lstm" else 3

  @property
  def looks_back(self) -> bool:
    """Whether the cell reads the state of two steps ago."""
    return self.temporal_gate or self.temporal_skip

  @property
  def operation(self) -> str:
    """Name of the cell's operation in the choice table; plain cells and cells with skips are measured separately."""
    return "enhanced_recurrence" if self.looks_back or self.spatial_skip else "recurrence"


def parameter_shapes(
  cell: Cell, channels: int, features: int, kernel_size: tuple[int, int], size: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
  """Returns names and shapes of the cell's parameters; only peephole weights depend on `size` (height, width)."""
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
  """The state that a cell passes from step to step, each [batch, height, width, features]."""

  h: jax.Array
  h_previous: jax.Array | None = None  # Only if the cell looks two steps back.
  c: jax.Array | None = (
    None  # ConvLSTM only; float32 also in bfloat16 mode, because it sums over all time steps.
  )


def initial_state(cell: Cell, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> State:
  """Returns a state of zeros with `shape` [batch, height, width, features]."""
  return State(
    h=jnp.zeros(shape, dtype),
    h_previous=jnp.zeros(shape, dtype) if cell.looks_back else None,
    c=jnp.zeros(shape, jnp.float32) if cell.kind == "conv_lstm" else None,
  )


def _look_back(cell: Cell, state: State, affine) -> jax.Array | None:
  """Returns S, the gated state of two steps ago; None if the cell does not look back."""
  if not cell.looks_back:
    return None
  s = state.h_previous
  assert s is not None
  if cell.temporal_gate:
    s = (jax.nn.sigmoid(affine("gate", s).astype(jnp.float32)) * s).astype(s.dtype)
  return s


def _merge(cell: Cell, h: jax.Array, s: jax.Array | None, affine, axis: int) -> jax.Array:
  """Returns M(h), the merge of h and S."""
  if s is None:
    return h
  return affine("temporal_skip", jnp.concatenate([h, s], axis=axis)) if cell.temporal_skip else h + s


def _lstm(
  cell: Cell, h: jax.Array, c: jax.Array, affine, constants, axis: int
) -> tuple[jax.Array, jax.Array]:
  """Returns (H", C) of a ConvLSTM from H' and C[t-1]."""
  i, f, g, o = jnp.split(affine("state", h).astype(jnp.float32), 4, axis=axis)
  if cell.peephole:
    w_i, w_f, w_o = constants["peephole"]
    i, f = i + w_i * c, f + w_f * c
  c = (jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)).astype(c.dtype)
  if cell.peephole:
    o = o + w_o * c
  return (jax.nn.sigmoid(o) * jnp.tanh(c)).astype(h.dtype), c


def _gru(h: jax.Array, affine, axis: int) -> jax.Array:
  """Returns H" of a ConvGRU from H'."""
  z, r = jnp.split(jax.nn.sigmoid(affine("state", h).astype(jnp.float32)), 2, axis=axis)
  n = jnp.tanh(affine("candidate", (r * h).astype(h.dtype)).astype(jnp.float32))
  return ((1 - z) * h + z * n).astype(h.dtype)


def _step(cell: Cell, state: State, affine, constants, axis: int = -1) -> tuple[State, jax.Array]:
  """Computes one step for `scan.scan` and `pallas`: returns the new state and H. `axis` is that of the channels."""
  s = _look_back(cell, state, affine)
  h, c = state.h, state.c
  if cell.temporal_merge == "input":
    h = _merge(cell, h, s, affine, axis)
  if cell.kind == "conv_lstm":
    assert c is not None
    h, c = _lstm(cell, h, c, affine, constants, axis)
  else:
    h = _gru(h, affine, axis)
  if cell.temporal_merge == "output":
    h = _merge(cell, h, s, affine, axis)
  return State(h, state.h if cell.looks_back else None, c), h


def _input_kernels(cell: Cell, params: Params) -> tuple[jax.Array, jax.Array, Callable]:
  """Returns kernel and bias of the input's part of all affine maps, and a function that splits the last axis by map."""
  kernels, biases = [params["input_kernel"]], [params["input_bias"]]
  sizes = {"state": 4} if cell.kind == "conv_lstm" else {"state": 2, "candidate": 1}
  if cell.temporal_gate and cell.gate_sees_x:
    kernels.append(params["gate_input_kernel"])
    biases.append(params["gate_bias"])
    sizes["gate"] = 1
  features = params["input_bias"].shape[0] // cell.gates
  ends = [sum(list(sizes.values())[: k + 1]) * features for k in range(len(sizes) - 1)]

  def split(a: jax.Array) -> dict[str, jax.Array]:
    return dict(zip(sizes, jnp.split(a, ends, axis=-1), strict=True))

  return jnp.concatenate(kernels, axis=-1), jnp.concatenate(biases), split


def _input_maps(cell: Cell, params: Params, x: jax.Array, plus: Callable) -> dict[str, jax.Array]:
  """Computes the input's part of every affine map with one convolution of x [batch, height, width, channels]."""
  kernel, bias, split = _input_kernels(cell, params)
  return split(plus(folding.conv(x, kernel), bias))


def _state_maps(cell: Cell, params: Params) -> tuple[dict, dict, dict]:
  """Returns kernels, biases and constants of the recurrence, by the names of their affine maps."""
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


def _spatial_skip(params: Params, h: jax.Array, x: jax.Array, plus: Callable) -> jax.Array:
  kernel = params["spatial_skip_kernel"][None, None]
  return plus(convolution.conv(jnp.concatenate([h, x], axis=-1), kernel), params["spatial_skip_bias"])


def unroll(
  cell: Cell,
  params: Params,
  x: jax.Array | Packed,
  state: State | None = None,
  mask: jax.Array | None = None,
  *,
  recompute: bool = False,
  checkpoint_every: int | None = None,
  implementation: Implementation = "auto",
  packed: bool = False,
) -> tuple[Any, State]:
  """Runs the cell over a sequence.

  The memory for the backward pass grows with time: by default, it keeps the state and the gates before their
  nonlinearities for every step. `recompute` and `checkpoint_every` save memory by repeating parts of the forward pass
  (measured in benchmarks/memory.py).

  Args:
    cell: kind and options of the cell.
    params: parameters as listed in the module's docstring, with the dtype of x.
    x: [batch, time, height, width, channels]; with "pallas" also a packed sequence from another layer.
    state: the state before the first step; None for zeros.
    mask: [batch, time], True for the steps of a sequence and False after its end. Masked steps do not change the state,
      and their outputs are zero.
    recompute: whether to keep only the states and the input's maps, and to recompute the gates in the reverse scan.
    checkpoint_every: keep only x and the state of every `checkpoint_every`-th step, and recompute the others
      (`jax.checkpoint`).
    implementation: "scan" is `scan.scan`, for every platform; "scan_folded4" is the same on blocks of 4 pixels of a row
      (`folding`), so 4 must divide the width. "pallas" selects the TPU kernels of `pallas`. On other platforms they are
      interpreted, which is slow. They always recompute the gates, can be differentiated once, and cannot be partitioned
      over devices by XLA or exported for another platform. "auto" looks the layer up in the choice table when the
      program is lowered, and uses the implementation of the nearest shape. It uses "scan" if the table has no such row
      or the images do not suit the implementation. If neither this machine nor the mesh in context (`chip`) has a TPU,
      only "scan" is traced, because tracing both takes two to three times as long.
    packed: with "pallas", whether to leave the outputs in the kernels' layout, which the next layer can read.

  Returns:
    outputs [batch, time, height, width, features] (Y of the equations) and the last state.

  Raises:
    UserError: the implementation is unknown, sequences are packed without "pallas", the images are too large for
      "pallas" or cannot be folded, or a second derivative of "pallas" is taken.
  """
  if implementation not in get_args(Implementation):
    raise unknown("implementation of a conv-RNN", str(implementation), get_args(Implementation))
  batch, time, height, width, channels = x.shape
  if mask is not None:
    chex.assert_shape(mask, (batch, time))
  features = params["input_bias"].shape[0] // cell.gates
  first = initial_state(cell, (batch, height, width, features), x.dtype) if state is None else state
  if implementation == "pallas":
    return _unroll_pallas(cell, params, x, first, mask, checkpoint_every, packed=packed)
  if packed or isinstance(x, Packed):
    raise UserError(f'a packed sequence needs implementation="pallas", not "{implementation}"')
  if implementation == "auto" and tpu_kinds():
    again = functools.partial(unroll, cell, recompute=recompute, checkpoint_every=checkpoint_every)
    options: dict[str, Callable] = {name: functools.partial(_suited, again, name) for name in IMPLEMENTATIONS}
    kernel_height, kernel_width, *_ = params["input_kernel"].shape
    at = layer_shape((height, width), channels, features, (kernel_height, kernel_width))
    return by_platform(cell.operation, at, options, params, x, first, mask)
  run = functools.partial(_unroll, cell, recompute)
  if (pixels := folded_pixels(implementation)) > 1:
    run = functools.partial(run, plus=folding.plus)
    return _unroll_folded(run, params, x, first, mask, checkpoint_every, pixels)
  return _unroll_scan(run, params, x, first, mask, checkpoint_every)


def _unroll_scan(run: Callable, params: Params, x: jax.Array, first: State, mask, checkpoint_every):
  sequence = x.swapaxes(0, 1), None if mask is None else mask.swapaxes(0, 1)
  outputs, last = _in_chunks(run, params, first, sequence, checkpoint_every)
  return outputs.swapaxes(0, 1), last


def folded_pixels(implementation: Implementation) -> int:
  """Returns the pixels per block of "scan_folded4" and similar implementations; 1 for the others."""
  return int(implementation.removeprefix(_FOLDED)) if implementation.startswith(_FOLDED) else 1


def _unroll_folded(
  run: Callable,
  params: Params,
  x: jax.Array,
  first: State,
  mask: jax.Array | None,
  checkpoint_every: int | None,
  pixels: int,
) -> tuple[jax.Array, State]:
  """Runs `unroll` on blocks of pixels."""
  if x.shape[3] % pixels:
    raise Unsuitable(
      f'implementation="{_FOLDED}{pixels}" needs a width that is a multiple of {pixels}, not {x.shape[3]}: use "scan"'
    )
  folded = folding.fold_params(params, x.shape[-1], first.h.shape[-1], pixels)
  # Given zeros as the initial state, XLA would check in every step whether it is the first.
  first = jax.lax.optimization_barrier(jax.tree.map(lambda a: folding.fold(a, pixels), first))
  outputs, last = _unroll_scan(run, folded, folding.fold(x, pixels), first, mask, checkpoint_every)
  return folding.unfold(outputs, pixels), jax.tree.map(lambda a: folding.unfold(a, pixels), last)


def _in_chunks(
  run: Callable, params: Params, first: State, sequence, checkpoint_every: int | None
) -> tuple[jax.Array, State]:
  """Applies run(params, state, sequence) to a sequence of arrays [time, ...] with the requested checkpoints."""
  if checkpoint_every is None:
    return run(params, first, sequence)
  time = len(sequence[0])
  whole = time // checkpoint_every
  chunks, rest = (
    jax.tree.map(lambda a, part=part: a[part], sequence)
    for part in (slice(whole * checkpoint_every), slice(whole * checkpoint_every, None))
  )
  chunks = jax.tree.map(lambda a: a.reshape(whole, checkpoint_every, *a.shape[1:]), chunks)
  # Inside a scan, XLA cannot merge the recomputation with the first run.
  again = jax.checkpoint(run, prevent_cse=False)

  def body(state, chunk):
    outputs, state = again(params, state, chunk)
    return state, outputs

  last, outputs = jax.lax.scan(convolution.looped(body), first, chunks)
  outputs = outputs.reshape(whole * checkpoint_every, *outputs.shape[2:])
  if time % checkpoint_every:
    end, last = jax.checkpoint(run)(params, last, rest)
    outputs = jnp.concatenate([outputs, end])
  return outputs, last


def _unroll(
  cell: Cell, recompute: bool, params: Params, state: State, sequence, plus: Callable = operator.add
) -> tuple[jax.Array, State]:
  """Runs `unroll` on x and mask with time as the first axis, also in the outputs. `plus` adds a bias."""
  x, mask = sequence
  time, batch = x.shape[:2]
  flat = x.reshape(time * batch, *x.shape[2:])
  inputs = {
    name: a.reshape(time, batch, *a.shape[1:]) for name, a in _input_maps(cell, params, flat, plus).items()
  }
  outputs, state = scan(
    functools.partial(_step, cell), recompute, *_state_maps(cell, params), inputs, state, mask
  )
  if cell.spatial_skip:
    outputs = _spatial_skip(params, outputs.reshape(time * batch, *outputs.shape[2:]), flat, plus)
    outputs = outputs.reshape(time, batch, *outputs.shape[1:])
    if mask is not None:
      outputs = jnp.where(mask[..., None, None, None], outputs, 0)
  return outputs, state


def layer_shape(
  size: tuple[int, int], channels: int, features: int, kernel_size: tuple[int, int]
) -> choices.Shape:
  """Returns the shape by which "auto" looks up a layer, for images of `size` (height, width)."""
  return choices.Shape(kernel_size, (1, 1), channels, features, size[0] * size[1])


def chosen(platform: str, cell: Cell, shape: choices.Shape) -> Implementation:
  """Returns the implementation that "auto" selects on a platform."""
  return cast(Implementation, choices.choose(platform, cell.operation, shape, IMPLEMENTATIONS))


def _suited(again: Callable, implementation: Implementation, *arguments) -> tuple[jax.Array, State]:
  """Runs `unroll` with the implementation that "auto" chose, or with "scan" if the images do not suit it."""
  try:
    return again(*arguments, implementation=implementation)
  except Unsuitable:
    return again(*arguments, implementation="scan")


def _recurrence(cell: Cell, params: Params) -> pallas.Recurrence:
  """Returns the cell in the form that the Pallas kernels take."""
  kernel, bias, split = _input_kernels(cell, params)
  return pallas.Recurrence(
    functools.partial(_step, cell, axis=-2),
    *_state_maps(cell, params),
    split(kernel),
    split(bias),
    (params["spatial_skip_kernel"], params["spatial_skip_bias"]) if cell.spatial_skip else None,
  )


def _unroll_pallas(
  cell: Cell,
  params: Params,
  x: Any,
  first: State,
  mask: jax.Array | None,
  checkpoint_every: int | None,
  *,
  packed: bool,
) -> tuple[Any, State]:
  """Runs `unroll` with the Pallas kernels."""
  batch, _, *size, _ = x.shape
  recurrence = _recurrence(cell, params)
  layout = pallas.layout_for(
    recurrence, (batch, *size), x.dtype, first, x.layout if isinstance(x, Packed) else None
  )
  data = x.to(layout).data if isinstance(x, Packed) else layout.pack(x)
  running = None if mask is None else layout.pack_images(mask).astype(jnp.int32)

  def run(params, state, sequence):
    return pallas.unroll(_recurrence(cell, params), layout, sequence[0], state, sequence[1])

  outputs, last = _in_chunks(run, params, jax.tree.map(layout.pack, first), (data, running), checkpoint_every)
  if running is not None:
    outputs = jnp.where(running != 0, outputs, 0)
  features = recurrence.sizes[0]
  result = Packed(outputs, layout, features)
  return result if packed else result.unpack(), jax.tree.map(lambda a: layout.unpack(a, features), last)


def step(cell: Cell, params: Params, state: State, x: jax.Array) -> tuple[State, jax.Array]:
  """Runs one step on x [batch, height, width, channels], like `unroll` on one frame. Returns the state and Y."""
  outputs, state = unroll(cell, params, x[:, None], state, implementation="scan")
  return state, outputs[:, 0]
