"""Tests the benchmark of face detectors: found faces, composed scenes, and the table."""

import numpy as np

from benchmarks import face_pictures, faces
from benchmarks.face_pictures import Picture
from jaxfer.data.detect import Face
from tests.fixtures import faces as drawings


def _face(x: float, y: float) -> Face:
  return Face((x - 5, y - 5, x + 5, y + 5), 0.9)


def test_found_faces_and_false_alarms():
  """Two boxes on one face count once, and a box between faces is a false alarm."""
  picture = Picture(np.zeros((9, 9, 3), np.uint8), [(20, 20, 8), (60, 20, 8), (20, 60, 8)])
  assert faces.hits(picture, [_face(22, 19), _face(17, 24), _face(60, 27), _face(40, 20)]) == (2, 1)
  assert faces.hits(picture, []) == (0, 0)


def test_the_table_sets_each_detector_beside_the_cascade():
  image = np.zeros((9, 9, 3), np.uint8)
  sets = {"some": [Picture(image, [(20, 20, 8)])] * 4, "none": [Picture(image, [])] * 2}
  rows = {name: faces.Row() for name in ("cascade", "other")}
  rows["cascade"].found["some"], rows["other"].found["some"] = 3, 4
  rows["other"].alarms["none"], rows["other"].points = 2, 5
  for key, seconds in (("some", 0.4), ("none", 0.1)):
    rows["cascade"].seconds[key], rows["other"].seconds[key] = seconds, seconds / 2
  assert faces.markdown(sets, rows).splitlines() == [
    "| detector | points | some: 4 in 4 | none: 0 in 2 |",
    "|---|---|---|---|",
    "| cascade | - | 75%, 1.00x | 0 false, 1.00x |",
    "| other | 5 | 100%, 0.50x | 2 false, 0.50x |",
    "",
    "cascade, processor time per picture in ms: some 100, none 50",
  ]


def test_a_scene_holds_the_face_where_it_says():
  """The face is bright on a dark background, so the bright part must be around the stated centre."""
  image = drawings.draw(1, "neutral", 96)[0] // 2 + 128
  rng = np.random.default_rng(3)
  for _ in range(5):
    scene = face_pictures._scene(rng, Picture(image, [(48, 48, 30)]), [np.zeros((60, 80, 3), np.uint8)])
    ((x, y, radius),) = scene.faces
    rows, columns = np.nonzero(scene.image.mean(axis=-1) > 60)
    assert np.hypot(columns.mean() - x, rows.mean() - y) < 0.3 * radius
    assert scene.image.shape == (480, 640, 3)
