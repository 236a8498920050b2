"""Tests the import of pictures in folders of classes, with and without splits."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxfer.data import detect, records
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


def test_people_in_several_splits_are_reported(tmp_path):
  _tree(tmp_path, {"train": range(4), "test": range(3, 6)})
  _, _, findings = _scan(tmp_path, "s([0-9]+)")
  assert findings.notes == ["1 of 6 people are in more than one of the distributor's splits"]


def test_unknown_people_are_reported(tmp_path):
  _tree(tmp_path, {"": range(2)})
  _, stills, findings = _scan(tmp_path)
  assert len({still.subject for still in stills}) == len(stills)
  assert findings.notes == [
    "people are unknown: each picture counts as a different person, so folds cannot keep people apart"
  ]


@pytest.mark.parametrize("above", ["", "X", "train", "X/train"])
@pytest.mark.parametrize("name", ["happy", "cat"])
def test_a_single_class_is_refused(tmp_path, name, above):
  for picture in ("a.png", "person/b.png", "person/c.png"):
    _draw(tmp_path / above / name / picture, 1, "happiness", len(picture))
  with pytest.raises(UserError, match=rf"holds a single class, '{'happy' if name == 'happy' else ''}"):
    _scan(tmp_path)


def test_a_single_remaining_class_is_refused(tmp_path):
  _draw(tmp_path / "source" / "happy" / "a.png", 1, "happiness")
  (tmp_path / "source" / "sad").mkdir()
  (tmp_path / "source" / "sad" / "b.png").write_text("no picture")
  with pytest.raises(
    UserError, match="all of its usable pictures are of class 'happy': a classifier needs two"
  ):
    prepare("image_folder", tmp_path / "source", tmp_path / "data", skip_bad=True, **OPTIONS)


def test_a_single_split_is_not_a_class(tmp_path):
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
  assert names == ("anger", "fear", "happiness")
  assert "anger/deeper/still/b.JPG" in {still.key for still in stills}
  assert len(stills) < 20
  assert [(Path(odd.path).name, odd.what) for odd in findings.odd if "deep;" not in odd.what] == [
    ("labels.csv", "a file beside the class folders; left out"),
  ]
  assert [(Path(bad.path).name, bad.what) for bad in findings.bad] == [
    ("empty", "a folder without pictures, where a class or a split is expected")
  ]
  assert sum("deep;" in odd.what for odd in findings.odd) == 1
  (note,) = (note for note in findings.notes if "not those of pictures" in note)
  assert note.startswith("2 files")
  assert "1 .txt" in note
  assert "1 without suffix" in note


def test_folders_beside_splits_are_reported(tmp_path):
  _tree(tmp_path, {"train": range(1), "extra": range(1)})
  (tmp_path / "train" / "list.txt").write_text("")
  names, _, findings = _scan(tmp_path)
  assert names == CLASSES
  assert [(Path(odd.path).name, odd.what) for odd in findings.odd] == [
    ("list.txt", "a file beside the class folders; left out")
  ]
  assert [(Path(bad.path).name, bad.what) for bad in findings.bad] == [
    ("extra", "3 pictures beside the folders of splits, in none of them")
  ]


def test_spellings_of_a_class_are_one(tmp_path):
  _draw(tmp_path / "train" / "Happy" / "a.png", 1, "happiness")
  _draw(tmp_path / "test" / "happy" / "a.png", 2, "happiness")
  _draw(tmp_path / "test" / "sad" / "a.png", 2, "sadness")
  names, stills, findings = _scan(tmp_path)
  assert len(names) == 2
  assert sorted(still.label for still in stills) == [0, 0, 1]
  assert findings.odd[0].what == f"counted as class '{names[0]}'"


def test_words_for_one_emotion_are_one_class_unless_a_split_has_both(tmp_path):
  for folder in ("train/happy", "train/sad", "test/Happiness", "test/sadness"):
    _draw(tmp_path / "a" / folder / "a.png", 1, "happiness")
  names, stills, _ = _scan(tmp_path / "a")
  assert names == ("Happiness", "sadness")  # The spelling of the first folder.
  assert [still.label for still in stills] == [0, 1, 0, 1]
  for folder in ("fear", "scared", "sad"):
    _draw(tmp_path / "b" / folder / "a.png", 1, "happiness")
  assert _scan(tmp_path / "b")[0] == ("fear", "sad", "scared")


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


@pytest.mark.parametrize("name", [b"an\nger", b"an\rger", b"anger ", b"\xfcrger"])
def test_class_names_that_cannot_be_stored_are_refused(tmp_path, name):
  """TFDS stores one name per line, so every later class would get another label."""
  source = tmp_path / "source"
  _tree(source, {"": range(2)})
  Path(source / "anger").rename(os.fsdecode(os.fsencode(source / "x")[:-1] + name))
  with pytest.raises(UserError, match=r"a class is called .*ger ?': rename it without line breaks or spaces"):
    prepare("image_folder", source, tmp_path / "data", skip_bad=True, crop="whole")


@pytest.mark.parametrize("content", ["", "flat.png", "texts/a.txt", "train/a.png"])
def test_folders_without_classes_are_refused(tmp_path, content):
  if content.endswith("png"):
    _draw(tmp_path / content, 1, "fear")
  elif content:
    (tmp_path / content).parent.mkdir()
    (tmp_path / content).write_text("")
  holds = f"pictures in no class folder, such as .*{content}" if content.endswith("png") else "no pictures"
  with pytest.raises(UserError, match=rf"holds {holds}: expected <class>/\*.jpg"):
    _scan(tmp_path)


def test_only_bad_pictures(tmp_path):
  (tmp_path / "source" / "fear").mkdir(parents=True)
  (tmp_path / "source" / "joy").mkdir()
  for name in ("fear", "joy"):
    (tmp_path / "source" / name / "a.jpg").write_text("text")
  with pytest.raises(BadFiles, match="not an image"):
    prepare("image_folder", tmp_path / "source", tmp_path / "data", **OPTIONS)
  with pytest.raises(UserError, match="none of its 2 pictures can be used"):
    prepare("image_folder", tmp_path / "source", tmp_path / "data", skip_bad=True, **OPTIONS)
  assert list((tmp_path / "data").iterdir()) == []


def test_label_names_come_with_the_prepared_copy(tmp_path):
  for data_dir, names in (("a", ("x", "y")), ("b", ("p", "q", "r"))):
    for name in names:
      _draw(tmp_path / data_dir / "source" / name / "1.png", 1, name)
    prepare("image_folder", tmp_path / data_dir / "source", tmp_path / data_dir, **OPTIONS)
  assert records.load("image_folder", tmp_path / "a", **OPTIONS).label_names == ("x", "y")
  assert records.load("image_folder", tmp_path / "b", **OPTIONS).label_names == ("p", "q", "r")


def _folders(root: Path, *paths: str) -> None:
  for i, path in enumerate(paths):
    _draw(root / path / "a.png", i, "fear")


@pytest.mark.parametrize(
  "beside", ["train_labels.csv", "README.md", "LICENSE", ".DS_Store", "__MACOSX/x.txt", "docs/x.txt"]
)
@pytest.mark.parametrize("above", ["DATASET", "archive/DATASET", "DATASET/images"])
def test_splits_are_found_beside_other_files(tmp_path, above, beside):
  _folders(tmp_path, *(f"{above}/{split}/{name}" for split in ("train", "test") for name in "1234567"))
  (tmp_path / beside).parent.mkdir(exist_ok=True)
  (tmp_path / beside).write_text("image,label")
  names, stills, findings = _scan(tmp_path)
  assert names == tuple("1234567")
  assert [still.split for still in stills] == ["test"] * 7 + ["train"] * 7
  assert not findings.bad


@pytest.mark.parametrize(
  ("train", "validation", "test"),
  [
    ("Training", "Validation", "Testing"),
    ("train", "valid", "test"),
    ("TRAIN", "val", "TEST"),
    ("Train_Set", "Val-Set", "test_set"),
    ("training", "PublicTest", "PrivateTest"),
    ("train", "dev", "eval"),
    ("train", "eval", "test"),
    ("train_images", "validation data", "testset"),
    ("train/train", "valid/valid", "test/test"),
    ("train/images", "valid/images", "test/images"),
    ("images/train", "images/val", "images/test"),
  ],
)
def test_usual_names_of_splits(tmp_path, train, validation, test):
  _folders(
    tmp_path / "X", *(f"{split}/{name}" for split in (train, validation, test) for name in ("cat", "dog"))
  )
  names, stills, findings = _scan(tmp_path)
  assert names == ("cat", "dog")
  found = {still.split: {part for part in still.key.split("/")} for still in stills}
  assert set(found) == {"train", "validation", "test"}
  for split, folder in (("train", train), ("validation", validation), ("test", test)):
    assert folder.split("/")[-1] in found[split]
  assert not findings.bad + findings.odd


@pytest.mark.parametrize(
  ("paths", "message"),
  [
    (
      ("RAF_trn1/happy", "RAF_trn1/sad", "RAF_tst1/happy", "RAF_tst1/sad"),
      "happy, sad are below .*RAF_trn1 and also",
    ),
    (("s01/1", "s01/2", "s02/1", "s02/2"), "1, 2 are below .*layout=class and --source"),
    (
      ("train/f1/cat", "train/f1/dog", "train/f2/cat", "train/f2/dog"),
      "cat, dog are below .*layout=split/class",
    ),
    (
      ("happy/train", "happy/test", "sad/train", "sad/test"),
      "happy holds a folder of a split, test.*test/happy",
    ),
    (
      ("DATASET/train/1", "DATASET/train/2", "samples"),
      "DATASET holds a folder of a split, train.*give it as --source",
    ),
    (("train/train/1", "train/test/1", "test/1"), "has the name of a split where a class is expected"),
    (
      ("train/happy", "train/sad", "test/1", "test/2"),
      r"classes of the test split \(1, 2\) are not those of the others",
    ),
  ],
)
def test_what_can_be_understood_in_two_ways_is_refused(tmp_path, paths, message):
  _folders(tmp_path, *paths)
  with pytest.raises(UserError, match=message) as caught:
    _scan(tmp_path)
  assert "\n" not in str(caught.value)


def test_layout_decides(tmp_path):
  _folders(tmp_path / "a", "cat/s1", "cat/s2", "dog/s1", "dog/s2")
  names, stills = scan.scan(tmp_path / "a", "", Findings(), "class")
  assert (names, [still.label for still in stills]) == (("cat", "dog"), [0, 0, 1, 1])
  _folders(
    tmp_path / "b",
    *(f"{split}/{name}/s{i}" for split in ("train", "test") for name in ("cat", "dog") for i in "12"),
  )
  names, stills = scan.scan(tmp_path / "b", "", Findings(), "split/class")
  assert (names, [still.split for still in stills]) == (("cat", "dog"), ["test"] * 4 + ["train"] * 4)
  with pytest.raises(UserError, match="expected <class>"):
    scan.scan(tmp_path / "a", "", Findings(), "split/class")
  with pytest.raises(
    UserError, match="unknown option layout of data set 'image_folder' 'clas': did you mean 'class'"
  ):
    records.make_config("image_folder", {"layout": "clas"})
  options = [{}, {"layout": "class"}]
  # All options name the same copy.
  assert len({records.make_config("image_folder", option).name for option in options}) == 1


@pytest.mark.parametrize(
  ("paths", "classes"),
  [
    (("s01/1", "s01/2", "s02/1", "s02/2"), ("s01", "s02")),
    (("down/s01/1", "down/s01/2", "down/s02/1", "down/s02/2"), ("s01", "s02")),
    (("train/f1/cat", "train/f1/dog", "train/f2/cat", "train/f2/dog"), ("f1", "f2")),
  ],
)
def test_the_layout_and_source_that_a_message_advises_are_understood(tmp_path, paths, classes):
  _folders(tmp_path, *paths)
  with pytest.raises(UserError) as caught:
    _scan(tmp_path)
  layout, source = re.search(r"give layout=(\S+) and --source (\S+)$", str(caught.value)).groups()
  names, _ = scan.scan(Path(source), "", Findings(), layout)
  assert names == classes


@pytest.mark.parametrize("layout", ["class", "split/class"])
def test_where_a_given_layout_finds_no_class_the_message_says_what_lies_there(tmp_path, layout):
  (tmp_path / "train").mkdir()
  with pytest.raises(UserError, match=r"holds no pictures: expected <class>/\*\.jpg"):
    scan.scan(tmp_path, "", Findings(), layout)
  _draw(tmp_path / "a.png", 5, "fear")
  with pytest.raises(UserError, match=f"holds pictures in no class folder, such as {tmp_path}/a.png: expect"):
    scan.scan(tmp_path, "", Findings(), layout)


def test_people_below_classes_are_no_classes(tmp_path):
  _folders(tmp_path, *(f"{name}/{person}" for name in ("happy", "sad", "x") for person in ("s1", "s2")))
  assert _scan(tmp_path)[0] == ("happy", "sad", "x")


def test_a_class_that_a_split_lacks_is_reported(tmp_path):
  _folders(tmp_path, "train/happy", "train/sad", "train/fear", "test/happy", "test/sad")
  (tmp_path / "test" / "fear").mkdir()
  names, _, findings = _scan(tmp_path)
  assert names == ("fear", "happy", "sad")
  assert [odd.what for odd in findings.odd] == ["class 'fear' has no pictures in the test split"]
  assert not findings.bad


@pytest.mark.parametrize("place", ["a.png", "train/a.png"])
def test_pictures_of_no_class_are_bad(tmp_path, place):
  _tree(tmp_path / "source", {"train": range(2), "test": range(2, 3)})
  for name in ("", "2"):
    _draw(tmp_path / "source" / place.replace(".png", f"{name}.png"), 5, "fear")
  with pytest.raises(BadFiles, match=f"{place}: 2 pictures beside .*: their class is unknown"):
    prepare("image_folder", tmp_path / "source", tmp_path / "data", **OPTIONS)
  report = prepare("image_folder", tmp_path / "source", tmp_path / "data", skip_bad=True, **OPTIONS)
  assert _counts(report.findings)["written"] == 9


def test_classes_that_are_numbers_go_by_number(tmp_path):
  _folders(tmp_path, *map(str, range(12)))
  assert _scan(tmp_path)[0] == tuple(map(str, range(12)))


def test_the_same_picture_under_two_labels_or_in_two_splits(tmp_path):
  source = _tree(tmp_path / "source", {"train": range(4), "test": range(4, 6)})
  happy = (source / "train" / "happiness" / "s00_1.png").read_bytes()
  (source / "train" / "fear" / "copy.png").write_bytes(happy)
  (source / "train" / "happiness" / "copy.png").write_bytes(happy)
  leak = (source / "test" / "anger" / "s04_1.png").read_bytes()
  (source / "train" / "anger" / "leak.png").write_bytes(leak)
  (source / "test" / "anger" / "again.png").write_bytes(leak)
  with pytest.raises(
    BadFiles,
    match=r"leak.png: in the train split, but the same picture .*again.png is in the test split \(and 3 more",
  ):
    prepare("image_folder", source, tmp_path / "data", **OPTIONS)
  report = prepare("image_folder", source, tmp_path / "data", skip_bad=True, **OPTIONS)
  keys = records.load("image_folder", tmp_path / "data", **OPTIONS).keys
  assert "labelled 'fear', but the same picture" in report.table()
  assert {Path(bad.path).relative_to(source).as_posix() for bad in report.findings.bad} == {
    "train/fear/copy.png", "train/happiness/copy.png", "train/happiness/s00_1.png", "train/anger/leak.png",
  }  # fmt: skip
  assert "train/anger/leak.png" not in keys
  assert "train/happiness/s00_1.png" not in keys
  assert {"test/anger/s04_1.png", "test/anger/again.png"} <= set(keys)
  assert len(keys) == _counts(report.findings)["written"] == 18
  assert [Path(odd.path).name for odd in report.findings.odd] == ["s04_1.png"]
  notes = "\n".join(report.findings.notes)
  assert "contradictions: 1 pictures occur 3 times" in notes
  assert "leaks: 1 pictures occur again in the test" in notes
  assert "1 pictures repeat one of the same label and split: kept" in notes


def test_another_detector_makes_other_data_and_the_report_names_it(tmp_path, monkeypatch):
  class Fixed:
    def __init__(self, name):
      self.name = name

    def find(self, images):
      """The left edge of the box depends on the detector; a bright picture has no face."""
      box = (float(len(self.name)), 2.0, 20.0, 20.0)
      return [[detect.Face(box, 0.9)] if image.mean() < 120 else [] for image in images]

  monkeypatch.setattr(detect, "get", lambda name: Fixed(name or "best"))
  source = _tree(tmp_path / "source", {"": range(2)})
  Image.fromarray(faces.draw(7, "fear", 24)[0] // 4 + 180).save(source / "fear" / "bright.png")
  reports = {
    name: prepare("image_folder", source, tmp_path / "data", image_size=16, detector=name)
    for name in ("", "another")
  }
  for name, report in zip(("best", "another"), reports.values(), strict=True):
    assert f"faces cut out: 6 found by {name}, 1 the middle square" in report.findings.notes
    assert f"the detector, {name}, found a face in 6 pictures" in report.findings.notes
    assert any("no face found in 1 pictures" in note for note in report.findings.notes)
    assert f"found by {name}" in report.to_json()
  assert reports[""].fingerprint != reports["another"].fingerprint
  assert f"fingerprint {reports[''].fingerprint}" in reports["another"].replaced
