"""ConvLSTM and ConvGRU layers and cells, plain and enhanced (paper 001, Fig. 1; equations in kernels.conv_recurrence).

A layer processes a whole sequence, a cell one step. Both have the same parameters under the same names. The paper does
not give the initialisation; our choices are Glorot-uniform kernels, drawn separately for each gate, zero biases, except
1 for the forget gate, and zero peephole weights. `merge_init` selects the initial values of the point-wise merges P_T
(temporal skip) and P_S (spatial skip):

  "identity"  [I; 0] + N(0, 0.01): an enhanced cell starts close to its plain version; the skips pass almost nothing on
  "sum"       [I; I] + N(0, 0.01): the merge starts as the sum of its two parts, so the skips are open from the start.
              If the input of the layer has fewer channels than the state, P_S adds them to the first features of the
              state. If it has more, P_S adds only its first channels.
  "glorot"    Glorot uniform

N(0, 0.01) is normal noise with standard deviation 0.01. Together, `temporal_merge` and `merge_init` determine how much
of the gradient reaches the first step. The table shows the Frobenius norm of dH[T]/dH[1] before training, with C[1] and
H[0] held fixed, for cells with temporal gate and temporal skip, one pixel, 32 features, 3 x 3 kernels and 3 channels of
standard normal input, as a mean of 5 seeds. An identity of 32 features would have the norm 5.7.

                                  ConvLSTM            ConvGRU
  temporal_merge  merge_init   T = 10   T = 16    T = 10   T = 16
  (plain cell)                  0.052    0.012     0.025   0.0009
  input           identity      0.052    0.012     0.028   0.0011
  input           sum           0.115    0.039      1.04     0.53
  output          identity      0.052    0.013     0.031   0.0014
  output          glorot        0.077    0.019      0.20    0.027
  output          sum           0.547    0.299      4.56     5.85

The temporal gate starts at about one half and damps S. With "output" and "sum" but without the gate, the state itself
grows over time. The norms for T = 10 and T = 16 are then 4.1 and 8.2 for a ConvLSTM, and 37 and 253 for a ConvGRU.
"""

import dataclasses
from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import UserError, unknown
from jaxfer.kernels import conv_recurrence
from jaxfer.kernels.conv_recurrence import Cell, Implementation, Kind, Packed, State, TemporalMerge

Dtype = Any
MergeInit = Literal["identity", "sum", "glorot"]


