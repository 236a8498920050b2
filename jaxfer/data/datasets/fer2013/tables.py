"""Reads the tables of FER2013 and FER+: pictures as rows of numbers, and votes."""

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from jaxfer.data import tree
from jaxfer.data.stills import Span

EDGE = 48  # Pixels.
USAGES = {"training": "train", "publictest": "validation", "privatetest": "test"}
VOTES = (
  "neutral",
  "happiness",
  "surprise",
  "sadness",
  "anger",
  "disgust",
  "fear",
  "contempt",
  "unknown",
  "NF",  # Not a face.
)
_LINE_LIMIT = 1 << 16  # Bytes; 2304 numbers take at most 9216.


@dataclasses.dataclass(frozen=True)
class Pixels(Span):
  """The cell of a table that holds a picture as 2304 numbers from 0 to 255."""

  def read(self) -> bytes:
    """Returns the picture as PGM."""
    words = super().read().split()
    if len(words) != EDGE * EDGE:
      raise ValueError(f"{len(words)} pixels: expected {EDGE} x {EDGE}")
    try:
      return b"P5 %d %d 255\n" % (EDGE, EDGE) + bytes(map(int, words))
    except ValueError:
      raise ValueError("pixels are not whole numbers from 0 to 255") from None


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of the table of pictures: line number, emotion as written, split, and position of the pixels."""

  line: int
  emotion: str
  split: str
  pixels: Pixels


@dataclasses.dataclass(frozen=True)
class Voted:
  """A row of votes: line number, split, name of the picture ("" if FER+ dropped it) and the ten counts."""

  line: int
  split: str
  name: str
  votes: tuple[int, ...]


def header(path: Path) -> list[str]:
  """Returns the column names of a csv in lower case without surrounding spaces; [] if the file cannot be read."""
  try:
    with path.open("rb") as stream:
      line = stream.readline(_LINE_LIMIT)
  except OSError:
    return []
  return [word.strip().strip('"').lower() for word in line.decode("utf-8-sig", "replace").split(",")]


def read_rows(path: Path) -> Iterator[Row | ValueError]:
  """Reads fer2013.csv or icml_face_data.csv row by row; the columns may be in any order.

  Yields:
    A row, or a ValueError that says what is wrong with it.
  """
  names = header(path)
  columns = [names.index(name) for name in ("emotion", "usage", "pixels")]
  with path.open("rb") as stream:
    offset = len(stream.readline(_LINE_LIMIT))
    for number in range(2, 1 << 30):
      line = stream.readline(_LINE_LIMIT)
      if not line:
        return
      start, offset = offset, offset + len(line)
      if len(line) == _LINE_LIMIT:
        yield ValueError(f"line {number}: longer than {_LINE_LIMIT} bytes; the rest of the file was not read")
        return
      if not line.strip():
        continue
      cells = line.rstrip(b"\r\n").split(b",")
      if len(cells) != len(names):
        yield ValueError(f"line {number}: {len(cells)} cells, expected {len(names)}")
        continue
      emotion, usage, pixels = (cells[column] for column in columns)
      split = USAGES.get(usage.decode(errors="replace").strip(' "').lower())
      if split is None:
        yield ValueError(
          f"line {number}: usage {_shown(usage)}: expected Training, PublicTest or PrivateTest"
        )
        continue
      before = sum(len(cell) + 1 for cell in cells[: columns[2]])
      quoted = pixels.strip().startswith(b'"')
      inner = pixels.strip().strip(b'"') if quoted else pixels
      span = Pixels(path, start + before + pixels.index(inner), len(inner), f"line {number}")
      yield Row(number, emotion.decode(errors="replace").strip(' "'), split, span)


def read_votes(path: Path) -> list[Voted | ValueError]:
  """Reads fer2013new.csv, which has one row for each row of fer2013.csv, in the same order.

  Returns:
    For each row, its content or a ValueError that says what is wrong with it.

  Raises:
    ValueError: the file is too long, or columns are missing.
  """
  lines = csv.reader(tree.read_text(path).splitlines())
  names = [name.strip().lower() for name in next(_cells(lines), [])]
  wanted = ["usage", "image name", *(name.lower() for name in VOTES)]
  if missing := [name for name in wanted if name not in names]:
    raise ValueError(f"no column {missing[0]!r}")
  columns = [names.index(name) for name in wanted]
  rows: list[Voted | ValueError] = []
  for cells in _cells(lines):
    if not cells:
      continue
    try:
      usage, name, *votes = (cells[column].strip() for column in columns)
      if usage.lower() not in USAGES:
        raise ValueError(f"usage {_shown(usage)}")
      rows.append(Voted(lines.line_num, USAGES[usage.lower()], name, _counts(votes)))
    except (IndexError, ValueError) as error:
      rows.append(ValueError(f"line {lines.line_num}: {error}"))
  return rows


def read_labels(path: Path, split: str) -> list[Voted | ValueError]:
  """Reads the label.csv of a split, without header: `fer0028638.png,"(0, 0, 48, 48)",<10 votes>`.

  Raises:
    ValueError: the file is too long.
  """
  lines = csv.reader(tree.read_text(path).splitlines())
  rows: list[Voted | ValueError] = []
  for cells in _cells(lines):
    if not cells:
      continue
    try:
      if len(cells) != 2 + len(VOTES):
        raise ValueError(f"{len(cells)} cells, expected {2 + len(VOTES)}")
      rows.append(Voted(lines.line_num, split, cells[0].strip(), _counts(cells[2:])))
    except ValueError as error:
      rows.append(ValueError(f"line {lines.line_num}: {error}"))
  return rows


def majority(votes: tuple[int, ...]) -> int | None:
  """Returns the class with more than half of the votes; single votes do not count (Barsoum et al. 2016).

  Returns:
    Index into `VOTES`, or None if no class has a majority.
  """
  kept = [vote if vote > 1 else 0 for vote in votes]
  most = max(kept)
  return kept.index(most) if 2 * most > sum(kept) else None


def _cells(lines: Iterator[list[str]]) -> Iterator[list[str]]:
  """Yields the rows of a csv reader; its errors are raised as ValueError."""
  while True:
    try:
      yield next(lines)
    except StopIteration:
      return
    except csv.Error as error:
      raise ValueError(f"not a csv file ({error})") from None


def _counts(cells: list[str]) -> tuple[int, ...]:
  try:
    votes = [float(cell or 0) for cell in cells]
  except ValueError:
    votes = [-1.0]
  if not all(vote in range(101) for vote in votes):
    raise ValueError(f"votes are {', '.join(cells)[:60]}: expected counts")
  return tuple(map(int, votes))


def _shown(value: bytes | str) -> str:
  text = value.decode(errors="replace") if isinstance(value, bytes) else value
  return repr(text.strip()[:40])
