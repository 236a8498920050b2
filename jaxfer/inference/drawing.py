"""Draws boxes and labels around faces."""

import math
import pathlib
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxfer import files
from jaxfer.inference.rows import Row

T = TypeVar("T")
_LONGEST = 1280  # Longer side in pixels to which larger photographs are reduced.
_THUMBNAIL = 480  # Longer side in pixels of a frame in the sheet of a video.
_MOST = 16  # Maximum number of frames in the sheet of a video.
_COLOURS = ("#00a676", "#e07a00", "#3a78d4", "#c2317f", "#8a6d00", "#6b4fc8")


def annotated(pixels: np.ndarray, rows: Sequence[Row], longest: int = _LONGEST) -> Image.Image:
  """Draws the box, the class and its probability of every face.

  Args:
    pixels: uint8 [H, W, 3], RGB.
    rows: the faces in it.
    longest: maximum length of the result's longer side, in pixels.
  """
  height, width = pixels.shape[:2]
  scale = min(1.0, longest / max(height, width))
  image = Image.fromarray(pixels)
  if scale < 1:
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
  draw, longer = ImageDraw.Draw(image), max(image.size)
  font = ImageFont.load_default(max(11, round(longer / 45)))
  line = max(2, round(longer / 300))
  for row in rows:
    colour = _COLOURS[row.face % len(_COLOURS)]
    left, top, right, bottom = (edge * scale for edge in row.box)
    draw.rectangle((left, top, right, bottom), outline=colour, width=line)
    text = f"{row.predicted} {row.probabilities[row.predicted]:.0%}"
    _label(draw, text, (left, top, bottom), image.size, font, colour)
  return image


def _label(draw, text, edges, size, font, colour) -> None:
  """Draws a label above the box, or below or inside it if there is no room, and always within the picture."""
  left, top, bottom = edges
  x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
  width, height = x1 - x0 + 8, y1 - y0 + 8
  x = min(max(0, left), max(0, size[0] - width))
  y = top - height if top >= height else bottom if bottom + height <= size[1] else max(0, top)
  draw.rectangle((x, y, x + width, y + height), fill=colour)
  draw.text((x + 4 - x0, y + 4 - y0), text, font=font, fill="white")


class Thinned(Generic[T]):
  """Collects equally spaced items of a sequence of any length.

  Attributes:
    items: the items that are kept.
  """

  def __init__(self, most: int) -> None:
    """Makes an empty collection that keeps at most `most` items."""
    self._most, self._every, self._seen = most, 1, 0
    self.items: list[T] = []

  def wants(self) -> bool:
    """Whether the next item would be kept."""
    return self._seen % self._every == 0

  def add(self, item: T) -> None:
    """Takes the next item. If there are too many, every second one is dropped."""
    if self.wants():
      self.items.append(item)
    self.skip()
    if len(self.items) > self._most:
      self.items, self._every = self.items[::2], 2 * self._every

  def skip(self) -> None:
    """Counts an item that is not wanted."""
    self._seen += 1


class Sheet:
  """Collects at most 16 equally spaced frames of a video of any length."""

  def __init__(self) -> None:
    self._frames = Thinned[Image.Image](_MOST)

  def add(self, pixels: np.ndarray, rows: Sequence[Row], seconds: float) -> None:
    """Takes the next frame."""
    if self._frames.wants():
      image = annotated(pixels, rows, _THUMBNAIL)
      draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
      text = f"{seconds:.1f} s" if rows else f"{seconds:.1f} s, no face"
      _label(draw, text, (0, -1, image.size[1] - 26), image.size, font, "#303030")
      self._frames.add(image)
    else:
      self._frames.skip()

  def save(self, path: pathlib.Path) -> None:
    """Writes the frames as a grid. Without frames, nothing is written."""
    frames = self._frames.items
    if not frames:
      return
    columns = math.ceil(math.sqrt(len(frames)))
    width, height = (max(image.size[axis] for image in frames) for axis in (0, 1))
    rows = math.ceil(len(frames) / columns)
    grid = Image.new("RGB", (columns * (width + 4) - 4, rows * (height + 4) - 4), "white")
    for k, image in enumerate(frames):
      grid.paste(image, (k % columns * (width + 4), k // columns * (height + 4)))
    save(grid, path)


def save(image: Image.Image, path: pathlib.Path) -> None:
  """Writes a PNG; raises `UserError` if it cannot be written."""
  files.write_atomic(path, lambda file: image.save(file, "png"))


class Names:
  """Chooses a unique file name for each drawing."""

  def __init__(self, folder: pathlib.Path) -> None:
    self._folder, self._taken = folder, set[str]()

  def of(self, path: pathlib.Path) -> pathlib.Path:
    """Returns the path of a file's drawing: its name, followed by a number if the name is already taken."""
    name, number = path.stem, 1
    while name in self._taken:
      number += 1
      name = f"{path.stem}-{number}"
    self._taken.add(name)
    return self._folder / f"{name}.png"
