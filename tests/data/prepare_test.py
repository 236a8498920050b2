"""Tests the integrity report and the search for folders, independently of data sets."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxfer.data import prepare, records, staging, stream
from jaxfer.data.prepare import BadFiles, Belief, Count, Findings, Problem, Report
from jaxfer.errors import UserError

FINDINGS = Findings(
  counts=[Count("sequences", 12, 12), Count("  anger", 3, 4), Count("frames", 99)],
  bad=[Problem("/src/a/1.png", "cut short")],
  odd=[Problem(f"/src/b/{i}.png", "strange") for i in range(20)],
  beliefs=[Belief("frames are square", True, "all"), Belief("99 frames", False, "98")],
  notes=["7 sequences have no label"],
)
REPORT = Report(
  dataset="toy",
  source="/src",
  folder="/data/toy",
  options={"num_frames": 4, "boxes": "", "source": "/src"},
  method={"flow": "none"},
  licence="ask",
  fingerprint="abc",
  findings=FINDINGS,
)


def test_table():
  lines = REPORT.table().splitlines()
  assert lines[0] == "toy, read from /src"
  assert "  sequences      12        12" in lines
  assert "    anger         3         4   differs" in lines
  assert "  frames         99" in lines
  assert lines[lines.index("bad files, left out (1):") + 1] == "  a/1.png: cut short"
  start = lines.index("odd, harmless (20):")
  assert lines[start + 8] == "  b/7.png: strange"
  assert lines[start + 9] == "  ... and 12 more, all in report.json"
  assert "  holds   frames are square (all)" in lines
  assert "  BROKEN  99 frames (98)" in lines
  assert "options:     num_frames 4" in lines
  assert "flow:        none" in lines
  assert lines[-1] == "written to:  /data/toy"
  assert all(line == line.rstrip() for line in lines)


def test_a_stopped_import_lists_every_bad_file_and_few_odd_ones():
  bad = [Problem(f"/src/c/{k}.png", "cut short") for k in range(20)]
  stopped = dataclasses.replace(REPORT, folder="", findings=dataclasses.replace(FINDINGS, bad=bad))
  lines = stopped.table().splitlines()
  start = lines.index("bad files (20):")
  assert lines[start + 20] == "  c/19.png: cut short"
  assert lines[lines.index("odd, harmless (20):") + 9] == "  ... and 12 more"


def test_json_has_everything():
  loaded = json.loads(REPORT.to_json())
  assert len(loaded["findings"]["odd"]) == 20
  assert loaded["findings"]["counts"][1] == {"what": "  anger", "found": 3, "expected": 4}
  assert loaded["fingerprint"] == "abc"


def test_bad_files_stop_unless_skipped():
  with pytest.raises(BadFiles, match=r"^/src/a/1.png: cut short; nothing was written: .*--skip-bad$"):
    FINDINGS.finish(skip_bad=False)
  FINDINGS.finish(skip_bad=True)
  Findings().finish(skip_bad=False)


def test_roots_are_found_at_any_nesting(tmp_path):
  def is_root(children):
    return any(child.name == "S001" for child in children)

  for folder in ("X/X/S001/S001", "Y/S001", "__MACOSX/X/S001", ".hidden/S001"):
    (tmp_path / folder).mkdir(parents=True)
  (tmp_path / "S001.txt").write_text("")
  found = [str(path.relative_to(tmp_path)) for path in prepare.find_folders(tmp_path, is_root)]
  assert found == ["Y", "X/X"]
  assert prepare.find_folders(tmp_path / "Y", is_root) == [tmp_path / "Y"]
  assert [path.name for path in prepare.visible(tmp_path)] == ["S001.txt", "X", "Y"]


@pytest.mark.parametrize(
  ("name", "source", "message"),
  [
    ("synthetic_faces", ".", "drawn by jaxfer on first use"),
    ("ckpuls", ".", "did you mean 'ckplus'"),
    ("ckplus", "nowhere", "source .*/nowhere is not a folder"),
  ],
)
def test_bad_requests(name, source, message, tmp_path):
  with pytest.raises(UserError, match=message):
    prepare.prepare(name, source, tmp_path)


def test_progress_passes_everything_on(capsys, monkeypatch):
  monkeypatch.setattr(prepare, "_SECONDS_BETWEEN_LINES", -1.0)
  assert list(prepare.progress(iter("ab"), 2, "reading")) == ["a", "b"]
  assert capsys.readouterr().err == "reading: 1 of 2\nreading: 2 of 2\n"


def test_a_source_that_is_a_file_has_its_name():
  report = dataclasses.replace(
    REPORT, source="/src/list.csv", findings=Findings(bad=[Problem("/src/list.csv", "x")])
  )
  assert "  list.csv: x" in report.table().splitlines()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_import_leaves_nothing_half_made(tmp_path, sent):
  rng = np.random.default_rng(0)
  for i in range(300):
    path = tmp_path / "source" / "xy"[i % 2] / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(path)
  code = (
    # A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "import sys; from jaxfer.data import prepare\n"
    "def progress(items, total, what):\n"
    "  for i, item in enumerate(items):\n"
    "    if i == 100: print('now', file=sys.stderr, flush=True); __import__('time').sleep(60)\n"
    "    yield item\n"
    "from jaxfer.data import reading\n"
    "reading.progress = progress\n"
    "from jaxfer.cli import main\n"
    "if __name__ == '__main__':\n"
    "  sys.exit(main())\n"
  )
  (tmp_path / "slow.py").write_text(code)
  arguments = ["prepare", "image_folder", "--source", tmp_path / "source", "--data-dir", tmp_path / "data"]
  running = subprocess.Popen(
    [sys.executable, tmp_path / "slow.py", *arguments, "crop=middle"],
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {"PYTHONPATH": os.pathsep.join(["", str(Path(prepare.__file__).parents[2])])},
  )
  assert running.stderr.readline() == "now\n"
  running.send_signal(sent)
  _, errors = running.communicate(timeout=60)
  assert running.returncode == 128 + sent
  assert "Traceback" not in errors
  assert [path for path in (tmp_path / "data").rglob("*") if ".incomplete-" not in str(path)] == []
  if sent == signal.SIGINT:
    assert list((tmp_path / "data").iterdir()) == []


def test_the_report_is_beside_the_data(tmp_path, monkeypatch):
  from tests.fixtures import ckplus_tree

  entries = ckplus_tree.plan(subjects=7, sequences=7, labelled_subjects=7, class_counts=(1,) * 7)
  ckplus_tree.write(tmp_path / "source", entries)
  data_dir = tmp_path / "data"
  report = prepare.prepare("ckplus", tmp_path / "source", data_dir, num_frames=2, image_size=16)
  (written,) = data_dir.rglob("report.json")
  assert str(written.parent) == report.folder
  assert json.loads(written.read_text()) == json.loads(report.to_json())
  before = records.load("ckplus", data_dir, num_frames=2, image_size=16)

  def interrupt(builder):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(stream, "open_records", interrupt)
    with pytest.raises(KeyboardInterrupt):
      prepare.prepare("ckplus", tmp_path / "source", data_dir, num_frames=2, image_size=16)
  assert [path.name for path in data_dir.iterdir()] == ["ckplus"]
  assert records.load("ckplus", data_dir, num_frames=2, image_size=16).fingerprint == before.fingerprint


def pictures(folder, seed=0):
  rng = np.random.default_rng(seed)
  for name in ("happy/1", "happy/2", "sad/1", "sad/2"):
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(path)
  return folder


def test_the_report_says_which_copy_it_replaces(tmp_path):
  def prepared(source):
    report = prepare.prepare("image_folder", source, tmp_path / "data", image_size=16, crop="whole")
    lines = [line for line in report.table().splitlines() if line.startswith("replaced:")]
    return report, lines

  one, another = pictures(tmp_path / "one"), pictures(tmp_path / "another", seed=1)
  first, lines = prepared(one)
  assert lines == []
  assert prepared(one)[1] == ["replaced:    an equal copy"]
  moved = one.rename(tmp_path / "moved")
  assert prepared(moved)[1] == [f"replaced:    an equal copy, read from {one}"]
  last, lines = prepared(another)
  assert last.fingerprint != first.fingerprint
  assert lines == [
    f"replaced:    another copy under the same options, read from {moved}, fingerprint {first.fingerprint}: "
    "trainings on it cannot be resumed or evaluated on this one"
  ]
  (Path(last.folder) / "report.json").write_text("{")
  assert prepared(another)[1] == [
    "replaced:    an earlier copy under the same options, whose report cannot be read"
  ]


def test_what_dead_runs_left_is_removed_beside_a_run_that_lives(tmp_path):
  """The lock of a dead run is free. The earlier copy that it had moved away is moved back."""
  with staging.staging(tmp_path) as living:
    (living / "half").touch()
    dead, unlocked = tmp_path / ".incomplete-dead", tmp_path / ".incomplete-unlocked"
    (dead / "replaced/set/1.0").mkdir(parents=True)
    (dead / "replaced/set/1.0/dataset_info.json").touch()
    (dead / "lock").touch()
    unlocked.mkdir()
    (tmp_path / "set").mkdir()
    with staging.staging(tmp_path) as own:
      assert set(tmp_path.iterdir()) == {living, own, tmp_path / "set"}
      assert (living / "half").exists()
      assert [path.name for path in (tmp_path / "set/1.0").iterdir()] == ["dataset_info.json"]
    assert set(tmp_path.iterdir()) == {living, tmp_path / "set"}
  assert set(tmp_path.iterdir()) == {tmp_path / "set"}
