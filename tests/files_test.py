"""Tests that files are written atomically, and that errors of reading and writing are reported in one line."""

import ast
import csv
import errno
import io
import json
import os
import pathlib

import pytest

import jaxfer
from jaxfer import files
from jaxfer.errors import UserError

# Names that a folder, and therefore a class or a record, can have.
HOSTILE = [
  "a, b", 'say "x"', "two\nlines", "carriage\rreturn", "<b>&amp;</b>", "a|b", "a\\|b", "$x$", "=1+1", "Ärger 怒り"
]  # fmt: skip


def test_what_is_written_is_there(tmp_path):
  for content, expected in [
    ("père\n", "père\n".encode()),
    (b"\0\1", b"\0\1"),
    (lambda f: f.write(b"x"), b"x"),
  ]:
    files.write_atomic(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == expected
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_name_that_is_no_unicode_can_be_written(tmp_path):
  files.write_atomic(tmp_path / "file", os.fsdecode(b"caf\xe9"))
  assert (tmp_path / "file").read_text(encoding="utf-8") == "caf\\udce9"


def test_a_file_has_the_permissions_that_any_new_file_has(tmp_path):
  before = os.umask(0o027)
  try:
    files.write_atomic(tmp_path / "file", "x")
  finally:
    os.umask(before)
  assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("stopped", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, stopped, where):
  files.write_atomic(tmp_path / "file", "old")

  def fail(*args):
    raise stopped

  monkeypatch.setattr(os, where, fail)
  with pytest.raises((UserError, KeyboardInterrupt)) as error:
    files.write_atomic(tmp_path / "file", "new")
  if isinstance(stopped, OSError):
    assert str(error.value) == (
      f"{tmp_path / 'file'} cannot be written (No space left on device): make room there and repeat the command; a "
      "training or study goes on with --resume"
    )
  assert (tmp_path / "file").read_text() == "old"
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_write_left_is_clutter_and_removed(tmp_path, monkeypatch):
  (tmp_path / "below").mkdir()
  with monkeypatch.context() as patch:
    patch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(OSError(errno.EIO, "killed")))
    patch.setattr(pathlib.Path, "unlink", lambda self: None)
    with pytest.raises(UserError):
      files.write_atomic(tmp_path / "below/file", "new")
  (left,) = (tmp_path / "below").iterdir()
  assert files.clutter(left.name)
  files.remove_partial(tmp_path)
  assert not list((tmp_path / "below").iterdir())


def test_the_reason_of_a_failed_write_is_found_behind_other_exceptions():
  assert files.disk_error(OSError(errno.EROFS, "Read-only file system")).errno == errno.EROFS
  text = "RESOURCE_EXHAUSTED: Error writing: Failed writing: full [os_error_code='28']"
  assert files.disk_error(ValueError(text)).errno == errno.ENOSPC
  outer = RuntimeError("save failed")
  outer.__cause__ = ValueError(text)
  assert files.disk_error(outer).errno == errno.ENOSPC
  assert files.disk_error(ValueError("shapes differ")) is None
  assert files.disk_error(FileNotFoundError(errno.ENOENT, "No such file")) is None


def test_json_is_valid_whatever_the_numbers(tmp_path):
  tree = {"a": (1.5, float("nan"), [float("inf"), {"b": -float("inf")}]), "c": True, "d": None, "e": HOSTILE}
  files.write_json(tmp_path / "file", tree)
  text = (tmp_path / "file").read_text()
  assert json.loads(text, parse_constant=pytest.fail) == {
    "a": [1.5, None, [None, {"b": None}]],
    "c": True,
    "d": None,
    "e": HOSTILE,
  }
  assert files.read_json(tmp_path / "file", "fix", ["a"]) == json.loads(text)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "is missing: do this"),
    (b"", r"is damaged \(empty\): do this"),
    (b" \n", r"is damaged \(empty\): do this"),
    (b'{"a": 1', r"is damaged \(cut short or changed: .*\): do this"),
    (b"\0" * 8, r"is damaged \(cut short or changed: .*\): do this"),
    (b'{"a": "\xff"}', r"is damaged \(not UTF-8 text\): do this"),
    (b"[1]", r"is damaged \(a JSON list in place of an object\): do this"),
    (b"[" * 100_000, "is damaged"),
    (b'{"b": 1}', "lacks 'a', so it was written by another program or version of jaxfer: do this"),
  ],
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, content, message):
  if content is not None:
    (tmp_path / "file").write_bytes(content)
  with pytest.raises(UserError, match=message) as error:
    files.read_json(tmp_path / "file", "do this", ["a"])
  assert str(error.value).startswith(str(tmp_path / "file"))


