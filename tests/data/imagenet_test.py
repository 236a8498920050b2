"""Tests the import of ImageNet from drawn folders and archives."""

import contextlib
import io
import shutil
import tarfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxfer.data import records, tars
from jaxfer.data.datasets.imagenet import scan
from jaxfer.data.prepare import BadFiles, Findings, prepare
from jaxfer.errors import UserError
from tests.fixtures import imagenet_tree

OPTIONS = {"image_size": 32}
FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("imagenet")
  imagenet_tree.write_folders(root, flat=False)
  return root


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
  root = tmp_path_factory.mktemp("imagenet_tar")
  imagenet_tree.write_archives(root)
  imagenet_tree.write_labels(root, "synsets")
  return root


def _scan(root, labels=""):
  findings = Findings()
  return *scan.scan(root, labels, findings), findings


def _seen(root, labels=""):
  return [(still.key, still.label, still.split) for still in _scan(root, labels)[0]]


def _counts(findings):
  return {count.what: (count.found, count.expected) for count in findings.counts}


def test_imagenet_labels_follow_the_sorted_ids(folders, tmp_path):
  report = prepare("imagenet", folders, tmp_path / "data", **OPTIONS)
  loaded = records.load("imagenet", tmp_path / "data", **OPTIONS)
  assert loaded.label_names == imagenet_tree.CLASSES
  assert _counts(report.findings) == {
    "classes": (3, 1000),
    "training pictures": (6, 1_281_167),
    "validation pictures": (4, 50_000),
    "written": (10, 10),
  }
  labels = dict(zip(loaded.keys, loaded.arrays["label"], strict=True))
  assert labels["train_n02102040_1"] == 2
  assert [labels[f"validation_ILSVRC2012_val_{i:08d}"] for i in (1, 2, 3, 4)] == [2, 0, 1, 0]
  assert loaded.texts["split"].count("validation") == 4
  # The middle square: 8 pixels on the left and right are cut off, and the class's stripe is red.
  for image, label in zip(loaded.arrays["image"], loaded.arrays["label"], strict=True):
    np.testing.assert_allclose(
      image[:, 3 + 10 * label : 7 + 10 * label].mean(axis=(0, 1)), (254, 0, 0), atol=6
    )


def test_imagenet_a_name_in_two_classes_is_two_pictures(folders, tmp_path):
  tree = shutil.copytree(folders, tmp_path / "tree")
  first, second = (next(tree.glob(f"**/train/{name}")) for name in imagenet_tree.CLASSES[:2])
  for folder in (first, second):
    next(folder.iterdir()).rename(folder / "1.JPEG")
  stills, _, _ = _scan(tree)
  assert len(stills) == len({still.key for still in stills}) == 10
  shutil.copy(first / "1.JPEG", second / "1.JPEG")
  with pytest.raises(BadFiles, match=r"but the same picture .*1\.JPEG is labelled 'n"):
    prepare("imagenet", tree, tmp_path / "data", **OPTIONS)


def test_imagenet_cmyk_and_png_files_come_out_as_rgb(folders, tmp_path):
  report = prepare("imagenet", folders, tmp_path / "data", **OPTIONS)
  assert not report.findings.bad
  (problem,) = report.findings.odd
  assert problem.what == "its name says JPEG, but it is PNG"
  assert "kinds of pictures: 8 JPEG RGB, 1 PNG RGB, 1 JPEG CMYK" in report.findings.notes


@pytest.mark.parametrize("form", ["synsets", "kaggle"])
def test_imagenet_flat_val_with_a_file_of_labels(folders, tmp_path, form):
  imagenet_tree.write_folders(tmp_path, flat=True)
  path = imagenet_tree.write_labels(tmp_path, form)
  assert _seen(tmp_path) == _seen(folders)
  named = path.rename(tmp_path / "mine.txt")
  assert _seen(tmp_path, str(named)) == _seen(folders)
  assert len(_seen(tmp_path)) == 6


def test_imagenet_flat_val_without_labels_is_left_out_and_counted(tmp_path):
  imagenet_tree.write_folders(tmp_path, flat=True)
  stills, _, findings = _scan(tmp_path)
  assert {still.split for still in stills} == {"train"}
  assert any(
    note.startswith("4 validation pictures left out: there is no file of labels") for note in findings.notes
  )
  path = imagenet_tree.write_labels(tmp_path, "numbers")
  _, _, findings = _scan(tmp_path)
  assert any("has the contest's own numbers" in note for note in findings.notes)
  with pytest.raises(UserError, match=r"ground_truth\.txt: line 1 is '490': expected a WordNet id"):
    _scan(tmp_path, str(path))


def test_imagenet_archives_are_read_in_place(folders, archives, tmp_path):
  assert _seen(archives) == _seen(folders)
  packed = prepare("imagenet", archives, tmp_path / "data", **OPTIONS)
  unpacked = prepare("imagenet", folders, tmp_path / "other", **OPTIONS)
  assert packed.fingerprint == unpacked.fingerprint


def test_imagenet_unpacked_archive_of_archives(folders, archives, tmp_path):
  """Some people unpack only the outer archive: ILSVRC2012_img_train/ holds one tar per class."""
  for span in tars.members(archives / "ILSVRC2012_img_train.tar"):
    path = tmp_path / "ILSVRC2012_img_train" / span.name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(span.read())
  assert _seen(tmp_path) == [row for row in _seen(folders) if row[2] == "train"]


