"""Tests the import of stills of CK+ from a drawn folder of its sequences."""

import shutil

import numpy as np
import pytest
from PIL import Image

from jaxfer.data import align, records
from jaxfer.data.datasets.ckplus import frames, scan
from jaxfer.data.prepare import BadFiles, prepare
from jaxfer.errors import UserError
from tests.fixtures import ckplus_tree

SMALL = ckplus_tree.plan(subjects=8, sequences=18, labelled_subjects=7, class_counts=(2,) * 7)
LABELLED = [entry for entry in SMALL if entry.code]
OPTIONS = {"image_size": 24}


@pytest.fixture(scope="session")
def small_tree(tmp_path_factory):
  root = tmp_path_factory.mktemp("ckplus_stills")
  ckplus_tree.write(root, SMALL)
  return root


def _prepare(tree, tmp_path, **options):
  report = prepare("ckplus_stills", tree, tmp_path / "data", **OPTIONS, **options)
  options.pop("skip_bad", None)
  return report, records.load("ckplus_stills", tmp_path / "data", **OPTIONS, **options)


def test_ckplus_stills_are_the_last_three_frames_without_contempt(small_tree, tmp_path):
  report, loaded = _prepare(small_tree, tmp_path)
  assert loaded.label_names == ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
  assert len(loaded) == 12 * 3
  assert np.bincount(loaded.arrays["label"]).tolist() == [6] * 6
  assert "2 sequences of contempt left out; contempt=true keeps them" in report.findings.notes
  assert "36 frames of 12 sequences by the rule last:3" in report.findings.notes
  for entry in LABELLED:
    numbers = [
      int(number)
      for number, sequence in zip(loaded.arrays["frame"], loaded.texts["sequence"], strict=True)
      if sequence == entry.key
    ]
    paths = sorted((small_tree / ckplus_tree.IMAGES / entry.folder).glob("*.png"))
    assert numbers == ([] if entry.code == 2 else [scan.frame_number(path) for path in paths[-3:]])


def test_ckplus_stills_with_contempt_keep_seven_names(small_tree, tmp_path):
  _, loaded = _prepare(small_tree, tmp_path, contempt=True, frames="last:1")
  assert loaded.label_names == scan.LABELS
  assert np.bincount(loaded.arrays["label"]).tolist() == [2] * 7


def test_ckplus_stills_of_a_sequence_share_the_square_of_its_first_frame(small_tree, tmp_path):
  report, loaded = _prepare(small_tree, tmp_path, frames="equal:10")
  assert any(
    note.startswith(f"faces cut out: {len(loaded)} distributor's box") for note in report.findings.notes
  )
  entry = next(entry for entry in LABELLED if entry.code == 7)
  paths = sorted((small_tree / ckplus_tree.IMAGES / entry.folder).glob("*.png"))
  marks = small_tree / ckplus_tree.LANDMARKS / entry.folder / f"{paths[0].stem}_landmarks.txt"
  square = align.landmark_square(scan.read_landmarks(marks), frames.MARGIN)
  rows = [i for i, sequence in enumerate(loaded.texts["sequence"]) if sequence == entry.key]
  assert len(rows) == len(paths)
  for row, path in zip(rows, paths, strict=True):
    expected = align.crop(np.asarray(Image.open(path).convert("RGB")), square, 24)
    np.testing.assert_array_equal(loaded.arrays["image"][row], expected)


def test_ckplus_stills_report_what_the_scan_of_ckplus_finds(small_tree, tmp_path):
  tree = shutil.copytree(small_tree, tmp_path / "tree")
  entry = next(entry for entry in LABELLED if entry.code == 7)
  paths = sorted((tree / ckplus_tree.IMAGES / entry.folder).glob("*.png"))
  ckplus_tree.truncate(paths[0])
  with pytest.raises(BadFiles, match=f"{paths[0].name}: the PNG image is cut short"):
    _prepare(tree, tmp_path)
  report, loaded = _prepare(tree, tmp_path, skip_bad=True)
  assert entry.key not in loaded.texts["sequence"]
  counts = {count.what: count.found for count in report.findings.counts}
  assert (counts["labelled sequences"], counts["written"]) == (14, 33)


def test_ckplus_stills_without_landmarks_are_found_by_the_detector_or_taken_from_the_middle(
  small_tree, tmp_path
):
  tree = shutil.copytree(small_tree, tmp_path / "tree")
  ckplus_tree.remove(tree, ckplus_tree.LANDMARKS)
  report, _ = _prepare(tree, tmp_path)
  note = next(note for note in report.findings.notes if note.startswith("faces cut out"))
  assert "box" not in note


def test_ckplus_stills_options_are_checked():
  with pytest.raises(UserError, match="frames is 'first:3': give middle:5"):
    records.make_config("ckplus_stills", {"frames": "first:3"})


def test_ckplus_stills_of_all_sequences_include_those_without_a_label(small_tree, tmp_path):
  report, loaded = _prepare(small_tree, tmp_path, frames="equal:3", contempt=True, unlabelled=True)
  assert loaded.label_names == (*scan.LABELS, "unlabelled")
  assert set(loaded.texts["sequence"]) == {entry.key for entry in SMALL}
  assert len(loaded.subject_names) == 8  # One of them has no labelled sequence.
  assert "54 frames of 18 sequences by the rule equal:3" in report.findings.notes
  names = {
    key: loaded.label_names[label]
    for key, label in zip(loaded.texts["sequence"], loaded.arrays["label"], strict=True)
  }
  assert {key for key, name in names.items() if name == "unlabelled"} == {
    entry.key for entry in SMALL if not entry.code
  }
