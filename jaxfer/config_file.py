"""Runs the Python file of a config. A mistake in it raises a `UserError` that names the file and line.

While the file runs, its folder is a package, so configs in one folder can share code: `from .table import rows`. The
package is removed afterwards, so files with the same name in different folders do not collide.
"""

import ast
import contextlib
import os
import pathlib
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

from jaxfer.errors import UserError

_LONGEST = 300  # Number of characters that a message shows of an error's text.
_PACKAGE = "config_folder"  # Package name of the folder; messages may show it.


def folder() -> pathlib.Path:
  """Returns the folder of the configs: `configs` in the current directory, or else the one that comes with jaxfer."""
  here = pathlib.Path("configs")
  return here if here.is_dir() else shipped()


def shipped() -> pathlib.Path:
  """Returns the folder of the configs that come with jaxfer: in the installed package, or in its checkout."""
  package = pathlib.Path(__file__).resolve().parent
  installed = package / "configs"
  return installed if installed.is_dir() else package.parent / "configs"


def found(path: pathlib.Path) -> pathlib.Path:
  """Returns where a config is.

  A path that does not exist may name a config that comes with jaxfer: `configs/own_images.py`, or only `own_images`.
  If there is none either, the path is returned unchanged.
  """
  if path.is_absolute() or os.path.exists(path) or ".." in path.parts:
    return path
  inside = pathlib.Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
  candidate = shipped() / inside
  if inside.suffix != ".py":
    candidate = candidate.with_name(f"{candidate.name}.py")
  return candidate if os.path.isfile(candidate) else path


def run(path: str | pathlib.Path) -> tuple[Any, str]:
  """Runs the file at `path`, or the config of this name that comes with jaxfer, and its `get_config()`.

  Returns:
    (config, place): the result of `get_config()`, and the file and line where the function is defined.

  Raises:
    UserError: the file is missing, cannot be read, does not define `get_config`, or raises an exception. The message
      names the file and, if it is known, the line.
  """
  path = found(pathlib.Path(path))
  _readable(path)
  with _package(path.parent):
    function = _called(path, lambda: _module(path).get("get_config"))
    if not callable(function):
      raise UserError(f"{path} is not a config: it does not define get_config()")
    code = getattr(function, "__code__", None)
    line = code.co_firstlineno if code is not None and code.co_filename == str(path) else None
    return _called(path, function, line), _place(path, line)


@contextlib.contextmanager
def _package(folder: pathlib.Path) -> Iterator[None]:
  """Context manager that makes a folder the package `_PACKAGE`.

  The previous package, which exists if one config reads another, is restored at the end.
  """

  def taken() -> dict[str, types.ModuleType]:
    own = [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]
    return {name: sys.modules.pop(name) for name in own}

  before = taken()
  package = types.ModuleType(_PACKAGE)
  package.__path__ = [str(folder)]
  sys.modules[_PACKAGE] = package
  try:
    yield
  finally:
    taken()
    sys.modules.update(before)


def _module(path: pathlib.Path) -> dict[str, Any]:
  """Runs a file as a module of the package, and returns its names."""
  code = compile(path.read_bytes(), str(path), "exec")
  module = types.ModuleType(f"{_PACKAGE}.{path.stem}")
  module.__package__, module.__file__ = _PACKAGE, str(path)
  sys.modules[module.__name__] = module
  exec(code, vars(module))
  return vars(module)


def _called(path: pathlib.Path, function: Callable[[], Any], line: int | None = None) -> Any:
  """Calls a function of the config. An error that has no line of the config gets `line`, the line of the function."""
  try:
    return function()
  except (Exception, SystemExit) as error:
    hint = "" if path.suffix == ".py" else "; a config is a Python file"
    place = f"{_place(path, _line_of(error, path) or line)}: {_said(error, path)}{_beside(error, path)}"
    raise UserError(f"{place}{hint}") from error


def _place(path: pathlib.Path, line: int | None) -> str:
  return f"{path}, line {line}" if line else str(path)


def summary(path: pathlib.Path) -> str:
  """Returns the first line of the docstring of the file at `path`, or "" if it has none. The file is not run.

  Raises:
    UserError: the file cannot be read or is not valid Python.
  """
  _readable(path)
  text = path.read_bytes()
  tree = _called(path, lambda: ast.parse(text, str(path)))
  doc = ast.get_docstring(tree)
  return doc.splitlines()[0] if doc else ""


def _readable(path: pathlib.Path) -> None:
  """Refuses a path that is not a readable file."""
  try:
    if path.is_dir():
      raise UserError(f"{path} is a folder: name a config in it, such as {path / 'config.py'}")
    if not path.is_file():
      raise UserError(f"no config at {path}: `jaxfer list configs` lists the configs that exist")
    path.read_bytes()
  except OSError as error:
    raise UserError(f"config {path} cannot be read: {error.strerror}") from error


def _line_of(error: BaseException, path: pathlib.Path) -> int | None:
  """Returns the line of the config where a syntax error is or where an exception was raised; None if unknown."""
  if isinstance(error, SyntaxError) and error.filename == str(path):
    return error.lineno
  frames = traceback.walk_tb(error.__traceback__)
  lines = [line for frame, line in frames if frame.f_code.co_filename == str(path)]
  return lines[-1] if lines else None


def _beside(error: BaseException, path: pathlib.Path) -> str:
  """Returns the place of an error in another file of the config's folder, as " (file, line n)"; "" if there is none."""
  frames = traceback.walk_tb(error.__traceback__)
  places = [(pathlib.Path(frame.f_code.co_filename), line) for frame, line in frames]
  own = [(file, line) for file, line in places if file.resolve().parent == path.resolve().parent]
  if not own or own[-1][0].resolve() == path.resolve():
    return ""
  file, line = own[-1]
  return f" ({file.name}, line {line})"


def _said(error: BaseException, path: pathlib.Path) -> str:
  """Returns the type and text of an error on one line."""
  text = str(error)
  if isinstance(error, SyntaxError) and error.filename == str(path):
    text = error.msg  # Without the place, which the message already names.
  text = " ".join(text.split())
  text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
  if isinstance(error, ModuleNotFoundError) and path.with_name(f"{error.name}.py").is_file():
    text += f"; it is in the folder of the config: write `from .{error.name} import ...`"
  if isinstance(error, SystemExit):
    return f"the config calls sys.exit({text}): it must return a RunConfig or a StudyConfig"
  return ": ".join(filter(None, ("" if isinstance(error, UserError) else type(error).__name__, text)))
