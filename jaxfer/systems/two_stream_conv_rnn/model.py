"""Two-stream conv-RNN for expression recognition from video (paper 001, Fig. 2).

  RGB frames    -> conv-RNN, pool, conv-RNN, pool, ..., conv-RNN -> average over space -+
                                                                                        +-> 3 dense layers -> logits
  optical flow  -> conv-RNN, pool, conv-RNN, pool, ..., conv-RNN -> average over space -+

The paper fixes the two streams, the cell's three additions and the three dense layers (section 2). Our choices, as it
gives no sizes: four layers of 16, 32, 64, 128 features, 3 x 3 kernels, 2 x 2 max pooling between them, the last step's
output, dense layers of 256 and 128 with ReLU and dropout 0.5.

The last line of the paper's text, "Concat + Point-wise convolution", is the legend of a figure. It may mean the merges
of the skips (Fig. 1) or the place where the two streams join (Fig. 2), so `fusion` offers both readings of that place:

  "average_concat"    the drawing above: each stream's maps are averaged over space, and the averages concatenated
  "concat_pointwise"  the maps A and B of the two streams are joined as relu(P [A; B] + b), a 1 x 1 convolution to as
                      many channels as one stream has, and then averaged over space

The ReLU is our choice: without it the average would turn the convolution into one more dense layer of the averages.

Deviation: where two pixels of a pooling window tie, the gradient is shared between them (PyTorch: the first takes all).
"""

import functools
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import UserError, unknown
from jaxfer.kernels.conv_recurrence import (
  Cell,
  Implementation,
  Kind,
  TemporalMerge,
  Unsuitable,
  chosen,
  layer_shape,
)
from jaxfer.kernels.conv_recurrence.chip import tpu_kinds
from jaxfer.layers.conv_rnn import ConvGRU, ConvLSTM, MergeInit
from jaxfer.layers.dropout import Dropout
from jaxfer.ranges import Classes, Count, Length, OddKernel, ShareBelowOne, Units, Weight

_CELLS = {"conv_lstm": ConvLSTM, "conv_gru": ConvGRU}


