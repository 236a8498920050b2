"""Tests the import of RAF-DB from a drawn copy of the distributor's folders, with irregularities and errors."""

import contextlib
import shutil
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfer.data import heatmap, records
from jaxfer.data.datasets.raf_db import annotations, scan
from jaxfer.data.prepare import BadFiles, Findings, prepare
from jaxfer.errors import UserError
from tests.fixtures import raf_db_tree


@pytest.fixture(scope="session")
def whole_tree(tmp_path_factory):
  root = tmp_path_factory.mktemp("raf_db")
  raf_db_tree.write(root)
  return root


@pytest.fixture
def tree(whole_tree, tmp_path):
  """An unpacked copy that a test may damage."""
  root = shutil.copytree(whole_tree, tmp_path / "tree")
  for path in list(root.rglob("*.zip")):
    with zipfile.ZipFile(path) as packed:
      packed.extractall(path.parent)
    path.unlink()
  return root


def _scan(root, subset="basic", image="aligned"):
  findings = Findings()
  return scan.scan(root, subset, image, findings), findings


def _counts(findings):
  return {count.what.strip(): count.found for count in findings.counts}


def _file(root, kind, name, subset="basic"):
  return root / "RAF-DB" / subset / kind / name


def test_raf_db_prepared(whole_tree, tmp_path):
  report = prepare("raf_db", whole_tree, tmp_path)
  loaded = records.load("raf_db", tmp_path)
  assert loaded.fingerprint == report.fingerprint
  assert loaded.arrays["image"].shape == (28, 100, 100, 3)
  assert loaded.label_names == scan.LABELS["basic"]
  assert (report.findings.bad, report.findings.odd) == ([], [])
  counts = {count.what.strip(): (count.found, count.expected) for count in report.findings.counts}
  assert counts["pictures listed"] == (28, 15339)
  assert (counts["train"], counts["test"]) == ((21, 12271), (7, 3068))
  assert (counts["train, fear"], counts["test, neutral"]) == ((3, 281), (1, 680))
  assert counts["written"] == (28, 28)
  listed = dict(raf_db_tree.names("basic"))
  for i, key in enumerate(loaded.keys):
    assert loaded.arrays["label"][i] == listed[key] - 1
    assert loaded.subjects[i] == key  # The people are unknown.
  for name, words in annotations.ATTRIBUTES.items():  # The drawn copy uses all codes in turn.
    in_order = [loaded.texts[name][loaded.keys.index(key)] for key, _ in raf_db_tree.names("basic")]
    assert in_order == [words[i % {"gender": 3, "race": 2, "age": 5}[name]] for i in range(28)]
  assert loaded.texts["split"] == tuple(key.partition("_")[0] for key in loaded.keys)


def test_raf_db_expected_counts_are_those_of_the_paper():
  assert [sum(counts) for counts in scan.BASIC_COUNTS.values()] == [12271, 3068]


def test_raf_db_the_order_of_the_list_is_kept(whole_tree, tmp_path):
  report = prepare("raf_db", whole_tree, tmp_path)
  loaded = records.load("raf_db", tmp_path)
  by_order = [loaded.keys[i] for i in np.argsort(loaded.arrays["order"])]
  assert by_order == [name for name, _ in raf_db_tree.names("basic")]
  assert by_order != sorted(by_order)
  assert sum("ARM" in note for note in report.findings.notes) == 1


