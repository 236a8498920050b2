import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxfer.data import augment
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


KEYS = jax.random.split(jax.random.key(1), 800)
flip_or_noise = jax.jit(augment.flip_or_noise, static_argnames=("flip", "variance"))
erasing = jax.jit(augment.random_erasing, static_argnames=("probability", "scale", "ratio", "value"))


@pytest.fixture(scope="module")
def pictures():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (800, 4, 6, 3)).astype(np.float32)
  return images, rng.uniform(size=(800, 8, 12, 1)).astype(np.float32)


def test_a_quarter_is_mirrored_with_its_heatmap_and_another_gets_noise(pictures):
  images, heatmaps = pictures
  moved, dots = (np.asarray(a) for a in flip_or_noise(KEYS, images, heatmaps))
  mirrored = (moved == images[:, :, ::-1]).all((1, 2, 3))
  same = (moved == images).all((1, 2, 3))
  noisy = ~mirrored & ~same
  np.testing.assert_allclose([mirrored.mean(), noisy.mean(), same.mean()], [0.25, 0.25, 0.5], atol=0.06)
  np.testing.assert_array_equal(dots[mirrored], heatmaps[mirrored][:, :, ::-1])
  np.testing.assert_array_equal(dots[~mirrored], heatmaps[~mirrored])
  added = (moved - images)[noisy]
  inner = (images[noisy] > 30) & (images[noisy] < 225)
  assert (np.modf(moved[noisy])[0] == 0).all()
  assert moved.min() >= 0
  assert moved.max() <= 255
  assert abs(added[inner].mean() + 0.5) < 0.2  # Cut, not rounded.
  assert abs(added[inner].var() - 30) < 2
  per_channel = added[..., 0] - added[..., 1]
  assert per_channel.std() > 5


def test_mirroring_and_noise_are_turned_off_alone(pictures):
  images, heatmaps = pictures
  options = ({"flip": False}, {"variance": 0.0}, {})
  unflipped, quiet, both = (np.asarray(flip_or_noise(KEYS, images, heatmaps, **off)[0]) for off in options)
  changed = [(a != images).any((1, 2, 3)) for a in (unflipped, quiet, both)]
  assert 0.2 < changed[0].mean() < 0.3
  assert 0.2 < changed[1].mean() < 0.3
  np.testing.assert_array_equal(changed[0] | changed[1], changed[2])
  assert not (changed[0] & changed[1]).any()
  halves = images + 0.5  # Not cut where no noise falls.
  np.testing.assert_array_equal(flip_or_noise(KEYS, halves, heatmaps, flip=False, variance=0)[0], halves)


@pytest.mark.parametrize(("height", "width", "size"), [(20, 20, 45), (45, 45, 20), (13, 30, 22)])
def test_resizing_is_pillow_s_to_a_grey_level(height, width, size):
  images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype(np.uint8)
  resized = np.asarray(augment.resize(jnp.asarray(images, jnp.float32), size))
  for image, ours in zip(images, resized, strict=True):
    theirs = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    assert np.abs(ours - np.asarray(theirs, np.float32)).max() <= 1.001


def test_resizing_to_the_same_size_is_the_identity():
  images = jnp.arange(48.0).reshape(1, 4, 4, 3)
  assert augment.resize(images, 4) is images


def test_half_get_a_box_of_the_asked_area_and_shape():
  height, width = 40, 60
  images = jnp.ones((800, height, width, 1))
  erased = np.asarray(erasing(KEYS, images))[..., 0] == 0
  hit = erased.any((1, 2))
  assert 0.44 < hit.mean() < 0.56
  boxes = erased[hit]
  rows, columns = boxes.any(2).sum(1), boxes.any(1).sum(1)
  np.testing.assert_array_equal(boxes.sum((1, 2)), rows * columns)  # A full box.
  share = rows * columns / (height * width)
  assert 0.015 < share.min() < 0.03
  assert 0.09 < share.max() < 0.105
  ratio = np.log(rows / columns)
  assert np.log(0.25) < ratio.min() < np.log(0.45)
  assert np.log(2.4) < ratio.max() < np.log(3.9)
  assert abs(ratio.mean() - (np.log(0.3) + np.log(3.3)) / 2) < 0.1
  for edge in (boxes[:, 0], boxes[:, -1], boxes[:, :, 0], boxes[:, :, -1]):
    assert 0 < edge.any(1).mean() < 0.2  # Reached, and not crossed, where more would be cut off.


def test_a_box_that_never_fits_leaves_the_image():
  images = jnp.ones((8, 10, 4, 1))
  wide = {"probability": 1.0, "scale": (0.9, 1.0), "ratio": (0.1, 0.1)}
  np.testing.assert_array_equal(erasing(KEYS[:8], images, **wide), images)
  # Half of 10 x 10 pixels fits with a ratio of 0.55 to 1.8, 26 % of those drawn: 95 % of ten tries have one.
  seldom = {"probability": 1.0, "scale": (0.5, 0.5), "ratio": (0.05, 5.0), "value": 7.0}
  erased = np.asarray(erasing(KEYS, jnp.ones((800, 10, 10, 1)), **seldom)) == 7
  assert 0.92 < erased.any((1, 2, 3)).mean() < 0.98
  assert erased.any(2).sum(1).max() < 10  # Never one that does not fit.
  assert erased.any(1).sum(1).max() < 10


def test_no_probability_is_no_box_and_certainty_is_always_one():
  images = jnp.ones((800, 20, 20, 1))
  np.testing.assert_array_equal(erasing(KEYS, images, probability=0.0), images)
  erased = np.asarray(erasing(KEYS, images, probability=1.0, value=3.0)) == 3
  assert erased.any((1, 2, 3)).all()


def test_each_transform_depends_on_the_example_s_key_alone(pictures):
  images, heatmaps = (jnp.asarray(a[:4]) for a in pictures)
  keys, one = KEYS[:4], slice(2, 3)
  whole = flip_or_noise(keys, images, heatmaps)
  alone = flip_or_noise(keys[one], images[one], heatmaps[one])
  np.testing.assert_array_equal(whole[0][one], alone[0])
  np.testing.assert_array_equal(erasing(keys, images)[one], erasing(keys[one], images[one]))
