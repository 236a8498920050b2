"""Tests the import of CK+ from a drawn copy of the distributor's folders, with irregularities and errors."""

import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxfer.data import align, flow, folds, records
from jaxfer.data.datasets.ckplus import frames, scan
from jaxfer.data.prepare import BadFiles, Findings, prepare
from jaxfer.errors import UserError
from tests.fixtures import ckplus_tree

SMALL = ckplus_tree.plan(subjects=8, sequences=24, labelled_subjects=7, class_counts=(2,) * 7)
LABELLED = [entry for entry in SMALL if entry.code]
UNLABELLED = [entry for entry in SMALL if not entry.code]
OPTIONS = {"num_frames": 4, "image_size": 24}


@pytest.fixture(scope="session")
def full_tree(tmp_path_factory):
  root = tmp_path_factory.mktemp("ckplus_full")
  ckplus_tree.write(root, ckplus_tree.plan())
  return root


@pytest.fixture(scope="session")
def small_tree(tmp_path_factory):
  root = tmp_path_factory.mktemp("ckplus_small")
  ckplus_tree.write(root, SMALL)
  return root


@pytest.fixture
def tree(small_tree, tmp_path):
  """A copy that a test may damage."""
  return shutil.copytree(small_tree, tmp_path / "tree")


@pytest.fixture(scope="session")
def prepared(small_tree, tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("data")
  return prepare("ckplus", small_tree, data_dir, **OPTIONS), records.load("ckplus", data_dir, **OPTIONS)


def _counts(findings: Findings) -> dict[str, int]:
  return {count.what.strip(): count.found for count in findings.counts}


def _frame(root, entry, number):
  return root / ckplus_tree.IMAGES / entry.folder / f"{entry.key}_{number:08d}.png"


def _scan(root) -> tuple[scan.Tree, Findings]:
  findings = Findings()
  return scan.scan(root, findings), findings


def test_full_shape(full_tree):
  tree, findings = _scan(full_tree)
  assert not findings.bad
  differing = [count for count in findings.counts if count.expected not in (None, count.found)]
  assert differing == []
  counts = _counts(findings)
  assert (counts["sequences"], counts["subjects"]) == (593, 123)
  assert (counts["labelled sequences"], counts["labelled subjects"]) == (327, 118)
  assert [counts[name] for name in scan.LABELS] == [45, 18, 59, 25, 69, 28, 83]
  assert "266 sequences have no label, 133 with an empty label folder, 133 with none" in findings.notes[0]
  subjects = [sequence.subject for sequence in tree.sequences]
  fold = folds.person_independent_folds(subjects)
  assert len(fold) == 327
  assert [len(set(np.array(subjects)[fold == j])) for j in range(10)] == [12] * 8 + [11] * 2


def test_records_hold_the_cropped_frames_and_their_flow(small_tree, prepared):
  report, loaded = prepared
  assert loaded.fingerprint == report.fingerprint
  assert loaded.keys == tuple(sorted(entry.key for entry in LABELLED))
  assert loaded.label_names == scan.LABELS
  assert loaded.arrays["frames"].shape == (14, 4, 24, 24, 3)
  assert loaded.arrays["flow"].dtype == np.int16
  for i, key in enumerate(loaded.keys):
    entry = next(entry for entry in LABELLED if entry.key == key)
    assert loaded.arrays["label"][i] == entry.code - 1
    assert loaded.subjects[i] == key[:4]
    paths = sorted((small_tree / ckplus_tree.IMAGES / entry.folder).glob("*.png"))
    marks = scan.read_landmarks(
      small_tree / ckplus_tree.LANDMARKS / entry.folder / f"{paths[0].stem}_landmarks.txt"
    )
    square = align.landmark_square(marks, frames.MARGIN)
    chosen = [paths[k] for k in align.onset_to_peak(len(paths), 4)]
    expected = np.stack(
      [align.crop(np.asarray(Image.open(path).convert("RGB")), square, 24) for path in chosen]
    )
    np.testing.assert_array_equal(loaded.arrays["frames"][i], expected)
    np.testing.assert_array_equal(loaded.arrays["flow"][i], flow.quantize(flow.farneback(expected)))
  assert np.abs(loaded.arrays["flow"][:, 1:]).max(axis=(1, 2, 3, 4)).min() > 0
  assert not loaded.arrays["flow"][:, 0].any()


def test_traps_are_reported_and_harmless(prepared):
  report, _ = prepared
  assert not report.findings.bad
  assert [(problem.path[-8:], problem.what) for problem in report.findings.odd] == [
    (
      "S005/001",
      f"its last frame is number {SMALL[0].num_frames + 1}, of {SMALL[0].num_frames} files; taken in order",
    )
  ]
  beliefs = {belief.claim: belief for belief in report.findings.beliefs}
  colour = beliefs["most sequences are grey, some in colour"]
  assert (colour.holds, colour.seen[:15]) == (True, "1 of 24 in colo")
  size = beliefs["frames are 640x490 or 640x480"]
  assert not size.holds
  assert f"{SMALL[2].num_frames} of 64x48" in size.seen
  assert any(note == "faces cut out: 14 by landmarks" for note in report.findings.notes)


@pytest.mark.parametrize("flat", [True, False])
def test_other_nestings_and_spellings_read_the_same(tree, tmp_path, prepared, flat):
  if flat:
    for old, new in ((ckplus_tree.IMAGES, "cohn-kanade-images"), (ckplus_tree.LABELS, "emotion")):
      shutil.move(tree / old, tree / new)
    for entry in UNLABELLED:  # Some copies drop the empty folders.
      shutil.rmtree(tree / "emotion" / entry.folder, ignore_errors=True)
    for path in list(tree.rglob("*.png")):
      path.rename(path.with_suffix(".PNG"))
    source = tree
  else:
    source = tmp_path / "deeper"
    shutil.move(tree, source / "CK+" / "CK+")
  report = prepare("ckplus", source, tmp_path / "data", **OPTIONS)
  assert report.fingerprint == prepared[0].fingerprint


def test_missing_trees(tree, tmp_path):
  ckplus_tree.remove(tree, ckplus_tree.LANDMARKS)
  report = prepare("ckplus", tree, tmp_path / "data", **OPTIONS)
  assert "no landmarks in this copy" in report.findings.notes
  assert "faces cut out: 14 by middle of the image" in report.findings.notes
  ckplus_tree.remove(tree, ckplus_tree.LABELS)
  with pytest.raises(UserError, match=rf"source {tree} holds no labels of CK\+: expected Emotion/S005/001/"):
    prepare("ckplus", tree, tmp_path / "data", **OPTIONS)
  ckplus_tree.remove(tree, ckplus_tree.IMAGES)
  with pytest.raises(UserError, match=r"holds no frames of CK\+: expected cohn-kanade-images/"):
    prepare("ckplus", tree, tmp_path / "data", **OPTIONS)


def test_given_boxes_go_first(tree, tmp_path):
  boxes = tmp_path / "boxes.csv"
  boxes.write_text(f"sequence,x,y,w,h\n{LABELLED[0].key},20,10,16,24\n")
  report = prepare("ckplus", tree, tmp_path / "data", boxes=str(boxes), **OPTIONS)
  assert "faces cut out: 13 by landmarks, 1 by given box" in report.findings.notes
  loaded = records.load("ckplus", tmp_path / "data", **OPTIONS)
  first = np.asarray(Image.open(_frame(tree, LABELLED[0], 1)).convert("RGB"))
  expected = align.crop(first, align.Square(16, 10, 24), 24)
  np.testing.assert_array_equal(loaded.arrays["frames"][loaded.keys.index(LABELLED[0].key), 0], expected)


def test_a_box_far_beyond_the_frames_is_bad(tree, tmp_path):
  boxes = tmp_path / "boxes.csv"
  boxes.write_text(f"sequence,x,y,w,h\n{LABELLED[0].key},20,10,16000,24\n")
  with pytest.raises(BadFiles, match="reaches 15956 pixels beyond the 64 x 49 image, by given box"):
    prepare("ckplus", tree, tmp_path / "data", boxes=str(boxes), **OPTIONS)


def test_sequences_that_end_alike_under_two_labels_are_bad(tree, tmp_path):
  last = [sorted((tree / ckplus_tree.IMAGES / entry.folder).iterdir())[-1] for entry in LABELLED]
  other = next(i for i, entry in enumerate(LABELLED) if entry.code != LABELLED[0].code)
  shutil.copy(last[0], last[other])
  with pytest.raises(
    BadFiles, match=rf"{LABELLED[0].key} \(.*\) ends in the same frame as {LABELLED[other].key}"
  ):
    prepare("ckplus", tree, tmp_path / "data", **OPTIONS)
  report = prepare("ckplus", tree, tmp_path / "data", skip_bad=True, **OPTIONS)
  assert _counts(report.findings)["written"] == 12


@pytest.mark.parametrize(
  "text",
  [
    "sequence,x,y,w\nS005_001,1,2,3\n",
    "sequence,x,y,w,h\nS005_001,1,2,0,4\n",
    f"sequence,x,y,w,h\n{'S' * 200_000},1,2,3,4\n",
  ],
)
def test_bad_boxes_are_named(tmp_path, text):
  (tmp_path / "boxes.csv").write_text(text)
  with pytest.raises(UserError, match=r"boxes .*boxes.csv, entry 1: .*expected a header sequence,x,y,w,h"):
    frames.read_boxes(str(tmp_path / "boxes.csv"))
  with pytest.raises(UserError, match=r"none.csv cannot be read \(No such file"):
    frames.read_boxes(str(tmp_path / "none.csv"))


def test_boxes_from_a_spreadsheet(tmp_path):
  (tmp_path / "boxes.csv").write_bytes(b"\xef\xbb\xbfsequence,x,y,w,h\r\ns005_001,1,2,3,3\r\n")
  assert frames.read_boxes(str(tmp_path / "boxes.csv")) == {"S005_001": align.Square(1, 2, 3)}


def test_files_larger_than_any_of_the_distributor_are_not_read_whole(tree, tmp_path):
  frame = _frame(tree, LABELLED[0], 1)
  path = shutil.copy(frame, tmp_path / "large.png")
  os.truncate(path, 100 << 20)
  with open(path, "r+b") as file:
    file.seek(-8, os.SEEK_END)
    file.write(frame.read_bytes()[-8:])
  with pytest.raises(ValueError, match="the PNG image has 104857600 bytes: at most 67108864 are read"):
    frames.read_header(path)
  for read in (scan.read_label, scan.read_landmarks):
    with pytest.raises(ValueError, match="text is longer than 4194304 bytes"):
      read(path)


def _truncate_peak(root):
  path = max((root / ckplus_tree.IMAGES / LABELLED[3].folder).glob("*.png"))
  ckplus_tree.truncate(path)
  return path, "cut short"


def _wrong_label(root):
  return ckplus_tree.relabel(
    root, LABELLED[3], "   9.0000000e+00\n"
  ), r"label is 9: expected 1 \(anger\) to 7"


def _neutral_label(root):
  return ckplus_tree.relabel(root, LABELLED[3], "0.0"), "label is 0: expected 1"


def _unreadable_label(root):
  return ckplus_tree.relabel(root, LABELLED[3], "happy\n"), "label is 'happy': expected one number"


def _two_labels(root):
  path = ckplus_tree.relabel(root, LABELLED[3], "3")
  (path.parent / f"{LABELLED[3].key}_00000001_emotion.txt").write_text("3")
  return path.parent / f"{LABELLED[3].key}_00000001_emotion.txt", "one of 2 labels"


def _label_without_frames(root):
  shutil.rmtree(root / ckplus_tree.IMAGES / LABELLED[3].folder)
  return root / ckplus_tree.LABELS / LABELLED[3].folder, "has no frames"


def _black_frame(root):
  path = _frame(root, LABELLED[3], 1)
  Image.fromarray(np.zeros((49, 64), np.uint8)).save(path)
  return path, "image is constant, black"


def _scrambled_frame(root):
  path = _frame(root, LABELLED[3], 1)
  content = bytearray(path.read_bytes())
  content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
  path.write_bytes(content)
  return path, "cannot be decoded"


def _no_png(root):
  path = _frame(root, LABELLED[3], 1)
  path.write_bytes(b"")
  return path, r"not a PNG image \(0 bytes\)"


def _deep_frame(root):
  path = _frame(root, LABELLED[3], 1)
  Image.fromarray(np.arange(49 * 64, dtype=np.uint16).reshape(49, 64)).save(path)
  return path, "image has mode I;16: expected 8 bits"


def _short_landmarks(root):
  path = root / ckplus_tree.LANDMARKS / LABELLED[3].folder / f"{LABELLED[3].key}_00000001_landmarks.txt"
  path.write_text("1 2\n3 4\n")
  return path, "landmarks are 2 x 2 numbers: expected 68 x 2"


def _far_landmarks(root):
  path = root / ckplus_tree.LANDMARKS / LABELLED[3].folder / f"{LABELLED[3].key}_00000001_landmarks.txt"
  path.write_text("".join(f"{900 + i} {900 + i}\n" for i in range(68)))
  return _frame(root, LABELLED[3], 1), "outside the 64 x 49 image, by landmarks"


def _huge_landmarks(root):
  path = root / ckplus_tree.LANDMARKS / LABELLED[3].folder / f"{LABELLED[3].key}_00000001_landmarks.txt"
  lines = path.read_text().splitlines()
  path.write_text("\n".join(["90000 20", *lines[1:]]))
  return _frame(
    root, LABELLED[3], 1
  ), "point 0 of the face, 90000,20, is far outside the 64 x 49 image, by landmarks"


def _huge_header(root):
  path = _frame(root, LABELLED[3], 1)
  content = bytearray(path.read_bytes())
  content[16:24] = struct.pack(">II", 9000, 9000)
  content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
  path.write_bytes(content)
  return path, "image is 9000 x 9000 pixels: at most 64 megapixels are read"


ERRORS = [
  _huge_landmarks,
  _huge_header,
  _truncate_peak,
  _wrong_label,
  _neutral_label,
  _unreadable_label,
  _two_labels,
  _label_without_frames,
  _black_frame,
  _scrambled_frame,
  _no_png,
  _deep_frame,
  _short_landmarks,
  _far_landmarks,
]


@pytest.mark.parametrize("error", ERRORS)
def test_a_bad_file_stops_the_import_or_is_left_out(tree, tmp_path, capsys, error):
  path, message = error(tree)
  with pytest.raises(BadFiles, match=message) as caught:
    prepare("ckplus", tree, tmp_path / "data", **OPTIONS)
  assert str(path) in str(caught.value)
  assert "\n" not in str(caught.value)
  assert list((tmp_path / "data").iterdir()) == []
  assert "bad files (1):" in capsys.readouterr().err
  report = prepare("ckplus", tree, tmp_path / "data", skip_bad=True, **OPTIONS)
  assert len(report.findings.bad) == 1
  assert _counts(report.findings)["written"] == 13
  assert LABELLED[3].key not in records.load("ckplus", tmp_path / "data", **OPTIONS).keys


def test_all_bad_files_are_listed_before_stopping(tree, tmp_path, capsys):
  for path in (_frame(tree, entry, 1) for entry in LABELLED):
    ckplus_tree.truncate(path)
  _wrong_label(tree)
  # Fourteen frames and a label, so that all seven classes are empty.
  with pytest.raises(BadFiles, match=r"\(and 21 more bad files\); nothing was written"):
    prepare("ckplus", tree, tmp_path / "data", **OPTIONS)
  listed = capsys.readouterr().err
  assert "bad files (22):" in listed
  assert all(f"{entry.key}_00000001.png: the PNG image is cut short" in listed for entry in LABELLED[:3])
  with pytest.raises(UserError, match="none of the labelled sequences can be used"):
    prepare("ckplus", tree, tmp_path / "data", skip_bad=True, **OPTIONS)


def test_oddities_do_not_stop(tree, tmp_path):
  ckplus_tree.truncate(_frame(tree, UNLABELLED[0], 3))
  assert LABELLED[1] is SMALL[2]  # The sequence with the other height.
  shutil.copy(_frame(tree, LABELLED[1], 1), _frame(tree, LABELLED[2], 1))
  (tree / ckplus_tree.LANDMARKS / LABELLED[4].folder / f"{LABELLED[4].key}_00000001_landmarks.txt").unlink()
  (tree / ckplus_tree.IMAGES / LABELLED[5].folder / "notes.txt").write_text("")
  (path,) = (tree / ckplus_tree.LABELS / LABELLED[6].folder).iterdir()
  path.rename(path.with_name(f"{LABELLED[6].key}_00000002_emotion.txt"))
  (path,) = (tree / ckplus_tree.FACS / LABELLED[7].folder).iterdir()
  path.unlink()
  (path,) = (tree / ckplus_tree.FACS / LABELLED[8].folder).iterdir()
  path.write_text("twelve 3\n")
  (tree / ckplus_tree.IMAGES / "S999" / "001").mkdir(parents=True)
  shutil.copytree(tree / ckplus_tree.LABELS, tree / "zz" / "Emotion")
  report = prepare("ckplus", tree, tmp_path / "data", **OPTIONS)
  assert _counts(report.findings)["written"] == 14
  whats = "\n".join(problem.what for problem in report.findings.odd)
  for what in (
    "cut short",
    f"same content as {_frame(tree, LABELLED[1], 1).name}",
    f"1 of {LABELLED[4].num_frames} frames have no landmarks",
    f"its name is not that of the frames of {LABELLED[5].key}",
    "labels another frame than the last",
    "no FACS codes",
    "expected an action unit and its intensity on each line",
    "a sequence folder without frames",
    "a second tree of labels",
    "frames of several sizes: 64x48, 64x49",
    "its last frame is number",
  ):
    assert what in whats
  assert len(report.findings.odd) == 11


def test_options_are_checked():
  for option, value in (("num_frames", 0), ("image_size", 8)):
    with pytest.raises(UserError, match=f"ckplus.{option}={value}: give a whole number, from"):
      records.make_config("ckplus", {option: value})
  with pytest.raises(UserError, match="did you mean 'num_frames'"):
    records.make_config("ckplus", {"frames": 4})


def test_label_files(tmp_path):
  path = tmp_path / "S005_001_00000011_emotion.txt"
  for text, label in (("   3.0000000e+00\n", 2), ("7", 6), ("1.0\r\n", 0)):
    path.write_text(text)
    assert scan.read_label(path) == label
  for text in ("", "nan", "3.5", "1 2", "-1", "8"):
    path.write_text(text)
    with pytest.raises(ValueError, match="label is"):
      scan.read_label(path)


def test_the_plan_has_the_published_shape():
  entries = ckplus_tree.plan()
  assert len(entries) == len({entry.key for entry in entries}) == 593
  assert entries[0].key == "S005_001"
