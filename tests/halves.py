"""Photographs and videos of two halves, and a detector that detects each half as a face."""

import numpy as np
from PIL import Image

from jaxfer.data import detect


class Detector:
  """Finds a face in each half of a picture, unless the picture is dark."""

  name = "halves"

  def find(self, images):
    found = []
    for image in images:
      height, width = image.shape[:2]
      boxes = [(0, 0, width / 2, height), (width / 2, 0, width, height)]
      found.append([detect.Face(box, 0.9) for box in boxes] if image.mean() > 17 else [])
    return found


def photograph(path, left, right):
  """Writes a photograph of two halves, 40 x 20 pixels, with a little noise."""
  pixels = np.full((20, 40, 3), left, np.uint8)
  pixels[:, 20:] = right
  pixels[::3, ::3] ^= 1
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


def film(path, levels, rate=10):
  """Writes a video with one grey frame for each level."""
  import av

  with av.open(str(path), "w") as container:
    stream = container.add_stream("mpeg4", rate=rate)
    stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
    for level in levels:
      pixels = np.full((16, 32, 3), level, np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    container.mux(stream.encode())