def test_raf_db_landmarks_follow_the_alignment(whole_tree, tmp_path):
  """Eyes and mouth of the drawn faces are mapped to the template, so heatmaps match the aligned pictures."""
  prepare("raf_db", whole_tree, tmp_path)
  loaded = records.load("raf_db", tmp_path)
  landmarks = loaded.arrays["landmarks"]
  assert (landmarks.shape, landmarks.dtype) == ((28, 37, 2), np.float32)
  listed = dict(raf_db_tree.names("basic"))
  for points, key in zip(landmarks, loaded.keys, strict=True):
    np.testing.assert_allclose(points[13:19].mean(0), [25.5, 35.5], atol=1e-3)
    np.testing.assert_allclose(points[19:25].mean(0), [75.5, 35.5], atol=1e-3)
    np.testing.assert_allclose(points[[25, 31]].mean(0), [50.5, 75.5], atol=1e-3)
    _, original, five = raf_db_tree.original("basic", key, listed[key])
    matrix = heatmap.alignment(five)
    np.testing.assert_allclose(points - 0.5, original @ matrix[:, :2].T + matrix[:, 2], atol=1e-3)
  assert heatmap.checked(landmarks) == 0


def test_raf_db_packed_inner_zips(whole_tree, tree, tmp_path):
  packed = prepare("raf_db", whole_tree, tmp_path / "a")
  assert {note for note in packed.findings.notes if "packed" in note} == {
    "aligned.zip is packed: 28 files were taken from it",
    "manual.zip is packed: 28 files were taken from it",
  }
  unpacked = prepare("raf_db", tree, tmp_path / "b")
  assert not any("packed" in note for note in unpacked.findings.notes)
  assert packed.fingerprint == unpacked.fingerprint


def test_raf_db_damaged_zip(whole_tree, tmp_path):
  root = shutil.copytree(whole_tree, tmp_path / "tree")
  path = _file(root, "Image", "aligned.zip")
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  _, findings = _scan(root)
  assert (findings.bad[0].path, findings.bad[0].what[:18]) == (str(path), "cannot be unpacked")
  assert len(findings.bad) == 1 + 28


@pytest.mark.parametrize("spelling", ["list_patition_label.txt", "list_partition_label.txt"])
def test_raf_db_both_spellings_of_the_list(tree, spelling):
  folder = tree / "RAF-DB" / "basic" / "EmoLabel"
  next(folder.iterdir()).rename(folder / spelling)
  assert len(_scan(tree)[0]) == 28
  shutil.copy(folder / spelling, folder / "LIST_PATITION_LABEL.TXT")
  assert len(_scan(tree)[0]) == 28


def test_raf_db_compound_is_recognised_by_its_list(tree, tmp_path):
  stills, findings = _scan(tree, "compound")
  assert (len(stills), findings.bad) == (44, [])
  assert {still.label for still in stills} == set(range(11))
  assert {still.key for still in stills if still.split == "test"} == {f"test_{i:03d}" for i in range(1, 12)}
  shutil.move(tree / "RAF-DB" / "compound", tmp_path / "here")
  with pytest.raises(UserError, match=r"holds no compound subset of RAF-DB \(it holds the basic subset\)"):
    _scan(tree, "compound")
  with pytest.raises(UserError, match=r"holds no basic subset .*: expected EmoLabel/list_patition_label.txt"):
    _scan(tmp_path / "here")
  assert len(_scan(tmp_path / "here", "compound")[0]) == 44


def test_raf_db_subsets_do_not_mix(tree):
  """basic/ is unpacked beside compound/, and names such as train_00001 occur in both."""
  for entry in (tree / "RAF-DB" / "basic").iterdir():
    entry.rename(tree / "RAF-DB" / entry.name)
  stills, findings = _scan(tree)
  assert (len(stills), findings.odd) == (28, [])
  assert not any("compound" in str(still.source) for still in stills)


def test_raf_db_manual_separators_and_sides(whole_tree):
  """Separators are tabs or spaces, and for every third face left is the person's left; all are read in the same way."""
  stills, _ = _scan(whole_tree, image="original")
  for still, (name, code) in zip(stills, raf_db_tree.names("basic"), strict=True):
    _, _, five = raf_db_tree.original("basic", name, code)
    np.testing.assert_allclose(still.points - 0.5, five, atol=1e-5)
  points, attributes = annotations.read_manual("30 40\r\n70\t40\n  50   60 \n40\t80\n60 80\n2\n0\n4\n")
  np.testing.assert_array_equal(points, [[30, 40], [70, 40], [50, 60], [40, 80], [60, 80]])
  assert attributes == {"gender": "unsure", "race": "Caucasian", "age": "70+"}


