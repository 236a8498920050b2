"""Pictures in folders of classes, with and without splits."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxfer.data import records
from jaxfer.data.datasets.image_folder import scan
from jaxfer.data.prepare import BadFiles, Findings, prepare
from jaxfer.errors import UserError
from tests.fixtures import faces

CLASSES = ("anger", "fear", "happiness")
OPTIONS = {"image_size": 16, "crop": "middle"}


def _draw(path: Path, subject: int, emotion: str, take: int = 0) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(faces.draw(subject, emotion, 24, take)[0]).save(path)


def _tree(root: Path, splits: dict[str, range]) -> Path:
  for split, people in splits.items():
    for subject in people:
      for emotion in CLASSES:
        _draw(root / split / emotion / f"s{subject:02d}_1.png", subject, emotion)
  return root


def _scan(root: Path, pattern: str = ""):
  findings = Findings()
  names, stills = scan.scan(root, pattern, findings)
  return names, stills, findings


def _counts(findings: Findings) -> dict[str, int]:
  return {count.what.strip(): count.found for count in findings.counts}


def test_classes_and_people(tmp_path):
  source = _tree(tmp_path / "source", {"": range(4)})
  options = OPTIONS | {"subject_pattern": "(s[0-9]+)_"}
  report = prepare("image_folder", source, tmp_path / "data", **options)
  loaded = records.load("image_folder", tmp_path / "data", **options)
  assert loaded.label_names == CLASSES
  assert loaded.subject_names == ("s00", "s01", "s02", "s03")
  assert loaded.keys[0] == "anger/s00_1.png"
  assert loaded.texts["split"] == ("",) * 12
  assert loaded.fingerprint == report.fingerprint
  for i, key in enumerate(loaded.keys):
    emotion = CLASSES[loaded.arrays["label"][i]]
    assert key.startswith(emotion + "/")
    expected = Image.fromarray(faces.draw(int(loaded.subjects[i][1:]), emotion, 24)[0])
    np.testing.assert_array_equal(
      loaded.arrays["image"][i], np.asarray(expected.resize((16, 16), Image.Resampling.BICUBIC))
    )
  counts = _counts(report.findings)
  assert counts == {"pictures": 12, "subjects": 4, "classes": 3, "written": 12} | dict.fromkeys(CLASSES, 4)
  assert "people" not in " ".join(report.findings.notes)


def test_splits_by_any_of_their_names(tmp_path):
  source = _tree(tmp_path / "X" / "X", {"Train": range(4), "valid": range(4, 6), "TEST": range(6, 7)})
  names, stills, findings = _scan(tmp_path, "s([0-9]+)")
  assert names == CLASSES
  splits = {(still.subject, still.split) for still in stills}
  assert {split for _, split in splits} == {"train", "validation", "test"}
  assert {subject for subject, split in splits if split == "validation"} == {"04", "05"}
  assert stills[0].source.path.is_relative_to(source)
  assert _counts(findings)["validation"] == 6
  assert not findings.odd
  assert not findings.notes


def test_split_is_written(tmp_path):
  source = _tree(tmp_path / "source", {"train": range(2), "test": range(2, 3)})
  prepare("image_folder", source, tmp_path / "data", **OPTIONS)
  loaded = records.load("image_folder", tmp_path / "data", **OPTIONS)
  assert loaded.texts["split"] == tuple(key.split("/")[0] for key in loaded.keys)


def test_people_in_several_splits_are_told(tmp_path):
  _tree(tmp_path, {"train": range(4), "test": range(3, 6)})
  _, _, findings = _scan(tmp_path, "s([0-9]+)")
  assert findings.notes == ["1 of 6 people are in more than one of the distributor's splits"]


def test_unknown_people_are_told(tmp_path):
  _tree(tmp_path, {"": range(2)})
  _, stills, findings = _scan(tmp_path)
  assert len({still.subject for still in stills}) == len(stills)
  assert findings.notes == [
    "people are unknown: each picture counts as a person of its own, and folds cannot keep people apart"
  ]


def test_one_class_alone(tmp_path):
  _draw(tmp_path / "happy" / "a.png", 1, "happiness")
  names, _, _ = _scan(tmp_path)
  assert names == ("happy",)


def test_single_split_is_no_class(tmp_path):
  _tree(tmp_path, {"train": range(1)})
  names, stills, _ = _scan(tmp_path)
  assert names == CLASSES
  assert {still.split for still in stills} == {"train"}


def test_nothing_is_skipped_without_a_count(tmp_path):
  _tree(tmp_path, {"": range(1)})
  for name in ("__MACOSX/anger/a.png", "anger/Thumbs.db", "anger/._s00_1.png"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("")
  (tmp_path / "anger" / "list.txt").write_text("")
  (tmp_path / "anger" / "README").write_text("")
  (tmp_path / "labels.csv").write_text("")
  (tmp_path / "empty").mkdir()
  _draw(tmp_path / "anger" / "deeper" / "still" / "b.JPG", 1, "anger")
  (tmp_path / "fear" / "up").symlink_to(tmp_path / "fear")
  names, stills, findings = _scan(tmp_path)
  assert names == ("anger", "empty", "fear", "happiness")
  assert "anger/deeper/still/b.JPG" in {still.key for still in stills}
  assert len(stills) < 20
  assert [(Path(odd.path).name, odd.what) for odd in findings.odd if "deep;" not in odd.what] == [
    ("labels.csv", "a file beside the class folders; left out"),
    ("empty", "a class folder without pictures"),
  ]
  assert sum("deep;" in odd.what for odd in findings.odd) == 1
  (note,) = (note for note in findings.notes if "no pictures by their names" in note)
  assert note.startswith("2 files")
  assert "1 .txt" in note
  assert "1 without suffix" in note


def test_folders_beside_splits_are_told(tmp_path):
  _tree(tmp_path, {"train": range(1), "extra": range(1)})
  (tmp_path / "train" / "list.txt").write_text("")
  names, _, findings = _scan(tmp_path)
  assert names == CLASSES
  assert [(Path(odd.path).name, odd.what) for odd in findings.odd] == [
    ("list.txt", "a file beside the class folders; left out"),
    ("extra", "beside folders of splits; left out"),
  ]


def test_spellings_of_a_class_are_one(tmp_path):
  _draw(tmp_path / "train" / "Happy" / "a.png", 1, "happiness")
  _draw(tmp_path / "test" / "happy" / "a.png", 2, "happiness")
  _draw(tmp_path / "test" / "sad" / "a.png", 2, "sadness")
  names, stills, findings = _scan(tmp_path)
  assert len(names) == 2
  assert sorted(still.label for still in stills) == [0, 0, 1]
  assert findings.odd[0].what == f"taken for the class '{names[0]}'"


@pytest.mark.parametrize(
  ("pattern", "message"),
  [
    ("s([0-9]+", "not a regular expression"),
    ("s[0-9]+", "with 0 groups: give one"),
    ("(s)([0-9]+)", "with 2 groups: give one"),
  ],
)
def test_bad_subject_patterns(tmp_path, pattern, message):
  with pytest.raises(UserError, match=f"option subject_pattern is .*{message}"):
    _scan(tmp_path, pattern)


def test_pictures_of_nobody_are_bad(tmp_path):
  source = _tree(tmp_path / "source", {"": range(2)})
  _draw(source / "fear" / "somebody.png", 3, "fear")
  options = OPTIONS | {"subject_pattern": "(s[0-9]+)_"}
  with pytest.raises(BadFiles, match=r"finds nobody in fear/somebody.png"):
    prepare("image_folder", source, tmp_path / "data", **options)
  report = prepare("image_folder", source, tmp_path / "data", skip_bad=True, **options)
  assert _counts(report.findings)["written"] == 6


def test_names_that_are_not_utf8_are_bad(tmp_path):
  _tree(tmp_path, {"": range(1)})
  folder = os.fsencode(tmp_path / "fear")
  Path(os.fsdecode(folder + b"/gr\xfc\xdfe.png")).write_bytes(b"")
  _, _, findings = _scan(tmp_path)
  ((problem),) = findings.bad
  assert problem.what == "its name is not UTF-8"
  problem.path.encode()


@pytest.mark.parametrize("content", ["", "flat.png", "texts/a.txt", "train/a.png"])
def test_folders_without_classes_are_refused(tmp_path, content):
  if content.endswith("png"):
    _draw(tmp_path / content, 1, "fear")
  elif content:
    (tmp_path / content).parent.mkdir()
    (tmp_path / content).write_text("")
  with pytest.raises(UserError, match=r"holds no pictures: expected <class>/\*.jpg"):
    _scan(tmp_path)


def test_only_bad_pictures(tmp_path):
  (tmp_path / "source" / "fear").mkdir(parents=True)
  (tmp_path / "source" / "fear" / "a.jpg").write_text("text")
  with pytest.raises(BadFiles, match="not an image"):
    prepare("image_folder", tmp_path / "source", tmp_path / "data", **OPTIONS)
  with pytest.raises(UserError, match="none of its 1 pictures can be used"):
    prepare("image_folder", tmp_path / "source", tmp_path / "data", skip_bad=True, **OPTIONS)
  assert list((tmp_path / "data").iterdir()) == []


def test_label_names_come_with_the_prepared_copy(tmp_path):
  for data_dir, names in (("a", ("x", "y")), ("b", ("p", "q", "r"))):
    for name in names:
      _draw(tmp_path / data_dir / "source" / name / "1.png", 1, name)
    prepare("image_folder", tmp_path / data_dir / "source", tmp_path / data_dir, **OPTIONS)
  assert records.load("image_folder", tmp_path / "a", **OPTIONS).label_names == ("x", "y")
  assert records.load("image_folder", tmp_path / "b", **OPTIONS).label_names == ("p", "q", "r")
