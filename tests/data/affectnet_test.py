"""Tests the import of AffectNet from drawn folders in its three forms."""

import contextlib
import io
import json
import math
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxfer.data import align, records
from jaxfer.data.datasets.affectnet import annotations, scan
from jaxfer.data.prepare import BadFiles, Findings, prepare
from jaxfer.errors import UserError
from tests.fixtures import affectnet_tree, faces

WRITE = {
  "2017": affectnet_tree.write_2017,
  "2021": affectnet_tree.write_2021,
  "plus": affectnet_tree.write_plus,
}
FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="session")
def trees(tmp_path_factory):
  roots = {form: tmp_path_factory.mktemp(f"affectnet_{form}") for form in WRITE}
  for form, root in roots.items():
    WRITE[form](root)
  return roots


def _scan(root, form, points=False):
  findings = Findings()
  return scan.scan(root, form, points, findings), findings


def _counts(findings):
  return {count.what.strip(): (count.found, count.expected) for count in findings.counts}


def _by_key(stills):
  return {still.key: still for still in stills}


def test_affectnet_2017_counts(trees):
  stills, findings = _scan(trees["2017"], "2017")
  assert not findings.bad
  counts = _counts(findings)
  assert counts["training pictures"] == (16, 287_651)
  assert counts["validation pictures"] == (3, None)
  assert [counts[name][0] for name in scan.LABELS] == [2] * 8
  assert [counts[name][1] for name in scan.LABELS] == list(scan.TRAIN_COUNTS)
  assert sum(scan.TRAIN_COUNTS) == 287_651
  assert len(stills) == 19
  assert {still.split for still in stills} == {"train", "validation"}
  assert len({still.subject for still in stills}) == 19
  assert not next(belief.holds for belief in findings.beliefs if belief.claim.startswith("500 validation"))


def test_affectnet_2017_validation_without_a_header_keeps_its_first_row(trees):
  stills = _by_key(_scan(trees["2017"], "2017")[0])
  assert [key for key in stills if key.startswith("validation")] == [
    f"validation_2_{number:08x}" for number in (100, 101, 102)
  ]


def test_affectnet_2017_other_labels_are_counted_and_left_out(trees):
  _, findings = _scan(trees["2017"], "2017")
  for note in (
    "1 pictures labelled 8 (none): left out",
    "1 pictures labelled 9 (uncertain): left out",
    "2 pictures labelled 10 (no face): left out",
    "1 pictures labelled 11, which is not a known label: left out",
    "2 malformed rows left out; 2 rows without a face have no box",
    "automatically annotated pictures were left out, since papers use the manual annotations",
  ):
    assert note in findings.notes


def test_affectnet_2017_malformed_and_repeated_rows_are_odd(trees):
  stills, findings = _scan(trees["2017"], "2017")
  whats = [problem.what for problem in findings.odd]
  assert whats == [
    "listed a second time; left out",
    "line 24: face_x is 'NULL': expected a number; left out",
    "line 25: 3 columns: expected 9; left out",
  ]
  assert _by_key(stills)["train_1_00000000"].label == 0


def _change_row(tree, line, column, value):
  path = tree / "Manually_Annotated_file_lists" / "training.csv"
  rows = path.read_text().splitlines()
  cells = rows[line - 1].split(",")
  cells[column] = value
  rows[line - 1] = ",".join(cells)
  path.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(
  ("column", "value", "message"),
  [
    (3, "20000", r"JPG: line 3 of the train list, box .* 20000 x .* reaches .* pixels beyond the"),
    (1, "-9000", "line 3 of the train list, box -9000,.* is outside the"),
    (3, "1e12", "training.csv: line 3: face_width is '1e12': expected a number of pixels"),
    (1, "inf", "training.csv: line 3: face_x is 'inf': expected a number of pixels"),
  ],
)
def test_affectnet_2017_implausible_boxes_are_bad(trees, tmp_path, column, value, message):
  tree = shutil.copytree(trees["2017"], tmp_path / "2017")
  _change_row(tree, 3, column, value)
  options = {"form": "2017", "image_size": 16}
  with pytest.raises(BadFiles, match=message):
    prepare("affectnet", tree, tmp_path / "data", **options)
  report = prepare("affectnet", tree, tmp_path / "data", skip_bad=True, **options)
  assert len(report.findings.bad) == 1
  assert _counts(report.findings)["written"][0] == 18


