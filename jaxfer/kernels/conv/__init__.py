"""2-D convolution and transposed convolution, fast forward and backward on every backend, also inside loops."""

from jaxfer.kernels.conv.formulations import Padding, conv_reference, same_padding
from jaxfer.kernels.conv.loops import inside_loop, looped
from jaxfer.kernels.conv.ops import conv, conv_transpose, input_gradient, weight_gradient

__all__ = [
  "Padding",
  "conv",
  "conv_reference",
  "conv_transpose",
  "input_gradient",
  "inside_loop",
  "looped",
  "same_padding",
  "weight_gradient",
]
