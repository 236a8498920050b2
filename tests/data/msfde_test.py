"""Tests the import of MSFDE from copies in forms that owners may use."""

import shutil

import pytest

from jaxfer.data import records
from jaxfer.data.datasets.msfde import scan
from jaxfer.data.prepare import Findings, prepare
from jaxfer.errors import UserError
from tests.fixtures import msfde_tree

FEW = msfde_tree.PEOPLE[:3]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("msfde") / "MSFDE" / "MSFDE"
  msfde_tree.write_folders(root)
  return root.parent.parent


def _counts(findings):
  return {count.what.strip(): count.found for count in findings.counts}


def test_msfde_class_folders_with_the_owners_words(folders, tmp_path):
  report = prepare("msfde", folders, tmp_path, subject_pattern=r"/([A-D]\d)\.png")
  loaded = records.load("msfde", tmp_path, subject_pattern=r"/([A-D]\d)\.png")
  assert loaded.fingerprint == report.fingerprint
  assert loaded.arrays["image"].shape == (224, 64, 64, 1)
  assert loaded.label_names == scan.LABELS
  assert loaded.subject_names == msfde_tree.PEOPLE
  words = {"Happy": "happiness", "embarrassed": "shame"}
  for key, label in zip(loaded.keys, loaded.arrays["label"], strict=True):
    folder = key.partition("/")[0]
    assert loaded.label_names[label] == words.get(folder, folder)
  (belief,) = report.findings.beliefs
  assert (belief.holds, belief.seen[:12]) == (True, "224 pictures")
  assert (_counts(report.findings)["pictures"], _counts(report.findings)["subjects"]) == (224, 32)


def test_msfde_a_table_of_the_owner(tmp_path):
  msfde_tree.write_table(tmp_path / "source", FEW)
  report = prepare("msfde", tmp_path / "source", tmp_path / "data")
  loaded = records.load("msfde", tmp_path / "data")
  assert (len(loaded), loaded.subject_names) == (21, FEW)
  assert loaded.label_names == scan.LABELS
  assert [loaded.arrays["label"].tolist()[i] for i in range(7)] == list(range(7))
  assert [belief.holds for belief in report.findings.beliefs] == [False]
  by_file = prepare("msfde", tmp_path / "source" / "list.csv", tmp_path / "other")
  assert by_file.fingerprint == report.fingerprint


def test_msfde_some_classes_are_enough(folders, tmp_path):
  """Paper 000 uses five of the seven classes. Labels do not change if folders are missing."""
  source = shutil.copytree(folders, tmp_path / "source")
  for name in ("neutral", "embarrassed", "fear"):
    shutil.rmtree(source / "MSFDE" / "MSFDE" / name)
  findings = Findings()
  stills = scan.scan(source, "", findings)
  assert {scan.LABELS[still.label] for still in stills} == {"anger", "disgust", "happiness", "sadness"}
  assert any(note.startswith("people are unknown") for note in findings.notes)


def test_msfde_other_classes_are_refused(folders, tmp_path):
  source = shutil.copytree(folders, tmp_path / "source") / "MSFDE" / "MSFDE"
  (source / "fear").rename(source / "surprise")
  with pytest.raises(UserError, match=r"class 'surprise' is not one of anger, .*, shame; rename it"):
    scan.scan(source, "", Findings())
  (source / "surprise").rename(source / "happiness")
  with pytest.raises(UserError, match="classes 'Happy' and 'happiness' mean the same"):
    scan.scan(source, "", Findings())


def test_msfde_wrong_folder(tmp_path):
  with pytest.raises(UserError, match="holds no pictures: expected <class>"):
    scan.scan(tmp_path, "", Findings())
