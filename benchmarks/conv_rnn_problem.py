"""The problems of the conv-RNN benchmark: cases, their inputs, and the operations, for every implementation."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.kernels.conv_recurrence import Cell, parameter_shapes

ENHANCED: dict[str, Any] = {"temporal_gate": True, "temporal_skip": True, "spatial_skip": True}
OPERATIONS = ("forward", "gradient", "train_step")
SGD = {"learning_rate": 0.05, "momentum": 0.9}


@dataclasses.dataclass(frozen=True)
class Problem:
  """One case: an operation on a net and a clip [batch, time, size, size, channels]."""

  operation: str = "gradient"
  kind: Literal["conv_lstm", "conv_gru"] = "conv_lstm"
  enhanced: bool = False
  batch: int = 8
  time: int = 16
  size: int = 32
  channels: int = 32
  features: tuple[int, ...] = (32,)
  dtype: str = "float32"

  @property
  def cell(self) -> Cell:
    """The recurrence of every layer."""
    return Cell(self.kind, **(ENHANCED if self.enhanced else {}))

  @property
  def name(self) -> str:
    """Unique name in the benchmark."""
    cell = ("enhanced_" if self.enhanced else "") + self.kind
    net = "-".join(map(str, self.features))
    shape = f"b{self.batch}-t{self.time}-s{self.size}-c{self.channels}-f{net}"
    return f"{cell}/{self.operation}/{shape}/{self.dtype}"

  @property
  def flops(self) -> float:
    """FLOP of the convolutions: two per multiplication, where padding counts as work and pointwise operations do not.

    A gradient counts as three forward passes (value, gradients of input and kernel); a training step does not need the
    gradient of the clip.
    """
    total, size, channels = 0.0, self.size, self.channels
    for k, features in enumerate(self.features):
      gates = self.cell.gates
      # All gates (and the temporal gate) read the input, and as many blocks of features read the state.
      over_input = 9 * channels * features * (gates + self.enhanced)
      over_state = 9 * features * features * (gates + self.enhanced)
      if self.enhanced:
        over_input += channels * features  # Spatial skip: [H; X] to Y.
        over_state += 3 * features * features  # Temporal skip reads 2, spatial skip 1.
      pixels = self.batch * self.time * size**2
      forward = 2.0 * pixels * (over_input + over_state)
      passes = 1 if self.operation == "forward" else 3
      total += passes * forward
      if self.operation == "train_step" and k == 0:
        total -= 2.0 * pixels * over_input
      size, channels = size // 2, features
    return total


def inputs_of(problem: Problem) -> dict[str, Any]:
  """Returns random float32 arrays on the host: "params" (layer -> name -> array), "x", and "weights" of the outputs."""
  rng = np.random.default_rng(0)
  p = problem
  x = rng.standard_normal((p.batch, p.time, p.size, p.size, p.channels), np.float32)
  single = len(p.features) == 1
  shape = (*x.shape[:-1], p.features[-1]) if single else (p.batch, p.features[-1])
  params: dict[str, dict[str, np.ndarray]] = {}
  channels = p.channels
  for k, features in enumerate(p.features):
    layer = params[f"layer{k + 1}"] = {}
    for name, size in parameter_shapes(p.cell, channels, features, (3, 3), (p.size, p.size)).items():
      # Biases are random too, without zeros or symmetry, so that a parameter in the wrong place is detected.
      scale = 0.1 if len(size) == 1 else math.prod(size[:-1]) ** -0.5
      layer[name] = np.float32(scale) * rng.standard_normal(size, np.float32)
    channels = features
  return {"params": params, "x": x, "weights": rng.standard_normal(shape, np.float32)}


def pooled(x: jax.Array) -> tuple[int, int, int]:
  """Returns height, width and channels of a pooled clip."""
  return x.shape[2] // 2, x.shape[3] // 2, x.shape[4]


def squared_error(y: jax.Array, targets: jax.Array) -> jax.Array:
  """Returns the loss of the training step, a mean over all outputs."""
  return jnp.square(y.astype(jnp.float32) - targets).mean()


def operate(operation: str, apply, params, x, weights) -> Any:
  """Computes `forward` or `gradient` for any apply(params, x); for `train_step`, the loss and the gradient."""
  if operation == "forward":
    return {"output": apply(params, x)}
  if operation == "gradient":
    scalar = lambda params, x: (apply(params, x).astype(jnp.float32) * weights).sum()  # noqa: E731
    d_params, d_x = jax.grad(scalar, argnums=(0, 1))(params, x)
    return {"params": d_params, "x": d_x}
  loss, d_params = jax.value_and_grad(lambda params: squared_error(apply(params, x), weights))(params)
  return {"params": d_params, "loss": loss}


def named(result: Mapping[str, Any]) -> dict[str, Any]:
  """Returns arrays by name, with parameters such as "layer1/input_kernel"."""
  flat = {name: array for name, array in result.items() if name != "params"}
  for layer, arrays in result.get("params", {}).items():
    flat |= {f"{layer}/{name}": array for name, array in arrays.items()}
  return flat
