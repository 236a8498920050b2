import jax
import numpy as np
import pytest

from jaxfer.data import emotions, records
from jaxfer.data.datasets.nagoya import scan
from jaxfer.data.synthetic import action_units, dataset, generate_stills
from jaxfer.errors import UserError
from jaxfer.systems.elderly_transfer import published

ROWS = np.arange(32, dtype=np.int32)
NINE = tuple(action_units.CLASSES["nine"])


@pytest.fixture(scope="module")
def casts():
  """The same records of nine classes, without an age and with age 1."""
  arguments = np.uint32(3), ROWS, ROWS, ROWS % 9
  return [dataset._cast_stills(*arguments, classes="nine", **age) for age in ({}, {"age": np.float32(1.0)})]


def test_nothing_of_age_is_traced_without_one():
  faces = [
    jax.eval_shape(lambda age: dataset._cast_stills(np.uint32(0), ROWS, ROWS, ROWS, age=age)[0], age)
    for age in (None, np.float32(1.0))
  ]
  assert [face.identity.wear is None for face in faces] == [True, False]


def test_the_same_people_grow_old(casts):
  (young, place, shown), (old, later, faint) = casts
  for now, then in zip(young.pose, old.pose, strict=True):
    np.testing.assert_allclose(now, then, atol=1e-6)
  for name in ("light", "background", "noise", "gaze"):
    np.testing.assert_allclose(getattr(place, name), getattr(later, name), atol=1e-6)
  before, after = young.identity, old.identity
  for name in ("head_width", "eye_x", "iris", "clothes", "glasses", "beard"):
    np.testing.assert_allclose(getattr(before, name), getattr(after, name), atol=1e-6)
  lower = np.array(after.brow_y - before.brow_y)
  thinner = np.array(before.lip_upper - after.lip_upper)
  assert lower.min() > 0.02
  assert thinner.min() > 0.01
  assert (np.array(after.hair).mean() - np.array(before.hair).mean()) > 0.15
  # Expressions are weaker, and differ more from one person to the next.
  strength = [np.log(np.asarray(who.gain)) for who in (before, after)]
  assert abs(np.exp(strength[1].mean() - strength[0].mean()) - 0.6) < 0.06
  assert strength[1].std() > 1.2 * strength[0].std()
  jaw = action_units.ORDER.index(26)
  surprised = NINE.index("surprise") == ROWS % 9
  assert np.asarray(faint)[surprised, jaw].mean() < 0.8 * np.asarray(shown)[surprised, jaw].mean()


def test_nine_classes_are_paper_004s():
  assert NINE == published.CLASSES
  assert emotions.match("nine", NINE, scan.LABELS) == list(range(9))
  table = dict(zip(NINE, action_units.emotion_table("nine"), strict=True))
  seven = dict(zip(action_units.LABELS, action_units.emotion_table(), strict=True))
  np.testing.assert_array_equal(table.pop("joy"), seven.pop("happiness"))
  for name, units in seven.items():
    np.testing.assert_array_equal(table.pop(name), units)
  assert set(table) == {"excitement", "relaxed"}
  unit = action_units.ORDER.index
  assert (table["excitement"][[unit(1), unit(2), unit(5), unit(12), unit(26)]] > 0).all()
  assert table["relaxed"][unit(43)] > 0.5


def test_the_builder_draws_old_faces_of_nine_classes(tmp_path):
  options = {"num_subjects": 2, "images_per_subject": 9, "image_size": 16, "channels": 1, "seed": 7}
  loaded = records.load("synthetic_faces", tmp_path, **options, age=1, classes="nine")
  drawn = generate_stills(**options, age=1.0, classes="nine")
  for name in ("image", "label", "landmarks"):
    np.testing.assert_array_equal(loaded.arrays[name], drawn[name])
  assert loaded.label_names == NINE
  assert (np.bincount(loaded.arrays["label"]) == 2).all()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"age": 75.0}, "synthetic_faces.age=75.0: give a number, from 0 to 1"),
    ({"classes": "nin"}, "did you mean 'nine'"),
  ],
)
def test_bad_options(tmp_path, options, message):
  with pytest.raises(UserError, match=message):
    records.load("synthetic_faces", tmp_path, **options)
