import functools
import os
import pickle

import jax
import numpy as np
import pytest

from benchmarks import convnets_peers, convnets_problem, elsewhere, harness, vae_step

FLAGS = "--xla_force_host_platform_device_count=3"


def doubled(numbers):
  return harness.JaxProgram(lambda x: 2 * x, numbers, named=lambda y: {"devices": jax.device_count(), "y": y})


def refuse():
  raise harness.Missing("no such library")


def fail():
  raise ValueError("no such number")


@pytest.fixture
def arguments():
  return harness.parser(None).parse_args([])


def test_a_program_runs_in_a_process_with_its_own_flags(arguments):
  before = os.environ.get("XLA_FLAGS")
  program = elsewhere.with_flags(functools.partial(doubled, np.arange(3.0)), FLAGS, arguments)
  result = program.result()
  assert result["devices"] == 3
  np.testing.assert_array_equal(result["y"], [0, 2, 4])
  assert program.call() is None
  assert program.facts["compile_seconds"] > 0
  assert program.facts["xla_flags"] == FLAGS
  assert os.environ.get("XLA_FLAGS") == before


@pytest.mark.parametrize(
  ("prepare", "flags", "error", "message"),
  [
    (refuse, FLAGS, harness.Missing, "no such library"),
    (fail, FLAGS, RuntimeError, "ValueError: no such number"),
    (
      functools.partial(doubled, np.arange(3.0)),
      "--xla_no_such_flag=1",
      RuntimeError,
      "XLA_FLAGS=--xla_no_such_flag=1 has ended",
    ),
  ],
)
def test_an_error_in_the_other_process_is_raised_here(arguments, prepare, flags, error, message):
  with pytest.raises(error, match=message):
    elsewhere.with_flags(prepare, flags, arguments)


def test_stock_flax_can_be_sent_to_another_process():
  for flax, problem, inputs_of in (
    (convnets_peers.flax, convnets_problem.problems("cpu", quick=True)[0], convnets_problem.inputs_of),
    (vae_step.flax, vae_step.problems("cpu", quick=True)[0], vae_step.inputs_of),
  ):
    inputs = inputs_of(problem)
    _ = getattr(problem, "stage", None)  # Cached, and cannot be pickled.
    sent = pickle.loads(pickle.dumps(elsewhere.sendable(flax, problem, inputs)))
    assert sent.args[0] == problem
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(sent.args[1]))
