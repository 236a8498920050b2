"""Files of our own: written whole or not at all, and read with an error that says what is wrong and what to do."""

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
# What operating systems, file servers and editors leave in any folder, in lower case.
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
  errno.EEXIST: "a file of that name lies there; choose another folder",
  errno.ENOTDIR: "a part of its path is a file; choose another folder",
}
_OTHER_FIX = "choose another folder"
_AS_TEXT = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EROFS,
  errno.EACCES,
)  # As other libraries report them.


def clutter(name: str) -> bool:
  """Whether an operating system, a file server, an editor or a killed write leaves files of this name."""
  lower = name.lower()
  return (
    lower in _CLUTTER_NAMES
    or lower.startswith(_CLUTTER_STARTS)
    or lower.endswith(_CLUTTER_ENDS)
    or (lower.startswith(".") and lower.endswith(_PARTIAL))
  )


def unusable(path: str | pathlib.Path, error: OSError, what: str = "used") -> UserError:
  """The error for a path that cannot be used, with what to do about it."""
  fix = _FIXES.get(error.errno or 0, _OTHER_FIX)
  return UserError(f"{path} cannot be {what} ({error.strerror or error}): {fix}")


def unwritable(path: str | pathlib.Path, error: OSError) -> UserError:
  """The error for a path that cannot be written, with what to do about it."""
  return unusable(path, error, "written")


def disk_error(error: BaseException) -> OSError | None:
  """The failure to write that lies behind an exception: a full or read-only disk, a missing permission.

  Libraries that write through their own code, such as Orbax, raise other types and give the reason as text.
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
  """Writes a file so that a reader, or a kill at any moment, finds the old content or the new one, never a part.

  The content goes to a hidden file in the same folder, which takes the name at the end. What a killed process leaves
  there is `clutter`, and `remove_partial` removes it.

  Args:
    path: of the file, in a folder that exists.
    content: text, written as UTF-8; bytes; or a function that writes to the binary file that it is given.

  Raises:
    UserError: the file cannot be written.
  """
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
  try:
    try:
      with partial.open("xb") as file:
        if isinstance(content, str):
          # Names of files that are not valid UTF-8 reach us as lone surrogates.
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
  """Removes what a killed `write_atomic` left in a folder and below; nobody else may be writing there."""
  for path in folder.rglob(f".*{_PARTIAL}"):
    with contextlib.suppress(OSError):
      path.unlink()


def make_folder(folder: pathlib.Path) -> None:
  """Makes a folder, and those above it; raises `UserError` where that is impossible."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise unwritable(folder, error) from error


def plain(tree: Any) -> Any:
  """A tree without NaN and infinities, which JSON does not have: None takes their place. Tuples become lists."""
  if isinstance(tree, Mapping):
    return {key: plain(value) for key, value in tree.items()}
  if isinstance(tree, list | tuple):
    return [plain(value) for value in tree]
  if isinstance(tree, float) and not math.isfinite(tree):
    return None
  return tree


def to_json(tree: Any, indent: int | None = 2) -> str:
  """The tree as valid JSON, which has no NaN and no infinity: both are written as null."""
  return json.dumps(plain(tree), indent=indent, allow_nan=False)


def write_json(path: str | pathlib.Path, tree: Any, indent: int | None = 2) -> None:
  """Writes a tree as `to_json` gives it; raises as `write_atomic`."""
  write_atomic(path, to_json(tree, indent) + "\n")


def read_json(path: pathlib.Path, fix: str, keys: Iterable[str] = ()) -> dict[str, Any]:
  """Reads an object that `write_json` wrote.

  Args:
    path: of the file.
    fix: what the user can do where the file is missing or damaged; ends the error's message.
    keys: that the object must have.

  Raises:
    UserError: no such file, or one that is empty, cut short, not UTF-8, or not an object with these keys.
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
    The rows of its whole lines; and what is wrong with the file, such as "is missing" or "has 2 damaged lines (the
    first is line 7)", or "".
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
  """A table as csv: fields with commas, quotes or line breaks are quoted, and every line ends with a newline."""
  lines = []
  for row in [header, *rows]:
    line = io.StringIO(newline="")
    csv.writer(line).writerow(row)  # Ends with CRLF, so that a lone CR or LF inside a field is quoted.
    lines.append(line.getvalue().removesuffix("\r\n"))
  return "\n".join(lines) + "\n"
