"""Tests the import of Nagoya's data set from copies in forms that owners may use."""

import contextlib
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxfer.data import align, records
from jaxfer.data.datasets.nagoya import scan
from jaxfer.data.prepare import BadFiles, Findings, prepare
from jaxfer.errors import UserError
from tests.fixtures import nagoya_tree

PATTERNS = {nagoya_tree.path(*pattern): pattern for pattern in nagoya_tree.patterns()}


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
  root = tmp_path_factory.mktemp("nagoya")
  nagoya_tree.write_table(root)
  return root


@pytest.fixture
def source(whole, tmp_path):
  """A copy that a test may damage."""
  return shutil.copytree(whole, tmp_path / "source")


def _counts(findings):
  return {count.what.strip(): (count.found, count.expected) for count in findings.counts}


def _scan(root, subject_pattern="", ratings=""):
  findings = Findings()
  return scan.scan(root, subject_pattern, str(ratings), findings), findings


def _change(path, line, old, new):
  lines = path.read_text().splitlines()
  assert old in lines[line - 1]
  lines[line - 1] = lines[line - 1].replace(old, new)
  path.write_text("\n".join(lines) + "\n")


def test_nagoya_prepared_from_a_table(whole, tmp_path):
  report = prepare("nagoya", whole, tmp_path)
  loaded = records.load("nagoya", tmp_path)
  assert loaded.fingerprint == report.fingerprint
  assert loaded.arrays["image"].shape == (72, 112, 112, 3)
  assert loaded.label_names == nagoya_tree.NAMES
  assert loaded.subject_names == nagoya_tree.PEOPLE
  counts = _counts(report.findings)
  assert (counts["stills"], counts["subjects"]) == ((72, 3996), (2, 111))
  assert (counts["joy"], counts["sadness"], counts["written"]) == ((12, None), (6, None), (72, 72))
  for key, label, method in zip(loaded.keys, loaded.arrays["label"], loaded.texts["method"], strict=True):
    assert (method, loaded.label_names[label]) == PATTERNS[key][1:3]
  assert not loaded.arrays["votes"].any()


def test_nagoya_classes_are_in_the_papers_order():
  assert [name[:3] for name in scan.LABELS] == ["joy", "sad", "fea", "sur", "ang", "dis", "exc", "rel", "neu"]


def test_nagoya_only_stills_of_the_front_camera(whole):
  stills, findings = _scan(whole)
  assert len(stills) == 72
  (note,) = [note for note in findings.notes if note.startswith("only stills of the front camera")]
  assert all(f"72 of {camera} camera, video" in note for camera in nagoya_tree.CAMERAS)


def test_nagoya_a_person_by_one_method_shows_twelve(whole, source):
  (belief,) = _scan(whole)[1].beliefs
  assert (belief.holds, belief.seen) == (True, "true for 6 of 6")
  _change(source / "manifest.csv", 2, ",joy,", ",fear,")
  (belief,) = _scan(source)[1].beliefs
  assert (belief.holds, belief.seen) == (False, "true for 5 of 6")


def test_nagoya_faces_come_to_the_template_where_all_have_points(whole, source, tmp_path):
  report = prepare("nagoya", whole, tmp_path)
  assert "faces cut out: 72 distributor's points" in report.findings.notes
  image = records.load("nagoya", tmp_path).arrays["image"][0]
  key = records.load("nagoya", tmp_path).keys[0]
  matrix = align.similarity(nagoya_tree.landmarks(*PATTERNS[key]), align.TEMPLATE_112)
  picture = np.asarray(Image.open(whole / key).convert("RGB"))
  difference = np.abs(image.astype(int) - align.warp(picture, matrix, 112))
  assert difference.mean() < 1  # The table rounds the points.
  lines = (source / "manifest.csv").read_text().splitlines()
  lines[1] = lines[1].rpartition(",")[0] + ","
  (source / "manifest.csv").write_text("\n".join(lines))
  stills, findings = _scan(source)
  assert any(note.startswith("only 71 of 72 have face landmarks") for note in findings.notes)
  config = records.make_config("nagoya", {})
  builder = records.open_builder("nagoya", config, tmp_path)
  assert (builder.crop(stills[1:]), builder.crop(stills)) == ("template", "auto")
  assert (
    records.open_builder("nagoya", records.make_config("nagoya", {"crop": "whole"}), tmp_path).crop([])
    == "whole"
  )
  with pytest.raises(UserError, match="crop"):
    records.make_config("nagoya", {"crop": "square"})


