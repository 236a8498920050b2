"""The gated convolutional recurrences over time: fast version, plain reference, shared parameters."""

from jaxfer.kernels.conv_recurrence.cells import (
  Cell,
  Implementation,
  Kind,
  State,
  TemporalMerge,
  chosen,
  initial_state,
  layer_shape,
  parameter_shapes,
  step,
  unroll,
)
from jaxfer.kernels.conv_recurrence.packed import Packed
from jaxfer.kernels.conv_recurrence.pallas import TooLarge

__all__ = [
  "Cell",
  "Implementation",
  "Kind",
  "Packed",
  "State",
  "TemporalMerge",
  "TooLarge",
  "chosen",
  "initial_state",
  "layer_shape",
  "parameter_shapes",
  "step",
  "unroll",
]
