"""Frames of a clip as pictures, by PyAV.

A clip must not be decoded once a frame. A `Frame` names all frames wanted of its clip, the first one read decodes
them together, and the process keeps those of one clip: stills are read in order, so the next ones find theirs there.
"""

import dataclasses
import functools
import io
import os

from jaxfer.data.stills import Bytes, File, Member
from jaxfer.errors import UserError

MAX_FRAMES = 10_000  # Of a clip; RAVDESS's last some four seconds.


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
  """One picture of a clip; a place of bytes for `stills.Still`.

  Attributes:
    clip: the encoded video.
    number: of the frame, from 0.
    wanted: the numbers of all frames that are wanted of this clip, this one among them, ascending.
  """

  clip: File | Member
  number: int
  wanted: tuple[int, ...]

  def read(self) -> bytes:
    """Returns the frame as a bitmap. Raises OSError or ValueError."""
    frames = _decode(self.clip, self.wanted)
    if self.number not in frames:
      raise ValueError(f"the clip breaks off before frame {self.number}")
    return frames[self.number]

  def __str__(self) -> str:
    return f"{self.clip} (frame {self.number})"


def read_header(clip: Bytes) -> Header:
  """Reads what a clip says of itself; counts its packets where it does not say how many frames it has.

  Raises:
    ValueError: no video, or one that is empty or longer than `MAX_FRAMES`.
    OSError: a file that cannot be read.
    UserError: PyAV is not installed.
  """
  av = _av()
  try:
    with av.open(io.BytesIO(clip.read())) as container:
      stream = container.streams.video[0]
      number = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
      header = Header(number, f"{stream.width}x{stream.height}", float(stream.average_rate or 0))
  except (av.error.FFmpegError, IndexError) as error:
    raise ValueError(f"no video can be read from it ({_reason(error)})") from None
  if not 0 < header.num_frames <= MAX_FRAMES:
    raise ValueError(f"the clip has {header.num_frames} frames: expected 1 to {MAX_FRAMES}")
  return header


@functools.lru_cache(maxsize=1)
def _decode(clip: File | Member, wanted: tuple[int, ...]) -> dict[int, bytes]:
  """The wanted frames of a clip; those before a fault, where it has one."""
  av = _av()
  frames: dict[int, bytes] = {}
  try:
    with av.open(io.BytesIO(clip.read())) as container:
      stream = container.streams.video[0]
      stream.thread_type = "NONE"  # Every core has a process of its own already.
      for number, frame in enumerate(container.decode(stream)):
        if number in wanted:
          bitmap = io.BytesIO()
          frame.to_image().save(bitmap, "ppm")
          frames[number] = bitmap.getvalue()
        if number >= wanted[-1]:
          break
  except (av.error.FFmpegError, IndexError) as error:
    if not frames:
      raise ValueError(f"the clip cannot be decoded ({_reason(error)})") from None
  return frames


def _av():
  try:
    import av
  except ImportError:
    raise UserError("reading video needs PyAV: pip install 'jaxfer[vision]'") from None
  return av


def _reason(error: Exception) -> str:
  number = getattr(error, "errno", None)
  return getattr(error, "strerror", None) or (os.strerror(number) if number else "no video stream")
