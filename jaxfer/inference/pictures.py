"""Reads photographs and videos, and finds and cuts out the faces in them, for `jaxfer predict` and `jaxfer explain`."""

import dataclasses
import glob
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from jaxfer import files
from jaxfer.data import align, decode, detect, video
from jaxfer.data.datasets.image_folder.layout import is_picture
from jaxfer.data.stills import File
from jaxfer.errors import UserError
from jaxfer.inference.predictor import InputSpec, resize


@dataclasses.dataclass(frozen=True)
class Face:
  """A face in a picture: its box in pixels of the file, its detection score, and its crop as input of the model."""

  box: tuple[float, float, float, float]
  score: float | None
  crop: np.ndarray


@dataclasses.dataclass(frozen=True)
class Picture:
  """A photograph, a frame of a video, or the first frame of a window, with its faces.

  Attributes:
    file: path of the file.
    pixels: uint8 [H, W, 3]; None if nothing is drawn.
    faces: faces in the picture, largest first.
    scale: number of pixels of the file per pixel of `pixels`, (x, y).
    frame: number of the frame; None for a photograph.
    seconds: time of the frame; None for a photograph.
  """

  file: pathlib.Path
  pixels: np.ndarray | None
  faces: Sequence[Face]
  scale: tuple[float, float] = (1.0, 1.0)
  frame: int | None = None
  seconds: float | None = None


@dataclasses.dataclass
class Counts:
  """Counts of files, of unreadable files, of pictures without a face, and of faces."""

  files: int = 0
  unreadable: int = 0
  faceless: int = 0
  faces: int = 0

  def summary(self) -> str:
    """Returns the counts as one line of text."""
    parts = [f"{count_of(self.faces, 'face')} in {count_of(self.files - self.unreadable, 'file')}"]
    parts += [f"{count_of(self.faceless, 'picture')} without a face"] if self.faceless else []
    parts += [f"{count_of(self.unreadable, 'file')} unreadable"] if self.unreadable else []
    return ", ".join(parts)

  def check(self) -> None:
    """Raises `UserError` if no file could be read."""
    if self.unreadable == self.files:
      raise UserError(f"of {count_of(self.files, 'file')}, none can be read: give photographs or videos")


def count_of(number: int, noun: str) -> str:
  """Returns a number with its noun, such as '1 face' or '2 faces'."""
  return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Visitor(Protocol):
  """Receives the pictures of files, see `visit`."""

  def begin(self, path: pathlib.Path) -> None:
    """Begins a file."""

  def add(self, picture: Picture) -> None:
    """Takes the next picture of the file."""

  def end(self) -> None:
    """Ends a file, which may have become unreadable after some of its pictures."""


def with_crop(spec: InputSpec, crop: str | None) -> InputSpec:
  """Returns the inputs of a model with `crop` as the way to cut out faces; None leaves them unchanged."""
  return spec if crop is None else dataclasses.replace(spec, crop=crop)


def visit(
  given: Iterable[str],
  spec: InputSpec,
  visitor: Visitor,
  counts: Counts,
  *,
  rate: float,
  window: float,
  keep: bool,
  complain: Callable[[str], None],
) -> None:
  """Passes all pictures of photographs and videos to a visitor.

  Args:
    given: photographs, videos, folders and glob patterns.
    spec: inputs of the model.
    visitor: receives the pictures.
    counts: `files` and `unreadable` are updated; the visitor counts the faces.
    rate: frames per second that a model of still images reads from a video; 0 reads every frame.
    window: seconds of a video that a model of clips reads at a time. Windows do not overlap.
    keep: whether to keep the pixels, to draw on them.
    complain: called with a line for each file that cannot be read, and if no faces are looked for.
  """
  if spec.crop == "whole":
    complain(
      "the data of this model were prepared with crop=whole: each picture counts as one face; --crop auto finds faces"
    )
  for path in expand(given, complain, counts):
    counts.files += 1
    visitor.begin(path)
    try:
      for picture in pictures(path, spec, rate, window, keep=keep):
        visitor.add(picture)
    except (UserError, OSError, ValueError) as error:
      if isinstance(error, OSError) and files.disk_error(error) is not None:
        raise
      counts.unreadable += 1
      text = str(error)
      complain(text if str(path) in text else f"{path}: {text}")
    visitor.end()


