"""Tests short forms of `tests.faults`, and that it notices a lost result."""

import json
import random
import sys

import pytest

from tests import faults


def test_a_preparation_killed_while_writing_ends_with_the_same_data(tmp_path):
  counts = faults.disturb(faults.preparation(tmp_path, pictures=12), 1, random.Random(0))
  assert (counts["kills"], counts["while writing"]) == (1, 1)


def test_every_fault(tmp_path):
  assert faults.main(["--out", str(tmp_path / "out"), "--kills", "2"]) == 0
  found = json.loads((tmp_path / "out/faults.json").read_text())["faults"]
  assert set(found) == {*faults.COMMANDS, *faults.FAULTS}
  assert all(own["lost"] == 0 for own in found.values())
  assert {name: found[name]["kills"] for name in faults.COMMANDS} == {
    "training": 2,
    "study": 1,
    "preparation": 1,
  }
  assert found["training"]["while writing"] >= 1


# A stand-in for an import. It writes ten stars one by one, continues after those that exist, and renames the folder.
RESUMES = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
left = (folder / ".incomplete-x").exists()
(folder / ".incomplete-x").mkdir(parents=True, exist_ok=True)
path = folder / ".incomplete-x/stars"
while not path.exists() or len(path.read_text()) < 10:
  time.sleep(0.02)
  with path.open("a") as file: file.write("*")
path.parent.rename(folder / "done")
"""
# The same script, but after a kill it writes one star too many, or fails.
LOSES = RESUMES + "if left: (folder / 'done/stars').write_text(11 * '*')"
FAILS = RESUMES + "assert not left"


def disturbed(monkeypatch, tmp_path, script, kills):
  monkeypatch.setattr(faults, "_JAXFER", [sys.executable, "-c", script])
  folder = tmp_path / "folder"
  command = faults.Command([str(folder)], folder, lambda f: (f / "done/stars").read_text(), compiles=False)
  assert command.expected == "*" * 10
  return faults.disturb(command, kills, random.Random(0))


def test_kills_and_ends_are_counted(monkeypatch, tmp_path):
  counts = disturbed(monkeypatch, tmp_path, RESUMES, 3)
  assert counts["kills"] == 3
  assert 2 <= counts["while writing"] <= 3  # The first and the third kill wait until it writes.
  assert counts["ends"] >= 1


@pytest.mark.parametrize(
  ("script", "message"), [(LOSES, "differs from the undisturbed run"), (FAILS, "exits with 1")]
)
def test_a_result_that_differs_after_a_kill_is_lost(monkeypatch, tmp_path, script, message):
  outcome = faults.outcome(lambda: disturbed(monkeypatch, tmp_path, script, 1))
  assert outcome["lost"] == 1
  assert message in outcome["outcome"]


def test_what_is_partly_written_is_seen(tmp_path):
  assert faults.unfinished(tmp_path / "absent") == set()
  for name in ("checkpoints/2", "checkpoints/4", "checkpoints/6.orbax-checkpoint-tmp", "digests"):
    (tmp_path / "run" / name).mkdir(parents=True)
  (tmp_path / "run/digests/2.json").touch()
  (tmp_path / "study/rows/a/checkpoints/3").mkdir(parents=True)
  (tmp_path / "data/.incomplete-abc").mkdir(parents=True)
  (tmp_path / "data/image_folder").mkdir(parents=True)
  names = {folder: faults.unfinished(tmp_path / folder) for folder in ("run", "study", "data")}
  assert {folder: {path.rpartition("/")[2] for path in found} for folder, found in names.items()} == {
    "run": {"4", "6.orbax-checkpoint-tmp"},
    "study": {"3"},
    "data": {".incomplete-abc"},
  }
