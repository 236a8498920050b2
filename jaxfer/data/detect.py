"""Finds faces in pictures whose source does not say where they are. Nothing is downloaded.

`default()` returns the best detector that is installed, `get(name)` a chosen one. All have one method:

```python
for faces in detect.default().find([image, other]):  # uint8 [H, W, 3], RGB, of any size
  if faces:
    crop = faces[0].aligned(image, 112) if faces[0].points is not None else align.crop(image, faces[0].square, 112)
```

The cascade ships in OpenCV's wheel (Lienhart & Maydt 2002; frontal, upright faces; boxes only). Whoever has the file of
YuNet (Wu, Peng & Yu 2023; face_detection_yunet_*.onnx) can give its path.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from jaxfer.data import align
from jaxfer.errors import UserError

CASCADE = "cascade"
_CASCADE_FILE = "haarcascade_frontalface_alt2.xml"
_LONGEST = 640  # Pixels; larger pictures are reduced to it first.
_LEAST_SHARE = 0.1  # Of the picture's shorter side: what the cascade finds below is background.
_MARGIN = 0.1  # Added to each side of the cascade's box, which runs from the brows to the lower lip.
_LEAST_SCORE = 0.6  # YuNet's, of 1.


@dataclasses.dataclass(frozen=True)
class Face:
  """A face in pixels of its picture. Pixel i covers i to i + 1.

  Attributes:
    box: left, top, right, bottom; may reach beyond the picture.
    score: how sure the detector is, 0 to 1; the cascade gives no scores, and says 1.
    points: float64 [5, 2] of (x, y): eyes, nose tip, corners of the mouth, each pair from image-left to image-right.
      None where the detector gives none.
  """

  box: tuple[float, float, float, float]
  score: float
  points: np.ndarray | None = None

  @property
  def size(self) -> tuple[float, float]:
    """Width and height of the box."""
    left, top, right, bottom = self.box
    return right - left, bottom - top

  @property
  def square(self) -> align.Square:
    """The upright square to cut out: as the 112-pixel template has it where there are points, else about the box."""
    if self.points is not None:
      return align.points_square(self.points)
    return align.box_square(*self.box[:2], *self.size)

  def aligned(self, image: np.ndarray, size: int) -> np.ndarray:
    """The face turned and scaled so that its points come nearest to those of the 112-pixel template.

    Args:
      image: uint8 [H, W, C] or [H, W], the picture that the face was found in.
      size: edge of the result in pixels.

    Returns:
      uint8 [size, size, C] or [size, size].

    Raises:
      ValueError: a face without points, or whose points do not place it.
    """
    if self.points is None:
      raise ValueError("this detector gives no points to align a face by")
    matrix = align.similarity(self.points, align.template_points(len(self.points))) * (size / 112)
    return align.warp(image, matrix, size)


class Detector(Protocol):
  """What finds faces.

  Attributes:
    name: as `get` takes it; the same words stand in reports.
  """

  name: str

  def find(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
    """The faces of each image (uint8 [H, W, 3], RGB, of any size), the largest box first."""
    ...


def default() -> Detector:
  """The best detector that is installed.

  Raises:
    UserError: none is.
  """
  return get(CASCADE)


@functools.cache
def get(name: str = "") -> Detector:
  """A detector by name.

  Args:
    name: "" for `default()`, "cascade", or the path of YuNet's ONNX file.

  Raises:
    UserError: the detector is not installed, or there is no such file.
  """
  if not name:
    return default()
  return Cascade() if name == CASCADE else YuNet(name)


class Cascade:
  """OpenCV's cascade of Haar features; a face's box is widened to a square from the forehead to the chin."""

  name = CASCADE

  def __init__(self) -> None:
    cv2 = _cv2()
    self._cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / _CASCADE_FILE))

  def find(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
    """See `Detector`."""
    return [self._find(image) for image in images]

  def _find(self, image: np.ndarray) -> list[Face]:
    import cv2

    pixels, scale = reduced(image, _LONGEST)
    least = max(16, round(min(pixels.shape[:2]) * _LEAST_SHARE))
    grey = cv2.equalizeHist(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    found = self._cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=3, minSize=(least, least))
    faces = []
    for left, top, width, height in np.asarray(found, float).reshape(-1, 4):
      x, y, w, h = left * scale[0], top * scale[1], width * scale[0], height * scale[1]
      side = float(max(w, h)) * (1 + 2 * _MARGIN)
      x, y = float(x + (w - side) / 2), float(y + (h - side) / 2)
      faces.append(Face((x, y, x + side, y + side), 1.0))
    return largest_first(faces)


class YuNet:
  """YuNet through OpenCV, from a file that the user brings."""

  def __init__(self, path: str):
    self.name = path
    if not Path(path).is_file():
      raise UserError(f"detector {path} is not a file: give 'cascade' or YuNet's face_detection_yunet_*.onnx")
    cv2 = _cv2()
    try:
      self._net = cv2.FaceDetectorYN.create(path, "", (320, 320), score_threshold=_LEAST_SCORE)
    except cv2.error as error:
      reason = str(error).strip().splitlines()[-1]
      raise UserError(
        f"detector {path} cannot be loaded ({reason}): give YuNet's face_detection_yunet_*.onnx"
      ) from error

  def find(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
    """See `Detector`."""
    return [self._find(image) for image in images]

  def _find(self, image: np.ndarray) -> list[Face]:
    pixels, scale = reduced(image, _LONGEST)
    self._net.setInputSize(pixels.shape[1::-1])
    # It takes BGR. A row is x, y, w, h, the points (image-left first) and the score.
    _, found = self._net.detect(np.ascontiguousarray(pixels[..., ::-1]))
    faces = []
    for row in np.zeros((0, 15)) if found is None else np.asarray(found, float):
      left, top, width, height = row[:4] * [*scale, *scale]
      box = float(left), float(top), float(left + width), float(top + height)
      faces.append(Face(box, float(row[14]), row[4:14].reshape(5, 2) * scale))
    return largest_first(faces)


def reduced(image: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
  """An image [H, W, 3] with at most `longest` pixels on its longer side, and the [2] (x, y) that brings it back."""
  height, width = image.shape[:2]
  ratio = min(1.0, longest / max(height, width))
  if ratio < 1:
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2))
  return image, np.array([width / image.shape[1], height / image.shape[0]])


def largest_first(faces: list[Face]) -> list[Face]:
  """Sorted by the area of the box, descending."""
  return sorted(faces, key=lambda face: -face.size[0] * face.size[1])


def _cv2() -> Any:
  try:
    import cv2
  except ImportError as error:
    raise UserError(
      "finding faces needs OpenCV 4: install it with `pip install 'jaxfer[vision]'`, or choose crop=middle or whole"
    ) from error
  return cv2
