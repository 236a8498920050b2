"""The affine of eyes and mouth, and the dots of paper 002 (specs 3.4)."""

import numpy as np
import pytest

from jaxfer.data import align, heatmap
from jaxfer.errors import UserError

EYES_AND_MOUTH = np.array([[30.0, 40], [70, 40], [50, 80]])


def test_the_alignment_of_the_spec():
  matrix = heatmap.alignment(EYES_AND_MOUTH)
  np.testing.assert_allclose(matrix, [[1.25, 0, -12.5], [0, 1, -5]], atol=1e-12)
  np.testing.assert_allclose(align.transform(EYES_AND_MOUTH, matrix), heatmap.TEMPLATE, atol=1e-12)
  five = np.array([[70.0, 40], [30, 40], [48, 60], [60, 82], [40, 78]])  # Left and right as the person's own.
  np.testing.assert_allclose(heatmap.alignment(five), matrix, atol=1e-12)


def test_a_turned_face_is_aligned():
  turn = np.deg2rad(30)
  rotation = 2 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
  turned = EYES_AND_MOUTH @ rotation.T + [100, 7]
  np.testing.assert_allclose(align.transform(turned, heatmap.alignment(turned)), heatmap.TEMPLATE, atol=1e-10)


@pytest.mark.parametrize(
  ("points", "message"),
  [
    ([[0, 0], [10, 10], [20, 20.001]], "on one line"),
    ([[5, 5], [5, 5], [20, 20]], "on one line"),
    ([[0, 0], [np.nan, 10], [20, 0]], "expected 3 x 2 or 5 x 2, finite"),
    ([[0, 0], [10, 0]], "are 2 x 2 numbers"),
  ],
)
def test_points_that_align_nothing_are_refused(points, message):
  with pytest.raises(UserError, match=message):
    heatmap.alignment(np.array(points, float))


def test_a_disc_has_radius_two_and_is_cut_at_the_edge():
  image = heatmap.draw(np.array([[10.0, 20], [0, 0], [-1.6, 50], [500, 1e30]]) + 0.5, 100)
  assert image.dtype == np.float32
  assert set(np.unique(image)) == {0, 1}
  disc = [[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0]]
  np.testing.assert_array_equal(image[18:23, 8:13], disc)  # Row is y, column is x.
  np.testing.assert_array_equal(image[:3, :3], np.array(disc)[2:, 2:])
  assert image[48:53, :2].sum() == 3  # From x = -1.6 only (0, 49..51).
  assert image.sum() == 13 + 6 + 3  # Nothing is wrapped round.


def test_the_paper_scales_100_to_224_with_half_pixel_centres():
  """Specs 3.4 count from the middle of the first pixel: x' = (x + 1/2) 2.24 - 1/2."""
  image = heatmap.draw(np.array([[0.0, 0], [99, 99], [25, 35]]) + 0.5, 224)
  rows, columns = np.nonzero(image[60:100, 40:80])
  # (25.5, 35.5) * 2.24 - 0.5 = (56.62, 79.02).
  assert abs(columns.mean() + 40 - 56.62) < 0.2
  assert abs(rows.mean() + 60 - 79.02) < 0.2
  # The first and the last pixel are alike: 0.62 from their edge.
  np.testing.assert_array_equal(image[:5, :5], image[-5:, -5:][::-1, ::-1])


def test_discs_are_those_of_the_definition():
  points = np.random.default_rng(0).uniform(-5, 105, (37, 2))
  y, x = np.mgrid[:224, :224]
  centres = (points + 0.5) * 2.24 - 0.5
  squared = (x - centres[:, 0, None, None]) ** 2 + (y - centres[:, 1, None, None]) ** 2
  np.testing.assert_array_equal(heatmap.draw(points + 0.5, 224), (squared <= 4).any(0))
  gaussian = np.exp(-squared / 8).max(0)
  np.testing.assert_allclose(heatmap.draw(points + 0.5, 224, dot="gaussian"), gaussian, atol=5e-5)


def test_many_pictures_at_once_are_the_same_as_one_by_one():
  points = np.random.default_rng(0).uniform(0, 100, (2, 3, 37, 2))
  points[1, 2] = np.nan
  images = heatmap.draw(points, 56)
  assert images.shape == (2, 3, 56, 56)
  np.testing.assert_array_equal(images[1, 0], heatmap.draw(points[1, 0], 56))
  assert not images[1, 2].any()
  points[0, 1, 36, 0] = np.inf
  with pytest.raises(UserError, match="landmarks of picture 1 are not finite"):
    heatmap.draw(points, 56)
  with pytest.raises(UserError, match="'star': give one of disc, gaussian"):
    heatmap.draw(points, 56, dot="star")
