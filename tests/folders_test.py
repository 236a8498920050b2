"""Tests that a work directory holds one kind of content, is used by one command at a time, and is writable."""

import errno
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from jaxfer import folders
from jaxfer.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
RUN_RECORD, STUDY_RECORD = json.dumps({"recipe": {}}), json.dumps({"rows": {}})


def hold(folder, own=folders.RUN, data_dir=pathlib.Path("nowhere"), log=pytest.fail):
  return folders.hold(folder, own, data_dir, log)


def test_a_second_command_is_refused_while_the_first_runs(tmp_path):
  with hold(tmp_path / "w"):
    message = f"w is in use by process {os.getpid()} on .*: wait for it to end"
    with pytest.raises(UserError, match=message), hold(tmp_path / "w"):
      pass
    (tmp_path / "w/file").touch()
  with hold(tmp_path / "w"):
    pass
  assert [path.name for path in (tmp_path / "w").iterdir()] == ["file"]


def test_a_lock_ends_with_a_process_that_is_killed(tmp_path):
  code = (
    "import pathlib, sys, time; from jaxfer import folders\n"
    "with folders.hold(pathlib.Path(sys.argv[1]), folders.RUN, pathlib.Path('nowhere'), print):\n"
    "  print('held', flush=True); time.sleep(60)\n"
  )
  command = [sys.executable, "-c", code, str(tmp_path)]
  with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=f"in use by process {process.pid} on"), hold(tmp_path):
      pass
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert (tmp_path / folders.LOCK).exists()
  with hold(tmp_path):
    pass


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch):
  def flock(file, operation):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(fcntl, "flock", flock)
  lines = []
  with hold(tmp_path, log=lines.append):
    pass
  assert lines == [
    f"{tmp_path} is on a file system without locks (No locks available): do not run a second command in it at the "
    "same time"
  ]


@pytest.mark.parametrize(
  ("names", "own", "message"),
  [
    (["study.json"], folders.RUN, r"holds a study \(study\.json\)"),
    (["config.json"], folders.STUDY, r"holds a run \(config\.json\)"),
    (["config.json", "study.json"], folders.RUN, "holds a study"),
    (["weights.json"], folders.RUN, "holds weights"),
    (["dataset_info.json"], folders.STUDY, "holds a prepared data set"),
    (["ckplus/x/1.0.0/dataset_info.json"], folders.RUN, "holds prepared data"),
    (["1.0.0/dataset_info.json"], folders.RUN, "holds prepared data"),
    (["members.json"], folders.RUN, "holds the trainings of a study's row"),
    (["key.csv"], folders.RUN, "holds a test for people"),
    (["metrics.jsonl"], folders.RUN, "holds the metrics of a training"),
    (["report.html"], folders.STUDY, "holds a report"),
  ],
)
def test_a_folder_that_holds_something_else_is_refused(tmp_path, names, own, message):
  for name in names:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("{}")
  before = sorted(tmp_path.rglob("*"))
  with pytest.raises(UserError, match=f"{message}.*choose another --workdir"), hold(tmp_path, own):
    pass
  assert sorted(tmp_path.rglob("*")) == before
  with pytest.raises(UserError, match="give a new folder"), folders.fresh(tmp_path):
    pass


@pytest.mark.parametrize(
  ("record", "text", "part"),
  [
    ("config.json", RUN_RECORD, "group0"),
    ("config.json", RUN_RECORD, "checkpoints/12"),
    ("config.json", RUN_RECORD, "weights/new"),
    ("study.json", STUDY_RECORD, "rows/narrow/group0"),
    ("study.json", STUDY_RECORD, "sources/faces"),
    ("dataset_info.json", "{}", "anything"),
  ],
)
def test_a_part_of_something_else_is_refused(tmp_path, record, text, part):
  (tmp_path / record).write_text(text)
  for own in (folders.RUN, folders.STUDY):
    with pytest.raises(UserError, match=f"is a part of .*, {tmp_path}: choose"), hold(tmp_path / part, own):
      pass
  with pytest.raises(UserError, match="is a part of"), folders.fresh(tmp_path / part):
    pass
  assert not (tmp_path / part).exists()


