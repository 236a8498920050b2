"""Tests the import of RAVDESS from drawn H.264 clips with the distributor's names."""

import io
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxfer.data import records
from jaxfer.data.datasets.ravdess import clip, scan
from jaxfer.data.prepare import BadFiles, Findings, prepare
from jaxfer.data.stills import File
from jaxfer.errors import UserError
from tests.fixtures import ravdess_tree

pytest.importorskip("av", reason="reading video needs PyAV")

OPTIONS = {"image_size": 48, "crop": "whole"}


@pytest.fixture(scope="session")
def full_tree(tmp_path_factory):
  root = tmp_path_factory.mktemp("ravdess")
  ravdess_tree.write(root)
  return root


@pytest.fixture
def tree(full_tree, tmp_path):
  """A copy that a test may damage."""
  return shutil.copytree(full_tree, tmp_path / "tree")


def _scan(root, channel="both", rule="equal:3"):
  findings = Findings()
  return scan.scan(root, channel, rule, findings), findings


def _counts(findings):
  return {count.what.strip(): (count.found, count.expected) for count in findings.counts}


def _levels(loaded):
  """Returns the frame number of each record, from its grey corner."""
  corner = loaded.arrays["image"][:, 2:10, 2:10].reshape(len(loaded), -1).mean(axis=1)
  return np.rint((corner - ravdess_tree.level(0)) / 25).astype(int)


def test_ravdess_twins_are_taken_once(full_tree):
  stills, findings = _scan(full_tree)
  assert len(stills) == len({still.key for still in stills}) == 13 * 3
  counts = _counts(findings)
  assert counts["trials"] == (13, 2452)
  assert counts["video files"] == (26, 4904)
  assert all("/01-" in str(still.source) for still in stills)
  assert any(note.startswith("13 trials have both files") for note in findings.notes)
  assert any(note.startswith("1 sound files (.wav): not read") for note in findings.notes)


@pytest.mark.parametrize("modality", ["01", "02"])
def test_ravdess_either_twin_serves(tree, full_tree, modality):
  ravdess_tree.remove(tree, 2, modality)
  stills, findings = _scan(tree)
  assert [still.key for still in stills] == [still.key for still in _scan(full_tree)[0]]
  assert _counts(findings)["trials"][0] == 13


def test_ravdess_actor_18_has_no_song(full_tree):
  stills, findings = _scan(full_tree, "song")
  assert {still.subject for still in stills} == {"Actor_01", "Actor_02"}
  assert _counts(findings)["actors"] == (2, 23)
  assert _counts(findings)["trials"] == (4, 1012)
  beliefs = {belief.claim: belief.holds for belief in findings.beliefs}
  assert beliefs["actor 18 has no song"]
  assert beliefs["nobody sings disgust or surprise"]
  assert beliefs["neutral is never strong"]
  assert not beliefs["clips are 1280x720"]
  assert beliefs["clips run at 29.97 frames a second"]


def test_ravdess_expected_counts_follow_the_channel(full_tree):
  expected = {channel: _counts(_scan(full_tree, channel)[1]) for channel in ("speech", "song", "both")}
  assert [expected["speech"][name][1] for name in scan.LABELS] == [96, 192, 192, 192, 192, 192, 192, 192]
  assert [expected["song"][name][1] for name in scan.LABELS] == [92, 184, 184, 184, 184, 184, 0, 0]
  assert [expected["both"][name][1] for name in scan.LABELS] == [188, 376, 376, 376, 376, 376, 192, 192]
  assert expected["speech"]["trials"] == expected["both"]["trials of speech"] == (9, 1440)
  assert expected["both"]["trials of song"] == (4, 1012)
  assert [expected["speech"][name][0] for name in ("neutral", "happiness", "disgust", "calm")] == [3, 3, 3, 0]


