"""Tests several processes that train together.

They must reach the numbers of a single process, stop together, and resume with a different number of processes. The
tests start real processes on this machine (tests/processes.py).
"""

import json
import os
import signal

import numpy as np
import pytest

from jaxfer import cli
from tests import distributed, processes, study_toy
from tests.distributed import training

STUDY = """
from tests import study_toy

def get_config():
  return study_toy.STUDY
"""

OF_A_RUN = {"revision", "environment", "seconds", "compile_seconds", "timing"}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
  """Disables the compilation cache.

  Each number of processes would need its own cache, because the processes compile for different devices at once.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    yield


@pytest.fixture
def config(tmp_path):
  path = tmp_path / "config.py"
  path.write_text(distributed.TOY)
  return path


def assert_close(one, other, tolerance=1e-5):
  """Compares two JSON trees: floats with a relative and absolute tolerance, everything else exactly.

  The keys of `OF_A_RUN`, which differ from run to run, are ignored.
  """
  if isinstance(one, dict):
    assert one.keys() == other.keys()
    for name in one.keys() - OF_A_RUN:
      assert_close(one[name], other[name], tolerance)
  elif isinstance(one, list):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
      assert_close(a, b, tolerance)
  elif isinstance(one, float):
    np.testing.assert_allclose(other, one, rtol=tolerance, atol=tolerance)
  else:
    assert one == other


def assert_same_run(one, other, evaluated=True):
  """Compares the metrics, the weights and, if `evaluated`, the evaluations of two runs."""
  assert distributed.distance(one, other) <= distributed.TOLERANCE
  if evaluated:
    assert_close(*(json.loads((folder / "evaluation.json").read_text()) for folder in (one, other)))


def test_two_processes_train_as_one_and_process_0_alone_writes(tmp_path, config, monkeypatch):
  study_toy.install(monkeypatch)
  monkeypatch.delenv("JAX_ENABLE_COMPILATION_CACHE")
  assert cli.main(training(config, tmp_path / "one", "execution.devices=1", "execution.backend=jit")) == 0
  first, second = processes.run(2, tmp_path / "2", training(config, tmp_path / "two"))
  assert "1 training on 2 x cpu by jit, 2 processes" in first.out
  assert (second.out, first.err, second.err) == ("", "", "")
  assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("kind", distributed.KINDS)
def test_every_kind_of_system_trains_as_in_one_process(tmp_path, kind, count):
  config = tmp_path / "config.py"
  config.write_text(distributed.small(kind))
  one, many = tmp_path / "one", tmp_path / "many"
  processes.run(1, tmp_path / "1", training(config, one, "execution.devices=1"), "small")
  processes.run(count, tmp_path / "n", training(config, many), "small")
  # The VAE is evaluated by clusters of its codes, whose order and borders can depend on the last bit of a code.
  assert_same_run(one, many, evaluated=kind != "two updates")


@pytest.mark.parametrize("more", ["execution.placement=streamed", "split.folds=4"])
def test_streamed_data_and_members_of_four_processes_are_those_of_one(tmp_path, config, more):
  if "folds" in more:
    config.write_text(config.read_text().replace("Split(test=0.3, validation=0.3)", "Split(folds=4)"))
    more = "execution.members=vmap"
  processes.run(1, tmp_path / "1", training(config, tmp_path / "one", more))
  processes.run(4, tmp_path / "4", training(config, tmp_path / "four", more))
  assert_same_run(tmp_path / "one", tmp_path / "four")


def test_a_study_of_two_processes_has_the_table_of_one(tmp_path):
  config = tmp_path / "config.py"
  config.write_text(STUDY)
  for count in (1, 2):
    command = [
      "study",
      str(config),
      "--workdir",
      str(tmp_path / str(count)),
      "--data-dir",
      str(tmp_path / "data"),
    ]
    processes.run(count, tmp_path / f"log{count}", command)
  tables = [json.loads((tmp_path / name / "table.json").read_text()) for name in "12"]
  assert_close(*tables)


def test_two_processes_evaluate_what_one_has_trained(tmp_path, config):
  processes.run(1, tmp_path / "1", training(config, tmp_path / "run"))
  before = json.loads((tmp_path / "run/evaluation.json").read_text())
  (tmp_path / "run/evaluation.json").unlink()
  processes.run(2, tmp_path / "2", ["evaluate", str(tmp_path / "run"), "--data-dir", str(tmp_path / "data")])
  assert_close(before, json.loads((tmp_path / "run/evaluation.json").read_text()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_missing_process_is_named_and_the_run_resumes_on_one_process(tmp_path, config, number):
  whole = tmp_path / "whole"
  processes.run(1, tmp_path / "log", training(config, whole, distributed.LONG))
  row = distributed.interrupt(2, number, 1, whole, tmp_path / "cut")
  assert row["lost"] == 0, row
  (end,) = row["ends"]
  assert end["code"] == -signal.SIGABRT
  assert end["says"].startswith("jaxfer: process 0 ends: process 1 (HOST) of 2 is missing")
  assert "processes 2 -> 1" in row["resumed"]
  assert_same_run(whole, tmp_path / "cut/run")


def test_a_signal_to_one_process_stops_all_and_their_checkpoint_is_verified(tmp_path, config):
  command = training(config, tmp_path / "cut", distributed.LONG, "execution.checkpoint_seconds=0.0")
  started = processes.Started(2, tmp_path / "log", command)
  started.wait_for(0, "train   5/")
  started.signal(1, signal.SIGTERM)
  ended = started.end()
  assert [one.code for one in ended] == [128 + signal.SIGTERM] * 2
  assert all("stopped by SIGTERM, state saved: go on with --resume" in one.err for one in ended)
  newest = max((tmp_path / "cut/digests").glob("*.json"), key=lambda path: int(path.stem))
  recorded = json.loads(newest.read_text())
  assert any(name.startswith("state") and name.endswith("process_1") for name in recorded)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 4)])
def test_a_stopped_run_resumes_on_more_processes(tmp_path, config, before, after):
  processes.run(1, tmp_path / "whole_log", training(config, tmp_path / "whole", distributed.LONG))
  command = training(config, tmp_path / "cut", distributed.LONG)
  started = processes.Started(before, tmp_path / "log", [*command, "execution.checkpoint_seconds=0.0"])
  started.wait_for(0, "train   5/")
  started.signal(0, signal.SIGTERM)
  assert [one.code for one in started.end()] == [128 + signal.SIGTERM] * before
  resumed = processes.run(after, tmp_path / "resumed", [*command, "--resume"])
  assert f"processes {before} -> {after}" in resumed[0].out
  assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
  ("seeds", "more", "message"),
  [
    ((0, 1), ((), ()), "has data 'synthetic_sequences' with fingerprint="),
    (
      (0, None),
      ((), ()),
      f"process 1 of 2 ({os.uname().nodename}): data set 'synthetic_sequences' is not prepared",
    ),
    ((0, 0), ((), ("batch_size=2",)), "has batch_size=4, process 1"),
    ((0, 0), ((), ("--resume",)), "has resume=False, process 1"),
  ],
)
def test_processes_that_disagree_refuse_to_start(tmp_path, config, seeds, more, message):
  command = training(config, tmp_path / "run")
  for k, one in enumerate(processes.Started(2, tmp_path / "log", command, seeds=seeds, more=more).end()):
    assert one.code == 2, (k, one.err)
    assert message in one.err
  assert not (tmp_path / "run/checkpoints").exists()


def test_a_work_directory_that_one_process_does_not_see_is_refused(tmp_path, config):
  command = ["train", str(config), "--data-dir", str(tmp_path / "data")]
  where = [("--workdir", str(tmp_path / name)) for name in "ab"]
  (tmp_path / "b").mkdir()
  for one in processes.Started(2, tmp_path / "log", command, more=where).end():
    assert one.code == 2
    assert (
      f"process 1 of 2 ({os.uname().nodename}): {tmp_path / 'b'} is not the folder that process 0 sees"
      in one.err
    )
