import functools
import os

import numpy as np
import pytest

from benchmarks import elsewhere, harness

FLAGS = "--xla_force_host_platform_device_count=3"


def double(numbers):
  return harness.JaxProgram(
    lambda x: 2 * x, numbers, named=lambda y: {"flags": os.environ["XLA_FLAGS"], "y": y}
  )


def refuse():
  raise harness.Missing("no such library")


@pytest.fixture
def arguments():
  return harness.parser(None).parse_args([])


def test_a_program_runs_in_a_process_with_its_own_flags(arguments):
  before = os.environ.get("XLA_FLAGS")
  program = elsewhere.with_flags(functools.partial(double, np.arange(3.0)), FLAGS, arguments)
  result = program.result()
  assert FLAGS in result["flags"]
  np.testing.assert_array_equal(result["y"], [0, 2, 4])
  assert program.call() is None
  assert program.facts["compile_seconds"] > 0
  assert os.environ.get("XLA_FLAGS") == before


def test_an_error_in_the_other_process_is_raised_here(arguments):
  with pytest.raises(RuntimeError, match="Missing: no such library"):
    elsewhere.with_flags(refuse, FLAGS, arguments)
