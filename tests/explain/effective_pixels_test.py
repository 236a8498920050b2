"""Compares effective pixels with nets traced by hand and path by path."""

import itertools

import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.explain import effective_pixels


def test_the_toy_net_rests_on_its_first_pixel():
  # Computed by hand.
  mask, paths = effective_pixels.effective_pixels([[[1, 0], [0, 1]], [[1], [0]]], [0.5, 0.5])
  np.testing.assert_array_equal(mask, [[True, False]])
  np.testing.assert_array_equal(paths, [[1, 0]])


@pytest.mark.parametrize("signed", [True, False])
def test_paths_are_those_found_one_by_one(signed):
  rng = np.random.default_rng(0)
  weights = [rng.normal(size=shape) for shape in ((5, 4), (4, 3), (3, 2))]
  limits = [0.2, 0.3, -0.1] if signed else [0.9, 0.6, 0.5]
  counted = np.zeros((2, 5))
  for i, j, k, out in itertools.product(range(5), range(4), range(3), range(2)):
    along = np.array([weights[0][i, j], weights[1][j, k], weights[2][k, out]])
    counted[out, i] += ((along if signed else abs(along)) > limits).all()
  mask, paths = effective_pixels.effective_pixels(weights, limits, signed=signed)
  np.testing.assert_array_equal(paths, counted)
  np.testing.assert_array_equal(mask, counted > 0)
  assert 0 < mask.sum() < mask.size


def test_a_negative_weight_counts_by_its_magnitude_alone():
  weights = [[[-3.0], [1.0]], [[1.0]]]
  # Weights must be above the limit, not at it.
  assert effective_pixels.effective_pixels(weights, [1.0, 0.5])[0].tolist() == [[False, False]]
  assert effective_pixels.effective_pixels(weights, [0.5, 0.5])[0].tolist() == [[False, True]]
  assert effective_pixels.effective_pixels(weights, [0.5, 0.5], signed=False)[0].tolist() == [[True, True]]


def test_thresholds_are_the_mean_and_so_many_standard_deviations_or_a_percentile():
  weights = [np.array([[1.0, -3.0], [2.0, 4.0]])]
  assert effective_pixels.thresholds(weights) == pytest.approx([1 + 2 * np.sqrt(6.5)])
  assert effective_pixels.thresholds(weights, kappa=-1) == pytest.approx([1 - np.sqrt(6.5)])
  assert effective_pixels.thresholds(weights, signed=False, kappa=0) == [2.5]
  assert effective_pixels.thresholds(weights, percentile=75) == [2.5]
  assert effective_pixels.thresholds(weights, percentile=100, signed=False) == [4]
  (by_unit,) = effective_pixels.thresholds(weights, kappa=1, by_unit=True)
  np.testing.assert_allclose(by_unit, [2, 4])
  (by_unit,) = effective_pixels.thresholds(weights, percentile=50, by_unit=True, signed=False)
  np.testing.assert_allclose(by_unit, [1.5, 3.5])


def test_limits_by_unit_leave_every_output_a_path():
  rng = np.random.default_rng(3)
  weights = [rng.uniform(-1, 1, (30, 20)), rng.uniform(-1, 1, (20, 5)) * [1, 1, 1, 1, 0.01]]
  by_layer, by_unit = (
    effective_pixels.effective_pixels(
      weights, effective_pixels.thresholds(weights, percentile=97, by_unit=unit)
    )[0].any(1)
    for unit in (False, True)
  )
  assert not by_layer.all()
  assert by_unit.all()


def test_what_is_compared_decides_the_default_limits():
  rng = np.random.default_rng(1)
  weights = [rng.normal(size=(50, 8)), rng.normal(size=(8, 3))]
  std = rng.uniform(0, 1, 50)
  scaled = [weights[0] * std[:, None], weights[1]]
  paths = effective_pixels.effective_pixels(weights, input_std=std)[1]
  np.testing.assert_array_equal(
    paths, effective_pixels.effective_pixels(scaled, effective_pixels.thresholds(scaled))[1]
  )
  # Pixels in bytes or in [0, 1]: the same.
  np.testing.assert_array_equal(paths, effective_pixels.effective_pixels(weights, input_std=255 * std)[1])
  absolute = effective_pixels.effective_pixels(weights, signed=False)[1]
  limits = effective_pixels.thresholds(weights, signed=False)
  np.testing.assert_array_equal(absolute, effective_pixels.effective_pixels(weights, limits, signed=False)[1])


