"""Tests the import of MUG from a drawn copy of the distributor's folders."""

import shutil

import numpy as np
import pytest

from jaxfer.data import records
from jaxfer.data.datasets.mug import scan
from jaxfer.data.prepare import BadFiles, Findings, prepare
from jaxfer.errors import UserError
from tests.fixtures import mug_tree

OPTIONS = {"image_size": 16, "crop": "whole"}


@pytest.fixture(scope="session")
def full_tree(tmp_path_factory):
  root = tmp_path_factory.mktemp("mug")
  mug_tree.write_sequences(root)
  return root


@pytest.fixture
def tree(full_tree, tmp_path):
  """A copy that a test may damage."""
  return shutil.copytree(full_tree, tmp_path / "tree")


def _scan(root, rule="middle:5", keep_nsg=False):
  findings = Findings()
  return scan.scan_sequences(root, rule, keep_nsg, findings), findings


def _counts(findings):
  return {count.what.strip(): count.found for count in findings.counts}


def _frames(stills, sequence):
  return [still.extras["frame"] for still in stills if still.extras["sequence"] == sequence]


def test_mug_counts(full_tree):
  stills, findings = _scan(full_tree)
  assert not findings.bad
  counts = _counts(findings)
  assert counts == {
    "subjects": 5, "sequences": 9, "anger": 3, "disgust": 1, "fear": 1, "happiness": 1, "neutral": 1,
    "sadness": 1, "surprise": 1, "frames": 58,
  }  # fmt: skip
  assert len(stills) == 7 * 5 + 3
  assert len({still.key for still in stills}) == len(stills)
  assert next(count.expected for count in findings.counts if count.what == "subjects") == 52


def test_mug_sessions_are_one_person(full_tree):
  stills, findings = _scan(full_tree)
  sequences = {still.extras["sequence"]: still.subject for still in stills}
  assert sequences["002_session0_anger_take000"] == sequences["002_session1_anger_take000"] == "002"
  assert sequences["003_session0_surprise_take001"] == "003"  # The case of folder names does not matter.
  assert {still.subject for still in stills} == {"001", "002", "003", "049", "082"}
  belief = next(belief for belief in findings.beliefs if "sessions" in belief.claim)
  assert belief.holds


def test_mug_nsg_takes_are_left_out_or_kept_and_counted(full_tree):
  stills, findings = _scan(full_tree)
  assert not any("nsg" in still.key for still in stills)
  assert "1 takes are marked nsg (not so good): left out" in findings.notes
  stills, findings = _scan(full_tree, keep_nsg=True)
  assert len(_frames(stills, "002_session1_fear_take003_nsg")) == 5
  assert "1 takes are marked nsg (not so good): kept" in findings.notes


def test_mug_frames_go_by_number_past_999(full_tree):
  stills, _ = _scan(full_tree, "all")
  assert _frames(stills, "001_happiness_take002") == list(range(997, 1004))
  stills, _ = _scan(full_tree, "last:3")
  assert _frames(stills, "001_happiness_take002") == [1001, 1002, 1003]


def test_mug_frame_rules(full_tree):
  assert _frames(_scan(full_tree)[0], "001_anger_take000") == [2, 3, 4, 5, 6]
  assert _frames(_scan(full_tree, "equal:3")[0], "001_anger_take000") == [0, 4, 8]
  stills, findings = _scan(full_tree)
  assert _frames(stills, "082_sadness_take001") == [0, 1, 2]
  assert "38 of 52 frames of 8 takes by the rule middle:5" in findings.notes


def test_mug_neutral_frames_without_a_take_are_a_sequence(full_tree):
  stills, _ = _scan(full_tree)
  assert _frames(stills, "049_session1_neutral") == [0, 1, 2, 3, 4]


def test_mug_gaps_and_strangers_are_odd(full_tree):
  _, findings = _scan(full_tree)
  whats = {problem.path.rsplit("/", 1)[-1]: problem.what for problem in findings.odd}
  assert whats == {
    "thumb.jpg": "its path does not follow subject/[session/]expression/take/; left out",
    "take001": "6 frames are numbered 0 to 7; taken in order",
  }


def test_mug_a_second_frame_of_a_number_is_left_out(tree):
  folder = tree / "subjects3" / "001" / "anger" / "take000"
  shutil.copy(folder / "img_0003.jpg", folder / "img_3.jpg")
  stills, findings = _scan(tree, "all")
  assert _frames(stills, "001_anger_take000") == list(range(9))
  assert any(problem.what == "a second frame 3 of 001_anger_take000; left out" for problem in findings.odd)


def test_mug_folders_by_any_word_for_the_emotion(tree, full_tree):
  (tree / "subjects3" / "001" / "anger").rename(tree / "subjects3" / "001" / "Angry")
  assert [(still.key, still.label) for still in _scan(tree)[0]] == [
    (still.key, still.label) for still in _scan(full_tree)[0]
  ]
  (tree / "subjects3" / "001" / "Angry").rename(tree / "subjects3" / "001" / "rage")
  _, findings = _scan(tree)
  (problem,) = findings.bad
  assert problem.what == "9 frames in a folder that is not named after an emotion"


