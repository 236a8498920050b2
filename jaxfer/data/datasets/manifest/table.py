"""Reads tables that users write: csv or tsv with a header, from any spreadsheet or script."""

import csv
import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from jaxfer.data.prepare import Findings, Problem
from jaxfer.errors import UserError

_DELIMITERS = "\t;,"
_HEADER = 1 << 16  # Characters; a first line longer than this is not a header.
_LINE = 1 << 20  # Characters of any other line.
_SHOWN = 60  # Characters of a value in a message.


@dataclasses.dataclass(frozen=True)
class Row:
  """A line: its number in the file (from 1), and its stripped fields by the header's names in lower case.

  Optional columns that the table lacks are "".
  """

  line: int
  fields: Mapping[str, str]

  def __getitem__(self, column: str) -> str:
    return self.fields[column]


def find(source: Path, preferred: str = "manifest") -> Path:
  """Finds the table: `source` itself, or the .csv or .tsv in that folder; among several, the one named `preferred`.

  Raises:
    UserError: there is no table, or more than one.
  """
  if source.is_file():
    return source
  try:
    entries = sorted(source.iterdir())
  except OSError as error:
    raise UserError(f"source {source} cannot be listed ({error.strerror})") from error
  tables = [path for path in entries if path.suffix.lower() in (".csv", ".tsv") and path.name[0] != "."]
  named = [path for path in tables if path.stem.lower() == preferred]
  if len(named or tables) == 1:
    return (named or tables)[0]
  if not tables:
    raise UserError(f"source {source} holds no .csv or .tsv: give the table, or the folder with it")
  names = ", ".join(path.name for path in tables[:5])
  raise UserError(f"source {source} holds {len(tables)} tables ({names}): give one of them as the source")


def read(
  path: Path, required: Collection[str], optional: Collection[str], findings: Findings
) -> Iterator[Row]:
  """Yields the lines of a table. Blank lines are skipped; lines with another number of fields than the header are bad.

  The encoding is UTF-8 or UTF-16, with or without a byte order mark. Fields are separated by tabs, semicolons or commas
  (whichever is most frequent in the header), quoted or not, with any line ends. Unknown columns are reported as odd.

  Raises:
    UserError: the file cannot be read, is not text, lacks a required column, has a column twice, or has a quote that
      does not end.
  """
  with _open(path) as stream:
    number = 1
    try:
      header = stream.readline(_HEADER)
      if len(header) == _HEADER:
        raise UserError(f"{path}: its first line is longer than {_HEADER} characters, so it is not a header")
      delimiter = max(_DELIMITERS, key=header.count) if any(d in header for d in _DELIMITERS) else ","
      columns = _columns(
        path, next(csv.reader([header], delimiter=delimiter), []), required, optional, findings
      )
      reader = csv.reader(_lines(path, stream), delimiter=delimiter, strict=True)
      for values in reader:
        number, line = 1 + reader.line_num, number + 1
        values = [value.strip() for value in values]
        if not any(values):
          continue
        if len(values) != len(columns):
          what = f"line {line} has {len(values)} fields, the header {len(columns)}"
          findings.bad.append(Problem(str(path), what))
          continue
        found = dict(zip(columns, values, strict=True))
        yield Row(line, {column: found.get(column, "") for column in (*required, *optional)})
    except csv.Error as error:
      raise UserError(f"{path}, line {number + 1}: {error}; is a quote left open?") from error
    except UnicodeError as error:
      raise UserError(f"{path} is not UTF-8 text ({str(error)[:80]}): save it as UTF-8") from error
    except OSError as error:
      raise UserError(f"{path} cannot be read ({error.strerror})") from error


def _lines(path: Path, stream: TextIO) -> Iterator[str]:
  while line := stream.readline(_LINE):
    if len(line) == _LINE:
      raise UserError(f"{path} has a line of more than {_LINE} characters: end each row with a line break")
    yield line


def shown(value: str) -> str:
  """Quotes a value for a message, and truncates it if it is long."""
  return repr(value if len(value) <= _SHOWN else value[: _SHOWN - 3] + "...")


def _open(path: Path):
  try:
    with path.open("rb") as stream:
      start = stream.read(2)
    wide = start in (b"\xff\xfe", b"\xfe\xff")
    return path.open(encoding="utf-16" if wide else "utf-8-sig", newline="")
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror})") from error


def _columns(
  path: Path, header: list[str], required: Collection[str], optional: Collection[str], findings: Findings
) -> list[str]:
  columns = [name.strip().lower() for name in header]
  missing = [name for name in required if name not in columns]
  if missing:
    raise UserError(
      f"{path} has no column {', '.join(missing)}: expected a header with {', '.join(required)} and possibly "
      f"{', '.join(optional)}; found {shown(', '.join(header))}"
    )
  known = {*required, *optional}
  if twice := next((name for name in known if columns.count(name) > 1), None):
    raise UserError(f"{path} has the column {twice} twice: name each column once")
  unknown = [name for name in columns if name not in known]
  if unknown:
    findings.odd.append(Problem(str(path), f"unknown columns were left out: {shown(', '.join(unknown))}"))
  return columns
