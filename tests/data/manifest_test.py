"""Tests the import of pictures listed in a csv: all ways to write one, and the errors."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxfer.data import align, records
from jaxfer.data.datasets.manifest import scan, table
from jaxfer.data.prepare import BadFiles, Findings, prepare
from jaxfer.errors import UserError
from tests.fixtures import faces

OPTIONS = {"image_size": 16}
NAMES = ("a", "b", "c", "d")
PEOPLE = dict(zip(NAMES, (1, 1, 2, 3), strict=True))
EMOTIONS = dict(zip(NAMES, ("fear", "anger", "fear", "anger"), strict=True))


@pytest.fixture
def folder(tmp_path):
  folder = tmp_path / "source"
  (folder / "img").mkdir(parents=True)
  for name in NAMES:
    Image.fromarray(faces.draw(PEOPLE[name], EMOTIONS[name], 48)[0]).save(folder / "img" / f"{name}.png")
  return folder


def _write(folder: Path, header: str, *rows: str, name: str = "list.csv", encoding: str = "utf-8") -> Path:
  path = folder / name
  path.write_bytes("".join(f"{line}\n" for line in (header, *rows)).encode(encoding))
  return path


def _plain(folder: Path, column: str = "", values=("", "", "", "")) -> Path:
  rows = (f"img/{name}.png,{EMOTIONS[name]},{value}" for name, value in zip(NAMES, values, strict=True))
  return _write(folder, f"path,label,{column or 'note'}", *rows)


def _scan(source: Path, landmarks: int = 0):
  findings = Findings()
  names, stills = scan.scan(source, landmarks, findings)
  return names, stills, findings


def _counts(findings: Findings) -> dict[str, int]:
  return {count.what.strip(): count.found for count in findings.counts}


def _text(points: np.ndarray) -> str:
  return " ".join(f"{value:.6f}" for value in points.ravel())


def test_every_column(folder, tmp_path):
  marks = {name: faces.draw(PEOPLE[name], EMOTIONS[name], 48)[1] for name in NAMES}
  rows = [
    f"img/{name}.png,{EMOTIONS[name]},P{PEOPLE[name]},{split},film{PEOPLE[name]},{i},1,2,40,44,{_text(marks[name])}"
    f",{'female' if i % 2 else 'male'},2{i},"
    for i, (name, split) in enumerate(zip(NAMES, ("train", "Val", "TEST", ""), strict=True))
  ]
  path = _write(folder, "path,label,subject,split,sequence,frame,x,y,w,h,landmarks,gender,age,race", *rows)
  report = prepare("manifest", path, tmp_path / "data", landmarks=68, **OPTIONS)
  loaded = records.load("manifest", tmp_path / "data", landmarks=68, **OPTIONS)
  assert loaded.keys == tuple(f"img/{name}.png" for name in NAMES)
  assert loaded.label_names == ("anger", "fear")
  assert loaded.arrays["label"].tolist() == [1, 0, 1, 0]
  assert loaded.subjects.tolist() == ["P1", "P1", "P2", "P3"]
  assert loaded.texts == {
    "sequence": ("film1", "film1", "film2", "film3"),
    "split": ("train", "validation", "test", ""),
    "gender": ("male", "female", "male", "female"),
    "age": ("20", "21", "22", "23"),
    "race": ("", "", "", ""),
  }
  assert loaded.arrays["frame"].tolist() == [0, 1, 2, 3]
  for i, name in enumerate(NAMES):
    square = align.points_square(scan.face_points(marks[name].round(6)))
    image = faces.draw(PEOPLE[name], EMOTIONS[name], 48)[0]
    np.testing.assert_array_equal(loaded.arrays["image"][i], align.crop(image, square, 16))
    expected = align.transform(marks[name], align.square_matrix(square, 16))
    np.testing.assert_allclose(loaded.arrays["landmarks"][i], expected, atol=1e-4)
  assert report.fingerprint == loaded.fingerprint
  counts = _counts(report.findings)
  assert counts == {
    "pictures": 4, "subjects": 3, "classes": 2, "anger": 2, "fear": 2, "train": 1, "validation": 1, "test": 1,
    "no split": 1, "written": 4,
  }  # fmt: skip
  assert not report.findings.odd


def test_path_and_label_are_enough(folder, tmp_path):
  _plain(folder)
  report = prepare("manifest", folder, tmp_path / "data", crop="middle", **OPTIONS)
  loaded = records.load("manifest", tmp_path / "data", crop="middle", **OPTIONS)
  assert loaded.subject_names == loaded.keys
  assert loaded.arrays["frame"].tolist() == [-1] * 4
  assert any(note.startswith("people are unknown") for note in report.findings.notes)
  assert [odd.what for odd in report.findings.odd] == ["unknown columns were left out: 'note'"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_spreadsheet(folder, encoding, delimiter, end):
  rows = [
    ["Path", " LABEL ", "subject"],
    ["img/a.png", '"fear, ""great"""', " Müller"],
    [],
    ["img/b.png", "anger", "Ito"],
  ]
  if delimiter != ",":
    rows[1][1] = 'fear, "great"' if delimiter == "\t" else '"fear, ""great"""'
  if delimiter == "\t":
    rows[1][1] = '"fear, ""great"""'
  text = end.join(delimiter.join(row) for row in rows)
  (folder / "list.tsv").write_bytes(text.encode(encoding))
  names, stills, findings = _scan(folder)
  assert names == ("anger", 'fear, "great"')
  assert [still.subject for still in stills] == ["Müller", "Ito"]
  assert not findings.bad + findings.odd


