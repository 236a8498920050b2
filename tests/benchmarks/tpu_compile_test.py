"""Compiles for a TPU on a machine without one, and holds the result to the committed figures."""

import importlib.util
import subprocess
import sys

import pytest

from benchmarks import harness, records

pytestmark = [
  pytest.mark.tpu_compile,
  pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs libtpu, in an environment of its own: pip install -e '.[tpu-compile]' pytest",
  ),
]
CASES = (
  "v5e:1x1/conv_lstm/gradient/b16-t16-s8-c128-f128/bfloat16",
  "v5e:1x1/resnet18/train_step/b128-s112/bfloat16",
)


def committed(case):
  """The newest committed record of our own program."""
  for path in sorted(harness.RESULTS.glob("tpu-compiled-*.jsonl"), reverse=True):
    if record := records.latest(records.read(path)).get(("tpu", case, "jaxfer")):
      return record
  raise AssertionError(f"no committed record of {case}")


@pytest.mark.parametrize("case", CASES)
def test_program_costs_what_is_committed(case, tmp_path):
  output = tmp_path / "compiled.jsonl"
  # A process of its own: libtpu reads its flags once, and takes over the default platform.
  command = [sys.executable, "-m", "benchmarks.tpu", "--only", case, "--ours", "--output", str(output)]
  subprocess.run(command, check=True, capture_output=True, text=True)
  (record,) = records.read(output)
  assert record["status"] == "compiled", record["reason"]
  found, want = record["compiled"], committed(case)["compiled"]
  for measure in ("cycles", "schedule_cycles"):
    assert found[measure] == pytest.approx(want[measure], rel=0.25), measure
  assert set(found["products"]) == {"bf16 x bf16"}
  assert found["donated"] == ("train_step" in case)
