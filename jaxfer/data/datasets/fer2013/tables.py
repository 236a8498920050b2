"""The tables of FER2013 and FER+: pictures as rows of numbers, and votes."""

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
_LINE_LIMIT = 1 << 16  # Bytes; 2304 numbers are at most 9216.


@dataclasses.dataclass(frozen=True)
class Pixels(Span):
  """The cell of a table that holds a picture, as 2304 numbers 0 to 255."""

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
  """A row of the pictures' table: its line, emotion as given, split, and where its pixels are."""

  line: int
  emotion: str
  split: str
  pixels: Pixels


@dataclasses.dataclass(frozen=True)
class Voted:
  """A row of votes: its line, split, the picture's name ("" where FER+ dropped it) and the ten counts."""

  line: int
  split: str
  name: str
  votes: tuple[int, ...]


def header(path: Path) -> list[str]:
  """The column names of a csv in lower case without the spaces that some copies have before them; [] if unreadable."""
  try:
    with path.open("rb") as stream:
      line = stream.readline(_LINE_LIMIT)
  except OSError:
    return []
  return [word.strip().strip('"').lower() for word in line.decode("utf-8-sig", "replace").split(",")]


def read_rows(path: Path) -> Iterator[Row | ValueError]:
  """Reads fer2013.csv or icml_face_data.csv row by row, whatever the order of its columns.

  Yields:
    A row, or what is wrong with it.
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
        yield ValueError(f"line {number}: longer than {_LINE_LIMIT} bytes; what follows was not read")
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
  """Reads fer2013new.csv: one row for each of fer2013.csv, in its order.

  Returns:
    Rows, or what is wrong with them.

  Raises:
    ValueError: a file too long, or columns that are missing.
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
  """Reads a label.csv beside the pictures of a split, without header: `fer0028638.png,"(0, 0, 48, 48)",<10 votes>`.

  Raises:
    ValueError: a file too long.
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
  """The class with more than half of the votes; single votes do not count (Barsoum et al. 2016).

  Returns:
    Index into `VOTES`, or None.
  """
  kept = [vote if vote > 1 else 0 for vote in votes]
  most = max(kept)
  return kept.index(most) if 2 * most > sum(kept) else None


def _cells(lines: Iterator[list[str]]) -> Iterator[list[str]]:
  """The rows of a csv reader, whose own errors are as any other ValueError."""
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