def test_imagenet_an_archive_cut_short_is_listed(archives, tmp_path):
  tree = shutil.copytree(archives, tmp_path / "tree")
  path = tree / "ILSVRC2012_img_train.tar"
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(BadFiles, match=r"ILSVRC2012_img_train\.tar: .*(cut short|not a whole)"):
    prepare("imagenet", tree, tmp_path / "data", **OPTIONS)
  report = prepare("imagenet", tree, tmp_path / "data", skip_bad=True, **OPTIONS)
  assert 4 < _counts(report.findings)["written"][0] < 10


def test_imagenet_an_inner_archive_cut_short_does_not_run_into_the_next(tmp_path):
  own = {f"n01440764_{number}.JPEG": imagenet_tree.picture("n01440764", number) for number in (1, 2)}
  whole = imagenet_tree.tar_of(own)
  cut = whole[: 512 * (whole.index(b"n01440764_2") // 512 + 2)]  # A header, and 512 bytes of its picture.
  path = tmp_path / "ILSVRC2012_img_train.tar"
  path.write_bytes(imagenet_tree.tar_of({"n01440764.tar": cut, "n01443537.tar": whole}))
  stills, _, findings = _scan(tmp_path)
  assert [still.key for still in stills] == ["train_n01440764_1"]
  assert [problem.what for problem in findings.bad] == [
    "n01440764_2.JPEG is cut short: the archive ends before it"
  ]


def test_imagenet_test_pictures_and_strangers_are_reported(folders, tmp_path):
  tree = shutil.copytree(folders, tmp_path / "ILSVRC" / "Data" / "CLS-LOC")
  (tree / "test").mkdir()
  data = imagenet_tree.picture("n01440764", 5)
  for name in ("ILSVRC2012_test_00000001.JPEG", "ILSVRC2012_test_00000002.JPEG", "cat.jpg"):
    (tree / "test" / name).write_bytes(data)
  (tree / "train" / "again" / "n01440764").mkdir(parents=True)
  (tree / "train" / "again" / "n01440764" / "n01440764_2.JPEG").write_bytes(data)
  stills, _, findings = _scan(tmp_path)
  assert len(stills) == 10
  assert "2 test pictures, whose classes are not public: left out" in findings.notes
  assert "1 pictures occur a second time, in an archive or another folder: left out" in findings.notes
  assert [problem.what[:24] for problem in findings.odd] == ["not in the folder of a c"]


def test_imagenet_archives_beside_what_they_held_are_read_once(folders, archives, tmp_path):
  tree = shutil.copytree(archives, tmp_path / "tree")
  shutil.copytree(folders / "train", tree / "train")
  stills, _, findings = _scan(tree)
  assert len(stills) == 10
  assert "6 pictures occur a second time, in an archive or another folder: left out" in findings.notes


def test_imagenet_empty_and_wrong_folders(tmp_path):
  with pytest.raises(UserError, match="holds no pictures of ImageNet: expected train/n01440764"):
    _scan(tmp_path)
  (tmp_path / "a.tar").write_bytes(b"no archive")
  with pytest.raises(BadFiles, match="not a whole, uncompressed tar"):
    _scan(tmp_path)


def test_imagenet_a_member_whose_name_is_not_utf8_is_bad(tmp_path):
  (tmp_path / "source").mkdir()
  with tarfile.open(tmp_path / "source" / "n01440764.tar", "w") as archive:
    data = imagenet_tree.picture("n01440764", 1)
    member = tarfile.TarInfo("gr\udcfc\udcdfe.JPEG")
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
  with pytest.raises(BadFiles, match=r"\(gr\\udcfc\\udcdfe.JPEG\): its name is not UTF-8"):
    prepare("imagenet", tmp_path / "source", tmp_path / "data", image_size=16, crop="whole")


def test_imagenet_label_files(tmp_path):
  path = tmp_path / "labels.txt"
  path.write_text("ILSVRC2012_val_00000002.JPEG n01440764\n\nILSVRC2012_val_00000001 n01443537 1 2\n")
  assert scan.read_labels(path) == {1: "n01443537", 2: "n01440764"}
  path.write_text("ILSVRC2012_val_00000002 n01440764\nILSVRC2012_val_00000002 n01440764\n")
  with pytest.raises(ValueError, match="line 2 labels picture 2 again"):
    scan.read_labels(path)
  path.write_text("ILSVRC2012_val_00000001.JPEG 65\n")
  with pytest.raises(ValueError, match="expected a WordNet id"):
    scan.read_labels(path)


LINE = st.one_of(
  st.text(max_size=20),
  st.builds(
    "{} {}".format,
    st.sampled_from(["ILSVRC2012_val_00000001", "n01440764", "ImageId", "1"]),
    st.text(max_size=9),
  ),
)


@given(st.lists(LINE, max_size=6))
@FUZZ
def test_imagenet_any_label_file_raises_a_value_error_or_is_read(tmp_path_factory, lines):
  path = tmp_path_factory.mktemp("labels") / "val.txt"
  path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
  with contextlib.suppress(ValueError):
    assert all(class_id.startswith("n") for class_id in scan.read_labels(path).values())


@given(
  st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), min_size=1, max_size=6),
  st.integers(0, 10_000),
)
@FUZZ
def test_imagenet_any_archive_raises_a_value_error_or_is_read(archives, tmp_path_factory, flips, length):
  data = bytearray((archives / "ILSVRC2012_img_val.tar").read_bytes())
  for position, byte in flips:
    data[position] = byte
  path = tmp_path_factory.mktemp("tar") / "val.tar"
  for content in (bytes(data), bytes(data[:length])):
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
      for span in tars.members(path):
        span.read()