def test_a_background_that_never_changes_keeps_its_first_weights_and_drops_out_by_its_spread():
  """A unit is trained by gradient descent on pixels of which the last is always black."""
  rng = np.random.default_rng(2)
  x = rng.uniform(size=(64, 4))
  x[:, 3] = 0
  target = x[:, :1]
  drawn = np.array([[0.1], [0.1], [0.1], [0.9]])
  w = drawn.copy()
  for _ in range(200):
    w -= 0.5 * x.T @ (x @ w - target) / len(x)
  assert w[3] == drawn[3]
  raw, scaled = (
    effective_pixels.effective_pixels([w, [[1.0]]], [limit, 0.5], input_std=std)[0][0]
    for std, limit in ((None, 0.5), (x.std(0), 0.1))
  )
  assert raw.tolist() == [True, False, False, True]
  assert scaled.tolist() == [True, False, False, False]


def test_the_inputs_with_the_most_paths_are_those_of_the_nearest_share():
  paths = np.array([[4.0, 3, 3, 2, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 0, 0], [0] * 10])
  for share, first, second in ((0.1, 1, 8), (0.19, 1, 8), (0.21, 3, 8), (0.3, 3, 8), (0.4, 4, 8), (1, 5, 8)):
    mask = effective_pixels.most_paths(paths, share)
    assert mask.sum(1).tolist() == [first, second, 0], share
    assert mask[0, :first].all()


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="consecutive layers do not match"):
    effective_pixels.effective_pixels([np.ones((3, 2)), np.ones((3, 1))])
  with pytest.raises(ValueError, match=r"\(3,\) standard deviations for 2 inputs"):
    effective_pixels.effective_pixels([np.ones((2, 2))], input_std=np.ones(3))
  with pytest.raises(ValueError, match="zip"):
    effective_pixels.effective_pixels([np.ones((2, 2))], [0.5, 0.5])
  with pytest.raises(UserError, match="layer 2 has weights that are not finite"):
    effective_pixels.effective_pixels([np.ones((2, 2)), np.full((2, 1), np.nan)])


def test_parts_lie_around_the_mean_points_as_wide_as_these_wander():
  points = np.zeros((2, 37, 2))
  points[:, 0:3] = [[4, 4], [5, 3], [7, 4]]
  points[:, 3:6] = points[:, 0:3] + [8, 0]
  points[:, 13:19] = [5, 9]
  points[:, 19:25] = [13, 9]
  points[:, 25:31], points[:, 31:] = [6, 16], [14, 18]
  still = effective_pixels.part_regions(points, 20, 24)
  assert still["brows"].shape == (20, 24)
  assert np.argwhere(still["brows"]).tolist() == [[3, x] for x in (4, 5, 6, 12, 13, 14)]
  assert not still["eyes"].any()
  assert still["mouth"].sum() == 8 * 2
  points[0] += [1, 2]
  points[1] -= [1, 2]
  wandering = effective_pixels.part_regions(points, 20, 24)
  assert wandering["eyes"].sum() == 2 * 2 * 4
  assert wandering["mouth"].sum() == 10 * 6


def test_the_share_inside_is_one_half_where_half_the_map_is():
  region = np.zeros((4, 4), bool)
  region[:2, :2] = True
  maps = np.zeros((3, 4, 4))
  maps[0, 0, 0], maps[0, 3, 3] = 3, 3
  maps[1] = 1
  share, chance = effective_pixels.share_inside(maps, region)
  assert chance == 0.25
  np.testing.assert_array_equal(share, [0.5, 0.25, np.nan])
  with pytest.raises(ValueError, match="for a region of shape"):
    effective_pixels.share_inside(maps, np.ones((2, 2), bool))
