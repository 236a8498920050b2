import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.data import heatmap, records
from jaxfer.data.datasets import DATASETS
from jaxfer.data.synthetic import (
  LABELS,
  action_units,
  dataset,
  generate_sequences,
  generate_stills,
  render,
  timecourse,
)
from jaxfer.data.synthetic.landmarks import landmarks, manual_points
from jaxfer.errors import UserError


@pytest.fixture(scope="module")
def stills():
  return generate_stills(num_subjects=3, images_per_subject=14, image_size=16, channels=1, seed=7)


@pytest.fixture(scope="module")
def sequences():
  return generate_sequences(num_subjects=2, num_frames=4, image_size=16, seed=7)


# Called like the generators do, with as many pictures at once, so that nothing new is compiled.


def cast_stills(seed, *rows):
  with dataset._precise():
    return dataset._cast_stills(np.uint32(seed), *rows, studio=False, classes="seven")


def cast_sequences(seed, *rows, time_course="onset_apex"):
  with dataset._precise():
    return dataset._cast_sequences(np.uint32(seed), *rows, time_course=time_course, num_frames=4)


def test_stills_are_what_is_promised(stills):
  assert stills["image"].shape == (42, 16, 16, 1)
  assert stills["image"].dtype == np.uint8
  assert stills["action_units"].shape == (42, 33)
  assert stills["landmarks"].shape == (42, 37, 2)
  labels = stills["label"].reshape(3, 14)
  assert all((np.bincount(row, minlength=7) == 2).all() for row in labels)
  assert not (labels[0] == labels[1]).all()  # The order of the takes does not depend on the class.


# The first 16 digits of each set's fingerprint. They hold on every machine and for all versions of JAX and NumPy that
# we admit. A change here is a change of the embedded data: raise the builders' version.
FINGERPRINTS = (
  ("synthetic_faces", {"num_subjects": 3, "images_per_subject": 14, "channels": 1, "seed": 7}, "eb2a8b3d0462ddba"),
  (
    "synthetic_faces",
    {
      "num_subjects": 4, "images_per_subject": 9, "aligned": True, "landmark_noise": 1.0, "studio": True, "age": 1.0,
      "classes": "nine",
    },
    "6553f5fe708836a7",
  ),
  ("synthetic_sequences", {"num_subjects": 2, "num_frames": 4, "seed": 7}, "cdbba6406c261a3e"),
  ("synthetic_sequences", {"num_subjects": 2, "num_frames": 4, "time_course": "onset_apex_offset"}, "33be8c0440db205b"),
  ("synthetic_sequences", {"num_subjects": 2, "num_frames": 4, "time_course": "fleeting"}, "6e763df88241fe9f"),
  ("synthetic_objects", {"images_per_class": 2, "seed": 7}, "81f4facdc1a08e6e"),
)  # fmt: skip


@pytest.mark.parametrize(("name", "options", "expected"), FINGERPRINTS)
def test_embedded_data_are_equal_on_every_machine(tmp_path, name, options, expected):
  loaded = records.load(name, tmp_path, image_size=16, **options)
  assert loaded.fingerprint[:16] == expected


def test_every_embedded_set_has_a_fingerprint_here():
  assert {name for name, *_ in FINGERPRINTS} == {name for name, of in DATASETS.items() if of.generated}


def test_drawing_ignores_default_type_and_device(stills):
  # As on a machine whose default device is an accelerator, and for users who enable float64.
  with jax.enable_x64(True), jax.default_device(jax.devices()[1]):
    drawn = generate_stills(num_subjects=3, images_per_subject=14, image_size=16, channels=1, seed=7)
  chex.assert_trees_all_equal_shapes_and_dtypes(drawn, stills)
  chex.assert_trees_all_equal(drawn, stills)


def test_landmarks_and_action_units_are_far_from_rounding(stills):
  for name, step in (("landmarks", 2**10), ("action_units", 2**20)):
    assert stills[name].dtype == np.float32
    np.testing.assert_array_equal(stills[name] * step, np.rint(stills[name] * step), err_msg=name)


def test_without_a_cpu_nothing_is_drawn(monkeypatch):
  def refuse(**kwargs):
    raise RuntimeError("Unknown backend cpu")

  monkeypatch.setattr(jax, "local_devices", refuse)
  with pytest.raises(UserError, match="JAX_PLATFORMS=cuda,cpu"):
    generate_stills(num_subjects=1, images_per_subject=7, image_size=16)


def test_subjects_do_not_depend_on_how_many_there_are(stills):
  fewer = generate_stills(num_subjects=2, images_per_subject=14, image_size=16, channels=1, seed=7)
  chex.assert_trees_all_equal(fewer, {name: array[:28] for name, array in stills.items()})
  other = generate_stills(num_subjects=2, images_per_subject=14, image_size=16, channels=1, seed=8)
  assert not (other["image"] == fewer["image"]).all()


