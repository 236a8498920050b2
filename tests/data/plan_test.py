import numpy as np
import pytest

from jaxfer.data.plan import Plan, chunks
from jaxfer.errors import UserError

ROWS = np.asarray([3, 5, 8, 9, 11, 14, 20])


def test_an_epoch_visits_every_row_once_and_wraps_round():
  plan = Plan(ROWS, 3, "wrap", [0])
  batches = plan.epoch(0, 0)
  assert batches.shape == (plan.steps, 3) == (3, 3)
  flat = batches.ravel()
  assert sorted(flat[:7]) == sorted(ROWS)
  np.testing.assert_array_equal(flat[7:], flat[:2])


def test_dropping_leaves_out_the_incomplete_batch():
  plan = Plan(ROWS, 3, "drop", [0])
  assert plan.epoch(0, 0).shape == (2, 3)
  assert len(set(plan.epoch(0, 0).ravel())) == 6


def test_the_order_depends_on_seed_stage_and_epoch():
  plan = Plan(ROWS, 7, "drop", [0])
  np.testing.assert_array_equal(plan.epoch(1, 2), Plan(ROWS, 7, "drop", [0]).epoch(1, 2))
  others = [Plan(ROWS, 7, "drop", [1]).epoch(1, 2), plan.epoch(0, 2), plan.epoch(1, 3)]
  assert all((other != plan.epoch(1, 2)).any() for other in others)


def test_a_batch_larger_than_the_data_wraps_or_is_refused():
  assert Plan(ROWS, 10, "wrap", [0]).epoch(0, 0).shape == (1, 10)
  with pytest.raises(UserError, match="batch_size=10: there are 7 training rows"):
    Plan(ROWS, 10, "drop", [0])
  with pytest.raises(UserError, match="batch_size=0"):
    Plan(ROWS, 0, "wrap", [0])


@pytest.mark.parametrize(
  ("steps", "per_call", "want"),
  [
    (6, 4, [(0, 3), (3, 6)]),
    (6, 5, [(0, 3), (3, 6)]),
    (7, 4, [(0, 4), (4, 8)]),  # The last step is planned inactive.
    (5, 100, [(0, 5)]),
    (1, 32, [(0, 2)]),  # Never a loop of one step.
    (3, 1, [(0, 2), (2, 4)]),
  ],
)
def test_chunks_are_equal_and_never_of_one_step(steps, per_call, want):
  assert chunks(steps, 0, per_call) == want


def test_chunks_go_on_where_they_stopped():
  assert chunks(7, 4, 4) == [(4, 8)]