def test_mug_prepare(full_tree, tmp_path):
  # The only take of fear does not follow the guide, and is left out.
  with pytest.raises(BadFiles, match="nothing of class 'fear' in this copy"):
    prepare("mug", full_tree, tmp_path / "data", **OPTIONS)
  report = prepare("mug", full_tree, tmp_path / "data", skip_bad=True, **OPTIONS)
  loaded = records.load("mug", tmp_path / "data", **OPTIONS)
  assert len(loaded) == _counts(report.findings)["written"] == 38
  assert loaded.label_names == mug_tree.LABELS
  assert loaded.arrays["image"].shape == (38, 16, 16, 3)
  i = loaded.keys.index("001_happiness_take002_1001")
  assert (loaded.arrays["frame"][i], loaded.texts["sequence"][i]) == (1001, "001_happiness_take002")
  assert (loaded.subjects[i], loaded.label_names[loaded.arrays["label"][i]]) == ("001", "happiness")
  table = report.table()
  assert "subjects" in table
  assert "differs" in table
  assert "BROKEN  1462 sequences in all (9)" in table
  assert "ask at mug.ee.auth.gr" in table


@pytest.mark.parametrize("nesting", ["in", "deeper", "shouted"])
def test_mug_nestings_read_the_same(tree, tmp_path, full_tree, nesting):
  source = tree
  if nesting == "in":
    source = tree / "subjects3"
  elif nesting == "deeper":
    source = tmp_path / "mug"
    shutil.move(tree, source / "MUG" / "MUG")
  else:
    for path in sorted(tree.rglob("*"), reverse=True):
      path.rename(path.with_name(path.name.upper()))
  expected = [(still.key, still.subject, still.label) for still in _scan(full_tree)[0]]
  assert [(still.key, still.subject, still.label) for still in _scan(source)[0]] == expected


def test_mug_a_broken_frame_is_listed(tree, tmp_path):
  path = tree / "subjects3" / "001" / "anger" / "take000" / "img_0004.jpg"
  path.write_bytes(b"not a picture")
  with pytest.raises(BadFiles, match=r"img_0004\.jpg: not an image"):
    prepare("mug", tree, tmp_path / "data", **OPTIONS)
  report = prepare("mug", tree, tmp_path / "data", skip_bad=True, **OPTIONS)
  assert _counts(report.findings)["written"] == 37


def test_mug_empty_and_wrong_folders(tmp_path):
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match=r"holds no sequences of MUG: expected subjects3/002/anger"):
    _scan(tmp_path / "empty")
  (tmp_path / "wrong").mkdir()
  (tmp_path / "wrong" / "a.jpg").write_bytes(b"x")
  with pytest.raises(UserError, match=r"\(it has 1 other JPEG files\)"):
    _scan(tmp_path / "wrong")
  with pytest.raises(UserError, match="holds no manual stills of MUG"):
    scan.scan_manual(tmp_path / "wrong", Findings())


@pytest.mark.parametrize("packed", [False, True])
def test_mug_manual_stills_in_a_folder_or_their_tar(tmp_path, packed):
  mug_tree.write_manual(tmp_path / "tree", packed)
  options = OPTIONS | {"part": "manual"}
  report = prepare("mug", tmp_path / "tree", tmp_path / "data", **options)
  assert _counts(report.findings) == {
    "subjects": 2, "stills": 14, "anger": 2, "disgust": 2, "fear": 2, "happiness": 2, "neutral": 2,
    "sadness": 2, "surprise": 2, "written": 14,
  }  # fmt: skip
  assert any("1 other files, such as the 80 landmarks" in note for note in report.findings.notes)
  loaded = records.load("mug", tmp_path / "data", **options)
  assert loaded.keys[0] == "001_anger_take000_0012"
  assert np.bincount(loaded.arrays["label"]).tolist() == [2] * 7


def test_mug_a_compressed_or_cut_tar_is_bad(tmp_path):
  mug_tree.write_manual(tmp_path, packed=True)
  path = tmp_path / "manual.tar"
  sound = path.read_bytes()
  path.write_bytes(b"\x1f\x8b" + sound)
  with pytest.raises(BadFiles, match="not a whole, uncompressed tar archive"):
    scan.scan_manual(tmp_path, Findings())
  path.write_bytes(sound[:6000])
  findings = Findings()
  assert 0 < len(scan.scan_manual(tmp_path, findings)) < 14
  assert [problem.path for problem in findings.bad] == [str(path)]


def test_mug_options_are_checked():
  for options, message in (
    ({"part": "all"}, "unknown option part of data set 'mug' 'all'"),
    ({"frames": "middle"}, "frames is 'middle': give middle:5"),
  ):
    with pytest.raises(UserError, match=message):
      records.make_config("mug", options)
