"""Reads and writes jaxfer's own files.

A file is written completely or not at all. If a file cannot be read, the error says what is wrong and what to do.
"""

import contextlib
import csv
import errno
import io
import json
import math
import os
import pathlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from jaxfer.errors import UserError

Content = str | bytes | Callable[[BinaryIO], object]

_PARTIAL = ".partial"
# Names, in lower case, of files that operating systems, file servers and editors leave in any folder.
_CLUTTER_NAMES = {
  ".ds_store", ".localized", ".appledouble", ".spotlight-v100", ".trashes", ".fseventsd", ".temporaryitems",
  "icon\r", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information",
  "lost+found", "@eadir", ".directory",
}  # fmt: skip
_CLUTTER_STARTS = ("._", ".nfs", ".fuse_hidden", ".trash-", ".#", ".goutputstream-")
_CLUTTER_ENDS = ("~", "#", ".swp", ".swo", ":zone.identifier")
_ROOM = "make room there and repeat the command; a training or study goes on with --resume"
_FIXES = {
  errno.ENOSPC: _ROOM,
  errno.EDQUOT: _ROOM,
  errno.EFBIG: _ROOM,
  errno.EROFS: "choose a folder on a disk that can be written",
  errno.EACCES: "change its permissions, or choose another folder",
  errno.EPERM: "change its permissions, or choose another folder",
  errno.ENAMETOOLONG: "choose a shorter name",
  errno.EEXIST: "a file of that name exists there; choose another folder",
  errno.ENOTDIR: "a part of its path is a file; choose another folder",
}
_OTHER_FIX = "choose another folder"
# Errors that other libraries report only as text.
_AS_TEXT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def clutter(name: str) -> bool:
  """Returns whether operating systems, file servers, editors or killed writes leave files of this name."""
  lower = name.lower()
  return (
    lower in _CLUTTER_NAMES
    or lower.startswith(_CLUTTER_STARTS)
    or lower.endswith(_CLUTTER_ENDS)
    or (lower.startswith(".") and lower.endswith(_PARTIAL))
  )


def unusable(path: str | pathlib.Path, error: OSError, what: str = "used") -> UserError:
  """Returns the error for a path that cannot be used; its message says what to do."""
  fix = _FIXES.get(error.errno or 0, _OTHER_FIX)
  return UserError(f"{path} cannot be {what} ({error.strerror or error}): {fix}")


def unwritable(path: str | pathlib.Path, error: OSError) -> UserError:
  """Returns the error for a path that cannot be written; its message says what to do."""
  return unusable(path, error, "written")


def disk_error(error: BaseException) -> OSError | None:
  """Returns the failure to write that caused an exception, or None if there is none.

  Such failures are a full disk, a read-only disk or a missing permission. Libraries with I/O code of their own, such
  as Orbax, raise other exception types and give the reason as text only, so the text is searched too.
  """
  seen: set[int] = set()
  link: BaseException | None = error
  while link is not None and id(link) not in seen:
    seen.add(id(link))
    if isinstance(link, OSError) and link.errno in _FIXES:
      return link
    for number in _AS_TEXT:
      if f"os_error_code='{number}'" in str(link) or os.strerror(number) in str(link):
        return OSError(number, os.strerror(number))
    link = link.__cause__ or link.__context__
  return None


def write_atomic(path: str | pathlib.Path, content: Content) -> None:
  """Writes a file atomically: it has either its old or its new content, even if the process is killed while writing.

  The content is written to a hidden file in the same folder, which is then renamed. If the process is killed, the
  hidden file stays. `clutter` recognises its name, and `remove_partial` removes it.

  Args:
    path: path of the file, in a folder that exists.
    content: text, written as UTF-8; bytes; or a function that writes to the binary file passed to it.

  Raises:
    UserError: the file cannot be written.
  """
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
  try:
    try:
      with partial.open("xb") as file:
        if isinstance(content, str):
          # Python represents file names that are not valid UTF-8 with lone surrogates.
          file.write(content.encode("utf-8", "backslashreplace"))
        elif isinstance(content, bytes):
          file.write(content)
        else:
          content(file)
        file.flush()
        os.fsync(file.fileno())
      os.replace(partial, path)
    except BaseException:
      with contextlib.suppress(OSError):
        partial.unlink()
      raise
  except OSError as error:
    raise unwritable(path, error) from error


