"""Reads files and cuts out faces in the same way as `jaxfer prepare`."""

import io
import pathlib

import numpy as np
from PIL import Image

from jaxfer.data import reading, video
from jaxfer.data.stills import File, Still
from jaxfer.errors import UserError
from jaxfer.inference.predictor import InputSpec


def read(path: pathlib.Path, spec: InputSpec) -> np.ndarray:
  """Reads the largest face of a photograph, or equally spaced frames of a video.

  Args:
    path: path of the file.
    spec: inputs of the model; `spec.kind` determines whether a photograph or a video is read.

  Returns:
    uint8 array of shape `spec.shape`. If no face is found, the central square is used, as in `jaxfer prepare`.

  Raises:
    UserError: the file cannot be read.
  """
  if spec.kind == "sequence":
    return video.clip(path, spec.frames, spec.size, spec.crop)[0]
  still = Still(str(path), "", 0, File(path))
  result = reading.read_one(still, reading.Cut(spec.size, spec.shape[-1], spec.crop))
  if result.image is None:
    raise UserError(f"{path}: {result.problem}")
  return np.asarray(Image.open(io.BytesIO(result.image))).reshape(spec.shape)
