import sys

import numpy as np
import pytest

from jaxfer.data import records
from jaxfer.data.synthetic import objects
from jaxfer.errors import UserError

LINE = (np.arange(64) + 0.5) / 32 - 1.0


def test_a_hundred_classes_are_a_hundred_pairs():
  names = objects.class_names(objects.MAX_CLASSES)
  assert len(set(names)) == 100
  assert names[:2] == ("plain disc", "striped ring")
  for part in objects.parts(np.arange(10)):
    assert sorted(part) == list(range(10))
  assert objects.class_names(30) == names[:30]


def test_a_picture_depends_on_seed_class_and_number_alone():
  label, number = np.array([3, 47, 47, 99]), np.array([0, 0, 1, 5])
  drawn = objects.draw(label, number, 24, 3, 7)
  assert drawn.shape == (4, 24, 24, 3)
  assert drawn.dtype == np.uint8
  np.testing.assert_array_equal(objects.draw(label[2:], number[2:], 24, 3, 7), drawn[2:])
  assert not (drawn[1] == drawn[2]).all()
  assert not (objects.draw(label, number, 24, 3, 8) == drawn).all()
  grey = objects.draw(label, number, 24, 1, 7)
  assert grey.shape == (4, 24, 24, 1)
  np.testing.assert_allclose(grey[..., 0], drawn.mean(-1), atol=1.0)


def test_shapes_and_textures_are_all_different():
  x, y = np.meshgrid(1.2 * LINE, 1.2 * LINE)
  covers = np.stack([form(x, y) > 0 for form in objects.SHAPES.values()])
  assert covers.mean((1, 2)).min() > 0.1
  assert covers.mean((1, 2)).max() < 0.6
  overlap = [[(a & b).sum() / (a | b).sum() for b in covers] for a in covers]
  assert np.max(overlap - np.eye(len(covers))) < 0.9
  patterns = [p(11 * x, 11 * y, np.hypot(x, y), x) for p in objects.TEXTURES.values()]
  assert all(p.min() >= 0 and p.max() <= 1 for p in patterns)
  assert sum(p.std() < 0.1 for p in patterns) == 1  # The plain one.


def test_every_picture_has_a_background_of_its_own():
  drawn = objects.draw(np.arange(100), np.zeros(100, int), 16, 3, 3).astype(float)
  assert drawn[:, [0, 0, -1, -1], [0, -1, 0, -1]].std(0).min() > 40


def test_the_builder(tmp_path):
  options = {"num_classes": 3, "images_per_class": 40, "image_size": 16, "seed": 5}
  loaded = records.load("synthetic_objects", tmp_path, **options)
  assert loaded.label_names == ("plain disc", "striped ring", "checked triangle")
  assert loaded.arrays["image"].shape == (120, 16, 16, 3)
  label, number = np.divmod(np.arange(120), 40)
  np.testing.assert_array_equal(loaded.arrays["label"], label)
  np.testing.assert_array_equal(loaded.arrays["image"], objects.draw(label, number, 16, 3, 5))
  groups = np.zeros((20, 3), int)
  np.add.at(groups, (loaded.arrays["subject"], loaded.arrays["label"]), 1)
  assert (groups == 2).all()
  assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_classes": 101}, "num_classes=101: give a whole number, from 2 to 100"),
    ({"images_per_class": 0}, "images_per_class=0: give a whole number, from 1 to"),
    ({"channels": 4}, "channels=4: give a whole number, 1 or 3"),
  ],
)
def test_bad_options(tmp_path, options, message):
  with pytest.raises(UserError, match=message):
    records.load("synthetic_objects", tmp_path, **options)
