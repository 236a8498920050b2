"""Compiles for a TPU on a machine without one, and compares the result with the committed figures."""

import importlib.util
import os
import subprocess
import sys

import pytest

from benchmarks import harness, records

pytestmark = [
  pytest.mark.tpu_compile,
  pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs libtpu, in a separate environment: pip install -e '.[tpu-compile]' pytest",
  ),
]
CASES = (
  "v5e:1x1/conv_lstm/gradient/b16-t16-s8-c128-f128/bfloat16",
  "v5e:1x1/resnet18/train_step/b128-s112/bfloat16",
)
ENVIRONMENT = {
  name: v for name, v in os.environ.items() if name not in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
}


def committed(case):
  """Returns the newest committed record of our program."""
  for path in sorted(harness.RESULTS.glob("tpu-compiled-*.jsonl"), reverse=True):
    if record := records.latest(records.read(path)).get(("tpu", case, "jaxfer")):
      return record
  raise AssertionError(f"no committed record of {case}")


@pytest.mark.parametrize("case", CASES)
def test_program_costs_what_is_committed(case, tmp_path):
  output = tmp_path / "compiled.jsonl"
  # A separate process, because libtpu reads its flags once, and the tests compile programs without optimisations.
  command = [sys.executable, "-m", "benchmarks.tpu", "--only", case, "--ours", "--output", str(output)]
  subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT)
  (record,) = records.read(output)
  assert record["status"] == "compiled", record["reason"]
  found, want = record["compiled"], committed(case)["compiled"]
  for measure in ("cycles", "schedule_cycles"):
    assert found[measure] == pytest.approx(want[measure], rel=0.25), measure
  assert set(found["products"]) == {"bf16 x bf16"}
  assert found["donated"] == ("train_step" in case)


def test_the_pallas_kernels_are_in_the_programs_of_four_chips_and_of_members():
  command = [sys.executable, "-m", "tests.benchmarks.tpu.four_chips"]
  found = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout
  assert found.split() == ["pmap", "2", "members", "2"]  # The forward and the backward kernel.
