"""Files of a distributor's tree: all of them, wherever an unpacking has left them, and the text of small ones."""

from collections.abc import Iterator
from pathlib import Path

from jaxfer.data.prepare import Findings, Problem, visible

DEPTH = 8  # Folders under the source: more than any distribution nests, and an end to links in a circle.
_TEXT_LIMIT = 1 << 22  # Bytes of a text file; the longest list of names is a quarter of it.


def walk(source: Path, depth: int = DEPTH, findings: Findings | None = None) -> Iterator[Path]:
  """The visible files at and under a folder, each folder's ascending and before those of its sub-folders.

  Args:
    source: the folder.
    depth: levels of sub-folders that are looked into.
    findings: if given, folders below the usual depth are reported there as odd.

  Raises:
    UserError: a folder that cannot be listed.
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
  """The text of a file, with or without a byte order mark; bytes that are not UTF-8 become U+FFFD.

  Raises:
    ValueError: a file longer than `limit` bytes.
    OSError: a file that cannot be read.
  """
  with path.open("rb") as stream:
    data = stream.read(limit + 1)
  if len(data) > limit:
    raise ValueError(f"text is longer than {limit} bytes: not a file of this data set")
  return data.decode("utf-8-sig", errors="replace")


def tables(source: Path) -> list[Path]:
  """The csv and tsv files straight in a folder; or the source itself, where it is a file."""
  if source.is_file():
    return [source]
  return [path for path in visible(source) if path.suffix.lower() in (".csv", ".tsv")]
