"""Tests that one command prepares the data of paper 000 or 003 from drawn copies, and that the studies read them."""

import pathlib

import numpy as np
import pytest

from jaxfer import cli, config
from jaxfer.data import mixed, records
from jaxfer.data.datasets import paper003
from jaxfer.errors import UserError
from jaxfer.study import run
from jaxfer.study.split import split_of
from jaxfer.systems.identity_expression_vae import published
from tests.fixtures import ckplus_tree, jaffe_tree, kdef_tree, msfde_tree, mug_tree, ravdess_tree

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
ENTRIES = ckplus_tree.plan(subjects=8, sequences=18, labelled_subjects=7, class_counts=(2,) * 7)


def prepare(name, folders, data_dir, *options):
  """Runs `jaxfer prepare` on the folders of a mixture's parts. These small copies lack some classes."""
  sources = [f"{source}={folder}" for source, folder in folders.items()]
  return cli.main(
    ["prepare", name, "--source", *sources, *options, "--skip-bad", "--data-dir", str(data_dir)]
  )


def read_by(study, data_dir):
  """Returns the data of every row of every preset of a study, by their options."""
  configured = config.load_study(CONFIGS / study)
  for preset in configured.presets:
    _, rows = config.resolve(configured, preset, (), run.options_of)
    for row in rows.values():
      yield dict(row.data.options), records.load(row.data.name, data_dir, **row.data.options)


@pytest.fixture(scope="module")
def copies_003(tmp_path_factory):
  pytest.importorskip("av", reason="reading video needs PyAV")
  root = tmp_path_factory.mktemp("paper003")
  mug_tree.write_sequences(root / "mug")
  ckplus_tree.write(root / "ckplus", ENTRIES)
  ravdess_tree.write(root / "ravdess")
  return {name: root / name for name in ("mug", "ckplus", "ravdess")}


@pytest.fixture(scope="module")
def data_003(copies_003, tmp_path_factory):
  """The folder of the prepared data."""
  data_dir = tmp_path_factory.mktemp("data003")
  assert prepare("paper003", copies_003, data_dir) == 0
  return data_dir


def test_the_study_of_paper_003_reads_what_one_command_prepared(data_003):
  read = list(read_by("identity_expression_vae/table3.py", data_003))
  assert {loaded.arrays["image"].shape[1:] for _, loaded in read} == {(64, 64, 3), (128, 128, 3)}
  for _, loaded in read:
    assert {name.partition("/")[0] for name in loaded.subject_names} == {"mug", "ck", "ravdess"}
    assert set(loaded.texts["purpose"]) == {"training", "recognition"}


def test_paper_003_takes_sung_clips_and_prints_the_published_counts_beside_its_own(
  data_003, copies_003, capsys
):
  assert prepare("paper003", copies_003, data_003, "image_size=64") == 0
  notes = capsys.readouterr().out.partition("paper003, composed of these:\n")[2].splitlines()
  loaded = records.load("paper003", data_003)
  assert notes == list(loaded.notes)
  assert "ravdess, training: 36 records, expected 10120: " in next(
    line for line in notes if "ravdess" in line
  )
  # No sequence has more than ten.
  frames = len(list((copies_003["ckplus"] / ckplus_tree.IMAGES).rglob("S*.png")))
  assert any(
    line.startswith(f"ckplus_stills, training: {frames} records, expected 5930: anger ") for line in notes
  )
  assert any(
    line.startswith("ckplus_stills, recognition: 36 records, expected 927: anger 6 (expected 135)")
    for line in notes
  )
  trained = loaded.subjects[np.asarray(loaded.texts["purpose"]) == "training"]
  assert (
    f"training: {len(trained)} records of {len(set(trained))} people, paper 003: 29085 of 195 people, and 7 others who "
    "are tested"
  ) in notes
  assert notes[-1] == f"{len(loaded)} records"
  sung = {key.split("/")[1][:2] for key in loaded.keys if key.startswith("ravdess/")}
  assert sung == {"02"}  # The code of the song channel.