def test_nagoya_ratings_of_each_picture(source, tmp_path):
  ratings = source / "ratings.csv"
  nagoya_tree.write_ratings(ratings)
  report = prepare("nagoya", source, tmp_path / "data", ratings=str(ratings))
  loaded = records.load("nagoya", tmp_path / "data")  # The place of the ratings does not matter.
  votes = loaded.arrays["votes"]
  assert (votes.shape, votes.dtype) == ((72, 10), np.int32)
  assert (votes.sum(axis=1) == 5).all()
  assert (votes[:, 9] == 1).all()
  for row, label in zip(votes, loaded.arrays["label"], strict=True):
    assert row[label] == 2 + (label in (0, 8))
  counts = _counts(report.findings)
  assert (counts["raters"], counts["rated stills"]) == ((36, 36), (72, 72))
  beliefs = {belief.claim: belief.holds for belief in report.findings.beliefs}
  assert beliefs["at least five ratings per still"]
  # Two of five answers are right, and so are neutral and joyful answers to such pictures: 2/5 + (6 + 12) / 360.
  assert (
    "raters named the intended class in 45.0 % of 360 answers (paper 004: 34.1 %)" in report.findings.notes
  )


def test_nagoya_odd_ratings(source):
  ratings = source / "ratings.csv"
  nagoya_tree.write_ratings(ratings)
  lines = ratings.read_text(encoding="utf-8").splitlines()
  lines[1] = lines[1].replace(",joy", ",glee")
  lines[3] = lines[2]
  lines[4] = "stills/none.png,R01,joy"
  ratings.write_text("\n".join(lines), encoding="utf-8")
  _, findings = _scan(source, ratings=ratings)
  assert [problem.what.partition(": ")[2][:25] for problem in findings.bad] == [
    "'glee' is not one of joy,",
    "rater R01 answered twice",
  ]
  assert [problem.what for problem in findings.odd] == [
    "1 answers for 1 pictures that are not used, the first stills/none.png"
  ]


def test_nagoya_class_folders(tmp_path):
  nagoya_tree.write_folders(tmp_path / "source")
  pattern = r"/(P\d{3})_"
  stills, findings = _scan(tmp_path / "source", pattern)
  assert len(stills) == 72
  assert {still.subject for still in stills} == set(nagoya_tree.PEOPLE)
  assert all(scan.LABELS[still.label] == still.key.partition("/")[0] for still in stills)
  ratings = tmp_path / "ratings.csv"
  ratings.write_text(f"path,rater,emotion\n{stills[0].key},R1,happy\n")
  stills, findings = _scan(tmp_path / "source", pattern, ratings)
  assert stills[0].extras["votes"].tolist() == [1] + [0] * 9
  assert _counts(findings)["rated stills"] == (1, 72)
  report = prepare(
    "nagoya", tmp_path / "source", tmp_path / "data", subject_pattern=pattern, crop="middle", image_size=16
  )
  assert "faces cut out: 72 the middle square" in report.findings.notes


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    (",joy,", ",bliss,", "'bliss' is not one of joy, sadness"),
    ("P001,joy", ",joy", "no subject"),
    (".png", ".jpg", "there is no such file"),
    ("stills/", "../stills/", "is outside"),
    (",still,", ",still,1 2 ", "landmarks are 12 numbers"),
  ],
)
def test_nagoya_a_bad_row_stops_the_import_or_is_left_out(source, tmp_path, old, new, message):
  _change(source / "manifest.csv", 2, old, new)
  with pytest.raises(BadFiles, match=message) as caught:
    prepare("nagoya", source, tmp_path / "data", crop="middle")
  assert "line 2" in str(caught.value)
  report = prepare("nagoya", source, tmp_path / "data", crop="middle", skip_bad=True)
  assert (_counts(report.findings)["written"], len(report.findings.bad)) == ((71, 71), 1)


def test_nagoya_a_picture_named_twice(source):
  path = source / "manifest.csv"
  lines = path.read_text().splitlines()
  path.write_text("\n".join([*lines, lines[1]]))
  stills, findings = _scan(source)
  assert len(stills) == 72
  assert [problem.what.rpartition(": ")[2] for problem in findings.bad] == ["already listed in line 2"]


def test_nagoya_wrong_sources(source):
  with pytest.raises(UserError, match="holds pictures in no class folder"):
    _scan(source / "stills")
  (source / "manifest.csv").write_text("path,subject,emotion,camera\nx.png,P1,joy,up\n")
  with pytest.raises(UserError, match="lists no stills of the front camera"):
    _scan(source)


_WORDS = st.one_of(
  st.text(max_size=12), st.sampled_from(["joy", "front", "still", "P1", '"', "1 2 3 4", "R1", "."])
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(_WORDS, max_size=7).map(",".join), max_size=5))
def test_nagoya_any_table_gives_stills_or_clear_errors(tmp_path_factory, lines):
  folder = tmp_path_factory.mktemp("fuzz")
  body = "\n".join(lines).encode(errors="replace")
  (folder / "x.csv").write_bytes(b"path,subject,emotion,method,camera,kind,landmarks\n" + body)
  with contextlib.suppress(UserError):
    assert _scan(folder)[0] == []
  (folder / "picture.png").write_bytes(b"")
  (folder / "x.csv").write_text("path,subject,emotion\npicture.png,P1,joy\n")
  (folder / "ratings.csv").write_bytes(b"path,rater,emotion\npicture.png,R,joy\n" + body)
  with contextlib.suppress(UserError):
    (still,) = _scan(folder, ratings=folder / "ratings.csv")[0]
    assert still.extras["votes"].sum() >= 1
