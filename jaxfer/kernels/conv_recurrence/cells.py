"""ConvLSTM and ConvGRU, plain and enhanced, as steps of one recurrence.

Equations (`*` is a convolution, juxtaposition is elementwise, s is the logistic function, X, C, H, Y without an index
are those of step t):

  temporal gate    g = s(W_xg * X + W_gg * H[t-2] + b_g);  S = g H[t-2], or S = H[t-2] without the gate
  merge            M(A) = P_T [A; S] + b_T with the temporal skip;  A + S with the gate alone;  A with neither
  what cells read  H' = M(H[t-1]) with temporal_merge="input";  H' = H[t-1] with temporal_merge="output"
  ConvLSTM         i, f, o = s(W_x * X + W_h * H' + b) (+ peephole weights times C: C[t-1] for i and f, C for o)
                   C = f C[t-1] + i tanh(W_xc * X + W_hc * H' + b_c);  H" = o tanh(C)
  ConvGRU          z, r = s(W_x * X + W_h * H' + b);  N = tanh(W_xn * X + W_hn * (r H') + b_n)
                   H" = (1 - z) H' + z N
  the new state    H = H" with temporal_merge="input";  H = M(H") with temporal_merge="output"
  spatial skip     Y = P_S [H; X] + b_S, given to the next layer; the recurrence goes on with H

The state before step 1 is H[0], H[-1] and C[0], zero unless it is given, so that S of the first two steps is zero. A
masked step leaves H[t-1], H[t-2] and C[t-1] as they were.

Paper 001 calls the temporal skip a path for gradients in time and names "concat + point-wise convolution" as the merge,
but prints no equation. With "input", S reaches the new state only through what the cell does with H': a ConvLSTM reads
it through W_h into its gates, a ConvGRU also leaks (1 - z) H'. With "output", S is a linear part of the new state, and
the gradient goes from H to H[t-2] through the block of P_T that acts on S, past the cell. The initial P_T decides
whether that path is open when training starts (`merge_init` in `layers.conv_rnn`). These are our choices: M acts on H
and leaves the ConvLSTM's C alone; the merged H, not H", goes on to steps t+1 and t+2, to the spatial skip and to the
next layer; the gate alone adds S.

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
  """Which recurrence: the kind of cell and its switches.

  Attributes:
    kind: "conv_lstm" or "conv_gru".
    temporal_gate: whether the state of two steps ago passes through a learned gate.
    temporal_skip: whether it is merged by a point-wise convolution.
    spatial_skip: whether the output is merged with the input by a point-wise convolution.
    gate_sees_x: whether the temporal gate reads the input too.
    peephole: whether the gates of a ConvLSTM see its cell state.
    temporal_merge: whether the state of two steps ago joins what the cell reads ("input") or the state that it makes
      ("output"). It makes no difference to a cell without temporal gate and temporal skip.

  Raises:
    UserError: an unknown kind or merge, or a ConvGRU with peepholes.
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
      raise UserError("peephole=True: a ConvGRU has no cell state to look at; leave it out or take conv_lstm")

  @property
  def gates(self) -> int:
    """Blocks of features that the input convolution makes, the temporal gate's not counted."""
    return 4 if self.kind == "conv_lstm" else 3

  @property
  def looks_back(self) -> bool:
    """Whether the cell reads the state of two steps ago."""
    return self.temporal_gate or self.temporal_skip

  @property
  def operation(self) -> str:
    """The cell's operation in the choice table. What is fastest for a plain cell need not be for one with skips."""
    return "enhanced_recurrence" if self.looks_back or self.spatial_skip else "recurrence"


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


def _look_back(cell: Cell, state: State, affine) -> jax.Array | None:
  """S: what the temporal gate lets through of the state of two steps ago; None where the cell does not look back."""
  if not cell.looks_back:
    return None
  s = state.h_previous
  assert s is not None
  if cell.temporal_gate:
    s = (jax.nn.sigmoid(affine("gate", s).astype(jnp.float32)) * s).astype(s.dtype)
  return s


def _merge(cell: Cell, h: jax.Array, s: jax.Array | None, affine, axis: int) -> jax.Array:
  """M(h): h joined with S."""
  if s is None:
    return h
  return affine("temporal_skip", jnp.concatenate([h, s], axis=axis)) if cell.temporal_skip else h + s


def _lstm(
  cell: Cell, h: jax.Array, c: jax.Array, affine, constants, axis: int
) -> tuple[jax.Array, jax.Array]:
  """(H", C) of a ConvLSTM from H' and C[t-1]."""
  i, f, g, o = jnp.split(affine("state", h).astype(jnp.float32), 4, axis=axis)
  if cell.peephole:
    w_i, w_f, w_o = constants["peephole"]
    i, f = i + w_i * c, f + w_f * c
  c = (jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)).astype(c.dtype)
  if cell.peephole:
    o = o + w_o * c
  return (jax.nn.sigmoid(o) * jnp.tanh(c)).astype(h.dtype), c