def expand(given: Iterable[str], complain: Callable[[str], None], counts: Counts) -> Iterator[pathlib.Path]:
  """Yields the given files, and the files in folders and patterns, sorted by name.

  Args:
    given: files, folders and glob patterns.
    complain: called with a line for each path that does not exist, and with the number of other files in a folder.
    counts: updated; a path that does not exist counts as an unreadable file.
  """
  for text in given:
    path = pathlib.Path(text)
    matches = sorted(glob.glob(text, recursive=True)) if not path.exists() else [text]
    if not matches:
      counts.files, counts.unreadable = counts.files + 1, counts.unreadable + 1
      complain(f"{text}: no such file or folder")
    for match in map(pathlib.Path, matches):
      if not match.is_dir():
        yield match
        continue
      inside = sorted(p for p in match.rglob("*") if p.is_file() and not files.clutter(p.name))
      known = [p for p in inside if is_picture(p) or video.is_video(p)]
      if len(known) < len(inside):
        rest = count_of(len(inside) - len(known), "file")
        complain(f"{match}: left out {rest} whose names are neither those of photographs nor of videos")
      yield from known


def pictures(
  path: pathlib.Path, spec: InputSpec, rate: float, window: float, *, keep: bool
) -> Iterator[Picture]:
  """Reads a photograph or a video.

  Args:
    path: path of the file.
    spec: inputs of the model.
    rate: see `visit`.
    window: see `visit`.
    keep: whether to keep the pixels, to draw on them.

  Raises:
    UserError, OSError, ValueError: the file cannot be read.
  """
  if not video.is_video(path):
    yield _photograph(path, spec, keep)
  elif spec.kind == "image":
    for frame in video.frames(path, 1 / rate if rate else 0.0):
      faces = [
        Face(box, score, _cut(frame.pixels, square, face, spec))
        for box, score, square, face in _places(frame.pixels, spec)
      ]
      yield Picture(path, frame.pixels if keep else None, faces, (1.0, 1.0), frame.number, frame.seconds)
  else:
    yield from _windows(path, spec, window, keep)


def _photograph(path: pathlib.Path, spec: InputSpec, keep: bool) -> Picture:
  """Reads a photograph. For a model of clips, each crop is repeated to a clip without motion."""
  decoded = decode.decode(File(path).read())
  pixels, faces = decoded.pixels, []
  for box, score, square, face in _places(pixels, spec):
    crop = _cut(pixels, square, face, spec)
    edges = tuple(float(edge) for edge in np.array(box) * (*decoded.scale, *decoded.scale))
    crop = np.stack([crop] * spec.frames) if spec.kind == "sequence" else crop
    faces.append(Face(edges, score, crop))  # type: ignore[arg-type]
  return Picture(path, pixels if keep else None, faces, decoded.scale)


def _windows(path: pathlib.Path, spec: InputSpec, window: float, keep: bool) -> Iterator[Picture]:
  """Yields windows of a video. Faces are found in the first frame, and cut out at the same place in all frames."""
  places: list[Any] = []
  crops: list[list[np.ndarray]] = []
  first: video.Frame | None = None
  complete = 0

  def picture(count: int) -> Picture:
    assert first is not None
    # The last window is stretched if the video ends before it is complete.
    chosen = align.onset_to_peak(count, spec.frames)
    faces = [
      Face(box, score, np.stack([own[k] for k in chosen]))
      for (box, score, _, _), own in zip(places, crops, strict=True)
    ]
    return Picture(path, first.pixels if keep else None, faces, (1.0, 1.0), first.number, first.seconds)

  count = 0
  for frame in video.frames(path, window / spec.frames):
    if count == 0:
      first, places = frame, list(_places(frame.pixels, spec))
      crops = [[] for _ in places]
    for own, (_, _, square, face) in zip(crops, places, strict=True):
      own.append(_cut(frame.pixels, square, face, spec))
    count += 1
    if count == spec.frames:
      yield picture(count)
      count, complete = 0, complete + 1
  if count and (not complete or 2 * count >= spec.frames):
    yield picture(count)


def _places(pixels: np.ndarray, spec: InputSpec) -> Iterator[tuple[Any, float | None, Any, Any]]:
  """Yields the box, score, square and detection of every face, for cutting it out like the training data."""
  height, width = pixels.shape[:2]
  if spec.crop == "whole":
    yield (0.0, 0.0, float(width), float(height)), None, None, None
  elif spec.crop == "middle":
    square = align.centre_square(width, height)
    left, top = square.left, square.top
    yield (left, top, left + square.side, top + square.side), None, square, None
  else:
    for face in detect.default().find([pixels])[0]:
      if spec.crop == "template" and face.points is None:
        raise UserError(
          f"this model reads faces that are aligned by five points, which the detector '{detect.default().name}' does "
          "not give: install another one with `pip install 'jaxfer[faces]'`"
        )
      yield face.box, face.score, face.square, face


def _cut(pixels: np.ndarray, square: align.Square | None, face: Any, spec: InputSpec) -> np.ndarray:
  if spec.crop == "template" and face is not None:
    crop = face.aligned(pixels, spec.size)
  else:
    crop = video.cut(pixels, square, spec.size)
  return resize(crop[None], spec)[0]
