"""Tests the import of JAFFE from a drawn copy of the distributor's folder, with irregularities and errors."""

import contextlib
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfer.data import records
from jaxfer.data import tree as tree_files
from jaxfer.data.datasets.jaffe import scan
from jaxfer.data.prepare import BadFiles, Findings, prepare
from jaxfer.errors import UserError
from tests.fixtures import jaffe_tree


@pytest.fixture(scope="session")
def full_tree(tmp_path_factory):
  root = tmp_path_factory.mktemp("jaffe")
  jaffe_tree.write(root)
  return root


@pytest.fixture
def tree(full_tree, tmp_path):
  """A copy that a test may damage."""
  return shutil.copytree(full_tree, tmp_path / "tree")


def _scan(root, label_source="filename", neutral_below=3.0):
  findings = Findings()
  return scan.scan(root, label_source, neutral_below, findings), findings


def _counts(findings):
  return {count.what.strip(): count.found for count in findings.counts}


def test_jaffe_full_shape(full_tree):
  stills, findings = _scan(full_tree)
  assert (findings.bad, len(stills)) == ([], 213)
  assert [count for count in findings.counts if count.expected not in (None, count.found)] == []
  assert [_counts(findings)[name] for name in scan.LABELS] == [30, 29, 32, 31, 30, 31, 30]
  assert {still.subject for still in stills} == set(jaffe_tree.PEOPLE)
  first = stills[0]
  assert (first.key, first.subject, first.label, first.split) == ("KA.AN1.1", "KA", 0, "")
  assert str(first.source) == str(full_tree / "jaffe" / "KA.AN1.1.tiff")


def test_jaffe_serial_gaps(full_tree, tree):
  assert [(belief.holds, belief.seen) for belief in _scan(full_tree)[1].beliefs] == [(True, "213 numbers")]
  folder = tree / "jaffe"
  (folder / "KA.AN1.1.tiff").rename(folder / "KA.AN1.8.tiff")
  (folder / "KA.AN2.2.tiff").rename(folder / "KA.AN2.3.tiff")
  (belief,) = _scan(tree)[1].beliefs
  assert (belief.holds, belief.seen) == (False, "lacks 1, 2, has 8, repeats 3")


def test_jaffe_skipping_takes_are_no_missing_files(full_tree):
  stills, findings = _scan(full_tree)
  keys = {still.key[:6] for still in stills}
  assert {"KM.SA5", "KM.DI3", "NM.DI3"} <= keys
  assert not {"KM.SA4", "KM.DI2", "NM.DI2"} & keys
  assert [problem.path for problem in findings.odd] == [jaffe_tree.ORPHAN]


def test_jaffe_the_middle_field_is_the_label(full_tree):
  """The letters of the people NA and KA also occur in codes of others."""
  stills, _ = _scan(full_tree)
  assert all(scan.CODES[still.label] == still.key[3:5] and still.subject == still.key[:2] for still in stills)


def test_jaffe_second_ratings_table_does_not_overwrite(full_tree):
  stills, findings = _scan(full_tree, "ratings")
  assert len(stills) == 213
  # With the second table, all labels would be anger.
  assert [_counts(findings)[name] for name in scan.LABELS] == [30, 29, 0, 31, 30, 31, 62]
  labels = {still.key: still.label for still in stills}
  assert all(labels[key] == scan.LABELS.index("surprise") for key in labels if key[3:5] == "FE")
  assert [count.expected for count in findings.counts if count.what.strip() == "happiness"] == [40]


@pytest.mark.parametrize("gone", ["(Fear Excluded)\n  #", "  #  HAP  SAD  SUR  ANG  DIS  PIC\n"])
def test_jaffe_second_ratings_table_is_recognised_by_its_heading_or_its_header(gone):
  text = jaffe_tree.readme(jaffe_tree.names())
  assert text.count(gone) == 1
  ratings = scan.read_ratings(text.replace(gone, "\n  #" if gone.startswith("(") else ""))
  assert (len(ratings.means), ratings.odd) == (214, ())


def test_jaffe_orphan_ratings_are_reported_and_not_repaired(tree):
  (tree / "jaffe" / "KA.AN1.1.tiff").unlink()
  readme = tree / "jaffe" / "README"
  text = readme.read_text()
  row = next(line for line in text.splitlines() if line.endswith("KA-AN2"))
  readme.write_text(text.replace(row + "\n", "", 1))
  stills, findings = _scan(tree, "ratings")
  assert len(stills) == 211
  assert [(problem.path, problem.what[:12]) for problem in findings.odd] == [
    ("KA-AN1", "there are ra"),
    (jaffe_tree.ORPHAN, "there are ra"),
    ("KA-AN2", "a picture wi"),
  ]
  assert _counts(findings)["rated pictures"] == 211
  assert "1 pictures have no ratings: they are counted, but not written" in findings.notes


def test_jaffe_neutral_is_what_no_rating_reaches(full_tree):
  stills, _ = _scan(full_tree, "ratings", neutral_below=1.0)
  assert not any(scan.LABELS[still.label] == "neutral" for still in stills)
  _, findings = _scan(full_tree, "ratings")
  note = next(note for note in findings.notes if note.startswith("25 pictures would be neutral"))
  high = float(note.split()[-1])
  _, findings = _scan(full_tree, "ratings", neutral_below=high)
  assert _counts(findings)["neutral"] == 25


def test_jaffe_ratings_without_a_table(tree):
  (tree / "jaffe" / "README").write_text("no table here\n")
  assert len(_scan(tree)[0]) == 213
  with pytest.raises(UserError, match=r"holds no table of ratings .*label_source=filename"):
    _scan(tree, "ratings")
  (tree / "README_FIRST.txt").write_text("\ufeff" + jaffe_tree.readme(jaffe_tree.names()))
  assert len(_scan(tree, "ratings")[0]) == 213


