import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxfer.data import augment
from jaxfer.data.augment import random_affine


def draw(**options):
  keys = jax.random.split(jax.random.key(0), 400)
  return np.asarray(jax.jit(lambda keys: random_affine(keys, (9, 11), **options))(keys))


def test_without_options_nothing_changes():
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
  draw = jax.jit(lambda keys: random_affine(keys, (9, 9), **options))
  np.testing.assert_array_equal(np.asarray(draw(keys))[2:3], draw(keys[2:3]))


KEYS = jax.random.split(jax.random.key(1), 800)
flip_or_noise = jax.jit(augment.flip_or_noise, static_argnames=("flip", "variance"))
low_resolution = jax.jit(augment.low_resolution, static_argnames="probability")
random_resized_crop = jax.jit(augment.random_resized_crop, static_argnames=("scale",))
crop_on_black = jax.jit(augment.crop_on_black, static_argnames="probability")
colour_jitter = jax.jit(augment.colour_jitter, static_argnames=("strength", "probability"))
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
  assert abs(added[inner].mean() + 0.5) < 0.2  # Truncated, not rounded.
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
  halves = images + 0.5  # Not truncated where there is no noise.
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
  np.testing.assert_array_equal(boxes.sum((1, 2)), rows * columns)  # The box is filled.
  share = rows * columns / (height * width)
  assert 0.015 < share.min() < 0.03
  assert 0.09 < share.max() < 0.105
  ratio = np.log(rows / columns)
  assert np.log(0.25) < ratio.min() < np.log(0.45)
  assert np.log(2.4) < ratio.max() < np.log(3.9)
  assert abs(ratio.mean() - (np.log(0.3) + np.log(3.3)) / 2) < 0.1
  for edge in (boxes[:, 0], boxes[:, -1], boxes[:, :, 0], boxes[:, :, -1]):
    assert 0 < edge.any(1).mean() < 0.2  # The edge is reached, but boxes are not cut off by it.


def test_a_box_that_never_fits_leaves_the_image():
  images = jnp.ones((8, 10, 4, 1))
  wide = {"probability": 1.0, "scale": (0.9, 1.0), "ratio": (0.1, 0.1)}
  np.testing.assert_array_equal(erasing(KEYS[:8], images, **wide), images)
  # Half of 10 x 10 pixels fits with a ratio of 0.55 to 1.8, 26 % of those drawn: 95 % of ten tries have one.
  seldom = {"probability": 1.0, "scale": (0.5, 0.5), "ratio": (0.05, 5.0), "value": 7.0}
  erased = np.asarray(erasing(KEYS, jnp.ones((800, 10, 10, 1)), **seldom)) == 7
  assert 0.92 < erased.any((1, 2, 3)).mean() < 0.98
  assert erased.any(2).sum(1).max() < 10  # A box that does not fit is never used.
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


def several(count=200, size=12):
  return jnp.asarray(np.random.default_rng(0).uniform(1, 255, (count, size, size, 3)), jnp.float32)


def test_a_resized_crop_is_a_box_of_the_picture_at_full_size():
  """If the values of a picture are its coordinates, the first and last pixels of a crop show its box."""
  size, count = 32, 300
  rows, columns = np.mgrid[:size, :size]
  image = np.stack([rows + 0.5, columns + 0.5, np.zeros_like(rows)], -1).astype(np.float32)
  keys, images = (
    jax.random.split(jax.random.key(0), count),
    jnp.asarray(np.broadcast_to(image, (count, *image.shape))),
  )
  cropped = np.asarray(random_resized_crop(keys, images))
  assert cropped.shape == images.shape
  high, wide = np.ptp(cropped[..., 0], (1, 2)), np.ptp(cropped[..., 1], (1, 2))
  # Upsampling repeats the border, so that the coordinates span the box less one pixel.
  areas, ratios = (high + 1) * (wide + 1) / size**2, (wide + 1) / (high + 1)
  assert 0.07 < areas.min() < 0.15
  assert 0.85 < areas.max() <= 1
  assert 0.45 < areas.mean() < 0.6
  assert ratios.min() > 0.6
  assert ratios.max() < 1.6
  assert (np.diff(cropped[..., 0], axis=1) >= -1e-4).all()
  assert (np.diff(cropped[..., 1], axis=2) >= -1e-4).all()
  assert len({own.tobytes() for own in cropped}) > 0.9 * count
  np.testing.assert_allclose(
    random_resized_crop(keys[:4], images[:4], scale=(1.0, 1.0)), images[:4], atol=1e-4
  )


