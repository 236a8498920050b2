"""Finding the face where the distributor does not say where it is, without downloading anything.

The cascade ships in OpenCV's wheel (Lienhart & Maydt 2002; frontal faces, upright boxes). Whoever has the file of YuNet
(Wu, Peng & Yu 2023; face_detection_yunet_*.onnx) gets five points of the face with it.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxfer.data.align import Square
from jaxfer.errors import UserError

CASCADE = "haarcascade_frontalface_alt2.xml"
_LONGEST = (
  640  # Larger pictures are reduced to it: a face that fills the picture is found as well, and faster.
)
_LEAST_SHARE = 0.1  # Of the shorter side: smaller finds are background.
_MARGIN = 0.1  # Of the cascade's box, added on each side: the box runs from the brows to the lower lip.
_LEAST_SCORE = 0.6  # YuNet's, of 1.


@dataclasses.dataclass(frozen=True)
class Face:
  """A face in pixels of the picture: the box's square, and [5, 2] points where the detector gives them."""

  square: Square
  points: np.ndarray | None = None


def check(path: str) -> None:
  """Sees that a detector can be had: path of YuNet's ONNX file, or "" for the cascade.

  Raises:
    UserError: OpenCV is not installed, or `path` is not such a file.
  """
  if path and not Path(path).is_file():
    raise UserError(f"detector {path} is not a file: give YuNet's face_detection_yunet_*.onnx")
  _detector(path)


def find(pixels: np.ndarray, path: str = "") -> Face | None:
  """The largest face of a picture; None where none is found.

  Args:
    pixels: uint8 [H, W, 3], RGB.
    path: of YuNet's ONNX file, or "" for the cascade.
  """
  height, width = pixels.shape[:2]
  ratio = min(1.0, _LONGEST / max(height, width))
  if ratio < 1:
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2))
  scale = np.array([width / pixels.shape[1], height / pixels.shape[0]])
  rows = _yunet(pixels, path) if path else _cascade(pixels)
  if not len(rows):
    return None
  best = max(rows, key=lambda row: row[2] * row[3])
  (left, top), (w, h) = best[:2] * scale, best[2:4] * scale
  side = float(max(w, h)) * (1 if path else 1 + 2 * _MARGIN)
  square = Square(float(left + (w - side) / 2), float(top + (h - side) / 2), side)
  return Face(square, best[4:14].reshape(5, 2) * scale if path else None)


def _cascade(pixels: np.ndarray) -> np.ndarray:
  import cv2

  least = max(16, round(min(pixels.shape[:2]) * _LEAST_SHARE))
  grey = cv2.equalizeHist(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
  found = _detector("").detectMultiScale(grey, scaleFactor=1.1, minNeighbors=3, minSize=(least, least))
  return np.asarray(found, float).reshape(-1, 4)


def _yunet(pixels: np.ndarray, path: str) -> np.ndarray:
  """Rows of box (x, y, w, h), points right eye, left eye, nose, right and left corner of the mouth (the person's)."""
  detector = _detector(path)
  detector.setInputSize(pixels.shape[1::-1])
  _, found = detector.detect(np.ascontiguousarray(pixels[..., ::-1]))  # It takes BGR.
  return np.zeros((0, 15)) if found is None else np.asarray(found, float)


@functools.cache
def _detector(path: str) -> Any:
  try:
    import cv2
  except ImportError as error:
    raise UserError(
      "finding faces needs OpenCV 4: install it with `pip install 'jaxfer[vision]'`, or choose crop=middle or whole"
    ) from error
  if path:
    try:
      return cv2.FaceDetectorYN.create(path, "", (320, 320), score_threshold=_LEAST_SCORE)
    except cv2.error as error:
      reason = str(error).strip().splitlines()[-1]
      raise UserError(
        f"detector {path} cannot be loaded ({reason}): give YuNet's face_detection_yunet_*.onnx"
      ) from error
  return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / CASCADE))
