import pytest

from jaxfer.data import tree


def test_files_are_found_in_order_at_any_depth_without_clutter(tmp_path):
  for name in ("b/2.txt", "b/c/d/1.txt", "a/._x.txt", "__MACOSX/3.txt", "a/Thumbs.db", ".git/4.txt", "z.txt"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("")
  found = [str(path.relative_to(tmp_path)) for path in tree.walk(tmp_path)]
  assert found == ["z.txt", "b/2.txt", "b/c/d/1.txt"]


def test_a_link_in_a_circle_ends(tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "a" / "x.txt").write_text("")
  (tmp_path / "a" / "round").symlink_to(tmp_path)
  assert 1 <= len(list(tree.walk(tmp_path))) <= 10


def test_texts_are_bounded_and_always_decoded(tmp_path):
  path = tmp_path / "x.txt"
  path.write_bytes(b"\xef\xbb\xbfname \xff\r\n")
  assert tree.read_text(path) == "name \ufffd\r\n"
  with pytest.raises(ValueError, match="text is longer than 9 bytes"):
    tree.read_text(path, 9)


def test_tables_are_directly_in_the_folder(tmp_path):
  for name in ("a.CSV", "b.tsv", "c.txt", ".d.csv", "sub/e.csv"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
  assert [path.name for path in tree.tables(tmp_path)] == ["a.CSV", "b.tsv"]
  assert tree.tables(tmp_path / "c.txt") == [tmp_path / "c.txt"]
