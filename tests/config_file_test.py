"""Tests that mistakes in config files are reported in one line with file and line number."""

import sys
import textwrap

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
    ("from . import x", "line 1: ImportError: cannot import name 'x' from 'config_folder'"),
    ("from .absent import x", "line 1: ModuleNotFoundError: No module named 'config_folder.absent'"),
    ("from ..absent import x", "line 1: ImportError: attempted relative import beyond top-level package"),
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
def test_a_mistake_is_reported_with_its_line(tmp_path, text, expected):
  path = tmp_path / "wrong.py"
  path.write_text(text)
  assert message(path).startswith(f"{path}, {expected}")


def test_a_file_that_is_not_a_config_is_reported(tmp_path):
  (tmp_path / "a.json").write_text('{"a": false}')
  assert message(tmp_path / "a.json").endswith("name 'false' is not defined; a config is a Python file")
  (tmp_path / "binary.py").write_bytes(bytes(range(256)))
  assert message(tmp_path / "binary.py").startswith(f"{tmp_path / 'binary.py'}")
  (tmp_path / "latin.py").write_bytes("x = '\xe9'\n".encode("latin-1"))
  assert "SyntaxError" in message(tmp_path / "latin.py")
  (tmp_path / "value.py").write_text("get_config = 3")
  assert "value.py is not a config: it does not define get_config()" in message(tmp_path / "value.py")
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


def test_a_mistake_in_a_file_that_the_config_imports_is_reported_with_both(tmp_path, monkeypatch):
  (tmp_path / "helper_with_a_mistake.py").write_text("x = 1\ndef f(:")
  (tmp_path / "own.py").write_text("import os\nimport helper_with_a_mistake")
  monkeypatch.syspath_prepend(tmp_path)
  said = message(tmp_path / "own.py")
  assert said.startswith(f"{tmp_path / 'own.py'}, line 2: SyntaxError: invalid syntax")
  assert "helper_with_a_mistake.py, line 2" in said


TABLE = """
  from jaxfer.config import Call, RunConfig
  SIZE = {size}
  def base(size=SIZE):
    return RunConfig(recipe=Call("r"), model=Call("m"), data=Call("d"), batch_size=size)
  def get_config():
    return base(2 * SIZE)
"""
SYNTHETIC = """
  def get_config():
    from . import table
    from .table import base
    assert table.base is base
    return base()
"""


def write(folder, **texts):
  folder.mkdir(exist_ok=True)
  for name, text in texts.items():
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
  return folder


def test_a_config_imports_from_the_one_beside_it(tmp_path, monkeypatch):
  """This works from any directory, and files with the same name in two folders are kept apart."""
  before = {*sys.modules}
  for name, size in (("one", 3), ("other", 5)):
    write(tmp_path / name, table=TABLE.format(size=size), synthetic=SYNTHETIC)
  sizes = [
    config.read(tmp_path / name).batch_size
    for name in ("one/synthetic.py", "other/synthetic.py", "one/table.py")
  ]
  assert sizes == [3, 5, 6]
  monkeypatch.chdir(tmp_path / "other")
  assert config.read("synthetic.py").batch_size == 5
  assert not {name for name in {*sys.modules} - before if name.startswith("config_folder")}
  assert str(tmp_path) not in " ".join(sys.path)


def test_a_config_that_reads_another_keeps_its_own_folder(tmp_path):
  write(tmp_path / "other", table=TABLE.format(size=5), synthetic=SYNTHETIC)
  reads = f"""
    from jaxfer import config
    def get_config():
      from .table import SIZE
      other = config.read({str(tmp_path / "other/synthetic.py")!r})
      from . import table
      return table.base(SIZE + table.SIZE + other.batch_size)
  """
  write(tmp_path / "one", table=TABLE.format(size=3), reads=reads)
  assert config.read(tmp_path / "one/reads.py").batch_size == 11


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("x = 1\ny = z", "line 2: NameError: name 'z' is not defined (table.py, line 2)"),
    ("x = 1\n\ndef f(:", "line 2: SyntaxError: invalid syntax (table.py, line 3)"),
    (
      "def f():\n  return 1 // 0",
      "line 4: ZeroDivisionError: integer division or modulo by zero (table.py, line 2)",
    ),
    (
      "from jaxfer.errors import UserError\ndef f():\n  raise UserError('mine')",
      "line 4: mine (table.py, line 3)",
    ),
  ],
)
def test_a_mistake_in_a_file_beside_the_config_is_reported_with_both_lines(tmp_path, text, expected):
  write(tmp_path, table=text, own="\nfrom .table import f\ndef get_config():\n  return f()\n")
  assert message(tmp_path / "own.py") == f"{tmp_path / 'own.py'}, {expected}"


def test_a_file_beside_the_config_is_imported_by_a_dot(tmp_path):
  write(tmp_path, table="", own="from table import x")
  assert message(tmp_path / "own.py").endswith(
    "No module named 'table'; it is in the folder of the config: write `from .table import ...`"
  )


def test_the_summary_is_the_first_line_of_the_docstring_without_running_the_file(tmp_path):
  path = tmp_path / "config.py"
  path.write_text('"""First.\n\nSecond."""\nraise SystemExit')
  assert config_file.summary(path) == "First."
  path.write_text("x = 1")
  assert config_file.summary(path) == ""
  path.write_text("\nx = (")
  with pytest.raises(UserError, match=r"config\.py, line 2: SyntaxError: '\(' was never closed"):
    config_file.summary(path)