def test_of_several_tables_the_manifest_is_read(folder):
  _plain(folder)
  (folder / "other.csv").write_text("no,table\n")
  with pytest.raises(UserError, match=r"holds 2 tables \(list.csv, other.csv\): give one of them"):
    _scan(folder)
  (folder / "other.csv").unlink()
  _plain(folder).rename(folder / "Manifest.csv")
  (folder / "other.csv").write_text("no,table\n")
  assert len(_scan(folder)[1]) == 4


@pytest.mark.parametrize(
  ("row", "reason"),
  [
    ("img/e.png,fear", "there is no such file"),
    (",fear", "no path"),
    ("img/a.png,", "no label"),
    ("../outside.png,fear", "is outside .*/source: give paths inside the table's folder"),
    ("/etc/hostname,fear", "is outside"),
    ("img/../../outside.png,fear", "is outside"),
    ("img,fear", "there is no such file"),
    ("img/a.png", "line 3 has 1 fields, the header 2"),
    ("img/a.png,fear,more", "line 3 has 3 fields, the header 2"),
    ("img/a.png\0,fear", "not a path"),
    (f"{'x' * 5000},fear", "not a path"),
    (f"{'x' * 300},fear", "there is no such file|cannot be looked up"),
    (rf"img\{'x' * 300},fear", "there is no such file|cannot be looked up"),
  ],
)
def test_bad_rows(folder, row, reason):
  (folder.parent / "outside.png").write_bytes((folder / "img" / "a.png").read_bytes())
  _write(folder, "path,label", "img/b.png,anger", row)
  _, stills, findings = _scan(folder)
  assert [still.key for still in stills] == ["img/b.png"]
  (problem,) = findings.bad
  assert Path(problem.path) == folder / "list.csv"
  assert "line 3" in problem.what
  with pytest.raises(AssertionError, match=reason):
    raise AssertionError(problem.what)


def test_a_long_path_with_backslashes(folder):
  names = [letter * 100 for letter in "abc"]
  file = folder.joinpath(*names, "d.png")
  file.parent.mkdir(parents=True)
  file.write_bytes((folder / "img" / "a.png").read_bytes())
  _write(folder, "path,label", "img/b.png,anger", "\\".join([*names, "d.png"]) + ",fear")
  _, stills, findings = _scan(folder)
  assert [still.source.path for still in stills] == [folder / "img" / "b.png", file]
  assert not findings.bad


def test_a_line_without_end_is_not_read_whole(folder):
  _write(folder, "path,label", "img/b.png,anger", "x," * 600_000)
  with pytest.raises(UserError, match=r"list.csv has a line of more than 1048576 characters: end each row"):
    _scan(folder)


