"""Tests the import of CASIA-WebFace from drawn folders and from a train.rec of our own writer."""

import contextlib
import pickle
import shutil
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfer.data import recordio, records
from jaxfer.data.datasets.casia_webface import scan, verification
from jaxfer.data.prepare import BadFiles, Findings, prepare
from jaxfer.errors import UserError
from tests.fixtures import casia_webface_tree as casia

NUM_IMAGES = sum(casia.COUNTS)
FOLDERS = {"form": "folders", "crop": "whole", "image_size": 16}
RED = (254, 0, 0)  # Red after JPEG compression.


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("casia_folders")
  casia.write_folders(root)
  return root


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
  root = tmp_path_factory.mktemp("casia_records")
  casia.write_records(root)
  return root


@pytest.fixture
def tree(packed, tmp_path):
  """A copy of the packed form that a test may damage."""
  return shutil.copytree(packed, tmp_path / "tree") / "faces_webface_112x112"


def _records(root):
  findings = Findings()
  return *scan.scan_records(root, False, findings), findings


def _counts(findings):
  return {count.what.strip(): (count.found, count.expected) for count in findings.counts}


def _corner(loaded, key):
  return loaded.arrays["image"][loaded.keys.index(key), 2, 2]


def test_casia_folders_are_not_contiguous_but_labels_are(folders, tmp_path):
  report = prepare("casia_webface", folders, tmp_path / "data", **FOLDERS)
  loaded = records.load("casia_webface", tmp_path / "data", **FOLDERS)
  assert loaded.label_names == loaded.subject_names == casia.IDENTITIES
  assert np.bincount(loaded.arrays["label"]).tolist() == list(casia.COUNTS)
  counts = _counts(report.findings)
  assert (counts["identities"], counts["pictures"]) == ((4, 10_575), (10, 494_414))
  assert (report.findings.bad, report.findings.odd) == ([], [])
  assert "research only" in report.table()


def test_casia_unpadded_folders_go_by_number(tmp_path):
  casia.write_folders(tmp_path)
  for name, new in zip(casia.IDENTITIES, ("10", "9", "100", "2"), strict=True):
    (tmp_path / "CASIA-WebFace" / name).rename(tmp_path / "CASIA-WebFace" / new)
  assert scan.scan_folders(tmp_path, False, Findings())[1] == ["2", "9", "10", "100"]


def test_casia_strangers_and_empty_identities_are_odd(folders, tmp_path):
  tree = shutil.copytree(folders, tmp_path / "tree") / "CASIA-WebFace"
  (tree / "0000046").mkdir()
  (tree / "0000099" / "notes.txt").write_text("")
  shutil.copytree(tree / "0000099", tmp_path / "tree" / "other" / "0000001")
  findings = Findings()
  stills, names = scan.scan_folders(tmp_path / "tree", False, findings)
  assert (len(stills), len(names)) == (10, 4)
  assert sorted(problem.what.split(",")[0] for problem in findings.odd) == [
    "a second tree of identities",
    "an identity without pictures; it gets no label",
    "its name is not that of a picture",
  ]


def test_casia_records_by_their_header_record(packed, tmp_path):
  report = prepare("casia_webface", packed, tmp_path / "data")
  loaded = records.load("casia_webface", tmp_path / "data")
  assert loaded.arrays["image"].shape == (NUM_IMAGES, 112, 112, 3)
  assert np.bincount(loaded.arrays["label"]).tolist() == list(casia.COUNTS)
  assert loaded.keys[0] == "0000001"
  assert loaded.label_names == loaded.subject_names == tuple(f"{i:07d}" for i in range(4))
  assert _counts(report.findings) == {
    "identities (largest label + 1)": (4, 10_572),
    "pictures": (10, 490_623),
    "images that record 0 announces": (10, 10),
    "pairs of lfw.bin": (4, 6000),
    "written": (10, 10),
  }
  assert [belief.holds for belief in report.findings.beliefs] == [True, True]
  assert not report.findings.bad
  assert "faces cut out: 10 the whole picture" in report.findings.notes


def test_casia_a_record_in_parts_is_joined(packed):
  data = (packed / "faces_webface_112x112" / "train.rec").read_bytes()
  number = 1 + NUM_IMAGES + len(casia.COUNTS)
  assert data.count(casia.MAGIC) == number + 2  # One record is stored in three parts.
  stills, _, _ = _records(packed)
  assert len(stills) == NUM_IMAGES
  assert stills[1].source.read().startswith(casia.picture(0, 1, 112))
  assert stills[0].source.read() == casia.picture(0, 0, 112)


