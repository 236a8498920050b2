"""The gated convolutional recurrences over time: fast version, plain reference, shared parameters."""

from jaxfer.kernels.conv_recurrence.cells import (
  Cell,
  Implementation,
  Kind,
  State,
  TemporalMerge,
  initial_state,
  parameter_shapes,
  step,
  unroll,
)

__all__ = [
  "Cell",
  "Implementation",
  "Kind",
  "State",
  "TemporalMerge",
  "initial_state",
  "parameter_shapes",
  "step",
  "unroll",
]
