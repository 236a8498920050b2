"""Tests the affine map of eyes and mouth, and the check of landmarks."""

import numpy as np
import pytest

from jaxfer.data import align, heatmap
from jaxfer.errors import UserError

EYES_AND_MOUTH = np.array([[30.0, 40], [70, 40], [50, 80]])


def test_the_alignment_of_the_spec():
  matrix = heatmap.alignment(EYES_AND_MOUTH)
  np.testing.assert_allclose(matrix, [[1.25, 0, -12.5], [0, 1, -5]], atol=1e-12)
  np.testing.assert_allclose(align.transform(EYES_AND_MOUTH, matrix), heatmap.TEMPLATE, atol=1e-12)
  # Left and right are those of the person.
  five = np.array([[70.0, 40], [30, 40], [48, 60], [60, 82], [40, 78]])
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
    ([[0, 0], [np.nan, 10], [20, 0]], "expected finite numbers, 3 x 2 or 5 x 2"),
    ([[0, 0], [10, 0]], "are 2 x 2 numbers"),
  ],
)
def test_points_that_align_nothing_are_refused(points, message):
  with pytest.raises(UserError, match=message):
    heatmap.alignment(np.array(points, float))


def test_landmarks_are_a_picture_s_all_or_none():
  landmarks = np.zeros((4, 37, 2), np.float32)
  assert heatmap.checked(landmarks) == 0
  landmarks[1:3] = np.nan
  assert heatmap.checked(landmarks) == 2
  for bad in (np.nan, np.inf):
    landmarks[3, 36, 0] = bad
    with pytest.raises(UserError, match="landmarks of picture 3 are not all finite: leave it out"):
      heatmap.checked(landmarks)
