"""Readers for the annotation files of AffectNet's three forms: rows of a csv, small npy files, and json.

The size of every file is limited, and no file can run code: npy files that hold objects are pickles, so `unpickle`
reads them instead of numpy.
"""

import ast
import csv
import dataclasses
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer.data import unpickle
from jaxfer.data.tree import read_text

NUM_LANDMARKS = 68
COLUMNS = (
  "subDirectory_filePath",
  "face_x",
  "face_y",
  "face_width",
  "face_height",
  "facial_landmarks",
  "expression",
  "valence",
  "arousal",
)
_MAX_LINE = 1 << 14  # Characters; 68 landmarks take some 1,300.
_MAX_FILE = 1 << 16  # Bytes of an npy or json file.
_UNDEFINED = -2  # The csv's value for a valence or arousal that does not apply.
_NPY = b"\x93NUMPY"


class OutOfRange(ValueError):
  """A number outside the possible range. Every copy has rows with words such as NULL, but none has such numbers."""


@dataclasses.dataclass(frozen=True)
class Annotation:
  """The annotation of one picture.

  Attributes:
    expression: 0 to 7, see `scan.LABELS`; 8 is none, 9 uncertain, 10 no face.
    valence: -1 to 1; NaN where undefined.
    arousal: -1 to 1; NaN where undefined.
    path: path below the folder of pictures, from the csv; "" in the other forms.
    box: (x, y, width, height) of the face in pixels; None if there is no face.
    landmarks: [68, 2] in pixels; None if not given.
    line: line number in the csv, from 1; 0 in the other forms.
  """

  expression: int
  valence: float
  arousal: float
  path: str = ""
  box: tuple[float, float, float, float] | None = None
  landmarks: np.ndarray | None = None
  line: int = 0


def read_csv(path: Path) -> Iterator[Annotation | ValueError]:
  """Yields the rows of training.csv or validation.csv, and a ValueError for each malformed row. A header is skipped.

  Raises:
    ValueError: a line is longer than any row can be.
    OSError: the file cannot be read.
  """

  def lines() -> Iterator[str]:
    while line := stream.readline(_MAX_LINE):
      if len(line) == _MAX_LINE:
        raise ValueError(f"a line of more than {_MAX_LINE} characters: not AffectNet's list")
      yield line.replace('"', "").replace("\0", "")  # Nothing is quoted; a stray quote would swallow lines.

  with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
    for number, row in enumerate(csv.reader(lines(), quoting=csv.QUOTE_NONE), 1):
      if not row or (number == 1 and row[0].strip().lower() == COLUMNS[0].lower()):
        continue
      try:
        yield dataclasses.replace(parse_row(row), line=number)
      except ValueError as error:
        yield type(error)(f"line {number}: {error}")


def parse_row(row: list[str]) -> Annotation:
  """Reads the nine columns of a row.

  A face box without extent, as in rows without a face, counts as no box.

  Raises:
    ValueError: the number of columns is wrong, or a column has an invalid value.
  """
  if len(row) != len(COLUMNS):
    raise ValueError(f"{len(row)} columns: expected {len(COLUMNS)}")
  path, *box, marks, expression, valence, arousal = (word.strip() for word in row)
  name = path.replace("\\", "/")
  if not name or name.startswith("/") or ".." in name.split("/") or ":" in name:
    raise ValueError(f"path is '{name[:60]}': expected one such as 12/0f3a.jpg")
  numbers = [_number(word, column) for word, column in zip(box, COLUMNS[1:5], strict=True)]
  sound = numbers[2] > 0 and numbers[3] > 0
  points = None
  if marks:
    words = marks.strip(";").split(";")
    if len(words) != 2 * NUM_LANDMARKS:
      raise ValueError(f"{len(words)} landmark numbers: expected {2 * NUM_LANDMARKS}")
    points = np.array([_number(word, COLUMNS[5]) for word in words]).reshape(-1, 2)
  x, y, width, height = numbers
  return Annotation(
    expression=_whole(expression),
    valence=_defined(_number(valence, "valence")),
    arousal=_defined(_number(arousal, "arousal")),
    path=name,
    box=(x, y, width, height) if sound else None,
    landmarks=points if sound else None,
  )


