"""Gated convolutional recurrences over time: fast versions and a plain reference with the same parameters."""

from jaxfer.kernels.conv_recurrence.cells import (
  IMPLEMENTATIONS,
  Cell,
  Implementation,
  Kind,
  State,
  TemporalMerge,
  chosen,
  folded_pixels,
  initial_state,
  layer_shape,
  parameter_shapes,
  step,
  unroll,
)
from jaxfer.kernels.conv_recurrence.errors import Unsuitable
from jaxfer.kernels.conv_recurrence.packed import Packed

__all__ = [
  "IMPLEMENTATIONS",
  "Cell",
  "Implementation",
  "Kind",
  "Packed",
  "State",
  "TemporalMerge",
  "Unsuitable",
  "chosen",
  "folded_pixels",
  "initial_state",
  "layer_shape",
  "parameter_shapes",
  "step",
  "unroll",
]
