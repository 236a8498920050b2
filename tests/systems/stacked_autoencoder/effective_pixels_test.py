"""The figure of effective pixels, on weights that are known to rest on the parts of the face."""

import numpy as np
import pytest
from PIL import Image

from jaxfer.data.records import Records
from jaxfer.systems.stacked_autoencoder import effective_pixels as effective_pixels

NAMES = ("anger", "disgust", "fear")


def faces(landmarks=True):
  """Four pictures of 16 x 16 with eyes at rows 6 and 7 and a mouth at 12 and 13."""
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
  """Anger rests on the eyes alone; disgust on the mouth and as many pixels of the background; fear on nothing."""
  first = np.zeros((256, 8))
  eyes, both = np.zeros((16, 16), bool), np.zeros((16, 16), bool)
  eyes[6:8, 3:6] = True
  both[12:14, 5:11] = both[0:2, 5:11] = True
  first[eyes.ravel(), 0] = 1
  first[both.ravel(), 1] = 1
  last = np.zeros((8, 3))
  last[0, 0] = last[1, 1] = 1
  return [first, last]


def test_the_caption_tells_the_share_on_the_parts_and_that_of_chance(tmp_path):
  files = effective_pixels.draw(weights(), faces(), np.arange(4), tmp_path, percentile=90)
  (caption,) = files.values()
  # All of anger's and half of disgust's; the parts cover 24 of 256 pixels.
  assert "75 % of the paths and 75 % of the pixels" in caption
  assert "by chance it would be 9 %" in caption
  picture = Image.open(tmp_path / "effective_pixels.png")
  assert picture.size[0] == 900
  assert np.asarray(picture.convert("RGB"), int).std() > 10


def test_without_landmarks_there_is_no_share(tmp_path):
  (caption,) = effective_pixels.draw(weights(), faces(landmarks=False), np.arange(4), tmp_path).values()
  assert "by chance" not in caption
  assert (tmp_path / "effective_pixels.png").is_file()


@pytest.mark.parametrize("signed", [True, False])
def test_pixels_that_never_change_are_left_out_whatever_their_weights(tmp_path, signed):
  records = faces()
  records.arrays["image"][:, :2] = 40  # The background of disgust.
  net = weights()
  net[0][:32, 2], net[1][2, 2] = 5, 5
  (caption,) = effective_pixels.draw(
    net, records, np.arange(4), tmp_path, signed=signed, percentile=90
  ).values()
  assert "32 of 256 pixels never change and are left out" in caption
  assert "100 % of the paths" in caption
