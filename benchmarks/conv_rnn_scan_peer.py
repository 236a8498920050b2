"""The enhanced ConvLSTM as one would write it in stock Flax: a cell of `nn.Conv` in `nn.scan`, differentiated by JAX.

Flax has no such cell. This one computes the equations of `kernels.conv_recurrence` step by step, with each convolution
in its place in the equation, and shares no code with our layers.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks import harness
from benchmarks.conv_rnn_problem import Problem, named, operate

# Our parameter -> module and parameter of the cell below.
_PLACES = {
  "input_kernel": ("input", "kernel"),
  "input_bias": ("input", "bias"),
  "state_kernel": ("state", "kernel"),
  "gate_input_kernel": ("gate_input", "kernel"),
  "gate_bias": ("gate_input", "bias"),
  "gate_state_kernel": ("gate_state", "kernel"),
  "temporal_skip_kernel": ("temporal_skip", "kernel"),
  "temporal_skip_bias": ("temporal_skip", "bias"),
  "spatial_skip_kernel": ("spatial_skip", "kernel"),
  "spatial_skip_bias": ("spatial_skip", "bias"),
}


class EnhancedCell(nn.Module):
  """One step of a ConvLSTM with temporal gate, temporal skip and spatial skip."""

  features: int
  dtype: Any

  @nn.compact
  def __call__(self, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
    """Maps (state, previous state, cell state) and x [batch, height, width, channels] to the new carry and output."""
    state, before, memory = carry

    def conv(name, x, size=3, gates=1, bias=True):
      return nn.Conv(gates * self.features, (size, size), use_bias=bias, dtype=self.dtype, name=name)(x)

    gate = nn.sigmoid(conv("gate_input", x) + conv("gate_state", before, bias=False))
    merged = conv("temporal_skip", jnp.concatenate([state, gate * before], -1), size=1)
    gates = conv("input", x, gates=4) + conv("state", merged, gates=4, bias=False)
    i, f, g, o = jnp.split(gates, 4, -1)
    memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * jnp.tanh(g)
    new = (nn.sigmoid(o) * jnp.tanh(memory)).astype(state.dtype)
    y = conv("spatial_skip", jnp.concatenate([new, x], -1), size=1)
    return (new, state, memory), y


def flax_scan(
  problem: Problem, inputs: Mapping[str, Any], session: harness.Session | None, *, unroll: int = 1
) -> harness.JaxProgram:
  """Prepares forward and gradient of one enhanced ConvLSTM layer, whose loop takes `unroll` steps at a time."""
  del session
  if not problem.enhanced or problem.kind != "conv_lstm" or len(problem.features) > 1:
    raise harness.Missing("only a single layer of the enhanced ConvLSTM is written this way")
  dtype, features = jnp.dtype(problem.dtype), problem.features[0]
  loop = nn.scan(
    EnhancedCell,
    variable_broadcast="params",
    split_rngs={"params": False},
    in_axes=1,
    out_axes=1,
    unroll=unroll,
  )(features, dtype)
  params: dict[str, Any] = {}
  for name, array in inputs["params"]["layer1"].items():
    module, parameter = _PLACES[name]
    point_wise = parameter == "kernel" and array.ndim == 2
    params.setdefault(module, {})[parameter] = array[None, None] if point_wise else array

  def apply(params, x):
    zeros = jnp.zeros((problem.batch, problem.size, problem.size, features), dtype)
    return loop.apply({"params": params}, (zeros, zeros, zeros.astype(jnp.float32)), x)[1]

  def ours(result):
    if "params" not in result:
      return named(result)
    found = result["params"]
    layer = {
      name: found[module][parameter].reshape(inputs["params"]["layer1"][name].shape)
      for name, (module, parameter) in _PLACES.items()
    }
    return named({**result, "params": {"layer1": layer}})

  run = functools.partial(operate, problem.operation, apply)
  return harness.JaxProgram(run, params, inputs["x"].astype(dtype), inputs["weights"], named=ours)
