"""Encodes pictures as PNG, for the data sets and for reports."""

import io

import numpy as np
from PIL import Image


def png(picture: np.ndarray, *, grey: bool = False) -> bytes:
  """Encodes a picture as PNG at zlib's fastest level.

  Args:
    picture: uint8 [H, W, 3] RGB or [H, W, 1] grey.
    grey: whether to reduce RGB to its luma (ITU-R 601).
  """
  image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
  stream = io.BytesIO()
  (image.convert("L") if grey else image).save(stream, "png", compress_level=1)
  return stream.getvalue()
