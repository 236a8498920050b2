"""Tests the import of FER2013 and FER+ from drawn copies of their forms, with irregularities and errors."""

import contextlib
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxfer.data import records
from jaxfer.data.datasets.fer2013 import scan, tables
from jaxfer.data.prepare import BadFiles, Findings, prepare
from jaxfer.errors import UserError
from tests.fixtures import fer2013_tree

ROWS = fer2013_tree.rows()


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
  root = tmp_path_factory.mktemp("fer2013")
  fer2013_tree.write_table(root / "fer2013" / "fer2013.csv")
  fer2013_tree.write_votes(root / "ferplus" / "fer2013new.csv")
  return root


@pytest.fixture
def source(whole, tmp_path):
  """A copy that a test may damage."""
  return shutil.copytree(whole, tmp_path / "source")


def _counts(findings):
  return {count.what.strip(): (count.found, count.expected) for count in findings.counts}


def _scan(root, label_source="fer2013"):
  findings = Findings()
  return scan.scan(root, label_source, findings), findings


def _change(path, line, new):
  lines = path.read_text().splitlines()
  lines[line - 1] = new(lines[line - 1])
  path.write_text("\n".join(lines) + "\n")


def test_fer2013_prepared(whole, tmp_path):
  report = prepare("fer2013", whole, tmp_path)
  loaded = records.load("fer2013", tmp_path)
  assert loaded.fingerprint == report.fingerprint
  assert loaded.label_names == fer2013_tree.NAMES
  for i, (code, _, picture) in enumerate(ROWS):
    assert loaded.keys[i] == f"fer{i:07d}"
    assert loaded.arrays["label"][i] == code
    np.testing.assert_array_equal(loaded.arrays["image"][i, ..., 0], picture)
  assert loaded.texts["split"] == ("train",) * 21 + ("validation",) * 7 + ("test",) * 7
  counts = _counts(report.findings)
  assert counts["labelled by fer2013"] == (35, 35887)
  assert [counts[split] for split in ("train", "validation", "test")] == [(21, 28709), (7, 3589), (7, 3589)]
  assert [counts[name] for name in fer2013_tree.NAMES] == [(5, count) for count in scan.CLASS_COUNTS]
  assert (report.findings.bad, report.findings.odd) == ([], [])
  assert sum(scan.CLASS_COUNTS) == sum(scan.SPLIT_COUNTS.values()) == 35887


def test_fer2013_icml_header_with_leading_spaces(whole, tmp_path):
  fer2013_tree.write_table(tmp_path / "here" / "icml_face_data.csv", spaces=True)
  report = prepare("fer2013", tmp_path / "here", tmp_path / "data")
  assert report.fingerprint == prepare("fer2013", whole, tmp_path / "data").fingerprint
  fer2013_tree.write_table(tmp_path / "here" / "fer2013.csv")
  _, findings = _scan(tmp_path / "here")
  assert [problem.path.rpartition("/")[2] for problem in findings.odd] == ["icml_face_data.csv"]


def test_fer2013_quoted_cells_and_other_line_ends(whole, source, tmp_path):
  path = source / "fer2013" / "fer2013.csv"
  lines = path.read_text().splitlines()
  cells = [line.split(",") for line in lines[1:]]
  quoted = ["\ufeff" + lines[0], *(f'"{a}","{b}","{c}"' for a, b, c in cells), ""]
  path.write_bytes("\r\n".join(quoted).encode())
  report = prepare("fer2013", source, tmp_path / "data")
  assert report.fingerprint == prepare("fer2013", whole, tmp_path / "other").fingerprint


