"""Tests that a log is truncated to its size at a checkpoint, but never filled up to it."""

import errno
import io
import json

import pytest

from jaxfer.errors import UserError
from jaxfer.train.jsonl_log import Log

ROWS = [{"epoch": k, "loss": 1 / k} for k in (1, 2, 3)]


def written(path, rows, size=0):
  log = Log(path, size)
  log.write(rows)
  position = log.sync()
  log.close()
  return position


def test_a_log_goes_on_where_the_checkpoint_stood(tmp_path):
  path = tmp_path / "metrics.jsonl"
  size = written(path, ROWS[:1])
  written(path, ROWS[1:2], size)
  whole = written(path, ROWS[1:], size)
  assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS
  assert whole == path.stat().st_size


@pytest.mark.parametrize(("kept", "lines"), [(0, 0), (10, 0), (40, 1), (None, 0)])
def test_lost_rows_are_reported_and_not_filled(tmp_path, kept, lines):
  path = tmp_path / "metrics.jsonl"
  size = written(path, ROWS)
  if kept is None:
    path.unlink()
  else:
    path.write_bytes(path.read_bytes()[:kept])
  log = Log(path, size)
  assert log.lost == size - len("".join(json.dumps(row) + "\n" for row in ROWS[:lines]))
  log.write(ROWS[-1:])
  log.close()
  assert [json.loads(line) for line in path.read_text().splitlines()] == [*ROWS[:lines], ROWS[-1]]


def test_rows_are_valid_json(tmp_path):
  written(tmp_path / "metrics.jsonl", [{"loss": float("nan"), "accuracy": float("inf")}])
  assert (tmp_path / "metrics.jsonl").read_text() == '{"loss": null, "accuracy": null}\n'


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
  class Full(io.FileIO):
    def write(self, data):
      raise OSError(errno.ENOSPC, "No space left on device")

  log = Log(tmp_path / "metrics.jsonl", 0)
  log._file.close()
  log._file = io.BufferedRandom(Full(tmp_path / "metrics.jsonl", "r+"))
  with pytest.raises(
    UserError, match=r"metrics\.jsonl cannot be written \(No space left on device\): make room"
  ):
    log.write(ROWS)
  log.close()