def read_npy(data: bytes) -> np.ndarray:
  """Reads an .npy file of plain numbers or strings, or of objects, without running any code.

  The size of the data is checked against the shape in the header before anything is allocated.

  Raises:
    ValueError: the file is anything else.
  """
  if len(data) > _MAX_FILE:
    raise ValueError(f"{len(data)} bytes: at most {_MAX_FILE} are read")
  if not data.startswith(_NPY):
    raise ValueError("not an npy file")
  try:
    wide = data[6] > 1  # Versions 2 and 3 have a longer length.
    start = 12 if wide else 10
    (length,) = struct.unpack_from("<I" if wide else "<H", data, 8)
    header = ast.literal_eval(data[start : start + length].decode("latin-1").strip())
    shape, fortran, described = header["shape"], header["fortran_order"], header["descr"]
    if not all(type(edge) is int and edge >= 0 for edge in shape):
      raise ValueError("its header has no valid shape")
    body = data[start + length :]
    if described == "|O":
      value = unpickle.loads(body)
      # NumPy would repeat the longest text of a list, and gives integers beyond 64 bits the dtype object.
      if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufSU":
        raise ValueError("it holds objects: expected numbers or texts")
      return value
    dtype = np.dtype(described) if isinstance(described, str) else None
    if dtype is None or dtype.kind not in "biufSU":
      raise ValueError(f"it holds {str(described)[:40]}: expected numbers or strings")
    if len(body) != math.prod(shape) * dtype.itemsize:
      raise ValueError(f"{len(body)} bytes for the shape {str(shape)[:40]} of {dtype}")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
  except (SyntaxError, TypeError, KeyError, IndexError, struct.error, RecursionError, MemoryError) as error:
    raise ValueError(f"a damaged npy file ({type(error).__name__})") from None


def read_number(path: Path) -> float:
  """Reads an .npy file of one number, which is often stored as a string.

  Raises:
    ValueError: the file holds anything else.
    OSError: the file cannot be read.
  """
  array = read_npy(_read(path))
  if array.size != 1:
    raise ValueError(f"{array.size} values: expected one")
  value = array.ravel()[0]
  return _number(value.decode("latin-1") if isinstance(value, bytes) else str(value), "it")


def read_folder(folder: Path, number: str, with_landmarks: bool) -> Annotation:
  """Reads <number>_exp.npy, _val.npy and _aro.npy of the 2021 form, and _lnd.npy if landmarks are wanted.

  Raises:
    ValueError: a file has invalid content; the message names the file.
    OSError: a file cannot be read.
  """
  values = {}
  for kind in ("exp", "val", "aro"):
    try:
      values[kind] = read_number(folder / f"{number}_{kind}.npy")
    except ValueError as error:
      raise ValueError(f"{number}_{kind}.npy: {error}") from None
  landmarks = None
  if with_landmarks:
    try:
      numbers = read_npy(_read(folder / f"{number}_lnd.npy")).astype(float).ravel()
      if len(numbers) != 2 * NUM_LANDMARKS or not np.isfinite(numbers).all():
        raise ValueError(f"{len(numbers)} numbers: expected {2 * NUM_LANDMARKS}, finite")
      landmarks = numbers.reshape(-1, 2)
    except ValueError as error:
      raise ValueError(f"{number}_lnd.npy: {error}") from None
  expression = _whole(str(values["exp"]))
  return Annotation(expression, _defined(values["val"]), _defined(values["aro"]), landmarks=landmarks)


def parse_json(text: str) -> Annotation:
  """Reads an annotation of AffectNet+; its label is under "human-label".

  Valence, arousal and landmarks are read if the entries of those names are numbers, because their format is not
  published.

  Raises:
    ValueError: the text is not json, or has no whole number under "human-label".
  """
  try:
    values: Any = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ValueError(f"not json ({str(error)[:80]})") from None
  if not isinstance(values, dict) or "human-label" not in values:
    raise ValueError('no "human-label"')
  optional = {}
  for name in ("valence", "arousal"):
    value = values.get(name)
    plain = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 2
    optional[name] = _defined(float(value)) if plain else math.nan  # type: ignore[arg-type]
  return Annotation(_whole(str(values["human-label"])), optional["valence"], optional["arousal"])


def read_json(path: Path) -> Annotation:
  """Reads an annotation file of AffectNet+. Raises ValueError like `parse_json`, and OSError."""
  return parse_json(read_text(path, _MAX_FILE))


def _read(path: Path) -> bytes:
  with path.open("rb") as stream:
    return stream.read(_MAX_FILE + 1)


def _number(word: str, what: str) -> float:
  try:
    value = float(word)
  except ValueError:
    raise ValueError(f"{what} is '{word[:40]}': expected a number") from None
  if not abs(value) < 1e9:
    raise OutOfRange(f"{what} is '{word[:40]}': expected a number of pixels or a rating")
  return value


def _whole(word: str) -> int:
  value = _number(word, "expression")
  if not value.is_integer():
    raise ValueError(f"expression is '{word[:40]}': expected a whole number")
  return int(value)


def _defined(value: float) -> float:
  return math.nan if value == _UNDEFINED else value
