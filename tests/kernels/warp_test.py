import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.kernels import warp


def test_the_identity_changes_nothing():
  images = jnp.asarray(np.random.default_rng(0).random((2, 3, 5, 4, 2)), jnp.float32)
  matrices = jnp.tile(jnp.eye(2, 3), (2, 1, 1))
  np.testing.assert_array_equal(warp.affine(images, matrices), images)


def test_a_shift_by_whole_pixels_repeats_the_border():
  image = jnp.arange(12.0).reshape(1, 3, 4, 1)
  shifted = warp.affine(image, jnp.asarray([[[1.0, 0, 1], [0, 1, 0]]]))
  np.testing.assert_array_equal(shifted[0, :, :, 0], [[1, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]])


def test_half_a_pixel_is_the_mean_of_two():
  image = jnp.arange(4.0).reshape(1, 1, 4, 1)
  halves = warp.affine(image, jnp.asarray([[[1.0, 0, 0.5], [0, 1, 0]]]))
  np.testing.assert_allclose(halves.ravel(), [0.5, 1.5, 2.5, 3.0])


def test_every_image_of_an_example_moves_alike_and_examples_on_their_own():
  images = jnp.asarray(np.random.default_rng(0).random((2, 3, 5, 4, 1)), jnp.float32)
  mirror = jnp.asarray([[-1.0, 0, 3], [0, 1, 0]])
  moved = warp.affine(images, jnp.stack([jnp.eye(2, 3), mirror]))
  np.testing.assert_array_equal(moved[0], images[0])
  np.testing.assert_array_equal(moved[1], images[1, :, :, ::-1])


def test_mirrored_flow_points_the_other_way():
  flow = jnp.asarray(np.random.default_rng(0).random((1, 2, 5, 4, 2)), jnp.float32)
  mirrored = warp.affine_flow(flow, jnp.asarray([[[-1.0, 0, 3], [0, 1, 0]]]))
  np.testing.assert_allclose(mirrored, flow[:, :, :, ::-1] * np.asarray([-1, 1]), atol=1e-6)


def test_flow_turns_with_its_image():
  """After a quarter turn around (2, 2), the vector at the centre points to the new place of the pixel on its right."""
  matrix = jnp.asarray([[[0.0, 1, 0], [-1, 0, 4]]])
  turned = warp.affine_flow(jnp.zeros((1, 5, 5, 2)).at[..., 0].set(1.0), matrix)
  image = jnp.zeros((1, 5, 5, 1)).at[0, 2, 3, 0].set(1.0)
  y, x = np.argwhere(np.asarray(warp.affine(image, matrix))[0, :, :, 0] == 1)[0]
  np.testing.assert_allclose(turned[0, 2, 2], [x - 2, y - 2], atol=1e-6)


def test_every_example_has_a_matrix_of_its_own_and_flow_two_components():
  with pytest.raises(AssertionError, match=r"\(2, 2, 3\)"):
    warp.affine(jnp.zeros((3, 4, 4, 1)), jnp.zeros((2, 2, 3)))
  with pytest.raises(AssertionError, match="2"):
    warp.affine_flow(jnp.zeros((2, 4, 4, 1)), jnp.zeros((2, 2, 3)))