def test_raf_db_boxes_with_trailing_space(tree):
  assert annotations.read_box("10 20 30 50 \n") == (10, 20, 20, 30)
  assert annotations.read_box("10 20 30 50 0.99\n") == (10, 20, 20, 30)
  shutil.rmtree(tree / "RAF-DB" / "basic" / "Annotation" / "manual")
  stills, findings = _scan(tree, image="original")
  assert all(still.points is None and still.square is not None for still in stills)
  assert "among 28 pictures, 28 have no manual points" in findings.notes


def test_raf_db_original_pictures_are_cut_by_points(whole_tree, tmp_path):
  report = prepare("raf_db", whole_tree, tmp_path, image="original", image_size=32)
  assert report.options["crop"] == "auto"
  assert "faces cut out: 28 distributor's points" in report.findings.notes
  landmarks = records.load("raf_db", tmp_path, image="original", image_size=32).arrays["landmarks"]
  assert 0 < np.median(landmarks) < 32


def test_raf_db_without_annotations(tree, tmp_path):
  shutil.rmtree(tree / "RAF-DB" / "basic" / "Annotation")
  report = prepare("raf_db", tree, tmp_path)
  counts = _counts(report.findings)
  assert (counts["with 37 landmarks"], counts["written"]) == (0, 28)
  assert (
    "among 28 pictures, 28 have no landmarks, 28 have no manual points, 28 have no boxes"
    in report.findings.notes
  )
  landmarks = records.load("raf_db", tmp_path).arrays["landmarks"]
  assert np.isnan(landmarks).all()
  assert heatmap.checked(landmarks) == 28


def _write(kind, name, text):
  def change(root):
    _file(root, kind, name).write_text(text)
    return name, _file(root, kind, name)

  return change


def _remove(root):
  _file(root, "Image/aligned", "train_00003_aligned.jpg").unlink()
  return None


def _no_image(root):
  _file(root, "Image/aligned", "train_00003_aligned.jpg").write_bytes(b"<html>403</html>")


AUTO, MANUAL = (
  ("Annotation/auto", "train_00003_auto_attri.txt"),
  ("Annotation/manual", "train_00003_manu_attri.txt"),
)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (_write(*AUTO, "1\t2\n" * 36), "landmarks: 72 numbers, expected 74"),
    (_write(*AUTO, "1\tnan\n" * 37), "landmarks: not all numbers are finite"),
    (_write(*AUTO, "1\tx\n" * 37), "landmarks: could not convert string to float: 'x'"),
    (_write(*AUTO, "1\t2\n" * 30000), "longer than 65536 bytes"),
    (_write(*MANUAL, "1 2\n" * 5), "manual points and attributes: 10 numbers, expected 13"),
    (_write(*MANUAL, "1 2\n" * 5 + "0\n0\n0\n"), "eyes and mouth are on one line"),
    (_write(*MANUAL, "3 4\n6 4\n5 5\n4 8\n6 8\n0\n3\n0\n"), "race is 3: expected 0 to 2"),
    (
      _write("Annotation/boundingbox", "train_00003_boundingbox.txt", "1 2 3\n"),
      "face box: 3 numbers, expected 4",
    ),
    (_write("Annotation/boundingbox", "train_00003_boundingbox.txt", "9 2 3 4\n"), "has no area"),
    (
      _write(*AUTO, "1\t2\n" * 36 + "9000\t2\n"),
      "point 36 of the face, .* is far outside the 100 x 100 image",
    ),
    (_remove, "names train_00003, which has no aligned picture in this copy"),
    (_no_image, "an HTML page"),
  ],
)
def test_raf_db_a_bad_file_stops_the_import_or_is_left_out(tree, tmp_path, change, message):
  change(tree)
  with pytest.raises(BadFiles, match=message) as caught:
    prepare("raf_db", tree, tmp_path / "data")
  assert "\n" not in str(caught.value)
  assert "train_00003" in str(caught.value)
  report = prepare("raf_db", tree, tmp_path / "data", skip_bad=True)
  assert len(report.findings.bad) == 1
  assert _counts(report.findings)["written"] == 27
  assert "train_00003" not in records.load("raf_db", tmp_path / "data").keys