def test_a_class_name_with_a_line_break_is_refused(folder, tmp_path):
  """TFDS stores one name per line, so every later class would get another label."""
  _write(folder, "path,label", "img/a.png,anger", 'img/b.png,"fe\nar"', "img/c.png,joy")
  with pytest.raises(
    UserError, match=r"source .*: a class is called 'fe\\nar': rename it without line breaks"
  ):
    prepare("manifest", folder, tmp_path / "data", crop="whole")


@pytest.mark.parametrize(
  ("columns", "value", "reason"),
  [
    ("split", "fold1", "split is 'fold1': expected train, validation or test"),
    ("frame", "-1", "frame is '-1': expected a whole number"),
    ("x,y,w,h", "1,2,3,", "box is '1,2,3,': expected x, y, w, h in pixels"),
    ("x,y,w,h", "1,2,-3,4", "box 1,2 -3 x 4 has no extent"),
    ("x,y,w,h", "1,nan,3,4", "box 1,nan 3 x 4 has no extent"),
    (
      "landmarks",
      "1 2 3",
      "landmarks are 3 numbers: expected two finite numbers for each of 2, 3, 5, 37, 68 points",
    ),
    ("landmarks", "1 2 3 x", "landmarks are '1 2 3 x': expected x0 y0 x1 y1"),
    ("landmarks", "1 2 3 inf", "landmarks are 4 numbers: expected two finite numbers"),
  ],
)
def test_bad_values(folder, columns, value, reason):
  _write(
    folder,
    f"path,label,{columns}",
    f"img/b.png,fear{',' * (columns.count(',') + 1)}",
    f"img/a.png,fear,{value}",
  )
  _, stills, findings = _scan(folder)
  assert [still.key for still in stills] == ["img/b.png"]
  assert [problem.what for problem in findings.bad] == [f"line 3, 'img/a.png': {findings.bad[0].what[21:]}"]
  assert reason in findings.bad[0].what


def test_bad_rows_stop_the_import_after_all_are_listed(folder, tmp_path, capsys):
  _write(folder, "path,label", "img/a.png,fear", "img/none.png,fear", "../x.png,fear", "img/b.png,anger")
  with pytest.raises(
    BadFiles, match=r"line 3, 'img/none.png': there is no such file \(and 1 more bad files\)"
  ):
    prepare("manifest", folder, tmp_path / "data", crop="middle", **OPTIONS)
  assert "bad files (2):" in capsys.readouterr().err
  assert list((tmp_path / "data").iterdir()) == []
  report = prepare("manifest", folder, tmp_path / "data", crop="middle", skip_bad=True, **OPTIONS)
  assert _counts(report.findings)["written"] == 2
  assert "bad files, left out (2):" in report.table()


def test_duplicate_paths(folder):
  _write(
    folder,
    "path,label,x,y,w,h",
    "img/a.png,fear,,,,",
    "./img/../img/a.png,fear,,,,",
    "img/b.png,anger,,,,",
    "img/b.png,fear,,,,",
    "img/c.png,fear,1,1,20,20",
    "img/c.png,anger,20,1,20,20",
  )
  names, stills, findings = _scan(folder)
  assert [(still.key, names[still.label]) for still in stills] == [
    ("img/a.png", "fear"),
    ("img/b.png", "anger"),
    ("img/b.png#2", "fear"),  # Compared when the pictures are read.
    ("img/c.png", "fear"),
    ("img/c.png#2", "anger"),  # Two faces in one picture.
  ]
  assert [odd.what for odd in findings.odd] == ["listed in line 2 and again in line 3; used once"]
  assert not findings.bad


def test_one_face_under_two_labels_or_in_two_splits(folder, tmp_path):
  """Two faces in one picture may differ in everything, but rows about one face may not."""
  _write(
    folder,
    "path,label,split,x,y,w,h",
    "img/a.png,fear,train,0,0,20,20",
    "img/a.png,anger,test,25,25,20,20",
    "img/a.png,anger,train,1,1,20,20",
    "img/b.png,anger,train,,,,",
    "img/b.png,anger,test,,,,",
    "img/c.png,fear,test,,,,",
  )
  with pytest.raises(
    BadFiles, match=r"labelled 'fear', but .*a.png \(list.csv, line 4, box 1,1 20 x 20\) is labelled"
  ):
    prepare("manifest", folder, tmp_path / "data", **OPTIONS)
  report = prepare("manifest", folder, tmp_path / "data", skip_bad=True, **OPTIONS)
  keys = records.load("manifest", tmp_path / "data", **OPTIONS).keys
  assert keys == ("img/a.png#2", "img/b.png#2", "img/c.png")
  assert len(report.findings.bad) == 3
  with pytest.raises(
    BadFiles, match="and 3 more bad files"
  ):  # Whole pictures, for which the boxes do not matter.
    prepare("manifest", folder, tmp_path / "data", crop="whole", **OPTIONS)


