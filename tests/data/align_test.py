"""Tests crops, alignment and sampling."""

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


@pytest.mark.parametrize(
  "square",
  [
    Square(0, 0, 8000),
    Square(-100, 0, 110),
    Square(0, 0, 1e300),
    Square(np.inf, 0, 5),
    Square(0, np.nan, 5),
    Square(0, 0, np.nan),
    Square(0, 0, 0),
    Square(0, 0, -4),
    Square(-1e300, 0, 1e300),
  ],
)
def test_implausible_squares_are_refused_before_anything_is_allocated(square, monkeypatch):
  monkeypatch.setattr(np, "pad", None)
  with pytest.raises(UserError, match=r"no extent|beyond the 64 x 48 image|outside the 64 x 48 image"):
    align.crop(np.zeros((48, 64, 3), np.uint8), square, 16)


def test_what_a_crop_allocates_is_bounded_by_its_image(monkeypatch):
  """A square that contains a long strip would be many times as large as the strip."""
  monkeypatch.setattr(np, "pad", None)
  with pytest.raises(UserError, match="reaches 4990 pixels beyond the 10000 x 20 image"):
    align.crop(np.zeros((20, 10000, 3), np.uint8), Square(0, -4990, 10000), 16)
  matrix = align.square_matrix(Square(0, -4990, 10000), 16)
  with pytest.raises(ValueError, match="would reach 4990 pixels beyond the 10000 x 20 image"):
    align.warp(np.zeros((20, 10000, 3), np.uint8), matrix, 16)


def test_squares_that_reach_as_far_as_the_image_is_long_are_cut(recwarn):
  image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
  for square in (Square(-32, -32, 96), Square(31, 0, 33), Square(-3, -3, 38)):
    assert align.crop(image, square, 16).shape == (16, 16, 3)
  assert not recwarn.list


def test_points_far_outside_are_refused():
  align.check_points(np.array([[-64.0, 0], [128, 100], [3, 4]]), 64, 48)
  for point in ([129, 0], [0, -65], [np.nan, 0], [0, np.inf], [1e308, 1e308]):
    with pytest.raises(UserError, match=r"point 1 of the face, .* is far outside the 64 x 48 image"):
      align.check_points(np.array([[3.0, 4.0], point]), 64, 48)


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


def test_similarity_and_affine_undo_what_was_done():
  rng = np.random.default_rng(0)
  points = rng.uniform(0, 100, (5, 2))
  turn = 1.7 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
  matrix = np.column_stack([turn, [5, -8]])
  for count in (2, 3, 5):
    found = align.similarity(points[:count], align.transform(points[:count], matrix))
    np.testing.assert_allclose(found, matrix, atol=1e-9)
  sheared = np.array([[1.2, 0.3, 4.0], [-0.1, 0.8, 9.0]])
  np.testing.assert_allclose(
    align.affine(points[:3], align.transform(points[:3], sheared)), sheared, atol=1e-9
  )


def test_similarity_is_the_best_and_never_mirrors():
  rng = np.random.default_rng(1)
  source, target = rng.uniform(0, 100, (2, 5, 2))

  def error(matrix):
    return ((align.transform(source, matrix) - target) ** 2).sum()

  best = align.similarity(source, target)
  assert np.linalg.det(best[:, :2]) > 0
  for _ in range(50):
    a, b = best[0, 0] + rng.normal(0, 0.05), best[1, 0] + rng.normal(0, 0.05)
    other = np.array([[a, -b, best[0, 2] + rng.normal()], [b, a, best[1, 2] + rng.normal()]])
    assert error(other) > error(best)
  mirrored = align.similarity(source, source * [-1, 1])
  assert np.linalg.det(mirrored[:, :2]) > 0


@pytest.mark.parametrize("points", [np.full((5, 2), 3.0), np.array([[1, np.nan], [2, 2]])])
def test_points_without_a_place(points):
  with pytest.raises(ValueError, match="do not place a face"):
    align.similarity(points, align.template_points(len(points)))
  with pytest.raises(ValueError, match="are on one line"):
    align.affine(np.array([[0, 0], [1, 1], [2, 2]]), align.TEMPLATE_112[:3])
  with pytest.raises(ValueError, match="4 points: expected"):
    align.template_points(4)


def test_points_square_is_the_templates_frame():
  square = align.points_square(align.TEMPLATE_112 * 2 + [30, 50])
  np.testing.assert_allclose([square.left, square.top, square.side], [30, 50, 224], atol=1e-9)
  for points in (align.TEMPLATE_112[:2], align.template_points(3)):
    square = align.points_square(points)
    np.testing.assert_allclose([square.left, square.top, square.side], [0, 0, 112], atol=1e-9)


@pytest.mark.parametrize("size", [20, 60, 150])
def test_upright_warp_is_the_crop(size):
  """Reduced, at the same scale and enlarged. Both resample differently, but smooth pictures hardly differ."""
  y, x = np.mgrid[:90, :100]
  image = np.stack([x * 2, y * 2, 128 + 60 * np.sin(x / 9) * np.cos(y / 7)], axis=-1).astype(np.uint8)
  square = align.Square(12.5, 20.25, 60.0)
  warped = align.warp(image, align.square_matrix(square, size), size).astype(float)
  assert np.abs(warped - align.crop(image, square, size)).max() <= 6
  assert np.abs(warped - align.crop(image, square, size)).mean() < 0.7


def test_warp_repeats_the_edge_and_refuses_what_is_far_outside():
  image = np.full((40, 50), 77, np.uint8)
  image[:, -1] = 200
  warped = align.warp(image, align.square_matrix(align.Square(30, 10, 40), 40), 40)
  assert (warped[:, 23:] == 200).all()
  assert (warped[:, :17] == 77).all()
  for square in (align.Square(60, 0, 10), align.Square(0, -30, 20)):
    with pytest.raises(ValueError, match="would be outside the 50 x 40 image"):
      align.warp(image, align.square_matrix(square, 16), 16)
  with pytest.raises(ValueError, match="would reach 400 pixels beyond the 50 x 40 image"):
    align.warp(image, align.square_matrix(align.Square(-400, -400, 800), 16), 16)
  with pytest.raises(ValueError, match="mirrored face"):
    align.warp(image, np.array([[-1.0, 0, 40], [0, 1, 0]]), 16)
