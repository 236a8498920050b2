"""Tests the import of KDEF from a drawn copy of the distributor's folders, with irregularities and errors."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxfer.data import folds, records
from jaxfer.data.datasets.kdef import scan
from jaxfer.data.prepare import BadFiles, Findings, prepare
from jaxfer.errors import UserError
from tests.fixtures import kdef_tree


@pytest.fixture(scope="session")
def whole_tree(tmp_path_factory):
  root = tmp_path_factory.mktemp("kdef")
  kdef_tree.write(root)
  return root


@pytest.fixture
def tree(whole_tree, tmp_path):
  """A copy that a test may damage."""
  return shutil.copytree(whole_tree, tmp_path / "tree")


def _scan(root, angle="straight"):
  findings = Findings()
  return scan.scan(root, angle, findings), findings


def _counts(findings):
  return {count.what.strip(): (count.found, count.expected) for count in findings.counts}


def test_kdef_prepared(whole_tree, tmp_path):
  report = prepare("kdef", whole_tree, tmp_path)
  loaded = records.load("kdef", tmp_path)
  assert loaded.fingerprint == report.fingerprint
  assert loaded.arrays["image"].shape == (42, 64, 64, 1)
  assert loaded.label_names == scan.LABELS
  counts = _counts(report.findings)
  assert counts["pictures"] == (210, 4900)
  assert (counts["people and sessions"], counts["subjects"]) == ((6, 140), (3, 70))
  assert counts["pictures, angle straight"] == (42, 980)
  assert [counts[name] for name in scan.LABELS] == [(6, 140)] * 7
  assert counts["averaged faces"] == (70, 70)
  assert counts["written"] == (42, 42)
  assert report.findings.bad == []
  for key, label, angle in zip(loaded.keys, loaded.arrays["label"], loaded.texts["angle"], strict=True):
    assert kdef_tree.NAMES[key[4:6]] == loaded.label_names[label]
    assert (key[6:], angle) == ("S", "S")


def test_kdef_sessions_are_one_person(whole_tree, tmp_path):
  prepare("kdef", whole_tree, tmp_path)
  loaded = records.load("kdef", tmp_path)
  assert loaded.subject_names == ("F01", "F31", "M31")
  fold = folds.person_independent_folds(loaded.subjects, 3)
  for person in kdef_tree.PEOPLE:
    own = np.array([key[1:4] == person for key in loaded.keys])
    assert (len(set(fold[own])), set(np.array(loaded.texts["session"])[own])) == (1, {"A", "B"})


def test_kdef_misnamed_files_are_inferred(whole_tree):
  stills, findings = _scan(whole_tree, "all")
  files = {still.key: str(still.source).rpartition("/")[2] for still in stills}
  assert len(files) == 210
  assert (files["AF31SAHL"], files["AM31SUHR"]) == ("AF31V.JPG", "AM31H.JPG")
  assert {(problem.path.rpartition("/")[2], problem.what) for problem in findings.odd} == {
    ("AF31V.JPG", "misnamed; used as AF31SAHL"),
    ("AM31H.JPG", "misnamed; used as AM31SUHR"),
    ("FAHR.JPG", "misnamed; used as FAFHR"),
  }


def test_kdef_misnamed_file_whose_place_is_taken(tree):
  folder = tree / kdef_tree.ROOT / "KDEF" / "AF31"
  shutil.copy(folder / "AF31V.JPG", folder / "AF31SAHL.JPG")
  stills, findings = _scan(tree, "all")
  assert len(stills) == 210
  assert any("the picture it should be exists already" in problem.what for problem in findings.odd)


def test_kdef_codes_are_read_by_position(whole_tree):
  """AF means both "session A, female" and "afraid"."""
  stills, _ = _scan(whole_tree, "all")
  chosen = {still.key: still for still in stills}["AF01AFFL"]
  assert (chosen.subject, scan.LABELS[chosen.label]) == ("F01", "fear")
  assert chosen.extras == {"session": "A", "angle": "FL"}


@pytest.mark.parametrize(("angle", "each"), [("straight", 1), ("half", 2), ("full", 2), ("all", 5)])
def test_kdef_angles(whole_tree, angle, each):
  stills, findings = _scan(whole_tree, angle)
  assert len(stills) == 42 * each
  assert _counts(findings)[f"pictures, angle {angle}"] == (42 * each, 980 * each)
  assert {still.extras["angle"] for still in stills} == set(scan.ANGLES[angle])


def test_kdef_black_files_are_found_by_content(whole_tree, tmp_path):
  with pytest.raises(BadFiles) as caught:
    prepare("kdef", whole_tree, tmp_path, angle="all")
  bad = [(problem.path.rpartition("/")[2], problem.what[:14]) for problem in caught.value.findings.bad]
  assert bad == [(f"{name}.JPG", "image is black") for name in kdef_tree.BLACK]
  report = prepare("kdef", whole_tree, tmp_path, angle="all", skip_bad=True)
  assert _counts(report.findings)["written"] == (208, 210)
  (belief,) = report.findings.beliefs
  assert (belief.holds, belief.seen) == (False, "2 files of that size, 0 straight")


def test_kdef_averaged_faces_are_refused(whole_tree, tree):
  stills, findings = _scan(whole_tree, "all")
  assert not any(len(still.key) < 7 for still in stills)
  assert any(
    note.startswith("70 averaged faces (AKDEF) left out: each averages many people")
    for note in findings.notes
  )
  shutil.rmtree(tree / kdef_tree.ROOT / "KDEF")
  with pytest.raises(
    UserError, match=r"holds no pictures of KDEF \(its 70 averaged faces, AKDEF, each average many people"
  ):
    _scan(tree)


def test_kdef_other_nestings_and_oddities(tree, tmp_path):
  source = tmp_path / "other"
  shutil.move(tree / kdef_tree.ROOT / "KDEF", source)
  (source / "AF01" / "AF01AFS.JPG").rename(source / "AF01" / "af01afs.jpeg")
  shutil.move(source / "AF01" / "AF01ANS.JPG", source / "BF01")
  shutil.copytree(source / "BM31", source / "z" / "BM31")
  (source / "AF01" / "AF01XXS.JPG").write_bytes(b"")
  (source / "notes.txt").write_text("")
  stills, findings = _scan(source)
  assert len(stills) == 42
  whats = [problem.what for problem in findings.odd]
  assert "is in the folder of BF01, which contradicts its name; the name was used" in whats
  assert "its name is not that of a picture of KDEF; left out" in whats
  assert sum("a second copy of" in what for what in whats) == 35
  assert "1 files whose names are not those of JPEG files were left out" in findings.notes


def test_kdef_half_copied_tree(tree, tmp_path):
  for path in tree.rglob("*S.JPG"):
    path.unlink()
  with pytest.raises(UserError, match="holds 168 pictures of KDEF but none with angle=straight"):
    _scan(tree)
  with pytest.raises(UserError, match=r"expected KDEF/AF01/AF01AFFL\.JPG in it or below it"):
    _scan(tmp_path / "tree" / kdef_tree.ROOT / "ReadThis")


def test_kdef_the_middle_square_is_taken(whole_tree, tmp_path):
  report = prepare("kdef", whole_tree, tmp_path, image_size=24)
  assert "faces cut out: 42 the middle square" in report.findings.notes
  loaded = records.load("kdef", tmp_path, image_size=24)
  path = whole_tree / kdef_tree.ROOT / "KDEF" / "AF01" / "AF01AFS.JPG"
  expected = np.asarray(Image.open(path).convert("L"), int)[4:28]
  assert np.abs(loaded.arrays["image"][0, ..., 0] - expected).max() <= 1


def test_kdef_options_are_checked():
  with pytest.raises(UserError, match="did you mean 'straight'"):
    records.make_config("kdef", {"angle": "strait"})


@settings(max_examples=60, deadline=None)
@given(st.from_regex(r"[ABab]?[FMfm]\d{0,3}[A-Za-z]{0,6}", fullmatch=True))
def test_kdef_any_name_is_a_picture_or_odd(tmp_path_factory, name):
  folder = tmp_path_factory.mktemp("names")
  files = {f"{stem}.jpg" for stem in (name, "AM35NES")}
  for file in files:
    (folder / file).write_bytes(b"")
  stills, findings = _scan(folder, "all")
  averaged = _counts(findings)["averaged faces"][0]
  left_out = sum(problem.what.endswith("left out") for problem in findings.odd)
  assert len(stills) + left_out + averaged == len(files)
  assert all(len(still.subject) == 3 for still in stills)