def test_fer2013_class_folders_are_alphabetical_and_labels_are_not(tmp_path):
  """The folders sad and surprise follow neutral, but their codes precede that of neutral."""
  fer2013_tree.write_folders(tmp_path / "archive")
  stills, findings = _scan(tmp_path)
  assert len(stills) == 35
  for still in stills:
    code, usage, _ = ROWS[int(still.key.rpartition("_")[2][:-4])]
    assert still.label == code
    assert still.split == tables.USAGES[usage.lower()]  # PublicTest and PrivateTest share their folders.
  assert _counts(findings)["neutral"] == (5, 6198)
  (tmp_path / "archive" / "train" / "6").mkdir()
  (tmp_path / "archive" / "train" / "6" / "Training_99.jpg").write_bytes(b"")
  _, findings = _scan(tmp_path)
  unknown = "1 pictures in a folder that is not named as an emotion of FER2013"
  assert [problem.what for problem in findings.bad] == [unknown]
  with pytest.raises(BadFiles, match=f"train/6: {unknown}"):
    prepare("fer2013", tmp_path / "archive", tmp_path / "data")
  report = prepare("fer2013", tmp_path / "archive", tmp_path / "data", skip_bad=True)
  assert _counts(report.findings)["written"] == (35, 35)


@pytest.mark.parametrize(
  "names",
  [
    ("angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral"),
    ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral"),
    ("ANGRY", "DISGUST", "SCARED", "JOY", "SAD", "SUPRISE", "NEUTRAL"),
    ("0_angry", "1_disgust", "2_fear", "3_happy", "4_sad", "5_surprised", "6_neutral"),
    ("0", "1", "2", "3", "4", "5", "6"),
  ],
)
@pytest.mark.parametrize(
  "splits",
  [("train", "validation", "test"), ("Training", "PublicTest", "PrivateTest"), ("Train_Set", "dev", "eval")],
)
def test_fer2013_folders_by_any_usual_name(tmp_path, names, splits):
  for i, (code, usage, picture) in enumerate(ROWS):
    folder = tmp_path / "X" / splits[("Training", "PublicTest", "PrivateTest").index(usage)] / names[code]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / f"{i}.png")
  stills, findings = _scan(tmp_path)
  assert sorted((int(still.source.path.stem), still.label, still.split) for still in stills) == [
    (i, code, tables.USAGES[usage.lower()]) for i, (code, usage, _) in enumerate(ROWS)
  ]
  assert not findings.bad + findings.odd
  assert any("read as FER2013's codes" in note for note in findings.notes) == (names[0] == "0")


def test_fer2013_numbers_by_the_alphabet_are_refused(tmp_path):
  """Keras and torchvision number sorted folders: neutral 4, sad 5, surprise 6. Surprise is the rarest of the three."""
  for code, count in enumerate((5, 1, 5, 9, 6, 6, 4)):
    for i in range(count):
      path = tmp_path / "train" / str(code) / f"{i}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(b"")
  with pytest.raises(
    UserError, match="its folders 0 to 6 seem to be in alphabetical order, not FER2013's codes"
  ):
    _scan(tmp_path)


@pytest.mark.parametrize("form", ["table", "folders"])
def test_fer2013_a_class_that_is_missing_stops_the_import(tmp_path, source, form):
  root = source / "fer2013"
  if form == "folders":
    root = tmp_path / "folders"
    fer2013_tree.write_folders(root)
    for path in root.glob("*/disgust"):
      shutil.rmtree(path)
  else:
    lines = (root / "fer2013.csv").read_text().splitlines()
    (root / "fer2013.csv").write_text("\n".join(line for line in lines if not line.startswith("1,")))
  with pytest.raises(BadFiles, match="nothing of class 'disgust' in this copy"):
    prepare("fer2013", root, tmp_path / "data")
  report = prepare("fer2013", root, tmp_path / "data", skip_bad=True)
  assert _counts(report.findings)["written"] == (30, 30)
  assert records.load("fer2013", tmp_path / "data").label_names == fer2013_tree.NAMES


def test_ferplus_votes_join_by_row(whole, tmp_path):
  report = prepare("fer2013", whole, tmp_path, label_source="ferplus")
  loaded = records.load("fer2013", tmp_path, label_source="ferplus")
  assert loaded.label_names == fer2013_tree.VOTES[:8]  # The order differs from that of FER2013.
  left_out = {*fer2013_tree.DROPPED, fer2013_tree.SPLIT_VOTE, fer2013_tree.NO_FACE}
  assert loaded.keys == tuple(f"fer{i:07d}" for i in range(35) if i not in left_out)
  assert loaded.arrays["votes"].dtype == np.int32
  for i, key in enumerate(loaded.keys):
    code, _, picture = ROWS[int(key[3:])]
    name = "contempt" if int(key[3:]) == fer2013_tree.CONTEMPT else fer2013_tree.NAMES[code]
    assert loaded.label_names[loaded.arrays["label"][i]] == name
    np.testing.assert_array_equal(loaded.arrays["votes"][i], fer2013_tree.votes(int(key[3:]), code))
    np.testing.assert_array_equal(loaded.arrays["image"][i, ..., 0], picture)
  assert _counts(report.findings)["written"] == (31, 31)


