"""The figure of effective pixels, for weights whose effective pixels are known."""

import numpy as np
import pytest
from PIL import Image

from jaxfer.data.records import Records
from jaxfer.systems.stacked_autoencoder import effective_pixels

NAMES = ("anger", "disgust", "fear")


def faces(landmarks=True):
  """Records of four images of 16 x 16 pixels, with the eyes at rows 6 and 7 and the mouth at rows 12 and 13."""
  rng = np.random.default_rng(0)
  points = np.zeros((4, 37, 2), np.float32)
  points[:, 13:16], points[:, 16:19] = [3, 6], [6, 8]
  points[:, 19:22], points[:, 22:25] = [10, 6], [13, 8]
  points[:, 25:31], points[:, 31:] = [5, 12], [11, 14]
  arrays = {
    "image": rng.integers(0, 256, (4, 16, 16, 1)).astype(np.uint8),
    "label": np.array([0, 1, 2, 0]),
  }
  if landmarks:
    arrays["landmarks"] = points
  return Records.from_arrays(arrays, list("abcd"), NAMES, ["P1", "P1", "P2", "P2"])


def weights():
  """Weights of two layers: anger depends on the eyes, and fear on nothing.

  Disgust depends on the mouth and on as many pixels of the background.
  """
  first = np.zeros((256, 8))
  eyes, both = np.zeros((16, 16), bool), np.zeros((16, 16), bool)
  eyes[6:8, 3:6] = True
  both[12:14, 5:11] = both[0:2, 5:11] = True
  first[eyes.ravel(), 0] = 1
  first[both.ravel(), 1] = 1
  last = np.zeros((8, 3))
  last[0, 0] = last[1, 1] = 1
  return [first, last]


def test_the_caption_states_the_share_on_the_parts_and_the_share_by_chance(tmp_path):
  files = effective_pixels.draw(weights(), faces(), np.arange(4), tmp_path, percentile=90)
  (caption,) = files.values()
  # The mean of 100 % for anger and 50 % for disgust. The parts cover 24 of 256 pixels.
  assert "75 % of the paths and 75 % of the pixels" in caption
  assert "By chance it would be 9 %" in caption
  image = Image.open(tmp_path / "effective_pixels.png")
  assert image.size[0] == 900
  assert np.asarray(image.convert("RGB"), int).std() > 10


def test_without_landmarks_there_is_no_share(tmp_path):
  (caption,) = effective_pixels.draw(weights(), faces(landmarks=False), np.arange(4), tmp_path).values()
  assert "chance" not in caption
  assert (tmp_path / "effective_pixels.png").is_file()


@pytest.mark.parametrize("signed", [True, False])
def test_constant_pixels_are_left_out_whatever_their_weights(tmp_path, signed):
  records = faces()
  records.arrays["image"][:, :2] = 40  # The background pixels of disgust.
  layers = weights()
  layers[0][:32, 2], layers[1][2, 2] = 5, 5
  (caption,) = effective_pixels.draw(
    layers, records, np.arange(4), tmp_path, signed=signed, percentile=90
  ).values()
  assert "32 of 256 pixels are constant and are left out" in caption
  assert "100 % of the paths" in caption