def test_casia_labels_in_lists_take_the_first(packed):
  stills, _, _ = _records(packed)
  with recordio.Reader(packed / "faces_webface_112x112" / "train.rec") as reader:
    labels = [reader.header(offset)[0].labels for offset in reader.offsets()][1 : NUM_IMAGES + 1]
  assert labels[3:5] == [(1.0, 0.0)] * 2
  assert [still.label for still in stills[3:5]] == [1, 1]


@pytest.mark.parametrize("damage", [None, "0 0\n1 2 3\n", ""])
def test_casia_without_a_sound_index_records_go_in_order(tree, packed, damage):
  if damage is None:
    (tree / "train.idx").unlink()
  else:
    (tree / "train.idx").write_text(damage)
  stills, names, findings = _records(tree)
  expected = _records(packed)
  assert [(still.key, still.label, still.source.offset) for still in stills] == [
    (still.key, still.label, still.source.offset) for still in expected[0]
  ]
  assert names == expected[1]
  told = [*findings.notes, *(problem.what for problem in findings.odd)]
  assert any("records were taken in the order of the .rec" in line for line in told)


def test_casia_red_stays_red(folders, packed, tmp_path):
  for source, options, key in ((folders, FOLDERS, "0000045_003.jpg"), (packed, {}, "0000003")):
    prepare("casia_webface", source, tmp_path / "data", **options)
    loaded = records.load("casia_webface", tmp_path / "data", **options)
    np.testing.assert_allclose(_corner(loaded, key), RED, atol=3)


def test_casia_swapped_folders_come_out_as_rgb(tmp_path):
  casia.write_folders(tmp_path / "tree", swapped=True)
  as_they_are = prepare("casia_webface", tmp_path / "tree", tmp_path / "data", **FOLDERS)
  options = FOLDERS | {"channel_order": "bgr"}
  prepare("casia_webface", tmp_path / "tree", tmp_path / "data", **options)
  blue = records.load("casia_webface", tmp_path / "data", **FOLDERS)
  red = records.load("casia_webface", tmp_path / "data", **options)
  assert blue.fingerprint == as_they_are.fingerprint
  np.testing.assert_allclose(_corner(blue, "0000045_003.jpg"), RED[::-1], atol=3)
  np.testing.assert_allclose(_corner(red, "0000045_003.jpg"), RED, atol=3)
  np.testing.assert_array_equal(red.arrays["image"], blue.arrays["image"][..., ::-1])


def test_casia_swapped_pictures_that_are_none_are_bad(tmp_path):
  casia.write_folders(tmp_path / "tree", swapped=True)
  (tmp_path / "tree" / "CASIA-WebFace" / "0000045" / "001.jpg").write_bytes(b"no picture")
  with pytest.raises(BadFiles, match=r"001\.jpg \(channels swapped\): cannot identify"):
    prepare("casia_webface", tmp_path / "tree", tmp_path / "data", **FOLDERS, channel_order="bgr")


def test_casia_a_broken_record_is_listed(tree, tmp_path):
  stills, _, _ = _records(tree)
  data = bytearray((tree / "train.rec").read_bytes())
  data[stills[4].source.offset : stills[4].source.offset + 4] = b"oops"
  struct.pack_into("<f", data, stills[5].source.offset + 12, 2.5)
  struct.pack_into("<f", data, stills[6].source.offset + 12, 1e6)
  (tree / "train.rec").write_bytes(data)
  found = _records(tree)[2].bad
  assert [problem.what.split(":")[0] for problem in found] == [
    f"no record at byte {stills[4].source.offset}",
    "label is 2.5",
    "label is 1e+06",
  ]
  with pytest.raises(BadFiles, match=r"train\.rec \(record 5\): no record at byte"):
    prepare("casia_webface", tree, tmp_path / "data")
  report = prepare("casia_webface", tree, tmp_path / "data", skip_bad=True)
  assert _counts(report.findings)["written"][0] == NUM_IMAGES - 3


def test_casia_a_rec_cut_short_is_listed(tree):
  path = tree / "train.rec"
  path.write_bytes(path.read_bytes()[:20_000])
  stills, _, findings = _records(tree)
  assert 0 < len(stills) < NUM_IMAGES
  assert len(findings.bad) == NUM_IMAGES - len(stills)
  (tree / "train.idx").unlink()
  again, _, findings = _records(tree)
  assert [still.key for still in again] == [still.key for still in stills]
  assert [problem.what.split(",")[0][:13] for problem in findings.bad] == ["the file ends"]