def test_ferplus_empty_names_are_counted_and_left_out(whole):
  _, findings = _scan(whole, "ferplus")
  assert _counts(findings)["rows without a picture's name"] == (2, 173)
  assert _counts(findings)["pictures with votes"] == (33, 35714)
  for note in (
    "2 rows whose picture FER+ dropped (no name): counted, not written",
    "1 pictures without a majority: counted, not written",
    "1 pictures mostly voted unknown or no face: counted, not written",
  ):
    assert note in findings.notes


def test_ferplus_own_folders(whole, tmp_path):
  fer2013_tree.write_ferplus_folders(tmp_path / "FERPlus")
  stills, findings = _scan(tmp_path, "ferplus")
  joined, _ = _scan(whole, "ferplus")
  assert sorted((still.key, still.label, still.split) for still in stills) == [
    (still.key, still.label, still.split) for still in joined
  ]
  assert _counts(findings)["pictures with votes"] == (33, 35710)
  path = tmp_path / "FERPlus" / "data" / "FER2013Train" / "fer0000000.png"
  path.unlink()
  _, findings = _scan(tmp_path, "ferplus")
  assert [problem.what for problem in findings.bad] == ["line 1: 'fer0000000.png' is not beside it"]


def test_ferplus_needs_whole_tables_that_belong_together(source):
  votes = source / "ferplus" / "fer2013new.csv"
  lines = votes.read_text().splitlines()
  votes.write_text("\n".join(lines[:-1]))
  with pytest.raises(
    UserError, match=r"fer2013new.csv has 34 rows and .*fer2013.csv 35: their rows must match"
  ):
    _scan(source, "ferplus")
  votes.write_text("\n".join([lines[0].replace("contempt", "content"), *lines[1:]]))
  with pytest.raises(UserError, match=r"no column 'contempt'; expected the columns of fer2013new\.csv"):
    _scan(source, "ferplus")
  votes.unlink()
  with pytest.raises(
    UserError, match=r"holds no votes of FER\+ with their pictures: expected fer2013new.csv and"
  ):
    _scan(source, "ferplus")


@pytest.mark.parametrize(
  ("votes", "label"),
  [
    ((0, 7, 2, 1, 0, 0, 0, 0, 0, 0), 1),
    ((5, 5, 0, 0, 0, 0, 0, 0, 0, 0), None),  # One half is not a majority.
    ((1, 1, 1, 1, 1, 2, 1, 1, 1, 0), 5),  # Single votes do not count.
    ((1, 1, 1, 1, 1, 1, 1, 1, 1, 1), None),
    ((0, 0, 0, 0, 0, 0, 0, 0, 3, 7), 9),
  ],
)
def test_ferplus_majority(votes, label):
  assert tables.majority(votes) == label


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda line: "7" + line[1:], "line 5: emotion is '7', expected 0"),
    (
      lambda line: line.replace("Training", "Trainig"),
      "line 5: usage 'Trainig': expected Training, PublicTest",
    ),
    (lambda line: line + ",1", "line 5: 4 cells, expected 3"),
    (lambda line: line.replace(" ", " 255 ", 1), "2305 pixels: expected 48 x 48"),
    (lambda line: f"0,{'300 ' * 2304},Training", "pixels are not whole numbers from 0 to 255"),
    (lambda line: f"0,{'x ' * 2304},Training", "pixels are not whole numbers from 0 to 255"),
    (lambda line: f"0,{'0 ' * 2304},Training", "image is constant, black"),
  ],
)
def test_fer2013_a_bad_row_stops_the_import_or_is_left_out(source, tmp_path, change, message):
  _change(source / "fer2013" / "fer2013.csv", 5, change)
  with pytest.raises(BadFiles, match=message) as caught:
    prepare("fer2013", source, tmp_path / "data")
  assert "line 5" in str(caught.value)
  report = prepare("fer2013", source, tmp_path / "data", skip_bad=True)
  assert len(report.findings.bad) == 1
  assert "fer0000003" not in records.load("fer2013", tmp_path / "data").keys
  assert len(records.load("fer2013", tmp_path / "data")) == 34


