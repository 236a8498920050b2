"""`jaxfer predict`: predicts each face in photographs and videos, and writes one row per face as it goes."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from jaxfer import files
from jaxfer.data import video
from jaxfer.errors import UserError
from jaxfer.inference import drawing
from jaxfer.inference.pictures import Counts, Face, Picture, visit, with_crop
from jaxfer.inference.predictor import Predictor
from jaxfer.inference.rows import Row, Sink, sinks

_TOGETHER = 16  # Number of faces per prediction; up to this many faces wait for it.
_SHOWN = 3  # Number of classes in a printed line.


def run(
  model: Predictor,
  given: Sequence[str],
  *,
  csv: pathlib.Path | None = None,
  json: pathlib.Path | None = None,
  draw: pathlib.Path | None = None,
  rate: float = 5.0,
  window: float = 1.0,
  crop: str | None = None,
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
    crop: how faces are cropped, "auto", "middle" or "whole"; None crops them as in the training data.
    log: called with the summary, and with each row if no file is written.
    complain: called with a line for each file that cannot be read.

  Raises:
    UserError: the model is a face network or needs landmarks, a file cannot be written, or no file can be read.
  """
  spec = with_crop(model.input_spec, crop)
  if spec.landmarks:
    raise UserError(
      f"this model needs {spec.landmarks} landmarks of each face, which no detector here gives: call "
      "jaxfer.load(MODEL).predict_proba(images, landmarks=...) from Python, or train with model.answer=rgb"
    )
  names = _names(model)
  if draw is not None:
    files.make_folder(draw)
  counts = Counts()
  with sinks(csv, json, names) as opened:
    session = _Session(model, names, opened, None if draw is None else drawing.Names(draw), counts)
    session.log = log if not opened else lambda line: None
    keep = draw is not None
    visit(given, spec, session, counts, rate=rate, window=window, keep=keep, complain=complain)
    session.flush()
  log(counts.summary())
  counts.check()
  return counts


def _names(model: Predictor) -> tuple[str, ...]:
  return model.label_names or tuple(map(str, range(model.num_classes)))


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