def _gru(h: jax.Array, affine, axis: int) -> jax.Array:
  """H" of a ConvGRU from H'."""
  z, r = jnp.split(jax.nn.sigmoid(affine("state", h).astype(jnp.float32)), 2, axis=axis)
  n = jnp.tanh(affine("candidate", (r * h).astype(h.dtype)).astype(jnp.float32))
  return ((1 - z) * h + z * n).astype(h.dtype)


def _step(cell: Cell, state: State, affine, constants, axis: int = -1) -> tuple[State, jax.Array]:
  """One step, as `scan.scan` and `pallas` run it: the new state, and H. `axis` holds the channels."""
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
  """Kernel and bias of the input's share of all affine maps, and the function that splits the last axis by map."""
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
  """The input's share of every affine map: one convolution of x [batch, height, width, channels]."""
  kernel, bias, split = _input_kernels(cell, params)
  return split(plus(folding.conv(x, kernel), bias))


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

  What the backward pass needs grows with time: by default the state and the gates before their nonlinearities of every
  step. Both options trade memory for the forward pass again (measured in benchmarks/memory.py).

  Args:
    cell: kind and switches.
    params: as the module docstring lists them, all of x's dtype.
    x: [batch, time, height, width, channels]; with "pallas" also such a sequence as another layer left it packed.
    state: the state before the first step; None is zeros.
    mask: [batch, time], True where a sequence is still running. Masked steps leave the state as it was and give zeros.
    recompute: keep the states and the inputs' maps, and take the gates again in the reverse scan.
    checkpoint_every: keep x and the state at every so many steps alone, and run these steps again (`jax.checkpoint`).
    implementation: "scan" is `scan.scan`, for every platform; "scan_folded4" is the same on blocks of 4 pixels of a row
      (`folding`), which must divide the width. "pallas" are the TPU kernels of `pallas`, which are interpreted, and
      slow, on other platforms, always recompute the gates, can be differentiated once, and cannot be partitioned by XLA
      over devices or exported for another platform. "auto" looks the layer up in the choice table when the program is
      lowered and takes the implementation of the nearest shape. It takes "scan" if the table has no such row or the
      images do not suit the implementation. If neither this machine nor the mesh in context (`chip`) has a TPU, only
      "scan" is traced, because tracing both takes two to three times as long.
    packed: with "pallas", leave the outputs in the kernels' layout, as the next layer reads them.

  Returns:
    outputs [batch, time, height, width, features] (Y of the equations) and the last state.

  Raises:
    UserError: an unknown implementation, packed sequences without "pallas", images that are too large for "pallas" or
      cannot be folded, or the second derivative of "pallas".
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
  """Pixels of a block of "scan_folded4" and its like; 1 for the others."""
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
  """`unroll` on blocks of pixels."""
  if x.shape[3] % pixels:
    raise Unsuitable(
      f'implementation="{_FOLDED}{pixels}" needs a width that is a multiple of {pixels}, not {x.shape[3]}: take "scan"'
    )
  folded = folding.fold_params(params, x.shape[-1], first.h.shape[-1], pixels)
  # XLA would not start a loop from zeros, but look in every step whether it is the first.
  first = jax.lax.optimization_barrier(jax.tree.map(lambda a: folding.fold(a, pixels), first))
  outputs, last = _unroll_scan(run, folded, folding.fold(x, pixels), first, mask, checkpoint_every)
  return folding.unfold(outputs, pixels), jax.tree.map(lambda a: folding.unfold(a, pixels), last)


def _in_chunks(
  run: Callable, params: Params, first: State, sequence, checkpoint_every: int | None
) -> tuple[jax.Array, State]:
  """run(params, state, sequence) over a sequence of arrays [time, ...], with the checkpoints that are asked for."""
  if checkpoint_every is None:
    return run(params, first, sequence)
  time = len(sequence[0])
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
  return outputs, last


def _unroll(
  cell: Cell, recompute: bool, params: Params, state: State, sequence, plus: Callable = operator.add
) -> tuple[jax.Array, State]:
  """`unroll` of x and mask with time first; outputs have time first too. `plus` adds a bias."""
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
  """The shape under which "auto" looks a layer up, for images of `size` (height, width)."""
  return choices.Shape(kernel_size, (1, 1), channels, features, size[0] * size[1])


def chosen(platform: str, cell: Cell, shape: choices.Shape) -> Implementation:
  """The implementation that "auto" stands for on a platform."""
  return cast(Implementation, choices.choose(platform, cell.operation, shape, IMPLEMENTATIONS))


def _suited(again: Callable, implementation: Implementation, *arguments) -> tuple[jax.Array, State]:
  """`unroll` by the implementation that "auto" chose, or by "scan" if the images do not suit it."""
  try:
    return again(*arguments, implementation=implementation)
  except Unsuitable:
    return again(*arguments, implementation="scan")


def _recurrence(cell: Cell, params: Params) -> pallas.Recurrence:
  """The cell as the Pallas kernels take it."""
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
  """`unroll` by the Pallas kernels."""
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
  """One step on x [batch, height, width, channels]: `unroll` of one frame. Returns the state and Y."""
  outputs, state = unroll(cell, params, x[:, None], state, implementation="scan")
  return state, outputs[:, 0]