def test_affectnet_2017_a_picture_listed_with_two_expressions_is_left_out(trees, tmp_path):
  tree = shutil.copytree(trees["2017"], tmp_path / "2017")
  path = tree / "Manually_Annotated_file_lists" / "training.csv"
  cells = path.read_text().splitlines()[1].split(",")
  cells[6] = str((int(cells[6]) + 1) % 8)
  path.write_text(path.read_text().rstrip("\n") + f"\n{','.join(cells)}\n")
  before, _ = _scan(trees["2017"], "2017")
  stills, findings = _scan(tree, "2017")
  assert {still.key for still in before} - {still.key for still in stills} == {before[0].key}
  (problem,) = findings.bad
  assert problem.what == "listed as happiness, and before as neutral; both are left out"


def test_affectnet_2017_negative_widths_are_no_box(trees):
  stills, findings = _scan(trees["2017"], "2017")
  boxless = [still.key for still in stills if still.square is None]
  assert boxless == ["train_3_00000005"]
  assert "1 pictures of an expression have no face box: the detector places them" in findings.notes
  others = [still for still in stills if still.square is not None]
  assert {still.square for still in others} == {align.Square(40.0, 0.0, 40.0)}
  assert all(still.points is None for still in stills)


@pytest.mark.parametrize("form", ["2017", "2021", "plus"])
def test_affectnet_minus_two_is_undefined(trees, form):
  stills, _ = _scan(trees[form], form)
  arousals = [float(still.extras["arousal"]) for still in stills]
  assert -2 not in arousals
  assert any(map(math.isnan, arousals))
  valences = {still.key: float(still.extras["valence"]) for still in stills}
  known = {"2017": ("train_1_00000000", 0.25), "2021": ("train_4", -0.25), "plus": ("train_6", 0.75)}[form]
  assert valences[known[0]] == known[1]


def test_affectnet_2017_prepare_cuts_at_the_box(trees, tmp_path):
  options = {"form": "2017", "image_size": 40}
  report = prepare("affectnet", trees["2017"], tmp_path / "data", **options)
  loaded = records.load("affectnet", tmp_path / "data", **options)
  assert (len(loaded), _counts(report.findings)["written"]) == (19, (19, 19))
  assert any("18 distributor's box" in note for note in report.findings.notes)
  i = loaded.keys.index("train_3_00000002")  # A PNG, so the picture is stored without loss.
  np.testing.assert_array_equal(loaded.arrays["image"][i], faces.draw(2, "sadness", 40)[0])
  assert loaded.texts["split"][i] == "train"
  assert "crop auto" in report.table()
  assert "mohammadmahoor.com" in report.table()


def test_affectnet_2017_template_takes_the_landmarks(trees, tmp_path):
  options = {"form": "2017", "image_size": 112, "crop": "template"}
  with pytest.raises(BadFiles, match="the template needs points, and cascade gives none"):
    # The picture without a box has no landmarks either.
    prepare("affectnet", trees["2017"], tmp_path / "data", **options)
  stills, _ = _scan(trees["2017"], "2017", points=True)
  still = _by_key(stills)["train_3_00000002"]
  expected = faces.five_points(affectnet_tree.picture(2, 2)[1])
  np.testing.assert_allclose(still.points, expected, atol=0.01)
  assert still.square is None


def test_affectnet_2021_reads_texts_numbers_and_objects(trees):
  stills, findings = _scan(trees["2021"], "2021")
  assert not findings.bad
  assert [(still.key, still.label) for still in stills] == [
    *((f"train_{number}", turn) for turn, number in enumerate((0, 3, 4, 7, 10, 12, 20, 101))),
    ("validation_1", 0),
    ("validation_2", 1),
  ]
  assert "1 pictures labelled 9 (uncertain): left out" in findings.notes
  assert [problem.what for problem in findings.odd] == [
    "1 pictures without an annotation, such as 999.jpg; left out"
  ]


def test_affectnet_2021_prepare_takes_crops_whole(trees, tmp_path):
  report = prepare("affectnet", trees["2021"], tmp_path / "data", image_size=40)
  loaded = records.load("affectnet", tmp_path / "data", image_size=40)
  assert len(loaded) == 10
  assert any(note == "faces cut out: 10 the whole picture" for note in report.findings.notes)
  assert np.isnan(loaded.arrays["arousal"]).sum() == 2
  assert loaded.label_names == scan.LABELS


def test_affectnet_2021_landmarks_for_the_template(trees):
  stills, _ = _scan(trees["2021"], "2021", points=True)
  expected = faces.five_points(faces.draw(4, "sadness", 40)[1])
  np.testing.assert_allclose(_by_key(stills)["train_4"].points, expected)


