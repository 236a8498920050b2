"""Config files with mistakes: one line that names file and line, whatever is wrong."""

import pytest

from jaxfer import config, config_file
from jaxfer.errors import UserError


def message(path):
  with pytest.raises(UserError) as error:
    config.read(path)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("def get_config(:", "line 1: SyntaxError: invalid syntax"),
    ("x = 1\ny = (\n", "line 2: SyntaxError: '(' was never closed"),
    ("def f():\n  x\n y", "line 3: IndentationError: unindent does not match"),
    ("\nimport nosuchmodule", "line 2: ModuleNotFoundError: No module named 'nosuchmodule'"),
    ("from . import x", "line 1: ImportError: attempted relative import"),
    ("from jaxfer.config import Cal", "line 1: ImportError: cannot import name 'Cal'"),
    ("def get_config():\n  return undefined", "line 2: NameError: name 'undefined' is not defined"),
    ("def f():\n  1 / 0\ndef get_config():\n  f()", "line 2: ZeroDivisionError: division by zero"),
    ("import json\ndef get_config():\n  json.loads('{')", "line 3: JSONDecodeError: Expecting property name"),
    (
      "def get_config(size):\n  pass",
      "line 1: TypeError: get_config() missing 1 required positional argument",
    ),
    (
      "\n\ndef get_config():\n  pass",
      "line 3: get_config() returns None, no RunConfig or StudyConfig, is there",
    ),
    ("def get_config(): return {'recipe': 1}", "line 1: get_config() returns {'recipe': 1}, no RunConfig"),
    ("import sys\nsys.exit('bye')", "line 2: the config calls sys.exit(bye)"),
    ("def get_config():\n  raise ValueError('two\\nlines')", "line 2: ValueError: two lines"),
    ("def get_config(): return get_config()", "line 1: RecursionError: "),
    ("from jaxfer.errors import UserError\nraise UserError('mine')", "line 2: mine"),
    (
      "from jaxfer.config import RunConfig\ndef get_config():\n  return RunConfig(recipes=1)",
      "line 3: TypeError: ",
    ),
  ],
)
def test_a_mistake_is_told_by_its_line(tmp_path, text, expected):
  path = tmp_path / "wrong.py"
  path.write_text(text)
  assert message(path).startswith(f"{path}, {expected}")


def test_what_is_no_config_is_said(tmp_path):
  (tmp_path / "a.json").write_text('{"a": false}')
  assert message(tmp_path / "a.json").endswith("name 'false' is not defined; a config is a Python file")
  (tmp_path / "binary.py").write_bytes(bytes(range(256)))
  assert message(tmp_path / "binary.py").startswith(f"{tmp_path / 'binary.py'}")
  (tmp_path / "latin.py").write_bytes("x = '\xe9'\n".encode("latin-1"))
  assert "SyntaxError" in message(tmp_path / "latin.py")
  (tmp_path / "value.py").write_text("get_config = 3")
  assert "value.py is no config: it defines no get_config()" in message(tmp_path / "value.py")
  assert "is a folder" in message(tmp_path)
  (tmp_path / "loop.py").symlink_to(tmp_path / "loop.py")
  assert "no config at" in message(tmp_path / "loop.py")
  assert "cannot be read: File name too long" in message(tmp_path / ("a" * 300))


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
  path = tmp_path / "closed.py"
  path.write_text("")

  def refuse(self):
    raise PermissionError(13, "Permission denied", str(self))

  monkeypatch.setattr(type(path), "read_bytes", refuse)
  assert message(path) == f"config {path} cannot be read: Permission denied"


def test_a_mistake_in_a_file_that_the_config_imports_is_told_by_both(tmp_path, monkeypatch):
  (tmp_path / "helper_with_a_mistake.py").write_text("x = 1\ndef f(:")
  (tmp_path / "own.py").write_text("import os\nimport helper_with_a_mistake")
  monkeypatch.syspath_prepend(tmp_path)
  said = message(tmp_path / "own.py")
  assert said.startswith(f"{tmp_path / 'own.py'}, line 2: SyntaxError: invalid syntax")
  assert "helper_with_a_mistake.py, line 2" in said


def test_the_summary_is_the_first_line_of_the_docstring_without_running_the_file(tmp_path):
  path = tmp_path / "config.py"
  path.write_text('"""First.\n\nSecond."""\nraise SystemExit')
  assert config_file.summary(path) == "First."
  path.write_text("x = 1")
  assert config_file.summary(path) == ""
  path.write_text("\nx = (")
  with pytest.raises(UserError, match=r"config\.py, line 2: SyntaxError: '\(' was never closed"):
    config_file.summary(path)