def test_files_of_other_programs_do_not_make_a_run(tmp_path):
  """Many projects have a config.json, and a folder of checkpoints."""
  (tmp_path / "config.json").write_text('{"editor": "vi"}')
  (tmp_path / "study.json").write_text('{"cut short')
  for part in ("checkpoints/run1", "weights/run1", "rows/run1", "group0"):
    with hold(tmp_path / part):
      (tmp_path / part / "file").touch()
  folders.check_data_dir(tmp_path)


def test_data_and_runs_lie_apart(tmp_path):
  data = tmp_path / "data"
  data.mkdir()
  for same in (data, tmp_path / "data/../data"):
    with pytest.raises(UserError, match="is the folder of prepared data"), hold(same, data_dir=data):
      pass
  with hold(data / "runs/one", data_dir=data):
    (data / "runs/one/config.json").write_text(RUN_RECORD)
  with pytest.raises(UserError, match=r"data folder .* holds a run: choose another --data-dir"):
    folders.check_data_dir(data / "runs/one")
  with pytest.raises(UserError, match=r"data folder .* is a part of a run"):
    folders.check_data_dir(data / "runs/one/weights")


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("file", r"file cannot be written \(File exists\): a file of that name exists there"),
    ("file/below", r"below cannot be written \(Not a directory\): a part of its path is a file"),
    ("x" * 300, r"cannot be written \(File name too long\): choose a shorter name"),
  ],
)
def test_a_folder_that_cannot_be_written_is_reported_at_once(tmp_path, path, message):
  (tmp_path / "file").touch()
  for taken in (hold(tmp_path / path), folders.fresh(tmp_path / path)):
    with pytest.raises(UserError, match=message), taken:
      pytest.fail("held")
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_reported_at_once(tmp_path, monkeypatch):
  def write_bytes(self, data):
    raise OSError(errno.ENOSPC, "No space left on device", str(self))

  monkeypatch.setattr(pathlib.Path, "write_bytes", write_bytes)
  message = r"w cannot be written \(No space left on device\): make room there"
  with pytest.raises(UserError, match=message), hold(tmp_path / "w"):
    pytest.fail("held")


def test_a_failure_to_write_inside_names_the_folder_and_others_stay_as_they_are(tmp_path):
  with (
    pytest.raises(UserError, match=f"{tmp_path} cannot be written .*No space left on device"),
    hold(tmp_path),
  ):
    raise ValueError("RESOURCE_EXHAUSTED: No space left on device")
  with pytest.raises(UserError, match="metrics cannot be written"), hold(tmp_path):
    raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "metrics"))
  for error in (
    PermissionError(errno.EACCES, "Permission denied", "/elsewhere"),
    ValueError("shapes differ"),
  ):
    with pytest.raises(type(error)), hold(tmp_path):
      raise error


def test_a_folder_that_stays_empty_is_removed(tmp_path):
  for taken in (hold(tmp_path / "w"), folders.fresh(tmp_path / "w")):
    with pytest.raises(UserError, match="not prepared"), taken:
      raise UserError("not prepared")
    assert not (tmp_path / "w").exists()


def test_what_lies_in_any_folder_does_not_make_it_full(tmp_path):
  for name in (".DS_Store", "Thumbs.db", ".weights.npz.0123abcd.partial"):
    (tmp_path / name).touch()
  with folders.fresh(tmp_path):
    (tmp_path / "weights.json").touch()
  assert sorted(path.name for path in tmp_path.iterdir()) == [".DS_Store", "Thumbs.db", "weights.json"]
  (tmp_path / "weights.json").rename(tmp_path / "mine.txt")
  with pytest.raises(UserError, match="exists and is not empty"), folders.fresh(tmp_path):
    pass