def test_ravdess_prepare_takes_the_frames_of_the_rule(full_tree, tmp_path):
  report = prepare("ravdess", full_tree, tmp_path / "data", skip_bad=True, **OPTIONS, frames="equal:3")
  loaded = records.load("ravdess", tmp_path / "data", **OPTIONS, frames="equal:3")
  assert loaded.label_names == scan.LABELS
  assert len(loaded) == _counts(report.findings)["written"][0] == 39
  assert loaded.arrays["frame"].tolist() == [0, 4, 8] * 13
  np.testing.assert_array_equal(_levels(loaded), loaded.arrays["frame"])
  i = loaded.keys.index("01-03-02-01-01-18_0004")
  assert (loaded.subjects[i], loaded.label_names[loaded.arrays["label"][i]]) == ("Actor_18", "happiness")
  texts = {name: column[i] for name, column in loaded.texts.items()}
  assert texts == {"sequence": "01-03-02-01-01-18", "channel": "speech", "intensity": "strong", "split": ""}
  assert "39 of 117 frames of 13 clips by the rule equal:3" in report.findings.notes
  assert "CC BY-NC-SA" in report.table()
  assert [problem.what for problem in report.findings.bad] == [
    f"nothing of class '{name}' in this copy" for name in ("calm", "sadness", "fear", "surprise")
  ]


def test_ravdess_a_clip_is_decoded_once(full_tree, monkeypatch):
  stills, _ = _scan(full_tree, rule="all")
  decoded = []
  read = File.read
  monkeypatch.setattr(File, "read", lambda place: decoded.append(place) or read(place))
  for still in stills:
    still.source.read()
  assert len(stills) == 13 * ravdess_tree.NUM_FRAMES
  assert len(decoded) == len(set(decoded)) == 13


def test_ravdess_archives_are_read_packed(full_tree, tmp_path):
  ravdess_tree.write_zips(tmp_path / "zips")
  # Four of the eight classes are missing in the drawn copy.
  options = OPTIONS | {
    "frames": "middle:1",
    "skip_bad": True,
  }
  packed = prepare("ravdess", tmp_path / "zips", tmp_path / "data", **options)
  unpacked = prepare("ravdess", full_tree, tmp_path / "other", **options)
  assert packed.fingerprint == unpacked.fingerprint
  archive = tmp_path / "zips" / "Video_Song_Actor_02.zip"
  ravdess_tree.truncate(archive, 0.5)
  findings = Findings()
  scan.scan(tmp_path / "zips", "both", "all", findings)
  assert [(problem.path, problem.what[:18]) for problem in findings.bad] == [
    (str(archive), "cannot be unpacked")
  ]


@pytest.mark.parametrize("nesting", ["merged", "flat", "shouted", "deeper"])
def test_ravdess_nestings_read_the_same(tree, tmp_path, full_tree, nesting):
  source = tmp_path / "other"
  if nesting == "merged":
    ravdess_tree.write(source, merged=True)
  elif nesting == "flat":
    for path in tree.rglob("0*.*"):
      ravdess_tree.copy(path, source / path.name)
  elif nesting == "shouted":
    for path in sorted(tree.rglob("*"), reverse=True):
      path.rename(path.with_name(path.name.upper()))
    source = tree
  else:
    shutil.move(tree, source / "RAVDESS" / "RAVDESS")
  assert [still.key for still in _scan(source)[0]] == [still.key for still in _scan(full_tree)[0]]


def test_ravdess_strange_names_and_second_copies_are_odd(tree):
  first = next(tree.rglob("01-01-01-01-01-01-01.mp4"))
  ravdess_tree.copy(first, tree / "again" / first.name)
  ravdess_tree.copy(first, tree / "again" / "01-01-09-01-01-01-01.mp4")
  ravdess_tree.copy(first, tree / "again" / "01-01-01-01-01-01-25.mp4")
  stills, findings = _scan(tree)
  assert len(stills) == 39
  whats = sorted(problem.what.split(",")[0].split(";")[0] for problem in findings.odd)
  assert whats == ["a second file of this name"] + ["its name is not that of a clip of RAVDESS"] * 2


