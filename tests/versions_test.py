"""Tests the row that `tests.versions` makes from a run of the suite, and its place among the other rows."""

import pathlib

import pytest

from tests import versions

ROW = {"python": "3.11.7", "jax": "0.10.1", "machine": "a", "suite": "default", "passed": 1}


def test_tests_that_passed_failed_and_were_skipped_are_counted(tmp_path):
  report = tmp_path / "report.xml"
  report.write_text(
    '<testsuites><testsuite errors="1" failures="2" skipped="3" tests="10"/></testsuites>', encoding="utf-8"
  )
  assert versions.outcome(report) == {"passed": 4, "failed": 3, "skipped": 3}


def test_a_row_replaces_that_of_the_same_environment_alone():
  other = ROW | {"jax": "0.12.0.1"}
  rows = versions.add(versions.add([], other), ROW)
  assert rows == [ROW, other]
  assert versions.add(rows, ROW | {"passed": 2}) == [ROW | {"passed": 2}, other]


def test_a_run_that_is_broken_off_gives_no_row(monkeypatch):
  monkeypatch.setattr(
    versions.subprocess, "run", lambda command, **_: versions.subprocess.CompletedProcess(command, 4)
  )
  with pytest.raises(SystemExit, match="pytest ended with exit code 4: no row is written"):
    versions.run(versions.DEFAULT, [])


def test_the_commit_is_named_where_no_file_differs_from_it(monkeypatch):
  answers = {"diff": "README.md", "rev-parse": "abc"}

  def git(command, **_):
    return versions.subprocess.CompletedProcess(command, 0, stdout=answers[command[1]])

  monkeypatch.setattr(versions.subprocess, "run", git)
  assert versions.commit(versions.machine.ROOT / "README.md") == "abc"
  with pytest.raises(SystemExit, match=r"README\.md differs from the commit"):
    versions.commit(pathlib.Path("elsewhere"))
