"""Reads files of a tar archive without unpacking: an uncompressed archive holds them one after another."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from jaxfer.data.stills import Span


def members(archive: Path, within: Span | None = None) -> Iterator[Span]:
  """Yields the files of a tar archive, named by their paths in it, in the archive's order.

  Args:
    archive: an uncompressed .tar.
    within: an archive inside it, as yielded by this function (ImageNet's training pictures are a tar of tars).

  Raises:
    ValueError: the file is not such an archive, or is damaged.
    OSError: the file cannot be read.
  """
  try:
    with archive.open("rb") as stream:
      size = stream.seek(0, 2)
      end = size if within is None else within.offset + within.length
      stream.seek(0 if within is None else within.offset)
      with tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
          if not member.isreg():
            continue
          if member.offset_data + member.size > end:
            raise ValueError(f"{member.name[:80]} is cut short: the archive ends before it")
          yield Span(archive, member.offset_data, member.size, member.name)
          tar.members = []  # type: ignore[attr-defined]  # It keeps all it has seen, a million of them.
  except (tarfile.TarError, EOFError, OverflowError) as error:
    raise ValueError(f"not a whole, uncompressed tar archive ({error})") from None