def test_a_resized_crop_is_pillows():
  """Each result equals Pillow's bilinear resize of its box up to the rounding of bytes."""
  keys = jax.random.split(jax.random.key(1), 6)
  y, x = np.mgrid[:24, :24]
  smooth = 120 + 60 * np.sin(x / 4) + 50 * np.cos(y / 5)
  picture = np.repeat(np.round(smooth)[..., None], 3, -1).astype(np.float32)
  cropped = np.asarray(random_resized_crop(keys, jnp.asarray(np.stack([picture] * 6))))
  place = np.stack([y, x, 0 * x], -1).astype(np.float32)
  placed = np.asarray(random_resized_crop(keys, jnp.asarray(np.stack([place] * 6))))
  for own, at in zip(cropped, placed, strict=True):
    top, left, bottom, right = *at[..., :2].min((0, 1)), *at[..., :2].max((0, 1))
    box = [round(float(edge)) for edge in (left, top, right + 1, bottom + 1)]
    expected = Image.fromarray(picture.astype(np.uint8)).crop(box).resize((24, 24), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(own, np.asarray(expected, np.float32), atol=1.5)


def test_crops_stay_where_they_are_on_black():
  keys, images = jax.random.split(jax.random.key(0), 200), several()
  cropped = np.asarray(crop_on_black(keys, images, probability=0.5))
  kept = (cropped == images).all(-1)
  assert (kept | (cropped == 0).all(-1)).all()
  shares = kept.mean((1, 2))
  assert 0.4 < (shares < 1).mean() < 0.6
  assert 0.15 < shares.min() < 0.4
  for own in kept:  # A box.
    np.testing.assert_array_equal(own, own.any(1)[:, None] & own.any(0))
  np.testing.assert_array_equal(crop_on_black(keys, images, probability=0.0), images)


@pytest.mark.parametrize(
  ("kind", "weights"),
  [
    (0, [0, 0, 1, 0, 0, 0]),
    (1, [0, 0, 0.5, 0.5, 0, 0]),
    (2, [0, 0, 0.5, 0.5, 0, 0]),
    (3, [0, -0.09375, 0.59375, 0.59375, -0.09375, 0]),
  ],
)
def test_halving_weighs_as_opencv_does(kind, weights):
  matrix = np.asarray(augment._interpolation(6, 3, 6, jnp.asarray(kind)))
  np.testing.assert_allclose(matrix[1], weights, atol=1e-6)
  assert not matrix[3:].any()
  np.testing.assert_allclose(matrix[:3].sum(1), 1, atol=1e-6)


def test_coarse_pictures_are_as_bright_and_less_varied():
  keys, images = jax.random.split(jax.random.key(0), 200), several()
  coarse = np.asarray(low_resolution(keys, images, probability=1.0))
  assert np.isfinite(coarse).all()
  assert abs(coarse.mean() - images.mean()) < 3
  assert (coarse.std((1, 2)) < images.std((1, 2)) * 1.15).all()
  assert coarse.std() < 0.8 * images.std()
  flat = jnp.full((20, 12, 12, 3), 77.0)
  np.testing.assert_allclose(low_resolution(keys[:20], flat, probability=1.0), flat, rtol=1e-5)
  np.testing.assert_array_equal(low_resolution(keys, images, probability=0.0), images)


def test_jitter_changes_brightness_contrast_and_saturation_within_its_strength():
  keys, images = jax.random.split(jax.random.key(0), 200), several()
  np.testing.assert_allclose(colour_jitter(keys, images, strength=0.0), images, rtol=1e-4)
  # Contrast and saturation do not change a flat grey picture.
  brighter = np.asarray(colour_jitter(keys, jnp.full((200, 4, 4, 3), 100.0), strength=0.3)) / 100
  assert brighter.min() == pytest.approx(0.7, abs=0.02)
  assert brighter.max() == pytest.approx(1.3, abs=0.02)
  assert np.ptp(brighter, axis=(1, 2, 3)).max() < 1e-4
  half = np.asarray(colour_jitter(keys, images, strength=0.5, probability=0.5))
  assert 0.4 < (half == images).all((1, 2, 3)).mean() < 0.6
  assert half.min() >= 0
  assert half.max() <= 255


def test_half_are_mirrored():
  images = several()
  mirrored = np.asarray(augment.mirror(jax.random.split(jax.random.key(0), 200), images))
  turned = (mirrored == images[:, :, ::-1]).all((1, 2, 3))
  np.testing.assert_array_equal(mirrored[~turned], images[~turned])
  assert 0.4 < turned.mean() < 0.6
