"""Decodes frames of a clip as pictures, with PyAV.

Decoding a clip from its start for every frame would be slow. Stills are read in order, so a process keeps the last clip
open and continues from the current frame. At most one frame of it is in memory.
"""

import contextlib
import dataclasses
import functools
import io
from collections.abc import Iterator
from typing import Any

from jaxfer.data.stills import File, Member
from jaxfer.errors import UserError

MAX_FRAMES = 10_000  # Per clip; RAVDESS's clips last about four seconds.
MAX_PIXELS = 1 << 24  # Per frame.


@dataclasses.dataclass(frozen=True)
class Header:
  """Properties of a clip.

  Attributes:
    num_frames: number of frames.
    size: width and height in pixels, such as "1280x720".
    rate: frames per second.
  """

  num_frames: int
  size: str
  rate: float


@dataclasses.dataclass(frozen=True)
class Frame:
  """One frame of a clip, by its number from 0; a source of bytes for `stills.Still`."""

  clip: File | Member
  number: int

  def read(self) -> bytes:
    """Returns the frame as a bitmap. Raises OSError or ValueError."""
    return _play(self.clip).frame(self.number)

  def __str__(self) -> str:
    return f"{self.clip} (frame {self.number})"


class _Playing:
  """A clip being decoded; `position` is the number of frames decoded so far."""

  def __init__(self, clip: File | Member):
    self.data = clip.read()
    self.rewind()

  def rewind(self) -> None:
    self.position, self.frames = 0, _frames(self.data)

  def frame(self, number: int) -> bytes:
    if number < self.position:
      self.rewind()
    with _refusing(f"frame {number} cannot be decoded"):
      for picture in self.frames:
        self.position += 1
        if self.position > number:
          bitmap = io.BytesIO()
          picture.to_image().save(bitmap, "ppm")
          return bitmap.getvalue()
    raise ValueError(f"the clip ends before frame {number}, after {self.position} frames")


@functools.lru_cache(maxsize=1)
def _play(clip: File | Member) -> _Playing:
  return _Playing(clip)


def _frames(data: bytes) -> Iterator[Any]:
  with _av().open(io.BytesIO(data)) as container:
    stream = container.streams.video[0]
    stream.thread_type = "NONE"  # Each core already runs its own process.
    # Frames may be larger than the header says.
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    yield from container.decode(stream)


def read_header(clip: File | Member) -> Header:
  """Reads the properties of a clip; counts its packets if the header lacks the number of frames.

  Raises:
    ValueError: the file is not a video, or one that is empty or longer than `MAX_FRAMES`.
    OSError: the file cannot be read.
    UserError: PyAV is not installed.
  """
  with _refusing("no video can be read from it"), _av().open(io.BytesIO(clip.read())) as container:
    stream = container.streams.video[0]
    number = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
    width, height, rate = stream.width, stream.height, float(stream.average_rate or 0)
    if width * height > MAX_PIXELS:
      raise ValueError(f"its pictures are {width} x {height} pixels: expected 1280 x 720")
    header = Header(number, f"{width}x{height}", rate)
  if not 0 < header.num_frames <= MAX_FRAMES:
    raise ValueError(f"the clip has {header.num_frames} frames: expected 1 to {MAX_FRAMES}")
  return header


def _av() -> Any:
  try:
    import av
  except ImportError:
    raise UserError("reading video needs PyAV: pip install 'jaxfer[vision]'") from None
  return av


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
  """Turns whatever FFmpeg and PyAV raise on damaged bytes into a ValueError."""
  try:
    yield
  except _av().error.FFmpegError as error:  # Some are also ValueErrors or OSErrors with several lines.
    raise ValueError(f"{what} ({error.strerror or type(error).__name__})") from None
  except (ValueError, OSError, UserError):
    raise
  except Exception as error:
    raise ValueError(f"{what} ({type(error).__name__})") from None
