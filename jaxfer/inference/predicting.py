"""`jaxfer predict`: predicts each face in photographs and videos, and writes one row per face as it goes."""

import dataclasses
import glob
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxfer import files
from jaxfer.data import align, decode, detect, video
from jaxfer.data.datasets.image_folder.layout import is_picture
from jaxfer.data.stills import File
from jaxfer.errors import UserError
from jaxfer.inference import drawing
from jaxfer.inference.predictor import InputSpec, Predictor, resize
from jaxfer.inference.rows import Row, Sink, sinks

_TOGETHER = 16  # Number of faces per prediction; up to this many faces wait for it.
_SHOWN = 3  # Number of classes in a printed line.


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
    parts = [f"{_count(self.faces, 'face')} in {_count(self.files - self.unreadable, 'file')}"]
    parts += [f"{_count(self.faceless, 'picture')} without a face"] if self.faceless else []
    parts += [f"{_count(self.unreadable, 'file')} unreadable"] if self.unreadable else []
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
  return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def run(
  model: Predictor,
  given: Sequence[str],
  *,
  csv: pathlib.Path | None = None,
  json: pathlib.Path | None = None,
  draw: pathlib.Path | None = None,
  rate: float = 5.0,
  window: float = 1.0,
  log: Callable[[str], None] = print,
  complain: Callable[[str], None] = print,
) -> Counts:
  """Predicts the class of every face in photographs and videos.

  Args:
    model: model returned by `jaxfer.load`.
    given: photographs, videos, folders and glob patterns.
    csv: CSV file for the rows, or None.
    json: file for the rows as a JSON array, or None.
    draw: folder for PNGs with boxes and labels, or None. There is one PNG per photograph, and one per video with up to
      16 of its frames.
    rate: frames per second that a model of still images reads from a video; 0 reads every frame.
    window: seconds of a video that a model of clips reads for one prediction. Windows do not overlap.
    log: called with the summary, and with each row if no file is written.
    complain: called with a line for each file that cannot be read.

  Raises:
    UserError: the model is a face net or needs landmarks, a file cannot be written, or no file can be read.
  """
  spec = model.input_spec
  if spec.landmarks:
    raise UserError(
      f"this model needs {spec.landmarks} landmarks of each face, which no detector here gives: call "
      "jaxfer.load(MODEL).predict_proba(images, landmarks=...) from Python, or train with model.answer=rgb"
    )
  if spec.crop == "whole":
    complain("the data of this model were prepared with crop=whole: each picture counts as one face")
  names = _names(model)
  if draw is not None:
    files.make_folder(draw)
  counts = Counts()
  with sinks(csv, json, names) as opened:
    session = _Session(model, names, opened, None if draw is None else drawing.Names(draw), counts)
    session.log = log if not opened else lambda line: None
    for path in expand(given, complain, counts):
      counts.files += 1
      session.begin(path)
      try:
        for picture in pictures(path, spec, rate, window, keep=draw is not None):
          session.add(picture)
      except (UserError, OSError, ValueError) as error:
        if isinstance(error, OSError) and files.disk_error(error) is not None:
          raise
        counts.unreadable += 1
        text = str(error)
        complain(text if str(path) in text else f"{path}: {text}")
      session.end()
    session.flush()
  log(counts.summary())
  if counts.unreadable == counts.files:
    raise UserError(f"of {_count(counts.files, 'file')}, none can be read: give photographs or videos")
  return counts


def _names(model: Predictor) -> tuple[str, ...]:
  return model.label_names or tuple(map(str, range(model.num_classes)))


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
        rest = _count(len(inside) - len(known), "file")
        complain(f"{match}: left out {rest} whose names are neither those of photographs nor of videos")
      yield from known


def pictures(
  path: pathlib.Path, spec: InputSpec, rate: float, window: float, *, keep: bool
) -> Iterator[Picture]:
  """Reads a photograph or a video.

  Args:
    path: path of the file.
    spec: inputs of the model.
    rate: see `run`.
    window: see `run`.
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


class _Session:
  """Collects faces, predicts them in batches, and writes their rows in order."""

  def __init__(
    self,
    model: Predictor,
    names: tuple[str, ...],
    opened: Sequence[Sink],
    drawings: drawing.Names | None,
    counts: Counts,
  ):
    self.model, self.names, self.opened, self.drawings, self.counts = model, names, opened, drawings, counts
    self.log: Callable[[str], None] = print
    self.waiting: list[Picture] = []
    self.sheet: drawing.Sheet | None = None
    self.target: pathlib.Path | None = None

  def begin(self, path: pathlib.Path) -> None:
    """Begins a file."""
    if self.drawings is not None:
      self.target = self.drawings.of(path)
      self.sheet = drawing.Sheet() if video.is_video(path) else None

  def add(self, picture: Picture) -> None:
    """Takes the next picture of the file."""
    self.waiting.append(picture)
    # Pictures that are drawn do not wait, because their pixels take much memory.
    if self.drawings is not None or sum(len(each.faces) for each in self.waiting) >= _TOGETHER:
      self.flush()

  def end(self) -> None:
    """Ends a file."""
    if self.sheet is not None and self.target is not None:
      self.sheet.save(self.target)

  def flush(self) -> None:
    """Predicts the faces of the waiting pictures."""
    waiting, self.waiting = self.waiting, []
    crops = [face.crop for picture in waiting for face in picture.faces]
    found = self.model.predict_proba(crops) if crops else ()
    probabilities = iter(found)
    for picture in waiting:
      rows = [self._row(picture, k, face, next(probabilities)) for k, face in enumerate(picture.faces)]
      self._pass_on(picture, rows)

  def _row(self, picture: Picture, number: int, face: Face, probabilities: np.ndarray) -> Row:
    named = dict(zip(self.names, map(float, probabilities), strict=True))
    best = self.names[int(np.argmax(probabilities))]
    where = picture.frame, picture.seconds
    return Row(str(picture.file), number, face.box, face.score, best, named, *where)

  def _pass_on(self, picture: Picture, rows: list[Row]) -> None:
    self.counts.faces += len(rows)
    self.counts.faceless += not rows
    for row in rows:
      for sink in self.opened:
        sink.write(row)
      self.log(line(row))
    if not rows and picture.frame is None:
      self.log(f"{picture.file}  no face found")
    if picture.pixels is None or self.target is None:
      return
    scaled = [
      dataclasses.replace(row, box=tuple(np.array(row.box) / (*picture.scale, *picture.scale)))
      for row in rows
    ]
    if self.sheet is not None:
      self.sheet.add(picture.pixels, scaled, picture.seconds or 0.0)
    else:
      drawing.save(drawing.annotated(picture.pixels, scaled), self.target)


def line(row: Row) -> str:
  """Returns a row as text: file, time, position of the face, score, and the most probable classes."""
  left, top, right, bottom = row.box
  most = sorted(row.probabilities, key=lambda name: -row.probabilities[name])[:_SHOWN]
  parts = [row.file if row.seconds is None else f"{row.file} at {row.seconds:.2f} s"]
  parts.append(f"face {row.face} at {left:.0f},{top:.0f}, {right - left:.0f} x {bottom - top:.0f} px")
  parts += [] if row.score is None else [f"score {row.score:.2f}"]
  return "  ".join([*parts, ", ".join(f"{name} {row.probabilities[name]:.2f}" for name in most)])