@pytest.mark.parametrize(
  ("columns", "value", "message"),
  [
    (
      "x,y,w,h",
      "0,0,8000,8000",
      r"line 2, box 0,0 8000 x 8000: .* reaches 7952 pixels beyond the 48 x 48 image",
    ),
    ("x,y,w,h", "0,0,100000,100000", "reaches 99952 pixels beyond"),
    ("x,y,w,h", "10,10,20,1e300", "reaches .* pixels beyond"),
    ("x,y,w,h", "-900,-900,1800,1800", "reaches 900 pixels beyond"),
    ("x,y,w,h", "500,0,10,10", "is outside the 48 x 48 image"),
    (
      "landmarks",
      "10 20 9000 20",
      "line 2: point 1 of the face, 9000,20, is far outside the 48 x 48 image",
    ),
    ("landmarks", "10 20 30 1e200", "point 1 of the face, 30,1e\\+200, is far outside"),
  ],
)
def test_boxes_and_landmarks_far_outside_are_bad(folder, tmp_path, columns, value, message):
  rows = ("img/a.png,fear,", "img/b.png,anger,", "img/c.png,fear,")
  empty = "," * columns.count(",")
  _write(folder, f"path,label,{columns}", rows[0] + value, rows[1] + empty, rows[2] + empty)
  with pytest.raises(
    BadFiles, match=rf"img/a.png: list.csv, {message if 'line' in message else '.*' + message}"
  ):
    prepare("manifest", folder, tmp_path / "data", **OPTIONS)
  report = prepare("manifest", folder, tmp_path / "data", skip_bad=True, **OPTIONS)
  assert _counts(report.findings)["written"] == 2


def test_a_box_a_little_over_the_edge_is_taken(folder, tmp_path):
  _write(folder, "path,label,x,y,w,h", "img/a.png,fear,-5,-5,60,60", "img/b.png,anger,30,30,30,30")
  report = prepare("manifest", folder, tmp_path / "data", **OPTIONS)
  assert _counts(report.findings)["written"] == 2
  loaded = records.load("manifest", tmp_path / "data", **OPTIONS)
  image = faces.draw(PEOPLE["b"], EMOTIONS["b"], 48)[0]
  np.testing.assert_array_equal(loaded.arrays["image"][1], align.crop(image, align.Square(30, 30, 30), 16))


def test_subjects_missing_in_places_are_bad(folder):
  _plain(folder, "subject", ("P1", "", "P2", "P3"))
  _, stills, findings = _scan(folder)
  assert len(stills) == 3
  assert [(bad.path, bad.what) for bad in findings.bad] == [
    ("img/b.png", "no subject, although others have one")
  ]


def test_paths_from_windows(folder):
  _write(folder, "path,label", r"img\a.png,fear", r".\img\b.png,fear")
  _, stills, _ = _scan(folder)
  assert [still.key for still in stills] == ["img/a.png", "img/b.png"]


def test_numbers_as_labels_sort_as_numbers(folder):
  _write(folder, "path,label", "img/a.png,10", "img/b.png,9", "img/c.png,1")
  assert _scan(folder)[0] == ("1", "9", "10")