ALIGNED = {"num_subjects": 4, "images_per_subject": 8, "image_size": 40, "seed": 7, "aligned": True}


@pytest.fixture
def coordinates(monkeypatch):
  """Replaces pictures by coordinates: red and green give the place of a pixel on the face plane, in every frame."""

  def draw(face, scene, size, previous=None):
    x, y = render.pixel_grid(size)
    pose = face.pose
    planes = [(x - pose.x) / pose.scale, (y - pose.y) / pose.scale, jnp.zeros((size, size))]
    return 0.5 + 0.2 * jnp.stack(planes, -1), None

  monkeypatch.setattr(render, "render", draw)
  monkeypatch.setattr(render, "sensor", lambda picture, scene: picture)
  yield
  dataset._draw_framed.clear_cache()


def test_aligned_faces_have_eyes_and_mouth_where_raf_db_has_them(coordinates):
  aligned = generate_stills(**ALIGNED)
  left, right, _, *corners = np.moveaxis(np.asarray(jax.jit(manual_points)(aligned["landmarks"])), 1, 0)
  for points, place in zip((left, right, np.mean(corners, 0)), heatmap.TEMPLATE, strict=True):
    np.testing.assert_allclose(points, np.broadcast_to((place + 0.5) * 0.4, points.shape), atol=1e-3)
  # The picture at a landmark shows the point of the face at the landmark.
  rows = aligned["subject"], aligned["take"], aligned["label"]
  faces = cast_stills(7, *rows)[0]
  with dataset._precise():
    points = jax.jit(jax.vmap(lambda face: landmarks(face, 2)))(faces) - 1
  pose = faces.pose
  there = (np.asarray(points) - np.stack([pose.x, pose.y], -1)[:, None]) / np.asarray(pose.scale)[
    :, None, None
  ]
  column, row = np.clip(np.moveaxis(aligned["landmarks"], -1, 0), 0, 39.99).astype(int)
  seen = aligned["image"][np.arange(32)[:, None], row, column, :2]
  # A pixel is 0.04 to 0.06 face units wide, and a grey level is 0.02.
  np.testing.assert_allclose((seen / 255 - 0.5) / 0.2, there, atol=0.06)
  # Edges are not repeated: the last pixels differ from their neighbours.
  image = aligned["image"].astype(int)
  assert (image[:, :, 0, 0] < image[:, :, 2, 0]).all()
  assert (image[:, :, -1, 0] > image[:, :, -3, 0]).all()
  assert (image[:, 0, :, 1] < image[:, 2, :, 1]).all()
  assert (image[:, -1, :, 1] > image[:, -3, :, 1]).all()


def test_landmarks_err_as_asked_by_picture_and_point(stills):
  options = {"images_per_subject": 14, "image_size": 16, "channels": 1, "seed": 7, "landmark_noise": 2.0}
  noisy = generate_stills(num_subjects=3, **options)
  chex.assert_trees_all_equal(noisy | {"landmarks": None}, stills | {"landmarks": None})
  error = noisy["landmarks"] - stills["landmarks"]
  assert abs(error.std() - 2.0 * 16 / 100) < 0.01
  assert abs(error.mean()) < 0.02
  assert len(np.unique(error.reshape(-1, 2).round(5), axis=0)) == 42 * 37
  fewer = generate_stills(num_subjects=1, **options)
  np.testing.assert_array_equal(fewer["landmarks"], noisy["landmarks"][:14])


def test_the_builder_takes_all_options(tmp_path):
  (options,) = (options for _, options, _ in FINGERPRINTS if options.get("aligned"))
  loaded = records.load("synthetic_faces", tmp_path, image_size=16, **options)
  drawn = generate_stills(image_size=16, **options)
  for name in ("image", "landmarks", "label"):
    np.testing.assert_array_equal(loaded.arrays[name], drawn[name])


def test_action_units_tell_the_classes_apart_on_people_never_seen():
  subject, labels = np.arange(224, dtype=np.int32) // 7, np.arange(224, dtype=np.int32) % 7
  chunks = [slice(i, i + 32) for i in range(0, 224, 32)]
  shown = np.concatenate([cast_stills(0, subject[c], labels[c], labels[c])[2] for c in chunks])
  moved = shown * action_units.GAINS / (1 + (action_units.GAINS - 1) * shown)
  known = subject < 20
  centres = np.stack([moved[known & (labels == c)].mean(0) for c in range(7)])
  guess = ((moved[~known][:, None] - centres) ** 2).sum(-1).argmin(1)
  assert (guess == labels[~known]).mean() > 0.8


