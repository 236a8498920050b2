"""Writes rows of predictions to files as they are computed. The files stay readable after an error or a signal."""

import contextlib
import csv
import dataclasses
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TextIO

from jaxfer import files


@dataclasses.dataclass(frozen=True)
class Row:
  """The prediction for one face.

  Attributes:
    file: path of the photograph or video.
    face: number of the face in its picture; the largest face has number 0.
    box: left, top, right, bottom in pixels; if no detector was used, the part of the picture that was cut out.
    score: score of the detection, 0 to 1; None if no detector was used.
    predicted: the class with the highest probability.
    probabilities: probability of each class, by name.
    frame: number of the frame, from 0; None for photographs. For a model that reads clips, it is the first frame of the
      window.
    seconds: time of that frame; None for photographs.
  """

  file: str
  face: int
  box: tuple[float, float, float, float]
  score: float | None
  predicted: str
  probabilities: Mapping[str, float]
  frame: int | None = None
  seconds: float | None = None

  def fields(self) -> dict[str, Any]:
    """Returns the columns before the probabilities."""
    edges = zip(("left", "top", "right", "bottom"), self.box, strict=True)
    return {
      "file": self.file,
      "frame": self.frame,
      "seconds": None if self.seconds is None else round(self.seconds, 3),
      "face": self.face,
      **{name: round(float(edge), 1) for name, edge in edges},
      "score": None if self.score is None else round(float(self.score), 4),
      "predicted": self.predicted,
    }


class Sink(Protocol):
  """A file that receives rows."""

  def write(self, row: Row) -> None:
    """Writes one row."""


class CsvSink:
  """Writes CSV: one line per face, with a column `p_CLASS` for each class."""

  def __init__(self, file: TextIO, classes: Sequence[str]):
    """Writes the header."""
    self._file, self._classes = file, classes
    names = Row("", 0, (0, 0, 0, 0), None, "", {}).fields()
    self._line([*names, *(f"p_{name}" for name in classes)])

  def write(self, row: Row) -> None:
    """See `Sink`."""
    numbers = (f"{row.probabilities[name]:.6f}" for name in self._classes)
    self._line([*("" if value is None else value for value in row.fields().values()), *numbers])

  def _line(self, values: Sequence[Any]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    _write(self._file, text.getvalue())


class JsonSink:
  """Writes a JSON array with one object per face; `close` ends the array."""

  def __init__(self, file: TextIO):
    """Begins the array."""
    self._file, self._separator = file, "\n"
    _write(file, "[")

  def write(self, row: Row) -> None:
    """See `Sink`."""
    probabilities = {name: round(float(p), 6) for name, p in row.probabilities.items()}
    text = files.to_json({**row.fields(), "probabilities": probabilities}, None)
    _write(self._file, f"{self._separator}{text}")
    self._separator = ",\n"

  def close(self) -> None:
    """Ends the array."""
    _write(self._file, "\n]\n")


def _write(file: TextIO, text: str) -> None:
  """Writes a row and flushes it, so that the file holds whole rows if a signal arrives."""
  file.write(text)
  file.flush()


@contextlib.contextmanager
def sinks(
  csv_path: pathlib.Path | None, json_path: pathlib.Path | None, classes: Sequence[str]
) -> Iterator[list[Sink]]:
  """Opens the files for rows, and closes them properly even after an error or a signal.

  Args:
    csv_path: file for CSV, or None.
    json_path: file for JSON, or None.
    classes: names of the classes.

  Raises:
    UserError: a file cannot be written.
  """
  with contextlib.ExitStack() as stack:
    opened: list[Sink] = []
    if csv_path is not None:
      opened.append(CsvSink(stack.enter_context(_created(csv_path)), classes))
    if json_path is not None:
      sink = JsonSink(stack.enter_context(_created(json_path)))
      stack.callback(sink.close)
      opened.append(sink)
    yield opened


def _created(path: pathlib.Path) -> TextIO:
  try:
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
  except OSError as error:
    raise files.unwritable(path, error) from None
