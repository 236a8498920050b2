"""Tests Farneback flow for known motion and for static frames, and its storage."""

import numpy as np
import pytest
from PIL import Image

from jaxfer.data import flow
from jaxfer.errors import UserError


def _texture(seed: int = 0) -> np.ndarray:
  """Smooth blobs, uint8 [96, 96]."""
  coarse = np.random.default_rng(seed).integers(0, 256, (12, 12)).astype(np.uint8)
  return np.asarray(Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC))


def _frames(dx: int, dy: int) -> np.ndarray:
  first = _texture()
  return np.stack([first, np.roll(first, (dy, dx), (0, 1))])


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, 2), (-2, 1)])
def test_translation_is_found(dx, dy):
  found = flow.farneback(_frames(dx, dy))
  assert found.dtype == np.float32
  np.testing.assert_allclose(np.median(found[1, 16:-16, 16:-16], axis=(0, 1)), (dx, dy), atol=0.2)


def test_first_frame_and_repeated_frames_have_no_flow():
  first, second = _frames(3, 0)
  found = flow.farneback(np.stack([first, second, second]))
  assert not found[0].any()
  assert found[1].any()
  assert not found[2].any()
  assert not flow.farneback(first[None]).any()


def test_colour_frames_go_by_their_grey():
  grey = _frames(2, 0)
  np.testing.assert_array_equal(flow.farneback(np.repeat(grey[..., None], 3, -1)), flow.farneback(grey))


def test_quantize():
  pixels = np.array([0, 20, -20, 25, -99, 10, 0.001], np.float32)
  stored = flow.quantize(pixels)
  assert stored.dtype == np.int16
  assert stored.tolist() == [0, 32767, -32767, 32767, -32767, 16384, 2]
  with pytest.raises(UserError, match="1 values that are not finite"):
    flow.quantize(np.array([np.nan, 1]))
