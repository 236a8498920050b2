"""Crops and sampling."""

import numpy as np
import pytest

from jaxfer.data import align
from jaxfer.data.align import Square
from jaxfer.errors import UserError


def test_squares():
  corners = np.array([[10.0, 20.0], [30.0, 60.0]])
  assert align.landmark_square(corners, 0.25) == Square(-10, 10, 60)
  assert align.box_square(10, 20, 30, 50) == Square(0, 20, 50)
  assert align.centre_square(64, 48) == Square(8, 0, 48)
  with pytest.raises(UserError, match="span 0 pixels"):
    align.landmark_square(np.ones((68, 2)), 0.2)
  with pytest.raises(UserError, match="span nan"):
    align.landmark_square(np.full((68, 2), np.nan), 0.2)


def test_crop_takes_the_square():
  image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
  np.testing.assert_array_equal(align.crop(image, Square(5, 3, 8), 8), image[3:11, 5:13])
  np.testing.assert_array_equal(align.crop(image[..., 0], Square(5, 3, 8), 8), image[3:11, 5:13, 0])


def test_crop_beyond_the_image_repeats_its_edge():
  image = np.random.default_rng(0).integers(0, 256, (10, 10)).astype(np.uint8)
  cut = align.crop(image, Square(-2, 4, 8), 8)
  np.testing.assert_array_equal(cut, np.pad(image, 2, mode="edge")[6:14, :8])
  with pytest.raises(UserError, match="outside the 10 x 10 image"):
    align.crop(image, Square(12, 0, 4), 4)


def test_shrinking_is_anti_aliased():
  stripes = np.zeros((64, 64), np.uint8)
  stripes[:, ::2] = 255
  assert np.ptp(align.crop(stripes, Square(0, 0, 64), 8)[:, 1:-1]) <= 6


def test_sampling():
  assert align.onset_to_peak(5, 3).tolist() == [0, 2, 4]
  assert align.onset_to_peak(11, 4).tolist() == [0, 3, 7, 10]
  assert align.onset_to_peak(3, 5).tolist() == [0, 0, 1, 2, 2]
  assert align.onset_to_peak(7, 1).tolist() == [6]
  assert align.onset_to_peak(1, 4).tolist() == [0] * 4
  with pytest.raises(UserError, match="cannot sample 0 frames of 5"):
    align.onset_to_peak(5, 0)
