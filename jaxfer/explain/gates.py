"""Maps of what the temporal gate of a conv-recurrent net lets through."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import UserError, unknown
from jaxfer.kernels import conv_recurrence
from jaxfer.kernels.conv import conv


def gate_maps(
  model: nn.Module,
  variables: Mapping[str, Any],
  frames: jax.Array,
  flow: jax.Array,
  stream: str = "rgb",
  layer: str = "layer1",
) -> jax.Array:
  """Returns how much of the state of two steps ago a layer's gate lets through at each pixel (paper 001, Fig. 1).

  The gate is g_t = s(W_xg * X_t + W_gg * H[t-2] + b_g) (`kernels.conv_recurrence.cells`), with one number per feature;
  the map is its mean over the features. In the first two steps, the earlier state is zero, so g depends on the input
  alone and nothing is let through. Maps are computed in float32, also for a model of another dtype. The function can be
  compiled.

  Args:
    model: a `TwoStreamConvRNN` with a temporal gate.
    variables: variables of the model.
    frames: [batch, time, height, width, 3], in [-1, 1].
    flow: [batch, time, height, width, 2], in units of 20 pixels.
    stream: "rgb" or "flow".
    layer: "layer1", "layer2", ...

  Returns:
    [batch, time, height, width] in [0, 1]. The size is that of the layer's input, which each pooling before it halves.

  Raises:
    UserError: the model has no temporal gate, or does not have the stream or the layer.
  """
  check(model)
  settings: Any = model
  params = variables["params"]
  streams = {name: layers for name, layers in params.items() if "layer1" in layers}
  if stream not in streams:
    raise unknown("stream", stream, streams)
  if layer not in streams[stream]:
    raise unknown(f"layer of the {stream} stream", layer, streams[stream])
  own = {name: jnp.asarray(p, jnp.float32) for name, p in streams[stream][layer].items()}
  x = _input_of(settings.clone(dtype=None), variables, (frames, flow), (stream, layer)).astype(jnp.float32)
  # Without a spatial skip, the layer's output is its state H.
  cell = conv_recurrence.Cell(
    settings.cell,
    temporal_gate=True,
    temporal_skip=settings.temporal_skip,
    gate_sees_x=settings.gate_sees_x,
    peephole=settings.peephole,
    temporal_merge=settings.temporal_merge,
  )
  states, _ = conv_recurrence.unroll(cell, own, x)
  two_ago = jnp.pad(states, [(0, 0), (2, 0), *[(0, 0)] * 3])[:, :-2]
  gate = _over_time(two_ago, own["gate_state_kernel"]) + own["gate_bias"]
  if settings.gate_sees_x:
    gate = gate + _over_time(x, own["gate_input_kernel"])
  return jax.nn.sigmoid(gate).mean(-1)


def check(model: nn.Module) -> None:
  """Raises `UserError` if the model has no temporal gate."""
  if not getattr(model, "temporal_gate", False):
    raise UserError(
      f"{type(model).__name__} has no temporal gate to show: train with model.temporal_gate=true"
    )


def _over_time(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Returns the convolution of every step of x [batch, time, height, width, channels]."""
  flat = conv(x.reshape(-1, *x.shape[2:]), kernel)
  return flat.reshape(*x.shape[:2], *flat.shape[1:])


def _input_of(
  model: nn.Module, variables: Mapping[str, Any], inputs: tuple, path: tuple[str, ...]
) -> jax.Array:
  """Returns the input of the submodule at `path` for the model's inputs `inputs`."""
  seen = []

  def look(call, args, kwargs, context):
    if context.module.path == path and context.method_name == "__call__":
      seen.append(args[0])
    return call(*args, **kwargs)

  with nn.intercept_methods(look):
    model.apply(variables, *inputs)
  return seen[0]