def test_paper_003_cuts_all_sets_by_one_detector():
  parts = paper003.mixture(records.make_config("paper003", {})).parts
  assert [part.options["crop"] for part in parts] == ["detector"] * 5


def test_paper_003_tests_people_of_each_of_its_data_sets(data_003):
  configured = config.load_study(CONFIGS / "identity_expression_vae/table3.py")
  _, rows = config.resolve(configured, "paper", ("split.test_people=4",), run.options_of)
  loaded = records.load("paper003", data_003)
  sides = split_of(rows[published.BOTH], loaded)
  purpose = np.asarray(loaded.texts["purpose"])
  assert set(purpose[sides.train]) == {"training"}
  assert set(purpose[sides.test]) == {"recognition"}
  trained = set(loaded.subjects[sides.train].tolist())
  absent = [name.partition("/")[0] for name in set(loaded.subject_names) - trained]
  assert sorted(absent) == ["ck", "ck", "mug", "ravdess"]


def test_the_study_of_paper_000_reads_what_one_command_prepared(tmp_path, capsys):
  folders = {name: tmp_path / name for name in ("jaffe", "ckplus", "msfde", "kdef")}
  jaffe_tree.write(folders["jaffe"])
  ckplus_tree.write(folders["ckplus"], ENTRIES)
  msfde_tree.write_folders(folders["msfde"])
  kdef_tree.write(folders["kdef"])
  assert prepare("paper000", folders, tmp_path / "data") == 0
  assert "paper000, composed of these:\njaffe: " in capsys.readouterr().out
  read = list(read_by("stacked_autoencoder/table2.py", tmp_path / "data"))
  assert {loaded.arrays["image"].shape[1:] for _, loaded in read} == {(64, 64, 1), (24, 24, 1)}


def test_folders_of_parts_and_options_of_the_mixture_are_distinguished(monkeypatch, tmp_path, capsys):
  asked = []
  monkeypatch.setattr(
    mixed, "prepare_one", lambda name, source, data_dir, **options: asked.append((name, source, options))
  )
  found = mixed.prepare("paper000", dict(jaffe="a", ckplus="b", msfde="c", kdef="d"), tmp_path, image_size=32)
  assert len(list(found)) == 4
  assert {(name, source) for name, source, _ in asked} == {
    ("jaffe", "a"), ("ckplus_stills", "b"), ("msfde", "c"), ("kdef", "d"),
  }  # fmt: skip
  assert {options["image_size"] for *_, options in asked} == {32}
  for words, message in (
    (("mug=a", "ckplus=b"), "add ravdess=DIR to --source"),
    (("mug=a", "ckplus=b", "ravdes=c"), "did you mean 'ravdess'"),
    (("mug=a", "ckplus=b", "ravdess=c", "num_frames=1"), "num_frames=1: give a whole number"),
    (("somewhere",), "option 'somewhere' has no '='"),
  ):
    assert cli.main(["prepare", "paper003", "--source", *words, "--data-dir", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_mixture_without_its_sources_is_refused(tmp_path):
  with pytest.raises(UserError, match="add jaffe=DIR ckplus=DIR msfde=DIR kdef=DIR to --source"):
    list(mixed.prepare("paper000", {}, tmp_path))


def test_paper_003_trains_on_all_sequences_of_ckplus_and_recognises_labelled_ones(data_003):
  loaded = records.load("paper003", data_003)
  sequences = {"training": set(), "recognition": set()}
  for key, purpose in zip(loaded.keys, loaded.texts["purpose"], strict=True):
    if key.startswith("ck/"):
      sequences[purpose].add(key.split("/")[1][:8])
  assert sequences["training"] == {entry.key for entry in ENTRIES}
  assert sequences["recognition"] == {entry.key for entry in ENTRIES if entry.code not in (0, 2)}
