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
from tests import processes, study_toy

TOY = """
import dataclasses
from jaxfer.config import Split
from tests import study_toy

def get_config():
  return dataclasses.replace(study_toy.STUDY.base, split=Split(test=0.3, validation=0.3))
"""
SMALL = """
import dataclasses
from jaxfer.config import Call, Execution, Split
from tests import small_systems

def get_config():
  execution = Execution(driver="steps", backend="jit")
  return dataclasses.replace(small_systems.SYSTEMS["NAME"], execution=execution, MORE)
"""
STUDY = """
from tests import study_toy

def get_config():
  return study_toy.STUDY
"""

# Not Adam: the gradient of a bias before BatchNorm is zero up to rounding, which Adam would scale up to full steps.
PLAIN = 'recipe=Call("elderly_transfer", epochs=1, optimizer="sgd", select="last")'
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
  path.write_text(TOY)
  return path


def train(config, folder, *more):
  return ["train", str(config), "--workdir", str(folder), "--data-dir", str(folder.parent / "data"), *more]


def rows(folder):
  """Returns the metrics of all groups of members, in an order that does not depend on the groups."""
  found = [
    json.loads(line) for path in folder.rglob("metrics.jsonl") for line in path.read_text().splitlines()
  ]
  assert found
  return sorted(found, key=lambda row: (row.get("member", ""), row["step"], row["split"]))


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


def assert_same_run(one, other, clusters=False):
  """Compares the losses, the evaluation and the weights of two runs.

  Args:
    one: work directory of a run.
    other: work directory of another run.
    clusters: leaves out the evaluation, and the cluster centres and labels among the weights. The VAE is evaluated by
      clusters of its codes. Their order and their borders can depend on the last bit of a code. The weights that
      compute the codes are still compared.
  """
  assert_close(rows(one), rows(other))
  if not clusters:
    assert_close(*(json.loads((folder / "evaluation.json").read_text()) for folder in (one, other)))
  weights = sorted(path.relative_to(one) for path in (one / "weights").rglob("weights.npz"))
  assert weights
  for path in weights:
    with np.load(one / path) as a, np.load(other / path) as b:
      for name in a.keys() - ({"inference/labels", "inference/centres"} if clusters else set()):
        if a[name].dtype.kind != "f":
          np.testing.assert_array_equal(b[name], a[name], err_msg=f"{path} {name}")
          continue
        bound = 1e-5 * max(1.0, np.abs(a[name]).max())
        np.testing.assert_allclose(b[name], a[name], rtol=0, atol=bound, err_msg=f"{path} {name}")


def test_two_processes_train_as_one_and_process_0_alone_writes(tmp_path, config, monkeypatch):
  study_toy.install(monkeypatch)
  monkeypatch.delenv("JAX_ENABLE_COMPILATION_CACHE")
  assert cli.main(train(config, tmp_path / "one", "execution.devices=1", "execution.backend=jit")) == 0
  first, second = processes.run(2, tmp_path / "2", train(config, tmp_path / "two"))
  assert "1 training on 2 x cpu by jit, 2 processes" in first.out
  assert (second.out, first.err, second.err) == ("", "", "")
  assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(
  ("system", "more"),
  [
    ("elderly_transfer", PLAIN),
    ("landmark_fusion", ""),
    ("identity_expression_vae", ""),
    ("elderly_transfer", f"split=Split(folds=4), {PLAIN}"),
  ],
  ids=["plain", "frozen net", "two updates", "members"],
)
def test_every_kind_of_system_trains_as_in_one_process(tmp_path, system, more, count):
  config = tmp_path / "config.py"
  config.write_text(SMALL.replace("NAME", system).replace("MORE", more))
  one, many = tmp_path / "one", tmp_path / "many"
  processes.run(1, tmp_path / "1", train(config, one, "execution.devices=1"), "small")
  processes.run(count, tmp_path / "n", train(config, many), "small")
  assert_same_run(one, many, clusters=system == "identity_expression_vae")


@pytest.mark.parametrize("more", ["execution.placement=streamed", "split.folds=4"])
def test_streamed_data_and_members_of_four_processes_are_those_of_one(tmp_path, config, more):
  if "folds" in more:
    config.write_text(config.read_text().replace("Split(test=0.3, validation=0.3)", "Split(folds=4)"))
    more = "execution.members=vmap"
  processes.run(1, tmp_path / "1", train(config, tmp_path / "one", more))
  processes.run(4, tmp_path / "4", train(config, tmp_path / "four", more))
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
  processes.run(1, tmp_path / "1", train(config, tmp_path / "run"))
  before = json.loads((tmp_path / "run/evaluation.json").read_text())
  (tmp_path / "run/evaluation.json").unlink()
  processes.run(2, tmp_path / "2", ["evaluate", str(tmp_path / "run"), "--data-dir", str(tmp_path / "data")])
  assert_close(before, json.loads((tmp_path / "run/evaluation.json").read_text()))


def interrupted(tmp_path, config, number, code):
  """Trains in two processes, sends a signal to process 1 in the fifth epoch, and returns how both ended."""
  command = train(config, tmp_path / "cut", "recipe.epochs=400", "execution.checkpoint_seconds=0.0")
  started = processes.Started(2, tmp_path / "cut-log", command, heartbeat=10)
  started.wait_for(0, "train   5/")
  started.signal(1, number)
  ended = started.end(without=[1] if number == signal.SIGSTOP else [])
  assert ended[0].code == code
  return ended


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_missing_process_is_named_and_the_run_goes_on_in_another_number(tmp_path, config, number):
  first, _ = interrupted(tmp_path, config, number, -signal.SIGABRT)
  assert first.err.startswith(f"jaxfer: process 0 ends: process 1 ({os.uname().nodename}) of 2 is missing")
  assert first.err.count("\n") == 1
  for name, count, more in (("cut", 1, ["--resume"]), ("whole", 1, [])):
    command = train(config, tmp_path / name, "recipe.epochs=400", *more)
    (ended,) = processes.run(count, tmp_path / f"{name}-{count}", command)
    if more:
      assert "not bit-identical from here on" in ended.out
      assert "processes 2 -> 1" in ended.out
  assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_signal_to_one_process_stops_all_and_their_checkpoint_is_verified(tmp_path, config):
  ended = interrupted(tmp_path, config, signal.SIGTERM, 128 + signal.SIGTERM)
  assert [one.code for one in ended] == [128 + signal.SIGTERM] * 2
  assert all("stopped by SIGTERM, state saved: go on with --resume" in one.err for one in ended)
  newest = max((tmp_path / "cut/digests").glob("*.json"), key=lambda path: int(path.stem))
  recorded = json.loads(newest.read_text())
  assert any(name.startswith("state") and name.endswith("process_1") for name in recorded)


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
  command = train(config, tmp_path / "run")
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
