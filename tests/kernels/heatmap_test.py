"""Compares dots of landmarks with their definition in plain NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.kernels import heatmap


@functools.cache
def compiled(size, dot):
  return jax.jit(functools.partial(heatmap.draw, size=size, frame=100, dot=dot))


def draw(points, size, dot="disc"):
  return np.asarray(compiled(size, dot)(jnp.asarray(points, jnp.float32)))


def reference(points, size, dot):
  """Draws one picture [size, size] dot by dot, from points in a frame of 100; pixel centres are whole numbers."""
  y, x = np.mgrid[:size, :size]
  image = np.zeros((size, size))
  for px, py in points * (size / 100) - 0.5:
    squared = (x - px) ** 2 + (y - py) ** 2
    image = np.maximum(image, squared <= 4 if dot == "disc" else np.exp(-squared / 8))
  return image


def test_a_disc_has_radius_two_and_is_cut_at_the_edge():
  image = draw(np.array([[[10.0, 20], [0, 0], [-1.6, 50], [500, 1e30]]]) + 0.5, 100)
  assert (image.shape, image.dtype) == ((1, 100, 100, 1), np.float32)
  assert set(np.unique(image)) == {0, 1}
  image = image[0, :, :, 0]
  disc = [[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0]]
  np.testing.assert_array_equal(image[18:23, 8:13], disc)  # The row is y, the column is x.
  np.testing.assert_array_equal(image[:3, :3], np.array(disc)[2:, 2:])
  assert image[48:53, :2].sum() == 3  # The dot at x = -1.6 covers only (0, 49..51).
  assert image.sum() == 13 + 6 + 3  # Nothing wraps around.


def test_the_paper_scales_100_to_224_with_half_pixel_centres():
  """Coordinates count from the middle of the first pixel: x' = (x + 1/2) 2.24 - 1/2."""
  image = draw(np.array([[[0.0, 0], [99, 99], [25, 35]]]) + 0.5, 224)[0, :, :, 0]
  rows, columns = np.nonzero(image[60:100, 40:80])
  # (25.5, 35.5) * 2.24 - 0.5 = (56.62, 79.02).
  assert abs(columns.mean() + 40 - 56.62) < 0.2
  assert abs(rows.mean() + 60 - 79.02) < 0.2
  # The first and the last pixel are symmetric: 0.62 from their edge.
  np.testing.assert_array_equal(image[:5, :5], image[-5:, -5:][::-1, ::-1])


@pytest.mark.parametrize("dot", heatmap.DOTS)
def test_dots_are_those_of_the_definition(dot):
  points = np.random.default_rng(0).uniform(-5, 105, (3, 37, 2))
  points[1] = np.nan
  images = draw(points, 112, dot)[..., 0]
  assert not images[1].any()
  for image, own in zip(images[::2], points[::2], strict=True):
    np.testing.assert_allclose(image, reference(own, 112, dot), atol=1e-5)


def test_no_picture_a_landmark_is_held_in_memory():
  """The sum over x and y is fused into the minimum over landmarks."""
  batch, count, size = 16, 37, 64
  points = jax.ShapeDtypeStruct((batch, count, 2), jnp.float32)
  memory = compiled(size, "disc").lower(points).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 4 * batch * size**2 * count / 8


def test_an_unknown_dot_is_refused():
  with pytest.raises(UserError, match="unknown dot of heatmaps 'disk': did you mean 'disc'"):
    heatmap.draw(jnp.zeros((1, 1, 2)), 4, frame=4, dot="disk")


def test_landmarks_have_two_coordinates():
  with pytest.raises(AssertionError, match=r"\(1, 37, 3\)"):
    heatmap.draw(jnp.zeros((1, 37, 3)), 16, frame=16.0)
