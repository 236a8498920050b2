"""Dense optical flow by Farneback's method, and its storage as int16.

Paper 001 does not name its method. We chose Farneback's ("Two-frame motion estimation based on polynomial
expansion", 2003) as implemented in OpenCV 4, with parameters of our choice.
"""

from typing import Any

import numpy as np

from jaxfer.errors import UserError

# Recorded with every prepared data set.
FARNEBACK: dict[str, Any] = {
  "pyr_scale": 0.5,
  "levels": 3,
  "winsize": 15,
  "iterations": 3,
  "poly_n": 5,
  "poly_sigma": 1.2,
  "flags": 0,
}
MAX_DISPLACEMENT = 20.0  # Pixels; flow is clipped to it.
INT16_MAX = 32767  # Stored value of MAX_DISPLACEMENT; stored / INT16_MAX is in [-1, 1].


def farneback(frames: np.ndarray) -> np.ndarray:
  """Computes the flow between successive frames.

  Args:
    frames: uint8 [T, H, W, 3] RGB or [T, H, W] grey, already aligned and resampled.

  Returns:
    float32 [T, H, W, 2], displacement (u right, v down) in pixels, from frame t - 1 to frame t, of each pixel of frame
    t - 1. Frame 0 has no predecessor, so flow[0] is zero.

  Raises:
    UserError: OpenCV is not installed.
  """
  try:
    import cv2
  except ImportError as error:
    raise UserError("optical flow needs OpenCV 4: install it with `pip install 'jaxfer[vision]'`") from error

  grey = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames]) if frames.ndim == 4 else frames
  flow = np.zeros((*grey.shape, 2), np.float32)
  for t in range(1, len(grey)):
    if not np.array_equal(
      grey[t], grey[t - 1]
    ):  # Equal frames have no motion, but OpenCV returns 0.1 pixels.
      cv2.calcOpticalFlowFarneback(grey[t - 1], grey[t], flow[t], **FARNEBACK)
  return flow


def quantize(flow: np.ndarray) -> np.ndarray:
  """Clips flow to +-20 pixels and scales it to int16: round(flow * 32767 / 20).

  Args:
    flow: float, pixels, any shape.

  Returns:
    int16 of the same shape.

  Raises:
    UserError: the flow is not finite.
  """
  if not np.isfinite(flow).all():
    raise UserError(f"optical flow has {np.count_nonzero(~np.isfinite(flow))} values that are not finite")
  clipped = np.clip(flow, -MAX_DISPLACEMENT, MAX_DISPLACEMENT)
  return np.rint(clipped * (INT16_MAX / MAX_DISPLACEMENT)).astype(np.int16)