def _pool(x: jax.Array) -> jax.Array:
  """Maximum over 2 x 2 windows of [..., height, width, channels]; an odd last row or column is dropped."""
  *batch, height, width, channels = x.shape
  x = x[..., : height // 2 * 2, : width // 2 * 2, :]
  return x.reshape(*batch, height // 2, 2, width // 2, 2, channels).max((-4, -2))


class Stream(nn.Module):
  """Layers of one stream: [batch, time, height, width, channels] -> the last layer's maps, of features[-1] channels."""

  cell: Kind
  features: tuple[int, ...]
  settings: dict[str, Any]

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """`mask` [batch, time] is True where a sequence is still running; None where all run to the end."""
    implementation = self.settings.get("implementation", "auto")
    if implementation == "auto" and not self.is_initializing() and self._all_by_pallas(x.shape):
      return self._by_platform(x, mask)
    last, packed = len(self.features) - 1, implementation == "pallas"
    maps: Any = x
    for k, features in enumerate(self.features):
      layer = _CELLS[self.cell](features, **self.settings, name=f"layer{k + 1}")
      maps = layer(maps, mask, packed=packed and k < last)
      if k < last:
        maps = maps.pool() if packed else _pool(maps)
    return maps

  def _all_by_pallas(self, shape: tuple[int, ...]) -> bool:
    """Whether "auto" is "pallas" for every layer on the TPU that the program is for."""
    if not tpu_kinds():
      return False
    *_, height, width, channels = shape
    kernel_size = self.settings.get("kernel_size", (3, 3))
    for k, features in enumerate(self.features):
      at = layer_shape((height >> k, width >> k), channels, features, kernel_size)
      if chosen("tpu", at) != "pallas":
        return False
      channels = features
    return True

  def _by_platform(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Runs the stream on a TPU with packed arrays between its layers.

    Elsewhere, or if an image is too large for the kernels, all layers run as scans. Intermediates of the layers are not
    captured.
    """

    def run(implementation, *arguments):
      settings = {**self.settings, "implementation": implementation}
      return Stream(self.cell, self.features, settings, parent=None).apply(*arguments)

    def packed(*arguments):
      try:
        return run("pallas", *arguments)
      except Unsuitable:
        return run("scan", *arguments)

    scan = functools.partial(run, "scan")
    return jax.lax.platform_dependent(self.variables, x, mask, tpu=packed, default=scan)


def _summary(maps: jax.Array, mask: jax.Array | None, pool: str) -> jax.Array:
  """Maps [batch, time, height, width, channels], averaged over space, of the last step or on average over time."""
  x = maps.astype(jnp.float32).mean((2, 3))
  if pool == "mean":
    weights = jnp.ones(x.shape[:2]) if mask is None else mask.astype(x.dtype)
    return jnp.einsum("bt,btc->bc", weights, x) / weights.sum(1, keepdims=True)
  last = jnp.full(x.shape[0], x.shape[1] - 1) if mask is None else mask.sum(1) - 1
  return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]


class TwoStreamConvRNN(nn.Module):
  """The two-stream net.

  Attributes:
    num_classes: length of the logits.
    cell: "conv_lstm" or "conv_gru".
    temporal_gate: see `ConvLSTM`; so are temporal_skip, spatial_skip, gate_sees_x and kernel_size.
    temporal_skip: the enhanced cell has all three on, the plain cell none.
    spatial_skip: see `ConvLSTM`.
    gate_sees_x: see `ConvLSTM`.
    temporal_merge: see `ConvLSTM`: "input" or "output".
    merge_init: see `ConvLSTM`: "identity", "sum" or "glorot".
    peephole: see `ConvLSTM`; the paper's baseline, Shi et al. 2015, has peepholes. A "conv_gru" takes none.
    features: channels of each layer, the same in both streams.
    kernel_size: of the recurrent layers.
    dense: units of the first two dense layers; the third gives the logits.
    dropout_rate: after each of the first two.
    flow_gain: factor on the flow before its first layer. Faces move by well under a pixel a frame, so flow in units of
      20 pixels is tiny beside the frames; a gain that brings it to their scale lets the stream learn from the start.
    pool: "last" takes the last step's output, "mean" the average over time.
    fusion: how the streams join: "average_concat" or "concat_pointwise", see the docstring of the module.
    dtype: of the recurrent and dense layers' computation; logits are float32.
    param_dtype: of the parameters.
    recompute: see `ConvLSTM`; so is checkpoint_every. They save memory on long clips.
    checkpoint_every: see `ConvLSTM`.
    implementation: see `ConvLSTM`.

  Raises:
    UserError: a value of cell, temporal_merge, merge_init, pool, fusion or implementation that does not exist, or
      peepholes of a "conv_gru".
  """

  num_classes: Classes = 7
  cell: Kind = "conv_lstm"
  temporal_gate: bool = False
  temporal_skip: bool = False
  spatial_skip: bool = False
  gate_sees_x: bool = True
  temporal_merge: TemporalMerge = "input"
  merge_init: MergeInit = "identity"
  peephole: bool = False
  features: Annotated[tuple[Units, ...], Length()] = (16, 32, 64, 128)
  kernel_size: tuple[OddKernel, OddKernel] = (3, 3)
  dense: tuple[Units, Units] = (256, 128)
  dropout_rate: ShareBelowOne = 0.5
  flow_gain: Weight = 1.0
  pool: Literal["last", "mean"] = "last"
  fusion: Literal["average_concat", "concat_pointwise"] = "average_concat"
  dtype: Any = None
  param_dtype: Any = jnp.float32
  recompute: bool = False
  checkpoint_every: Count | None = None
  implementation: Implementation = "auto"

  def __post_init__(self):
    for name, kind in get_type_hints(type(self)).items():
      if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
        raise unknown(f"value of model.{name}", str(getattr(self, name)), get_args(kind))
    Cell(self.cell, peephole=self.peephole)  # Refuses what the cell does not have.
    super().__post_init__()

  @property
  def parts(self) -> tuple[str, ...]:
    """Names of the submodules."""
    dense = tuple(f"fc{k + 1}" for k in range(len(self.dense) + 1))
    return ("rgb", "flow", *(("fusion",) if self.fusion == "concat_pointwise" else ()), *dense)

  @nn.compact
  def __call__(
    self,
    frames: jax.Array,
    flow: jax.Array,
    mask: jax.Array | None = None,
    *,
    train: bool = False,
    keys: jax.Array | None = None,
  ) -> jax.Array:
    """Classifies a batch of clips.

    Args:
      frames: [batch, time, height, width, 3], in [-1, 1].
      flow: [batch, time, height, width, 2], displacement from the frame before in units of 20 pixels, in [-1, 1].
      mask: [batch, time], True where a clip is still running, or None.
      train: whether to drop units.
      keys: [batch] typed keys, in training.

    Returns:
      logits [batch, num_classes], float32.
    """
    if frames.shape[:4] != flow.shape[:4]:
      raise UserError(f"frames {frames.shape} and flow {flow.shape} differ in batch, time, height or width")
    smallest = min(frames.shape[2:4]) >> (len(self.features) - 1)
    if smallest < 1:
      raise UserError(
        f"images of {frames.shape[2:4]} are too small to be pooled {len(self.features) - 1} times"
      )
    shared = (
      "temporal_gate",
      "temporal_skip",
      "spatial_skip",
      "gate_sees_x",
      "temporal_merge",
      "merge_init",
      "kernel_size",
      "dtype",
      "param_dtype",
      "recompute",
      "checkpoint_every",
      "implementation",
    )
    settings = {name: getattr(self, name) for name in shared}
    if self.cell == "conv_lstm":
      settings["peephole"] = self.peephole
    rgb = Stream(self.cell, self.features, settings, name="rgb")(frames, mask)
    flow = Stream(self.cell, self.features, settings, name="flow")(self.flow_gain * flow, mask)
    if self.fusion == "concat_pointwise":
      joined = nn.Dense(self.features[-1], dtype=self.dtype, param_dtype=self.param_dtype, name="fusion")(
        jnp.concatenate([rgb, flow], axis=-1)
      )
      x = _summary(nn.relu(joined), mask, self.pool)
    else:
      x = jnp.concatenate([_summary(maps, mask, self.pool) for maps in (rgb, flow)], axis=-1)
    for k, units in enumerate(self.dense):
      x = nn.relu(nn.Dense(units, dtype=self.dtype, param_dtype=self.param_dtype, name=f"fc{k + 1}")(x))
      x = Dropout(self.dropout_rate, name=f"dropout{k + 1}")(x, keys, train=train)
    x = nn.Dense(
      self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name=f"fc{len(self.dense) + 1}"
    )(x)
    return x.astype(jnp.float32)