def test_rows_are_read_around_damage(tmp_path):
  path = tmp_path / "rows.jsonl"
  assert files.read_rows(path) == ([], "is missing")
  path.write_bytes(b"")
  assert files.read_rows(path) == ([], "")
  path.write_bytes(b'{"a": 1}\n{"a": 2}\n')
  assert files.read_rows(path) == ([{"a": 1}, {"a": 2}], "")
  path.write_bytes(b'{"a": 1}\n\0\0\0\n[3]\n\xff\n{"a": 2}\n{"a": ')
  assert files.read_rows(path) == ([{"a": 1}, {"a": 2}], "has 4 damaged lines (the first is line 2)")
  path.write_bytes(b'{"a": 1}\n{"a": 2')
  assert files.read_rows(path) == ([{"a": 1}], "has a damaged line (the first is line 2)")


def test_csv_comes_back_as_it_was():
  rows = [[name, 3, other] for name, other in zip(HOSTILE, reversed(HOSTILE), strict=True)]
  text = files.csv_text(["x", "y", "z"], rows)
  read = list(csv.reader(io.StringIO(text, newline=""), strict=True))
  assert read == [["x", "y", "z"], *([name, "3", other] for name, _, other in rows)]
  assert files.csv_text(["a", "b"], [["c", 1]]) == "a,b\nc,1\n"


@pytest.mark.parametrize(
  "name",
  [
    ".DS_Store", "._12.json", "Thumbs.db", "thumbs.db", "desktop.ini", "Desktop.ini", ".nfs0000000012", "lost+found",
    "12.json~", ".fuse_hidden0001", ".12.json.swp", "#12.json#", ".#12.json", "@eaDir", "__MACOSX", "Icon\r",
    "12.json:Zone.Identifier", ".Trash-1000", ".directory",
  ],
)  # fmt: skip
def test_files_of_the_operating_system_are_clutter(name):
  assert files.clutter(name)


@pytest.mark.parametrize(
  "name",
  ["12", "12.json", "state", "_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt", ".zarray", ".lock", "d"],
)
def test_files_of_a_checkpoint_are_no_clutter(name):
  assert not files.clutter(name)


# Modules that append to a file, write through another file or row by row, or lock an empty file.
IN_PLACE = {
  ("train/jsonl_log.py", "open"), ("folders.py", "open"), ("folders.py", "write_bytes"), ("data/staging.py", "open"),
  ("inference/rows.py", "open"),
  ("cluster.py", "dumps"), ("train/processes.py", "dumps"),  # Messages between processes, which are not files.
}  # fmt: skip


def test_no_module_writes_a_file_in_place():
  """A kill would leave a partial file. Every file is written by `files.write_atomic`, and JSON by `files.to_json`."""
  root = pathlib.Path(jaxfer.__file__).parent
  found = set()
  for path in sorted(root.rglob("*.py")):
    if path == root / "files.py":
      continue
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      if not isinstance(node, ast.Call):
        continue
      called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
      given = [*node.args, *(keyword.value for keyword in node.keywords)]
      modes = [
        value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)
      ]
      writes = called in ("write_text", "write_bytes", "dump", "dumps", "save_npy")
      writes |= called == "open" and any(set(mode) & set("wax+") and len(mode) <= 3 for mode in modes)
      # Functions of matplotlib and NumPy write through `write_atomic`, to the file that it passes to them.
      writes |= (
        called in ("savefig", "savez", "savez_compressed") and getattr(node.args[0], "id", "") != "file"
      )
      if writes:
        found.add((path.relative_to(root).as_posix(), called))
  assert found == IN_PLACE