def remove_partial(folder: pathlib.Path) -> None:
  """Removes the files that killed `write_atomic` calls left in a folder and its subfolders.

  No other process may be writing there.
  """
  for path in folder.rglob(f".*{_PARTIAL}"):
    with contextlib.suppress(OSError):
      path.unlink()


def make_folder(folder: pathlib.Path) -> None:
  """Makes a folder and its parents; raises `UserError` if that is impossible."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise unwritable(folder, error) from error


def plain(tree: Any) -> Any:
  """Returns the tree with None in place of NaN and infinities, which JSON does not have. Tuples become lists."""
  if isinstance(tree, Mapping):
    return {key: plain(value) for key, value in tree.items()}
  if isinstance(tree, list | tuple):
    return [plain(value) for value in tree]
  if isinstance(tree, float) and not math.isfinite(tree):
    return None
  return tree


def to_json(tree: Any, indent: int | None = 2) -> str:
  """Returns the tree as valid JSON. NaN and infinities, which JSON does not have, are written as null."""
  return json.dumps(plain(tree), indent=indent, allow_nan=False)


def write_json(path: str | pathlib.Path, tree: Any, indent: int | None = 2) -> None:
  """Writes the result of `to_json` to a file. Errors are those of `write_atomic`."""
  write_atomic(path, to_json(tree, indent) + "\n")


def read_json(path: pathlib.Path, fix: str, keys: Iterable[str] = ()) -> dict[str, Any]:
  """Reads an object that `write_json` wrote.

  Args:
    path: path of the file.
    fix: what the user can do if the file is missing or damaged; the end of the error message.
    keys: keys that the object must have.

  Raises:
    UserError: the file is missing, empty, cut short, not UTF-8, or not an object with these keys.
  """
  try:
    text = path.read_bytes().decode("utf-8")
    tree = json.loads(text)
  except FileNotFoundError:
    raise UserError(f"{path} is missing: {fix}") from None
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}): {fix}") from None
  except UnicodeDecodeError:
    raise UserError(f"{path} is damaged (not UTF-8 text): {fix}") from None
  except (ValueError, RecursionError) as error:
    what = f"cut short or changed: {str(error)[:80]}" if text.strip() else "empty"
    raise UserError(f"{path} is damaged ({what}): {fix}") from None
  if not isinstance(tree, dict):
    raise UserError(f"{path} is damaged (a JSON {type(tree).__name__} in place of an object): {fix}")
  if absent := [key for key in keys if key not in tree]:
    raise UserError(
      f"{path} lacks '{absent[0]}', so it was written by another program or version of jaxfer: {fix}"
    )
  return tree


def read_rows(path: pathlib.Path) -> tuple[list[dict[str, Any]], str]:
  """Reads the rows of a JSON-lines file, such as metrics.jsonl.

  Returns:
    (rows, problem): the rows of all lines that are valid, and what is wrong with the file, such as "is missing" or
    "has 2 damaged lines (the first is line 7)"; "" if nothing is wrong.
  """
  try:
    data = path.read_bytes()
  except FileNotFoundError:
    return [], "is missing"
  except OSError as error:
    return [], f"cannot be read ({error.strerror})"
  lines, rows, damaged = data.split(b"\n"), [], []
  if not lines[-1]:
    lines.pop()
  for number, line in enumerate(lines, start=1):
    try:
      row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
      row = None
    if isinstance(row, dict):
      rows.append(row)
    else:
      damaged.append(number)
  if not damaged:
    return rows, ""
  count = "a damaged line" if len(damaged) == 1 else f"{len(damaged)} damaged lines"
  return rows, f"has {count} (the first is line {damaged[0]})"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
  """Returns a table as CSV. Fields with commas, quotes or line breaks are quoted; every line ends with a newline."""
  lines = []
  for row in [header, *rows]:
    line = io.StringIO(newline="")
    csv.writer(line).writerow(row)  # Ends with CRLF, so that a lone CR or LF inside a field is quoted.
    lines.append(line.getvalue().removesuffix("\r\n"))
  return "\n".join(lines) + "\n"