def test_casia_without_a_header_record_all_are_images(tree):
  payloads = [casia.payload(float(i), i, casia.picture(i, 0, 112)) for i in (0, 0, 1)]
  (tree / "train.rec").write_bytes(b"".join(map(casia.frame, payloads)))
  (tree / "train.idx").unlink()
  stills, names, findings = _records(tree)
  assert ([still.label for still in stills], len(names)) == ([0, 1], 2)
  assert any("record 0 does not give the number of images" in problem.what for problem in findings.odd)


def test_casia_property_and_list_are_held_against_the_records(tree):
  (tree / "property").write_text("10575,112,112")
  (tree / "train.lst").write_text("1\ta\t0\n")
  beliefs = {belief.claim: (belief.holds, belief.seen) for belief in _records(tree)[2].beliefs}
  assert beliefs == {
    "property names the number of identities": (False, "10575,112,112"),
    "train.lst has one line per image": (False, "1 lines"),
  }


def test_casia_empty_and_wrong_folders(folders, packed, tmp_path):
  with pytest.raises(UserError, match=r"no train\.rec: .* give form=folders"):
    _records(folders)
  with pytest.raises(UserError, match=r"no folders of CASIA-WebFace: .* give form=records"):
    scan.scan_folders(packed, False, Findings())
  (tmp_path / "train.rec").write_bytes(b"")
  with pytest.raises(UserError, match=r"train\.rec: the file is empty"):
    _records(tmp_path)
  (tmp_path / "train.rec").write_bytes(b"<html>a page instead</html>")
  with pytest.raises(UserError, match=r"it begins with 0x6d74683c"):
    _records(tmp_path)
  for option, value in (("form", "rec"), ("channel_order", "brg")):
    with pytest.raises(UserError, match=f"unknown option {option} of data set 'casia_webface' '{value}'"):
      records.make_config("casia_webface", {option: value})


def test_casia_verification_pairs(packed):
  pairs = verification.read_pairs(packed / "faces_webface_112x112" / "lfw.bin")
  assert (len(pairs), len(pairs.images)) == (4, 8)
  assert pairs.same.tolist() == [True, False, True, False]
  assert pairs.images[1] == casia.picture(0, 1, 112)


class _Runs:
  def __reduce__(self):
    return pytest.fail, ("the pickle ran",)


@pytest.mark.parametrize(
  ("value", "message"),
  [
    ((_Runs(), [True]), "the pickle names [A-Za-z_.]*[fF]ail: only plain data are read"),
    (([b"a", b"b"], [True, False]), "2 pictures for 2 pairs"),
    (([b"a", "b"], [True]), "a picture is not bytes"),
    (([b"a", b"b"], ["yes"]), "neither True nor False"),
    ([b"a"], "expected a pair of lists"),
    ((b"ab", [True]), "expected a pair of lists"),
    (([], []), "0 pictures for 0 pairs"),
  ],
)
def test_casia_other_pickles_are_no_verification_set(tree, value, message):
  path = tree / "agedb_30.bin"
  path.write_bytes(pickle.dumps(value, protocol=2))
  with pytest.raises(ValueError, match=message):
    verification.read_pairs(path)
  _, _, findings = _records(tree)
  (problem,) = findings.odd
  assert problem.what.startswith("not a verification set: ")


def test_casia_pairs_of_arrays_are_read(tmp_path):
  images = [np.frombuffer(data, np.uint8) for data in (b"one", b"two")]
  (tmp_path / "x.bin").write_bytes(pickle.dumps((images, np.array([True]))))
  pairs = verification.read_pairs(tmp_path / "x.bin")
  assert (pairs.images, pairs.same.tolist()) == ((b"one", b"two"), [True])


@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_casia_flipped_bytes_are_refused_or_read(packed, tmp_path_factory, flips):
  root = tmp_path_factory.mktemp("flipped")
  for name in ("train.rec", "train.idx", "lfw.bin", "property"):
    data = bytearray((packed / "faces_webface_112x112" / name).read_bytes())
    for position, byte in flips:
      data[position % len(data)] = byte
    (root / name).write_bytes(data)
  with contextlib.suppress(UserError):
    stills, names, _ = _records(root)
    assert max(still.label for still in stills) < len(names)
    for still in stills:
      with contextlib.suppress(ValueError):
        still.source.read()