@pytest.mark.parametrize(
  ("kind", "name", "text", "message"),
  [
    (
      "Annotation/boundingbox",
      "boundingbox",
      "0 0 20000 20000\n",
      "boundingbox.txt, box 0,0 20000 x 20000: .* reaches",
    ),
    (
      "Annotation/manual",
      "manu_attri",
      "3 4\n9000 4\n5 5\n4 8\n6 8\n0\n0\n0\n",
      "point 1 of the face, 9000.5,4.5, is far",
    ),
    (
      "Annotation/auto",
      "auto_attri",
      "1\t2\n" * 36 + "-9000\t2\n",
      "point 36 of the face, -8999.5,2.5, is far",
    ),
  ],
)
def test_raf_db_places_far_outside_the_original_picture_are_bad(tree, tmp_path, kind, name, text, message):
  _file(tree, kind, f"train_00003_{name}.txt").write_text(text)
  options = {"image": "original", "image_size": 16}
  with pytest.raises(BadFiles, match=message) as caught:
    prepare("raf_db", tree, tmp_path / "data", **options)
  assert f"train_00003_{name}.txt" in str(caught.value)
  assert (
    _counts(prepare("raf_db", tree, tmp_path / "data", skip_bad=True, **options).findings)["written"] == 27
  )


def test_raf_db_bad_lines_of_the_list(tree):
  (path,) = (tree / "RAF-DB" / "basic" / "EmoLabel").iterdir()
  lines = path.read_text().splitlines()
  first, second = lines[0].split()[0], lines[1].split()[0]
  changed = [f"{first} 0", f"{second} happy", *lines[2:], "", lines[5]]
  path.write_text("\r\n".join(changed))
  stills, findings = _scan(tree)
  assert len(stills) == 26
  assert [problem.what for problem in findings.bad] == [
    f"line 1: label of {first[:-4]} is 0: expected 1 to 7",
    f"line 2: '{second} happy': expected a name and a label such as 'train_00001.jpg 5'",
    f"line 30: {lines[5].split()[0][:-4]} occurs twice",
  ]
  assert [problem.what for problem in findings.odd] == [
    "does not name 2 pictures of this copy, the first test_0001; left out"
  ]


def test_raf_db_options_are_checked():
  for option, value, near in (("subset", "compund", "compound"), ("image", "align", "aligned")):
    with pytest.raises(UserError, match=f"did you mean '{near}'"):
      records.make_config("raf_db", {option: value})


_PARSERS = (annotations.read_automatic, annotations.read_manual, annotations.read_box)
_WORDS = st.lists(st.one_of(st.floats().map(str), st.integers().map(str), st.text(max_size=5)), max_size=80)


@settings(max_examples=100, deadline=None)
@given(_WORDS, st.sampled_from([" ", "\t", "\n", "\r\n"]))
def test_raf_db_any_text_gives_finite_numbers_or_a_clear_error(words, between):
  for read in _PARSERS:
    with contextlib.suppress(ValueError):
      assert np.isfinite(read(between.join(words))).all()
  with contextlib.suppress(ValueError):
    assert annotations.read_line(between.join(words), 7)[1] in range(7)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-100, 200), min_size=74, max_size=74), st.permutations(range(74)))
def test_raf_db_landmarks_survive_the_file(values, order):
  values = [values[i] for i in order]
  text = "".join(f"{x!r}\t{y!r}\n" for x, y in zip(values[::2], values[1::2], strict=True))
  np.testing.assert_array_equal(annotations.read_automatic(text).ravel(), values)