def test_fer2013_a_line_without_end_is_not_read_whole(source):
  path = source / "fer2013" / "fer2013.csv"
  path.write_bytes(path.read_bytes() + b"0," + b"1" * 200_000)
  stills, findings = _scan(source)
  assert len(stills) == 35
  assert [problem.what for problem in findings.bad] == [
    "line 37: longer than 65536 bytes; the rest of the file was not read"
  ]


def test_fer2013_votes_with_an_endless_cell(tmp_path):
  path = tmp_path / "fer2013new.csv"
  path.write_text(f"usage,image name,nf,{'x' * 200_000}\n")
  with pytest.raises(ValueError, match="not a csv file"):
    tables.read_votes(path)
  path.write_text(
    ",".join(["usage", "image name", *tables.VOTES]) + f"\nTraining,a.png,{'y' * 50_000}{',0' * 9}\n"
  )
  (row,) = tables.read_votes(path)
  assert str(row) == f"line 2: votes are {'y' * 60}: expected counts"


def test_fer2013_a_name_that_is_not_utf8_is_bad(tmp_path):
  source = tmp_path / "source"
  fer2013_tree.write_folders(source)
  picture = next(source.rglob("*.jpg"), None) or next(source.rglob("*.png"))
  picture.rename(os.fsdecode(os.fsencode(picture.parent) + b"/gr\xfc\xdfe" + picture.suffix.encode()))
  with pytest.raises(BadFiles, match=r"gr\\udcfc\\udcdfe.*: its name is not UTF-8"):
    prepare("fer2013", source, tmp_path / "data", crop="whole")


def test_fer2013_duplicates_across_splits_are_reported(source, tmp_path):
  path = source / "fer2013" / "fer2013.csv"
  pixels = path.read_text().splitlines()[1].split(",")[1]
  _change(path, 36, lambda line: ",".join([line.split(",")[0], pixels, line.split(",")[2]]))
  with pytest.raises(
    BadFiles, match=r"fer2013.csv \(line 2\): labelled 'anger', but the same picture .*36\) is labelled"
  ):
    prepare("fer2013", source, tmp_path / "data")
  report = prepare("fer2013", source, tmp_path / "data", skip_bad=True)
  assert [bad.path[-9:] for bad in report.findings.bad] == ["(line 2)"[-9:].rjust(9), "(line 36)"]
  assert _counts(report.findings)["written"] == (33, 35)


def test_fer2013_wrong_folder(tmp_path):
  with pytest.raises(
    UserError, match=r"holds nothing of FER2013: expected fer2013.csv \(emotion,pixels,Usage\)"
  ):
    _scan(tmp_path)
  with pytest.raises(UserError, match="did you mean 'ferplus'"):
    records.make_config("fer2013", {"label_source": "fer+"})


_CELLS = st.one_of(
  st.text(max_size=12), st.sampled_from(["Training", "3", "1 2 3", '"', "inf", "nan", "1e999", ""])
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(_CELLS, max_size=13).map(",".join), max_size=6), st.binary(max_size=50))
def test_fer2013_any_table_gives_rows_or_clear_errors(tmp_path_factory, lines, tail):
  path = tmp_path_factory.mktemp("fuzz") / "x.csv"
  body = "\n".join(lines).encode() + tail
  path.write_bytes(b" emotion , Usage,pixels\n" + body)
  for row in tables.read_rows(path):
    if not isinstance(row, ValueError):
      with contextlib.suppress(ValueError):
        assert len(row.pixels.read()) > 2304
  path.write_bytes(",".join(["Usage", "Image name", *tables.VOTES]).encode() + b"\n" + body)
  for read in (tables.read_votes, lambda path: tables.read_labels(path, "train")):
    with contextlib.suppress(ValueError):
      for row in read(path):
        assert isinstance(row, ValueError) or (len(row.votes) == 10 and min(row.votes) >= 0)