def test_ravdess_a_damaged_twin_is_odd_and_both_are_bad(tree, tmp_path):
  first = next(tree.rglob("01-01-01-01-01-01-01.mp4"))
  second = first.with_name("02" + first.name[2:])
  first.write_bytes(b"")
  stills, findings = _scan(tree)
  assert len(stills) == 39
  assert (findings.bad, [problem.path for problem in findings.odd]) == ([], [str(first)])
  ravdess_tree.truncate(second, 0.1)
  with pytest.raises(BadFiles, match=r"01-01-01-01-01-01-01\.mp4: no video can be read from it .*5 more bad"):
    prepare("ravdess", tree, tmp_path / "data", **OPTIONS, frames="middle:1")
  report = prepare("ravdess", tree, tmp_path / "data", skip_bad=True, **OPTIONS, frames="middle:1")
  assert _counts(report.findings)["written"][0] == 12


def test_ravdess_a_clip_that_breaks_off_names_the_frame(full_tree, tmp_path):
  import av

  path = next(full_tree.rglob("01-01-01-01-01-01-01.mp4"))
  with av.open(str(path)) as container:
    ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
  data = bytearray(path.read_bytes())
  data[ends[3] : max(ends)] = bytes(max(ends) - ends[3])
  broken = tmp_path / "broken.mp4"
  broken.write_bytes(data)
  assert clip.read_header(File(broken)).num_frames == ravdess_tree.NUM_FRAMES
  assert clip.Frame(File(broken), 0).read()[:2] == b"P6"
  with pytest.raises(ValueError, match="frame 8"):
    clip.Frame(File(broken), 8).read()


def test_ravdess_empty_and_wrong_folders(full_tree, tmp_path):
  with pytest.raises(UserError, match=r"holds no clips of RAVDESS: expected Actor_01/"):
    _scan(tmp_path)
  with pytest.raises(UserError, match=r"\(it has 1 sound files\)"):
    _scan(full_tree / "Audio_Speech_Actors_01-24")
  with pytest.raises(UserError, match="holds clips of speech only: give channel=speech"):
    _scan(full_tree / "Video_Speech_Actor_18", "song")
  with pytest.raises(UserError, match="unknown option channel of data set 'ravdess' 'singing'"):
    records.make_config("ravdess", {"channel": "singing"})


SOUND = ravdess_tree.clip(1, "neutral")


@given(
  st.lists(
    st.tuples(st.integers(0, len(SOUND) - 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6
  )
)
@settings(max_examples=100, deadline=None)
def test_ravdess_flipped_bytes_raise_a_value_error_or_are_read(tmp_path_factory, flips):
  data = bytearray(SOUND)
  for position, content in flips:
    data[position : position + len(content)] = content
  path = tmp_path_factory.mktemp("clip") / "clip.mp4"
  path.write_bytes(data)
  try:
    header = clip.read_header(File(path))
    frame = clip.Frame(File(path), 0).read()
  except ValueError as error:
    message = str(error)
    assert "\n" not in message
  else:
    assert 0 < header.num_frames <= clip.MAX_FRAMES
    assert Image.open(io.BytesIO(frame)).format == "PPM"


def test_ravdess_a_frame_larger_than_the_first_is_not_decoded(tmp_path, monkeypatch):
  monkeypatch.setattr(clip, "MAX_PIXELS", 10_000)
  parts = [io.BytesIO() for _ in range(9)]
  for part, size in zip(parts, [(64, 32)] * 8 + [(640, 320)], strict=True):
    Image.effect_noise(size, 60).save(part, "JPEG")
  path = tmp_path / "a.avi"
  path.write_bytes(b"".join(part.getvalue() for part in parts))
  with pytest.raises(ValueError, match="frame 8 cannot be decoded"):
    clip.Frame(File(path), 8).read()
