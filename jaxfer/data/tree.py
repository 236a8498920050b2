"""Finds files in a distributor's folders, wherever they were unpacked, and reads the text of small ones."""

from collections.abc import Iterator
from pathlib import Path

from jaxfer.data.prepare import Findings, Problem, visible

DEPTH = 8  # Levels of folders below the source: more than in any data set, and a limit for circular links.
_TEXT_LIMIT = 1 << 22  # Bytes of a text file; the longest list of names has a quarter of it.


def walk(source: Path, depth: int = DEPTH, findings: Findings | None = None) -> Iterator[Path]:
  """Yields the visible files in a folder and below, sorted within each folder, before those of its sub-folders.

  Args:
    source: the folder.
    depth: number of levels of sub-folders to search.
    findings: if given, deeper folders are reported there as odd.

  Raises:
    UserError: a folder cannot be listed.
  """
  folders = []
  for entry in visible(source):
    if entry.is_dir():
      folders.append(entry)
    else:
      yield entry
  for folder in folders:
    if depth:
      yield from walk(folder, depth - 1, findings)
    elif findings is not None:
      findings.odd.append(Problem(str(folder), f"more than {DEPTH} folders deep; left out"))


def read_text(path: Path, limit: int = _TEXT_LIMIT) -> str:
  """Reads a text file with or without a byte order mark; bytes that are not UTF-8 become U+FFFD.

  Raises:
    ValueError: the file is longer than `limit` bytes.
    OSError: the file cannot be read.
  """
  with path.open("rb") as stream:
    data = stream.read(limit + 1)
  if len(data) > limit:
    raise ValueError(f"text is longer than {limit} bytes: not a file of this data set")
  return data.decode("utf-8-sig", errors="replace")


def tables(source: Path) -> list[Path]:
  """Returns the csv and tsv files directly in a folder, or the source itself if it is a file."""
  if source.is_file():
    return [source]
  return [path for path in visible(source) if path.suffix.lower() in (".csv", ".tsv")]
