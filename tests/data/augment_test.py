import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.data.augment import random_affine


def draw(**options):
  return np.asarray(random_affine(jax.random.split(jax.random.key(0), 400), (9, 11), **options))


def test_nothing_asked_for_is_the_identity():
  np.testing.assert_allclose(draw(flip=False), np.tile(np.eye(2, 3), (400, 1, 1)), atol=1e-5)


def test_half_are_mirrored_about_the_centre():
  matrices = draw()
  mirrored = matrices[:, 0, 0] < 0
  assert 0.4 < mirrored.mean() < 0.6
  np.testing.assert_allclose(matrices[mirrored] @ [0, 4, 1], np.tile([10, 4], (mirrored.sum(), 1)), atol=1e-5)


def test_angles_and_shifts_stay_in_their_range_and_fill_it():
  matrices = draw(flip=False, rotation=20.0, shift=0.1)
  angles = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
  assert -20 <= angles.min() < -18
  assert 18 < angles.max() <= 20
  moved = matrices @ [5, 4, 1] - [5, 4]
  assert (np.abs(moved) <= [1.1 + 1e-5, 0.9 + 1e-5]).all()
  assert (np.abs(moved).max(0) > [1.0, 0.8]).all()


def test_an_example_depends_on_its_own_key_alone():
  keys = jax.random.split(jax.random.key(0), 4)
  options = {"rotation": 10.0, "shift": 0.1}
  whole = random_affine(keys, (9, 9), **options)
  assert jnp.array_equal(whole[2:3], random_affine(keys[2:3], (9, 9), **options))