def test_affectnet_a_picture_that_is_missing_is_listed(trees, tmp_path):
  tree = shutil.copytree(trees["2021"], tmp_path / "tree")
  (tree / "train_set" / "images" / "10.jpg").unlink()
  (tree / "train_set" / "annotations" / "3_aro.npy").unlink()
  with pytest.raises(BadFiles, match=r"2 more bad files"):
    prepare("affectnet", tree, tmp_path / "data", image_size=16)
  report = prepare("affectnet", tree, tmp_path / "data", image_size=16, skip_bad=True)
  # A class without pictures is also reported for the whole copy.
  assert [problem.path.rsplit("/", 1)[1] for problem in report.findings.bad] == ["3", "10.jpg", "tree"]
  assert _counts(report.findings)["written"] == (8, 9)


def test_affectnet_plus_reads_the_human_label(trees, tmp_path):
  stills, findings = _scan(trees["plus"], "plus")
  assert [(still.key, still.label, still.split) for still in stills] == [
    ("train_5", 0, "train"),
    ("train_6", 1, "train"),
    ("train_8", 2, "train"),
    ("validation_9", 0, "validation"),
  ]
  assert "1 pictures labelled 8 (none): left out" in findings.notes
  prepare("affectnet", trees["plus"], tmp_path / "data", image_size=16, form="plus", skip_bad=True)
  assert len(records.load("affectnet", tmp_path / "data", image_size=16, form="plus")) == 4
  with pytest.raises(UserError, match="landmark format of AffectNet\\+ is not known"):
    _scan(trees["plus"], "plus", points=True)


@pytest.mark.parametrize("form", ["2017", "2021", "plus"])
def test_affectnet_another_form_is_named(trees, form, tmp_path):
  for other in WRITE:
    if other != form:
      with pytest.raises(UserError, match=f"holds no AffectNet of form={other}: .* looks like form={form}"):
        _scan(trees[form], other)
  with pytest.raises(UserError, match="it looks like no known form"):
    _scan(tmp_path, form)


@pytest.mark.parametrize("form", ["2017", "2021", "plus"])
def test_affectnet_nestings_read_the_same(trees, form, tmp_path):
  tree = shutil.copytree(trees[form], tmp_path / "AffectNet" / "AffectNet")
  (tree / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
  if form == "2017":  # Some copies lack the outer folder of the pictures.
    shutil.move(tree / "Manually_Annotated" / "Manually_Annotated_Images", tree / "Manually_Annotated_Images")
  stills = _scan(tmp_path, form)[0]
  assert [(still.key, still.label) for still in stills] == [
    (still.key, still.label) for still in _scan(trees[form], form)[0]
  ]
  assert all(still.source.path.is_file() for still in stills)


def test_affectnet_an_incomplete_copy_is_reported(trees, tmp_path):
  tree = shutil.copytree(trees["2017"], tmp_path / "2017")
  (tree / "Manually_Annotated_file_lists" / "validation.csv").unlink()
  shutil.rmtree(tree / "Manually_Annotated" / "Manually_Annotated_Images" / "2")
  report = prepare("affectnet", tree, tmp_path / "data", form="2017", image_size=16, skip_bad=True)
  assert any(
    problem.what == "nothing of the validation split: is the copy incomplete?"
    for problem in report.findings.odd
  )
  assert len(report.findings.bad) == 5  # The pictures of that folder.
  tree = shutil.copytree(trees["2021"], tmp_path / "2021")
  shutil.rmtree(tree / "train_set")
  stills, findings = _scan(tree, "2021")
  assert len(stills) == 2
  assert [problem.what for problem in findings.odd] == ["nothing of the train split: is the copy incomplete?"]


@pytest.mark.parametrize(
  ("path", "message"),
  [("../../etc/passwd", "path is"), ("/etc/passwd", "path is"), ("C:/x.jpg", "path is"), ("", "path is")],
)
def test_affectnet_paths_stay_below_the_pictures(path, message):
  with pytest.raises(ValueError, match=message):
    annotations.parse_row([path, *"1234", "", "3", "0", "0"])


def test_affectnet_rows():
  row = ["1\\a.jpg", "1", "2", "3.5", "4", "", "3", "-2", "0.5"]
  said = annotations.parse_row(row)
  assert (said.path, said.box, said.landmarks, said.expression) == ("1/a.jpg", (1, 2, 3.5, 4), None, 3)
  assert math.isnan(said.valence)
  for i, word, message in (
    (3, "inf", "face_width is 'inf'"),
    (5, "1;2", "2 landmark numbers: expected 136"),
    (6, "3.5", "expression is '3.5': expected a whole"),
    (7, "high", "valence is 'high'"),
  ):
    with pytest.raises(ValueError, match=message):
      annotations.parse_row([*row[:i], word, *row[i + 1 :]])


class _Runs:
  def __reduce__(self):
    return pytest.fail, ("the pickle ran",)


def test_affectnet_an_npy_that_runs_code_is_refused(tmp_path):
  path = tmp_path / "0_exp.npy"
  np.save(path, np.array(_Runs(), object), allow_pickle=True)
  assert b"_pytest" in path.read_bytes()
  with pytest.raises(ValueError, match=r"the pickle names .*only plain data are read"):
    annotations.read_number(path)


def _npy(array):
  stream = io.BytesIO()
  np.save(stream, array)
  return stream.getvalue()


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "not an npy file"),
    (b"\x93NUMPY\x01\x00", "a damaged npy file"),
    (_npy(np.arange(3))[:-1], "23 bytes for the shape"),
    (_npy(np.zeros(3)).replace(b"(3,)", b"(9,)"), "24 bytes for the shape"),
    (_npy(np.zeros(2, [("a", "i4")])), "expected numbers or strings"),
    (_npy(np.zeros(9000)), "at most 65536 are read"),
    (_npy(np.array(1j)), "expected numbers or strings"),
  ],
)
def test_affectnet_bad_npy(data, message):
  with pytest.raises(ValueError, match=message):
    annotations.read_npy(data)