def test_missing_landmarks_are_counted_and_others_refused(folder, tmp_path):
  marks = faces.draw(1, "fear", 48)[1]
  _plain(folder, "landmarks", (_text(marks), "", _text(marks[:2]), _text(marks)))
  _, stills, findings = _scan(folder, landmarks=68)
  assert len(stills) == 3
  assert [bad.what for bad in findings.bad] == [
    "line 4, 'img/c.png': 2 landmarks: option landmarks asks for 68"
  ]
  assert "1 of 3 pictures have no landmarks: written as NaN" in findings.notes
  report = prepare("manifest", folder, tmp_path / "data", landmarks=68, skip_bad=True, **OPTIONS)
  loaded = records.load("manifest", tmp_path / "data", landmarks=68, **OPTIONS)
  assert np.isnan(loaded.arrays["landmarks"]).all(axis=(1, 2)).tolist() == [False, True, False]
  assert loaded.fingerprint == report.fingerprint
  with pytest.raises(UserError, match=r"manifest\.landmarks=4: give a whole number, 0, 2, 3, 5, 37 or 68"):
    prepare("manifest", folder, tmp_path / "data", landmarks=4, **OPTIONS)


def test_points_that_place_the_face():
  marks = faces.draw(1, "fear", 48)[1]
  five = scan.face_points(marks)
  assert five.shape == (5, 2)
  # Left and right are those of the picture.
  np.testing.assert_allclose(scan.face_points(five[[1, 0, 2, 4, 3]]), five)
  np.testing.assert_allclose(scan.face_points(five[[1, 0]]), five[:2])
  # The eyes in reverse order.
  raf = np.concatenate([marks[17:23], marks[27:34], marks[42:48], marks[36:42], marks[48:60]])
  np.testing.assert_allclose(scan.face_points(raf), [*five[:2], five[3:].mean(axis=0)])


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "has no column path, label: expected a header with path, label and possibly subject"),
    (b"file,label\n", "has no column path: .*found 'file, label'"),
    (b"path,label\n", "has a header but no rows"),
    (b"path,label,Label\n", "has the column label twice"),
    (b'path,label\nimg/a.png,"fear\nimg/b.png,anger\n', "list.csv, line [0-9]+: .*is a quote left open"),
    (b"path,label\nimg/a.png,gr\xfc\xdfe\n", "is not UTF-8 text .*: save it as UTF-8"),
    (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is not UTF-8 text|has no column"),
    (b"path,label" + b",x" * 40000, "its first line is longer than 65536 characters"),
    (b"path,label\nimg/a.png," + b"x" * 200000 + b"\n", "line 2: field larger than field limit"),
  ],
)
def test_files_that_are_not_tables(folder, content, message):
  (folder / "list.csv").write_bytes(content)
  with pytest.raises(UserError, match=message) as caught:
    _scan(folder)
  assert str(folder) in str(caught.value)
  assert "\n" not in str(caught.value)


def test_folder_without_table(folder, tmp_path):
  with pytest.raises(UserError, match=r"holds no .csv or .tsv: give the table"):
    _scan(folder)
  with pytest.raises(UserError, match=r"source .*/nowhere.csv is not a folder or file"):
    prepare("manifest", tmp_path / "nowhere.csv", tmp_path / "data")
  with pytest.raises(UserError, match=r"source .*/a.png is not a folder"):
    prepare("image_folder", folder / "img" / "a.png", tmp_path / "data")


def _assert_one_line(error: Exception) -> None:
  assert "\n" not in str(error)


LINES = st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=8)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
  lines=LINES,
  header=st.sampled_from(["path,label", "path;label;landmarks", "path\tlabel\tx\ty\tw\th\tframe", ""]),
)
def test_any_text_raises_nothing_but_user_errors(folder, lines, header):
  (folder / "list.csv").write_bytes(
    "\n".join([header, "img/a.png,fear", *lines]).encode("utf-8", "surrogatepass")
  )
  try:
    names, stills, findings = _scan(folder)
  except UserError as error:
    _assert_one_line(error)
  else:
    assert all(0 <= still.label < len(names) for still in stills)
    assert all("\n" not in problem.what for problem in findings.bad)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_bytes_raise_nothing_but_user_errors(folder, data):
  (folder / "list.csv").write_bytes(data)
  with pytest.raises(UserError, match=r"list.csv"):
    _scan(folder)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_any_landmarks_raise_nothing_but_value_errors(text):
  try:
    points = scan.read_landmarks(text)
  except ValueError as error:
    _assert_one_line(error)
  else:
    assert points is None or len(points) in scan.POINTS


def test_long_values_are_cut_in_messages():
  assert table.shown("x" * 100) == repr("x" * 57 + "...")
