"""Tests that `--continue` finds recorded measurements and measures only the rest."""

import json

import numpy as np
import pytest

from benchmarks import harness, machine, on_file, records
from tests.benchmarks.toy import ENVIRONMENT, record

CEILINGS = {
  "matmul": {"float32": 1e9, "float32_highest": 1e9, "bfloat16": 1e9},
  "copy": 1e9,
  "size": 1,
  "copy_bytes": 1,
}
CASE = harness.Case("a", {}, {}, tolerance=1e-4)


def arguments_of(path, *flags):
  return harness.parser("").parse_args(["--continue", f"--output={path}", *flags])


def session_of(path, monkeypatch, *flags, benchmark="conv_rnn"):
  monkeypatch.setattr(machine, "environment", lambda: ENVIRONMENT)
  monkeypatch.setattr(machine, "ceilings", lambda quick: CEILINGS)
  return harness.Session(benchmark, arguments_of(path, "--quick", *flags))


def contender(name, value, begun):
  def prepare():
    begun.append(name)
    return harness.Program(lambda: None, lambda: {"y": np.full(2, value)})

  return harness.Contender(name, prepare)


def test_only_the_same_machine_code_and_settings_count(tmp_path):
  path = tmp_path / "results.jsonl"
  others = [
    record(case="commit", environment={**ENVIRONMENT, "commit": "another"}),
    record(case="jax", environment={**ENVIRONMENT, "versions": {"jax": "0.11.2"}}),
    record(case="device", environment={**ENVIRONMENT, "cpu": "Another CPU"}),
    record(case="quick", quick=True),
    record(case="precision", matmul_precision="highest"),
    record(case="benchmark", benchmark="kmeans"),
  ]
  records.append(path, [record(), record(0.2), *others])
  found = on_file.find(path, "conv_rnn", ENVIRONMENT, arguments_of(path))
  assert list(found) == [("a", "jaxfer")]
  assert found["a", "jaxfer"]["seconds"]["median"] == pytest.approx(0.2)
  assert on_file.find(tmp_path / "none.jsonl", "conv_rnn", ENVIRONMENT, arguments_of(path)) == {}


def test_a_peer_that_was_left_out_is_measured_when_it_is_asked_for(tmp_path):
  path = tmp_path / "results.jsonl"
  left_out = on_file.not_asked_for("flax")
  records.append(path, [record(implementation="torch", status="missing", reason=left_out)])
  records.append(path, [record(implementation="keras", status="missing", reason="keras is not installed")])
  for flags, names in ((["--peers=flax"], ["torch", "keras"]), (["--peers"], ["keras"])):
    found = on_file.find(path, "conv_rnn", ENVIRONMENT, arguments_of(path, *flags))
    assert [name for _, name in found] == names


def test_a_line_that_a_killed_process_left_is_cut_off(tmp_path):
  path = tmp_path / "results.jsonl"
  records.append(path, [record()])
  whole = path.read_text()
  path.write_text(whole + json.dumps(record(case="b"))[:50])
  assert list(on_file.find(path, "conv_rnn", ENVIRONMENT, arguments_of(path))) == [("a", "jaxfer")]
  path.write_text(whole + "{")
  records.append(path, [record(case="c")])
  assert [r["case"] for r in records.read(path)] == ["a", "c"]
  path.write_text("{")
  records.mend(path)
  assert path.read_text() == ""


def test_a_case_on_record_is_not_measured_again(tmp_path, monkeypatch):
  path, begun = tmp_path / "results.jsonl", []

  def measure(*names, value=1.0):
    session = session_of(path, monkeypatch)
    done = session.measure(
      CASE, [contender(name, value, begun) for name in names], lambda: {"y": np.ones(2)}, "ones"
    )
    return session, done

  _, first = measure("jaxfer")
  _, again = measure("jaxfer")
  assert begun == ["jaxfer"]
  assert again == first
  # With an additional contender, all are measured again, side by side.
  measure("jaxfer", "flax")
  assert begun == ["jaxfer", "jaxfer", "flax"]


def test_a_failure_on_record_still_ends_the_script_with_an_error(tmp_path, monkeypatch):
  path, begun = tmp_path / "results.jsonl", []
  for _ in range(2):
    session = session_of(path, monkeypatch)
    (done,) = session.measure(CASE, [contender("jaxfer", 2.0, begun)], lambda: {"y": np.ones(2)}, "ones")
    assert done["status"] == "mismatch"
    assert session.broken
  assert begun == ["jaxfer"]


def test_a_sweep_leaves_out_what_is_on_record_and_takes_the_first_alone(tmp_path, monkeypatch):
  path, measured = tmp_path / "results.jsonl", []

  class Problem:
    def __init__(self, name):
      self.name = name

  def sweep(*flags):
    measured.clear()
    # It would also configure the other tests.
    monkeypatch.setattr(harness, "configure", lambda arguments: None)
    monkeypatch.setattr("sys.argv", ["sweep", f"--output={path}", "--quick", "--continue", *flags])
    monkeypatch.setattr(machine, "environment", lambda: ENVIRONMENT)
    monkeypatch.setattr(machine, "ceilings", lambda quick: CEILINGS)
    with pytest.raises(SystemExit):
      harness.sweep(
        "conv_rnn", "", lambda platform, quick: [Problem(name) for name in "abc"],
        lambda session, problem, budget: measured.append(problem.name), ["flax"],
      )  # fmt: skip
    return measured

  records.append(path, [record(case="b", quick=True)])
  assert sweep() == ["a", "c"]
  assert sweep("--peers") == ["a", "b", "c"]
  assert sweep("--first") == ["a"]


def test_another_device_than_the_one_asked_for_is_refused():
  harness.check_device(None, "cpu")
  harness.check_device("gpu", "gpu")
  with pytest.raises(SystemExit, match="--device gpu: JAX finds none here and would take the cpu"):
    harness.check_device("gpu", "cpu")