@pytest.mark.parametrize(
  "value", [["x" * 30_000, *[""] * 15_000], np.array([10**400, 1], object)], ids=["2 GiB", "beyond floats"]
)
def test_affectnet_an_npy_of_objects_is_refused_before_they_become_an_array(value):
  stream = io.BytesIO()
  np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (2,)})
  with pytest.raises(ValueError, match="it holds objects: expected numbers or texts"):
    annotations.read_npy(stream.getvalue() + pickle.dumps(value, 2))


def test_affectnet_json():
  said = annotations.parse_json('{"human-label": 3, "valence": true, "arousal": "x"}')
  assert said.expression == 3
  assert math.isnan(said.valence)
  assert math.isnan(said.arousal)
  for text, message in (
    ("{", "not json"),
    ("[" * 100_000, "not json"),
    ("[1]", "no "),
    ('{"human-label": [1]}', "expression is"),
    ('{"human-label": NaN}', "expression is"),
    ('{"human-label": null}', "expression is"),
  ):
    with pytest.raises(ValueError, match=message):
      annotations.parse_json(text)


@given(
  st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda text: _npy(np.array(text)))), st.data()
)
@FUZZ
def test_affectnet_any_npy_raises_a_value_error_or_is_read(data, draw):
  flipped = bytearray(data)
  if flipped:
    for _ in range(3):
      flipped[draw.draw(st.integers(0, len(flipped) - 1))] = draw.draw(st.integers(0, 255))
  with contextlib.suppress(ValueError):
    assert annotations.read_npy(bytes(flipped)).size <= 100
  with contextlib.suppress(ValueError):
    annotations.read_npy(b"\x93NUMPY" + data)


JSON = st.recursive(
  st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
  lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
  ),
)


@given(
  st.one_of(
    st.text(max_size=60),
    st.fixed_dictionaries({"human-label": JSON, "valence": JSON, "arousal": JSON}).map(json.dumps),
  )
)
@FUZZ
def test_affectnet_any_json_raises_a_value_error_or_is_read(text):
  with contextlib.suppress(ValueError):
    assert isinstance(annotations.parse_json(text).expression, int)


@given(st.lists(st.one_of(st.text(max_size=30), st.text('0123456789,;.-/a"\n\r\0', max_size=80)), max_size=8))
@FUZZ
def test_affectnet_any_list_raises_a_value_error_or_is_read(tmp_path_factory, lines):
  path = tmp_path_factory.mktemp("list") / "training.csv"
  path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
  for row in annotations.read_csv(path):
    assert isinstance(row, ValueError | annotations.Annotation)


def test_affectnet_a_list_of_one_endless_line_is_refused(tmp_path):
  path = tmp_path / "training.csv"
  path.write_bytes(b"a" * 10**7)
  with pytest.raises(ValueError, match="a line of more than"):
    list(annotations.read_csv(path))


def test_affectnet_options_are_checked():
  assert records.make_config("affectnet", {}).crop == "whole"
  assert records.make_config("affectnet", {"form": "2017"}).crop == "auto"
  with pytest.raises(UserError, match="unknown option form of data set 'affectnet' '2018'"):
    records.make_config("affectnet", {"form": "2018"})