def test_jaffe_odd_rows_of_ratings_are_left_out():
  table = "# HAP SAD SUR ANG DIS FEA PIC\n"
  ratings = scan.read_ratings(
    table + "1 4.00 2 1 1 1 1 AA-HA1\n2 4.00 2 1 1 1 AA-HA2\n3 9 2 1 1 1 1 AA-HA3\n4 4 2 1 1 1 1 aa.ha1\n"
  )
  assert ratings.means == {"AA-HA1": (4, 2, 1, 1, 1, 1)}
  assert [what[:7] for what in ratings.odd] == ["line 3:", "line 4:", "line 5:"]
  other = scan.read_ratings("# FEA HAP SAD SUR ANG DIS PIC\n1 1 4.00 2 1 1 3 AA-HA1\n")
  assert other.means["AA-HA1"] == (4, 2, 1, 1, 3, 1)  # The header decides, not the position.
  assert scan.read_ratings("") is None
  with pytest.raises(ValueError, match="names a column twice"):
    scan.read_ratings("# HAP HAP SAD SUR ANG DIS FEA PIC\n")


def test_jaffe_other_nestings_and_names(tree, tmp_path):
  folder = tree / "jaffe"
  shutil.move(folder, tmp_path / "other" / "JAFFE" / "jaffe")
  folder = tmp_path / "other" / "JAFFE" / "jaffe"
  (folder / "KA.AN1.1.tiff").rename(folder / "ka.an1.1.TIF")
  (folder / "KA.AN2.2.tiff").rename(folder / "KA.AN2.2.png")
  shutil.copy(folder / "KA.AN3.3.tiff", tmp_path / "other" / "KA.AN3.3.tiff")
  (folder / "thumb.jpg").write_bytes(b"")
  stills, findings = _scan(tmp_path / "other")
  assert len(stills) == 213
  assert stills[0].key == "KA.AN1.1"
  assert "not the distributor's TIFF files: 1 .png; used as they are" in findings.notes
  odd = [(problem.path.rpartition("/")[2], problem.what) for problem in findings.odd]
  assert ("thumb.jpg", "its name is not that of a picture of JAFFE; left out") in odd
  assert ("KA.AN3.3.tiff", f"a second copy of {tmp_path / 'other' / 'KA.AN3.3.tiff'}; left out") in odd


def test_jaffe_prepared(full_tree, tree, tmp_path):
  report = prepare("jaffe", full_tree, tmp_path)
  loaded = records.load("jaffe", tmp_path)
  assert loaded.fingerprint == report.fingerprint
  assert loaded.arrays["image"].shape == (213, 64, 64, 1)
  assert loaded.label_names == scan.LABELS
  assert loaded.subject_names == jaffe_tree.PEOPLE
  assert [scan.CODES[label] for label in loaded.arrays["label"]] == [key[3:5] for key in loaded.keys]
  assert _counts(report.findings)["written"] == 213
  rated = prepare("jaffe", full_tree, tmp_path, label_source="ratings")
  assert rated.folder != report.folder
  labels = records.load("jaffe", tmp_path, label_source="ratings").arrays["label"]
  assert (labels == scan.LABELS.index("surprise")).sum() == 62
  path = tree / "jaffe" / "KA.AN1.1.tiff"
  path.write_bytes(path.read_bytes()[:40])
  with pytest.raises(BadFiles, match=r"KA\.AN1\.1\.tiff: .*nothing was written"):
    prepare("jaffe", tree, tmp_path / "other")
  report = prepare("jaffe", tree, tmp_path / "other", skip_bad=True)
  assert (_counts(report.findings)["written"], len(report.findings.bad)) == (212, 1)


def test_jaffe_options_are_checked():
  with pytest.raises(UserError, match="did you mean 'ratings'"):
    records.make_config("jaffe", {"label_source": "rating"})
  with pytest.raises(UserError, match=r"jaffe\.neutral_below=9: give a number, from 1 to 5"):
    records.make_config("jaffe", {"neutral_below": 9})


def test_jaffe_wrong_folder(tmp_path):
  with pytest.raises(
    UserError, match=r"holds no pictures of JAFFE: expected names such as KA\.AN1\.39\.tiff"
  ):
    _scan(tmp_path)


_ROWS = st.lists(
  st.one_of(
    st.sampled_from(["# HAP SAD SUR ANG DIS FEA PIC", "Semantic Ratings Data (Fear Excluded)", "1 1 1 1 1"]),
    st.text(max_size=60),
    st.from_regex(r"\d{1,3}( [\d.e+-]{1,6}){5,7} [A-Z]{2}[-.][A-Z]{2}\d", fullmatch=True),
  ),
  max_size=20,
)


@settings(max_examples=100, deadline=None)
@given(_ROWS)
def test_jaffe_any_text_gives_ratings_or_a_clear_error(rows):
  try:
    ratings = scan.read_ratings("\n".join(rows))
  except ValueError:
    return
  assert ratings is None or all(
    len(means) == 6 and 1 <= min(means) <= max(means) <= 5 for means in ratings.means.values()
  )


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=400))
def test_jaffe_any_bytes_as_readme(tmp_path_factory, data):
  path = tmp_path_factory.mktemp("readme") / "README"
  path.write_bytes(b"# HAP SAD SUR ANG DIS FEA PIC\n" + data)
  with contextlib.suppress(ValueError):
    scan.read_ratings(tree_files.read_text(path))
