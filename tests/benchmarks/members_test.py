"""Tests the counts and extrapolations of the benchmark of members; nothing is timed here."""

import numpy as np
import pytest

from benchmarks import harness, members


def test_a_table_is_extrapolated_from_its_chunks():
  """19 batches of 16 cover 295 rows; a chunk is 8 steps: four models of 0.5 s a chunk."""
  assert members.table_total([0.5] * 4, members.CKPLUS) == pytest.approx(4 * 0.5 / 8 * 19 * 100)


def test_flops_count_members_steps_and_both_streams():
  one = members.flops(members.CPU, "conv_lstm", False, 1)
  assert members.flops(members.CPU, "conv_lstm", False, 10) == pytest.approx(10 * one)
  first_layer = 2 * 9 * 8 * 4 * (3 + 2) * members.CPU.steps * 8 * 8 * 24**2
  assert one > 2 * first_layer  # Only its value and the gradient of its kernel.
  assert one < members.flops(members.CPU, "conv_lstm", True, 1)


@pytest.mark.parametrize(
  "bench",
  [
    members.Bench.conv_rnn(members.QUICK, "conv_gru", False),
    members.Bench.stack(members.QUICK_STACK),
  ],
  ids=["conv_rnn", "stack"],
)
def test_members_at_once_agree_with_one_after_another(bench):
  at_once, in_turn = (bench.program(2, at_once=mode) for mode in (True, False))
  losses = at_once.result()
  assert losses["losses"].shape == (members.QUICK.steps, 2)
  assert harness.relative_error(losses, in_turn.result()) < 1e-4
  assert not np.allclose(losses["losses"][:, 0], losses["losses"][:, 1], rtol=1e-3)
  for program in (at_once, in_turn):
    program.call()
    program.call()
  assert at_once.facts["memory"]["peak_bytes"] > in_turn.facts["memory"]["peak_bytes"]
