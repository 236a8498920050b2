"""Runs the Python file of a config. A mistake in it is told by its file and line, as a `UserError`."""

import ast
import pathlib
import runpy
import traceback
from collections.abc import Callable
from typing import Any

from jaxfer.errors import UserError

_LONGEST = 300  # Characters of an error's text.


def run(path: str | pathlib.Path) -> tuple[Any, str]:
  """Runs the file at `path` and its `get_config()`.

  Returns:
    What `get_config()` returns, and where it is defined: file and line.

  Raises:
    UserError: there is no such file, it cannot be read, it defines no `get_config`, or it raises; names the file and,
      where the error has one, the line.
  """
  path = pathlib.Path(path)
  _readable(path)
  function = _called(path, lambda: runpy.run_path(str(path)).get("get_config"))
  if not callable(function):
    raise UserError(f"{path} is no config: it defines no get_config()")
  code = getattr(function, "__code__", None)
  line = code.co_firstlineno if code is not None and code.co_filename == str(path) else None
  return _called(path, function, line), _place(path, line)


def _called(path: pathlib.Path, function: Callable[[], Any], line: int | None = None) -> Any:
  """What a function of the config returns; `line` is where it stands, for an error that tells no line of the config."""
  try:
    return function()
  except (Exception, SystemExit) as error:
    hint = "" if path.suffix == ".py" else "; a config is a Python file"
    raise UserError(f"{_place(path, _line_of(error, path) or line)}: {_said(error, path)}{hint}") from error


def _place(path: pathlib.Path, line: int | None) -> str:
  return f"{path}, line {line}" if line else str(path)


def summary(path: pathlib.Path) -> str:
  """The first line of the docstring of the file at `path`, which is not run; "" where it has none.

  Raises:
    UserError: it cannot be read, or is no Python.
  """
  _readable(path)
  text = path.read_bytes()
  tree = _called(path, lambda: ast.parse(text, str(path)))
  doc = ast.get_docstring(tree)
  return doc.splitlines()[0] if doc else ""


def _readable(path: pathlib.Path) -> None:
  """Refuses what is no file that can be read."""
  try:
    if path.is_dir():
      raise UserError(f"{path} is a folder: name a config in it, such as {path / 'config.py'}")
    if not path.is_file():
      raise UserError(f"no config at {path}: `jaxfer list configs` names those of this directory")
    path.read_bytes()
  except OSError as error:
    raise UserError(f"config {path} cannot be read: {error.strerror}") from error


def _line_of(error: BaseException, path: pathlib.Path) -> int | None:
  """The line of the config that an error is about: where it does not parse, or where it was when it raised."""
  if isinstance(error, SyntaxError) and error.filename == str(path):
    return error.lineno
  frames = traceback.walk_tb(error.__traceback__)
  lines = [line for frame, line in frames if frame.f_code.co_filename == str(path)]
  return lines[-1] if lines else None


def _said(error: BaseException, path: pathlib.Path) -> str:
  """An error's kind and text on one line."""
  text = str(error)
  if isinstance(error, SyntaxError) and error.filename == str(path):
    text = error.msg  # Without the place, which is told already.
  text = " ".join(text.split())
  text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
  if isinstance(error, SystemExit):
    return f"the config calls sys.exit({text}): it must return a RunConfig or a StudyConfig"
  return ": ".join(filter(None, ("" if isinstance(error, UserError) else type(error).__name__, text)))
