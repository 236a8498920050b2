"""Frames of a clip as pictures, by PyAV.

A clip must not be decoded once a frame: stills are read in order, so a process keeps the last clip open and goes on
from the frame it has reached. No more than one frame of it is in memory.
"""

import contextlib
import dataclasses
import functools
import io
from collections.abc import Iterator
from typing import Any

from jaxfer.data.stills import File, Member
from jaxfer.errors import UserError

MAX_FRAMES = 10_000  # Of a clip; RAVDESS's last some four seconds.
MAX_PIXELS = 1 << 24  # Of a frame.


@dataclasses.dataclass(frozen=True)
class Header:
  """What a clip says of itself.

  Attributes:
    num_frames: pictures in it.
    size: such as "1280x720".
    rate: pictures a second.
  """

  num_frames: int
  size: str
  rate: float


@dataclasses.dataclass(frozen=True)
class Frame:
  """One picture of a clip, by its number from 0; a place of bytes for `stills.Still`."""

  clip: File | Member
  number: int

  def read(self) -> bytes:
    """Returns the frame as a bitmap. Raises OSError or ValueError."""
    return _play(self.clip).frame(self.number)

  def __str__(self) -> str:
    return f"{self.clip} (frame {self.number})"


class _Playing:
  """A clip being decoded; `position` counts the frames it has given."""

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
    raise ValueError(f"the clip breaks off before frame {number}, after {self.position}")


@functools.lru_cache(maxsize=1)
def _play(clip: File | Member) -> _Playing:
  return _Playing(clip)


def _frames(data: bytes) -> Iterator[Any]:
  with _av().open(io.BytesIO(data)) as container:
    stream = container.streams.video[0]
    stream.thread_type = "NONE"  # Every core has a process of its own already.
    stream.codec_context.options = {
      "max_pixels": str(MAX_PIXELS)
    }  # Frames may be larger than the header says.
    yield from container.decode(stream)


def read_header(clip: File | Member) -> Header:
  """Reads what a clip says of itself; counts its packets where it does not say how many frames it has.

  Raises:
    ValueError: no video, or one that is empty or longer than `MAX_FRAMES`.
    OSError: a file that cannot be read.
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
  except _av().error.FFmpegError as error:  # Some of them are ValueErrors or OSErrors too, of several lines.
    raise ValueError(f"{what} ({error.strerror or type(error).__name__})") from None
  except (ValueError, OSError, UserError):
    raise
  except Exception as error:
    raise ValueError(f"{what} ({type(error).__name__})") from None