def _gates(blocks: int) -> nn.initializers.Initializer:
  """Returns the Glorot-uniform initialiser of `blocks` kernels that are concatenated along the last axis."""
  glorot = nn.initializers.glorot_uniform()

  def init(key, shape, dtype):
    one = (*shape[:-1], shape[-1] // blocks)
    return jnp.concatenate([glorot(k, one, dtype) for k in jax.random.split(key, blocks)], axis=-1)

  return init


def _merge_identity(key, shape, dtype):
  """[I; 0] + N(0, 0.01) for a point-wise kernel [features + others, features]."""
  return jnp.eye(shape[0], shape[1], dtype=dtype) + 0.01 * jax.random.normal(key, shape, dtype)


def _merge_sum(key, shape, dtype):
  """[I; I] + N(0, 0.01) for a point-wise kernel [features + others, features]."""
  return _merge_identity(key, shape, dtype) + jnp.eye(shape[0], shape[1], -shape[1], dtype=dtype)


_MERGES: dict[MergeInit, nn.initializers.Initializer] = {
  "identity": _merge_identity,
  "sum": _merge_sum,
  "glorot": nn.initializers.glorot_uniform(),
}


def _forget_bias(key, shape, dtype):
  del key
  return jnp.zeros((4, shape[0] // 4), dtype).at[1].set(1).reshape(shape)


class _Recurrent(nn.RNNCellBase):
  """The switches and parameters that layers and cells share."""

  features: int
  kernel_size: tuple[int, int] = (3, 3)
  temporal_gate: bool = False
  temporal_skip: bool = False
  spatial_skip: bool = False
  gate_sees_x: bool = True
  temporal_merge: TemporalMerge = "input"
  merge_init: MergeInit = "identity"
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32

  kind: ClassVar[Kind] = "conv_lstm"

  def switches(self) -> Cell:
    """Returns the kind of cell and its switches; raises `UserError` if the kernel size is not odd."""
    if any(k % 2 == 0 or k < 1 for k in self.kernel_size):
      raise UserError(
        f"kernel_size {self.kernel_size} of a conv-RNN must be odd, so that the state keeps its size"
      )
    names = {f.name for f in dataclasses.fields(Cell)} - {"kind"}
    return Cell(self.kind, **{name: getattr(self, name) for name in names if hasattr(self, name)})

  def _params(self, cell: Cell, x: jax.Array | Packed) -> dict[str, jax.Array]:
    """Declares the parameters for x [..., height, width, channels] and casts them to the dtype of the computation."""
    zeros = nn.initializers.zeros
    if self.merge_init not in get_args(MergeInit):
      raise unknown("merge_init of a conv-RNN", str(self.merge_init), get_args(MergeInit))
    inits = {
      "input_kernel": _gates(cell.gates),
      "input_bias": _forget_bias if cell.kind == "conv_lstm" else zeros,
      "state_kernel": _gates(4 if cell.kind == "conv_lstm" else 2),
      "temporal_skip_kernel": _MERGES[self.merge_init],
      "spatial_skip_kernel": _MERGES[self.merge_init],
    }
    shapes = conv_recurrence.parameter_shapes(
      cell, x.shape[-1], self.features, self.kernel_size, (x.shape[-3], x.shape[-2])
    )
    params = {}
    for name, shape in shapes.items():
      default = nn.initializers.glorot_uniform() if name.endswith("kernel") else zeros
      params[name] = self.param(name, inits.get(name, default), shape, self.param_dtype)
    return {name: p.astype(self._dtype(x)) for name, p in params.items()}

  def _dtype(self, x: jax.Array | Packed) -> Dtype:
    return self.dtype or jnp.promote_types(x.dtype, self.param_dtype)


class _Layer(_Recurrent):
  recompute: bool = False
  checkpoint_every: int | None = None
  implementation: Implementation = "auto"

  @nn.compact
  def __call__(self, x: jax.Array | Packed, mask: jax.Array | None = None, *, packed: bool = False) -> Any:
    """Processes a batch of sequences, starting from a zero state.

    Args:
      x: [batch, time, height, width, channels]; with "pallas", also the packed outputs of another layer.
      mask: [batch, time], True at the steps of each sequence. Steps after its end output zeros and keep the state.
      packed: with "pallas", whether to leave the outputs in the layout of the kernels (`Packed`).

    Returns:
      [batch, time, height, width, features], of `dtype`.
    """
    if x.ndim != 5 or x.shape[1] < 1:
      raise UserError(f"a conv-RNN reads [batch, time >= 1, height, width, channels], not {x.shape}")
    cell = self.switches()
    params = self._params(cell, x)
    if self.checkpoint_every is not None and self.checkpoint_every < 1:
      raise UserError(
        f"checkpoint_every={self.checkpoint_every}: give a number of steps, at least 1, or None"
      )
    outputs, _ = conv_recurrence.unroll(
      cell,
      params,
      x.astype(self._dtype(x)),
      mask=mask,
      recompute=self.recompute,
      checkpoint_every=self.checkpoint_every,
      implementation=self.implementation,
      packed=packed,
    )
    return outputs


class _StepCell(_Recurrent):
  @nn.compact
  def __call__(self, carry: State, inputs: jax.Array) -> tuple[State, jax.Array]:
    """Runs one step on inputs [batch, height, width, channels]; returns the new carry and Y of the equations."""
    cell = self.switches()
    params = self._params(cell, inputs)
    return conv_recurrence.step(cell, params, carry, inputs.astype(self._dtype(inputs)))

  @nn.nowrap
  def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> State:
    """Returns a zero state for inputs of shape `input_shape`, (batch, height, width, channels)."""
    del rng
    dtype = self.dtype or self.param_dtype
    return conv_recurrence.initial_state(self.switches(), (*input_shape[:-1], self.features), dtype)

  @property
  def num_feature_axes(self) -> int:
    """Number of feature axes: height, width and channels."""
    return 3


class ConvLSTM(_Layer):
  """Convolutional LSTM over a sequence. With `peephole` and no other switch, it is the ConvLSTM of Shi et al. (2015).

  Attributes:
    features: number of channels of the state and the output.
    kernel_size: (height, width) of the convolutions in the gates, both odd. The stride is 1, and zero padding keeps the
      size.
    temporal_gate: whether to filter the state of two steps ago with a learned gate.
    temporal_skip: whether to merge the state of two steps ago into the last state by a point-wise convolution.
    spatial_skip: whether to merge the input of the layer into its output by a point-wise convolution.
    gate_sees_x: whether the temporal gate also reads the input, not only the state of two steps ago.
    temporal_merge: whether temporal gate and temporal skip merge the state of two steps ago into the state that the
      cell reads ("input") or into the state that it computes ("output"), which opens a path for the gradient over time.
    merge_init: initial values of the point-wise merges: "identity", "sum" or "glorot", see the docstring of the module.
    peephole: whether the gates also read the cell state, through elementwise weights. The shapes of the parameters then
      depend on height and width.
    dtype: dtype of the computation; the cell state stays float32.
    param_dtype: dtype of the parameters.
    recompute: whether to keep less for the backward pass and recompute the gates there, see
      `kernels.conv_recurrence.unroll`.
    checkpoint_every: keep the input and the state only at every so many steps, to save memory for long sequences.
    implementation: "auto", "scan", "scan_folded2", "scan_folded4", "scan_folded8" or "pallas", see
      `kernels.conv_recurrence.unroll`.
  """

  peephole: bool = False


class ConvGRU(_Layer):
  """Convolutional GRU over a sequence. Without switches, it is that of Ballas et al. (2016).

  Attributes are those of `ConvLSTM`, without `peephole`.
  """

  kind: ClassVar[Kind] = "conv_gru"


class ConvLSTMCell(_StepCell):
  """One step of `ConvLSTM`, with Flax's `RNNCellBase` protocol and the same parameters."""

  peephole: bool = False


class ConvGRUCell(_StepCell):
  """One step of `ConvGRU`, with Flax's `RNNCellBase` protocol and the same parameters."""

  kind: ClassVar[Kind] = "conv_gru"
