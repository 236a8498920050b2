"""Two-stream conv-RNN for facial expression recognition from video (paper 001, Fig. 2).

  RGB frames    -> conv-RNN, pool, conv-RNN, pool, ..., conv-RNN -> average over space -+
                                                                                        +-> 3 dense layers -> logits
  optical flow  -> conv-RNN, pool, conv-RNN, pool, ..., conv-RNN -> average over space -+

The paper specifies the two streams, the three additions to the recurrent cell and the three dense layers (section 2).
It gives no sizes, so these are our choices (README, section 3): four layers of 16, 32, 64 and 128 features with 3 x 3
kernels, 2 x 2 max pooling between the layers, and dense layers of 256 and 128 units with ReLU and dropout 0.5. The
dense layers read the output of the last time step.

The last line of the paper's text, "Concat + Point-wise convolution", is the legend of a figure. It may refer to the
merges of the skips (Fig. 1) or to the fusion of the two streams (Fig. 2). The option `fusion` therefore offers two ways
to fuse the streams:

  "average_concat"    as drawn above: each stream's maps are averaged over space, and the averages are concatenated
  "concat_pointwise"  the maps A and B of the two streams become relu(P [A; B] + b), where P is a 1 x 1 convolution to
                      as many channels as one stream has; the result is averaged over space

The ReLU is our choice. Without it the spatial average would reduce the convolution to another dense layer.

Deviation (README, section 4): if two pixels of a pooling window are equal, they share the gradient. In PyTorch the
first one receives all of it.
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
# Attributes of the model that are passed on to every recurrent layer.
_LAYER_ATTRIBUTES = (
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


def _pool(x: jax.Array) -> jax.Array:
  """Max pooling of [..., height, width, channels] over 2 x 2 windows. An odd last row or column is dropped."""
  *batch, height, width, channels = x.shape
  x = x[..., : height // 2 * 2, : width // 2 * 2, :]
  return x.reshape(*batch, height // 2, 2, width // 2, 2, channels).max((-4, -2))


class Stream(nn.Module):
  """The recurrent layers of one stream, with max pooling between them.

  Attributes:
    cell: "conv_lstm" or "conv_gru".
    features: number of channels of each layer.
    settings: further attributes of the layers, see `ConvLSTM`.
  """

  cell: Kind
  features: tuple[int, ...]
  settings: dict[str, Any]

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Applies the layers.

    Args:
      x: [batch, time, height, width, channels].
      mask: [batch, time], True for the time steps of a sequence and False for the padding after it; None if there is no
        padding.

    Returns:
      The maps of the last layer, [batch, time, h, w, features[-1]]. Each pooling halves height and width, rounded down.
    """
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
    """Whether "auto" selects "pallas" for every layer on the TPU for which the program is compiled."""
    if not tpu_kinds():
      return False
    *_, height, width, channels = shape
    kernel_size = self.settings.get("kernel_size", (3, 3))
    cell = _CELLS[self.cell](self.features[0], **self.settings, parent=None).switches()
    for k, features in enumerate(self.features):
      at = layer_shape((height >> k, width >> k), channels, features, kernel_size)
      if chosen("tpu", cell, at) != "pallas":
        return False
      channels = features
    return True

  def _by_platform(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Runs the layers with Pallas kernels and packed arrays on a TPU, and as scans on other platforms.

    If an image is too large for the kernels, the layers run as scans on a TPU too. Intermediate values of the layers
    are not captured.
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
  """Averages maps [batch, time, height, width, channels] over space and pools them over time, to [batch, channels].

  `pool` "last" takes the last time step of each sequence, and "mean" the average over its time steps. The result is
  float32.
  """
  x = maps.astype(jnp.float32).mean((2, 3))
  if pool == "mean":
    weights = jnp.ones(x.shape[:2]) if mask is None else mask.astype(x.dtype)
    return jnp.einsum("bt,btc->bc", weights, x) / weights.sum(1, keepdims=True)
  last = jnp.full(x.shape[0], x.shape[1] - 1) if mask is None else mask.sum(1) - 1
  return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]


class TwoStreamConvRNN(nn.Module):
  """The two-stream model.

  The enhanced cells of the paper have `temporal_gate`, `temporal_skip` and `spatial_skip`; the plain cells have none of
  them.

  Attributes:
    num_classes: number of classes, which is the length of the logits.
    cell: "conv_lstm" or "conv_gru".
    temporal_gate: see `ConvLSTM`.
    temporal_skip: see `ConvLSTM`.
    spatial_skip: see `ConvLSTM`.
    gate_sees_x: see `ConvLSTM`.
    temporal_merge: "input" or "output", see `ConvLSTM`.
    merge_init: "identity", "sum" or "glorot", see `ConvLSTM`.
    peephole: see `ConvLSTM`. The paper's baseline (Shi et al. 2015) has peepholes. A "conv_gru" cannot have them.
    features: number of channels of each recurrent layer, the same in both streams.
    kernel_size: odd (height, width) of the recurrent layers' kernels.
    dense: number of units of the first two dense layers. The third one returns the logits.
    dropout_rate: dropout rate after each of the first two dense layers.
    flow_gain: factor that multiplies the flow before its first layer. Faces move by much less than a pixel per frame,
      so flow in units of 20 pixels is tiny compared with the frames. With a gain that brings it to their scale, the
      flow stream learns from the start.
    pool: pooling over time, "last" for the last time step or "mean" for the average.
    fusion: how the two streams are fused, "average_concat" or "concat_pointwise"; see the docstring of the module.
    dtype: dtype of the computation in recurrent and dense layers. Logits are float32.
    param_dtype: dtype of the parameters.
    recompute: see `ConvLSTM`. Saves memory for long clips.
    checkpoint_every: see `ConvLSTM`. Saves memory for long clips.
    implementation: see `ConvLSTM`.

  Raises:
    UserError: cell, temporal_merge, merge_init, pool, fusion or implementation has an unknown value, or a "conv_gru"
      has peepholes.
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
    Cell(self.cell, peephole=self.peephole)  # Raises an error if the cell cannot have peepholes.
    super().__post_init__()

  @property
  def parts(self) -> tuple[str, ...]:
    """Names of the submodules with parameters."""
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
      flow: [batch, time, height, width, 2], displacement since the previous frame in units of 20 pixels, in [-1, 1].
      mask: [batch, time], True for the time steps of a clip and False for the padding after it; None if there is no
        padding.
      train: whether to apply dropout.
      keys: [batch] typed keys for dropout; only needed in training.

    Returns:
      Logits [batch, num_classes], float32.

    Raises:
      UserError: frames and flow differ in shape, or the images are too small for the pooling.
    """
    if frames.shape[:4] != flow.shape[:4]:
      raise UserError(f"frames {frames.shape} and flow {flow.shape} differ in batch, time, height or width")
    smallest = min(frames.shape[2:4]) >> (len(self.features) - 1)
    if smallest < 1:
      raise UserError(
        f"images of {frames.shape[2:4]} pixels are too small to be pooled {len(self.features) - 1} times: give larger "
        "images or fewer model.features"
      )
    settings = {name: getattr(self, name) for name in _LAYER_ATTRIBUTES}
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
