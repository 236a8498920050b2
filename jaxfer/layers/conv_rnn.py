"""ConvLSTM and ConvGRU layers and cells, plain and enhanced (paper 001, Fig. 1; equations in kernels.conv_recurrence).

A layer runs over a whole sequence, a cell over one step; both have the same parameters under the same names. Choices
where the paper is silent (specs 2.3): Glorot-uniform kernels, each gate on its own; zero biases, 1 for the forget gate;
point-wise merges start at [identity; 0] plus N(0, 0.01), so that an enhanced cell starts close to its plain one; zero
peephole weights.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import UserError
from jaxfer.kernels import conv_recurrence
from jaxfer.kernels.conv_recurrence import Cell, State

Dtype = Any


def _gates(blocks: int) -> nn.initializers.Initializer:
  """Glorot uniform for each of `blocks` kernels that stand side by side in the last axis."""
  glorot = nn.initializers.glorot_uniform()

  def init(key, shape, dtype):
    one = (*shape[:-1], shape[-1] // blocks)
    return jnp.concatenate([glorot(k, one, dtype) for k in jax.random.split(key, blocks)], axis=-1)

  return init


def _merge(key, shape, dtype):
  """[identity; 0] + N(0, 0.01) for a point-wise kernel [2 features or more, features]."""
  return jnp.eye(shape[0], shape[1], dtype=dtype) + 0.01 * jax.random.normal(key, shape, dtype)


def _forget_bias(key, shape, dtype):
  del key
  return jnp.zeros((4, shape[0] // 4), dtype).at[1].set(1).reshape(shape)


class _Recurrent(nn.RNNCellBase):
  """What layers and cells share: the switches and the parameters."""

  features: int
  kernel_size: tuple[int, int] = (3, 3)
  temporal_gate: bool = False
  temporal_skip: bool = False
  spatial_skip: bool = False
  gate_sees_x: bool = True
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32

  kind: ClassVar[Literal["conv_lstm", "conv_gru"]] = "conv_lstm"

  def _cell(self) -> Cell:
    if any(k % 2 == 0 or k < 1 for k in self.kernel_size):
      raise UserError(
        f"kernel_size {self.kernel_size} of a conv-RNN must be odd, so that the state keeps its size"
      )
    switches = {f.name for f in dataclasses.fields(Cell)} - {"kind"}
    return Cell(self.kind, **{name: getattr(self, name) for name in switches if hasattr(self, name)})

  def _params(self, cell: Cell, x: jax.Array) -> dict[str, jax.Array]:
    """Declares the parameters for x [..., height, width, channels] and casts them to the dtype of computation."""
    zeros = nn.initializers.zeros
    inits = {
      "input_kernel": _gates(cell.gates),
      "input_bias": _forget_bias if cell.kind == "conv_lstm" else zeros,
      "state_kernel": _gates(4 if cell.kind == "conv_lstm" else 2),
      "temporal_skip_kernel": _merge,
      "spatial_skip_kernel": _merge,
    }
    shapes = conv_recurrence.parameter_shapes(
      cell, x.shape[-1], self.features, self.kernel_size, (x.shape[-3], x.shape[-2])
    )
    params = {}
    for name, shape in shapes.items():
      default = nn.initializers.glorot_uniform() if name.endswith("kernel") else zeros
      params[name] = self.param(name, inits.get(name, default), shape, self.param_dtype)
    return {name: p.astype(self._dtype(x)) for name, p in params.items()}

  def _dtype(self, x: jax.Array) -> Dtype:
    return self.dtype or jnp.promote_types(x.dtype, self.param_dtype)


class _Layer(_Recurrent):
  recompute: bool = False
  checkpoint_every: int | None = None

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Runs over a batch of sequences from a zero state.

    Args:
      x: [batch, time, height, width, channels].
      mask: [batch, time], True where a sequence is still running; steps past its end give zeros and change nothing.

    Returns:
      [batch, time, height, width, features], of `dtype`.
    """
    if x.ndim != 5 or x.shape[1] < 1:
      raise UserError(f"a conv-RNN reads [batch, time >= 1, height, width, channels], not {x.shape}")
    cell = self._cell()
    params = self._params(cell, x)
    if self.checkpoint_every is not None and self.checkpoint_every < 1:
      raise UserError(f"checkpoint_every={self.checkpoint_every}: take a number of steps, 1 or more, or None")
    outputs, _ = conv_recurrence.unroll(
      cell,
      params,
      x.astype(self._dtype(x)),
      mask=mask,
      recompute=self.recompute,
      checkpoint_every=self.checkpoint_every,
    )
    return outputs


class _StepCell(_Recurrent):
  @nn.compact
  def __call__(self, carry: State, inputs: jax.Array) -> tuple[State, jax.Array]:
    """One step on inputs [batch, height, width, channels]; returns the new carry and Y of the equations."""
    cell = self._cell()
    params = self._params(cell, inputs)
    return conv_recurrence.step(cell, params, carry, inputs.astype(self._dtype(inputs)))

  @nn.nowrap
  def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> State:
    """Zeros for inputs of `input_shape` [batch, height, width, channels]."""
    del rng
    dtype = self.dtype or self.param_dtype
    return conv_recurrence.initial_state(self._cell(), (*input_shape[:-1], self.features), dtype)

  @property
  def num_feature_axes(self) -> int:
    """Height, width, channels."""
    return 3


class ConvLSTM(_Layer):
  """Convolutional LSTM over a sequence; all switches off is Shi et al. 2015.

  Attributes:
    features: channels of the state and the output.
    kernel_size: odd (height, width) of the gates' convolutions, stride 1, zero padding that keeps the size.
    temporal_gate: filter the state of two steps ago through a learned gate.
    temporal_skip: merge it into the last state by a point-wise convolution.
    spatial_skip: merge the layer's input into its output by a point-wise convolution.
    gate_sees_x: whether the temporal gate reads the input beside the state of two steps ago.
    peephole: gates see the cell state through elementwise weights, which tie the parameters to height and width.
    dtype: of the computation; the cell state stays float32.
    param_dtype: of the parameters.
    recompute: keep less for the backward pass and take the gates again there (`kernels.conv_recurrence.unroll`).
    checkpoint_every: keep the input and the state at every so many steps alone, for long sequences.
  """

  peephole: bool = False


class ConvGRU(_Layer):
  """Convolutional GRU over a sequence; all switches off is Ballas et al. 2016. Attributes as in `ConvLSTM`."""

  kind: ClassVar[Literal["conv_lstm", "conv_gru"]] = "conv_gru"


class ConvLSTMCell(_StepCell):
  """One step of `ConvLSTM`, with Flax's `RNNCellBase` protocol and the same parameters."""

  peephole: bool = False


class ConvGRUCell(_StepCell):
  """One step of `ConvGRU`, with Flax's `RNNCellBase` protocol and the same parameters."""

  kind: ClassVar[Literal["conv_lstm", "conv_gru"]] = "conv_gru"