def test_nothing_but_the_expression_depends_on_the_label():
  for cast, count in ((cast_stills, 32), (cast_sequences, 8)):
    rows = np.zeros(count, np.int32)
    face, scene, shown = cast(3, rows, rows, np.arange(count, dtype=np.int32) % 7)
    scene = scene._replace(noise_key=jax.random.key_data(scene.noise_key))
    for leaf in jax.tree.leaves((face.identity, face.pose, scene)):
      np.testing.assert_array_equal(leaf, np.broadcast_to(np.asarray(leaf)[:1], leaf.shape))
    assert len(np.unique(np.asarray(shown).reshape(count, -1), axis=0)) == 7


def test_sequences_start_at_rest_and_end_at_the_apex(sequences):
  assert sequences["frames"].shape == (14, 4, 16, 16, 3)
  assert sequences["flow"].shape == (14, 4, 16, 16, 2)
  assert sequences["flow"].dtype == np.int16
  assert not sequences["flow"][:, 0].any()
  assert sequences["flow"][:, 1:].any((2, 3, 4)).all()
  units, label = sequences["action_units"], sequences["label"]
  for subject in range(2):
    rows = units[sequences["subject"] == subject]
    np.testing.assert_allclose(
      rows[:, 0], np.broadcast_to(rows[0, 0], rows[:, 0].shape), atol=1e-6
    )  # the same rest
  grown = (units[:, -1] - units[:, 0]).sum(-1)
  assert grown[label != LABELS.index("neutral")].min() > grown[label == LABELS.index("neutral")].max()


def test_time_courses():
  time = np.linspace(0, 1, 9)
  onset = timecourse.course(time, 0.1, 0.6, "onset_apex")
  both = timecourse.course(time, 0.1, 0.6, "onset_apex_offset")
  assert onset[0] == both[0] == 0.0
  assert onset[-1] == 1.0
  assert (np.diff(onset) >= 0).all()
  assert both.max() > 0.95
  assert both[-1] < 0.1
  assert both.argmax() < 7
  fleeting = timecourse.course(time, 0.1, 0.6, "fleeting")
  assert fleeting.max() > 0.9
  assert not fleeting[time >= 0.5].any()
  assert not timecourse.distraction(time)[time <= 0.5].any()
  assert timecourse.distraction(time)[-1] == 1.0


def test_what_follows_a_fleeting_expression_says_nothing_of_the_label():
  zeros, labels = np.zeros(8, np.int32), np.arange(8, dtype=np.int32) % 7
  takes = [cast_sequences(3, zeros, zeros + take, labels, time_course="fleeting")[2] for take in (0, 1)]
  shown = np.asarray(takes)[:, :7]
  late = shown[:, :, 2:].reshape(2, 7, -1)
  np.testing.assert_allclose(late, np.broadcast_to(late[:, :1], late.shape), atol=1e-6)
  assert np.abs(late[0, 0] - late[1, 0]).max() > 0.05
  assert len(np.unique(shown[0, :, 1].round(5), axis=0)) == 7


def test_builders_are_read_like_real_sets(tmp_path, stills):
  faces = records.load(
    "synthetic_faces", tmp_path, num_subjects=3, images_per_subject=14, image_size=16, channels=1, seed=7
  )
  np.testing.assert_array_equal(faces.arrays["image"], stills["image"])
  np.testing.assert_array_equal(faces.arrays["label"], stills["label"])
  np.testing.assert_array_equal(faces.arrays["landmarks"], stills["landmarks"])
  assert faces.label_names == LABELS
  assert faces.keys[:2] == ("S000_000", "S000_001")
  assert "tensorflow" not in sys.modules


def test_sequence_builder(tmp_path, sequences):
  loaded = records.load("synthetic_sequences", tmp_path, num_subjects=2, num_frames=4, image_size=16, seed=7)
  for name in ("frames", "flow", "label", "subject", "action_units", "landmarks"):
    np.testing.assert_array_equal(loaded.arrays[name], sequences[name], err_msg=name)
  assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("synthetic_faces", {"channels": 2}, "channels=2: give a whole number, 1 or 3"),
    ("synthetic_faces", {"num_subjects": 0}, "num_subjects=0: give a whole number, from 1 to"),
    ("synthetic_faces", {"landmark_noise": -1.0}, "landmark_noise=-1.0: give a number, from 0 to 100"),
    ("synthetic_sequences", {"num_frames": 1}, "num_frames=1: give a whole number, from 2 to"),
    ("synthetic_sequences", {"time_course": "onset_apx"}, "did you mean 'onset_apex'"),
  ],
)
def test_bad_options(tmp_path, name, options, message):
  with pytest.raises(UserError, match=message):
    records.load(name, tmp_path, **options)
