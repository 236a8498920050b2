"""Frames of videos, decoded one after another with PyAV. Memory does not grow with the length of a video."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxfer.data import align, detect
from jaxfer.errors import UserError

SUFFIXES = frozenset(
  {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv"}
)
_MAX_PIXELS = 64 << 20  # Of a frame, as of a picture (`decode`); 8K has 33 million.


class Frame(NamedTuple):
  """A frame of a video.

  Attributes:
    number: number of the frame, from 0.
    seconds: time of the frame.
    pixels: uint8 [H, W, 3], RGB, upright.
  """

  number: int
  seconds: float
  pixels: np.ndarray


def is_video(path: pathlib.Path) -> bool:
  """Whether the file name is that of a video."""
  return path.suffix.lower() in SUFFIXES


def frames(path: pathlib.Path, step: float = 0.0) -> Iterator[Frame]:
  """Decodes a video in one pass.

  Args:
    path: path of the file.
    step: least number of seconds between two yielded frames; 0 yields every frame.

  Raises:
    UserError: PyAV is not installed, or the file cannot be decoded. Frames before the damage have been yielded.
  """
  with _opened(path) as container:
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    due = 0.0
    for number, frame in enumerate(container.decode(stream)):
      seconds = _seconds(frame, number, stream)
      # Times are rounded to the time base of the file, so a frame may be a little early.
      if seconds + 1e-3 >= due:
        due = seconds + step
        yield Frame(number, seconds, _upright(frame))


def clip(path: pathlib.Path, num_frames: int, size: int, crop: str = "auto") -> tuple[np.ndarray, bool]:
  """Reads frames at equal steps from the first to the last, cropped to one square around the face.

  Args:
    path: path of the file. It is decoded twice, since its length is known only at its end.
    num_frames: number of frames; some repeat if the video has fewer.
    size: edge of the result in pixels.
    crop: "auto" for the largest face of the first frame, "middle" for its middle square, "whole" for whole frames.

  Returns:
    (frames, missing): uint8 [num_frames, size, size, 3], and whether no face was found, so that the middle square was
    used.

  Raises:
    UserError: as in `frames`, or the video has no frames.
  """
  with _opened(path) as container:
    count = sum(1 for _ in container.decode(video=0))
  if not count:
    raise UserError(f"{path} holds no frames: give another video")
  chosen = align.onset_to_peak(count, num_frames)
  taken: dict[int, np.ndarray] = {}
  square, missing = None, False
  for frame in frames(path):
    if frame.number == 0 and crop != "whole":
      square = align.centre_square(*frame.pixels.shape[1::-1])
      if crop != "middle":
        found = detect.default().find([frame.pixels])[0]
        square, missing = (found[0].square, False) if found else (square, True)
    if frame.number in chosen:
      taken[frame.number] = cut(frame.pixels, square, size)
  if len(taken) < len(set(chosen.tolist())):
    raise UserError(f"{path} ends before frame {chosen[len(taken)]} of {count}: give another video")
  return np.stack([taken[number] for number in chosen.tolist()]), missing


def cut(pixels: np.ndarray, square: align.Square | None, size: int) -> np.ndarray:
  """Crops a square from an image, uint8 [H, W, 3] -> [size, size, 3]; None uses the whole image.

  Raises:
    UserError: the square is outside the image.
  """
  if square is not None:
    return align.crop(pixels, square, size)
  return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
  try:
    import av
  except ImportError:
    raise UserError("reading video needs PyAV: install it with `pip install 'jaxfer[vision]'`") from None
  try:
    with av.open(str(path)) as container:
      if not container.streams.video:
        raise UserError(f"{path} has no pictures, only sound: give a video")
      stream = container.streams.video[0]
      if stream.width * stream.height > _MAX_PIXELS:
        raise UserError(
          f"{path}: its frames are {stream.width} x {stream.height} pixels: give a video with at most "
          f"{_MAX_PIXELS >> 20} megapixels"
        )
      # The frames may be larger than the header says.
      stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
      yield container
  except (av.error.FFmpegError, OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or type(error).__name__
    raise UserError(f"{path}: no video can be read from it ({reason})") from None


def _seconds(frame: Any, number: int, stream: Any) -> float:
  if frame.time is not None:
    return float(frame.time - (stream.start_time or 0) * stream.time_base)
  return number / float(stream.average_rate or 25)


def _upright(frame: Any) -> np.ndarray:
  """Returns the pixels, rotated as the file states: telephones store their orientation."""
  turns = round(getattr(frame, "rotation", 0) / 90) % 4
  return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
