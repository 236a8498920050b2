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
    (7, 4, [(0, 4), (4, 8)]),  # The last step is inactive.
    (5, 100, [(0, 5)]),
    (1, 32, [(0, 2)]),  # A loop never has a single step.
    (3, 1, [(0, 2), (2, 4)]),
  ],
)
def test_chunks_are_equal_and_never_of_one_step(steps, per_call, want):
  assert chunks(steps, 0, per_call) == want


def test_chunks_go_on_where_they_stopped_also_with_another_length():
  assert chunks(7, 4, 4) == [(4, 8)]
  assert chunks(10, 8, 100) == [(8, 18)]
  assert chunks(10, 4, 3) == [(4, 7), (7, 10)]


# Records 0 to 23; records outside ROWS belong to held-out people, or to nobody.
SUBJECTS = np.random.default_rng(1).integers(0, 3, 24)


def test_targets_show_the_same_subject_each_row_of_it_as_often():
  rows = np.flatnonzero(SUBJECTS != 1)
  plan = Plan(rows, 4, "wrap", [0], SUBJECTS)
  epochs = [plan.columns(0, epoch, ("row", "target")) for epoch in range(300)]
  row, target = (np.stack([epoch[name] for epoch in epochs]).ravel() for name in ("row", "target"))
  np.testing.assert_array_equal(SUBJECTS[target], SUBJECTS[row])
  assert set(target) == set(rows)
  assert (target == row).any()
  own = target[row == rows[0]]
  mates = np.flatnonzero(np.isin(SUBJECTS, SUBJECTS[rows[0]]))
  counts = np.asarray([(own == mate).sum() for mate in mates])
  # The limit is five standard deviations of a uniform draw.
  assert (np.abs(counts - len(own) / len(mates)) < 5 * np.sqrt(len(own) / len(mates))).all()
  np.testing.assert_array_equal(epochs[3]["row"], plan.epoch(0, 3))


def test_partners_show_another_subject_of_the_batch_or_where_it_has_none_of_the_set():
  plan = Plan(np.arange(24), 2, "drop", [0], SUBJECTS)
  columns = [plan.columns(1, epoch, ("row", "partner")) for epoch in range(200)]
  row, partner = (np.concatenate([epoch[name] for epoch in columns]) for name in ("row", "partner"))
  assert (SUBJECTS[partner] != SUBJECTS[row]).all()
  mixed = SUBJECTS[row[:, 0]] != SUBJECTS[row[:, 1]]
  np.testing.assert_array_equal(partner[mixed], row[mixed][:, ::-1])
  # For a batch with one subject, the partner is any record of another subject.
  alone = row[~mixed] == 0
  assert 10 < alone.sum() == len(partner[~mixed][alone])
  assert set(partner[~mixed].ravel()) == set(range(24))


def test_partners_in_a_batch_are_drawn_evenly():
  plan = Plan(np.arange(24), 24, "drop", [0], SUBJECTS)
  drawn = [plan.columns(0, epoch, ("row", "partner")) for epoch in range(900)]
  first = [int(one["partner"][0][one["row"][0] == 0][0]) for one in drawn]
  others = np.flatnonzero(SUBJECTS[0] != SUBJECTS)
  counts = np.asarray([first.count(other) for other in others])
  assert counts.sum() == 900
  assert (np.abs(counts - 900 / len(others)) < 5 * np.sqrt(900 / len(others))).all()


def test_held_out_rows_are_neither_targets_nor_partners():
  rows = np.flatnonzero(SUBJECTS != 2)[1:]
  plan = Plan(rows, 3, "wrap", [5], SUBJECTS)
  for epoch in range(50):
    for column in plan.columns(0, epoch, ("row", "target", "partner")).values():
      assert set(column.ravel()) <= set(rows)
      assert column.dtype == np.int32


def test_columns_depend_on_seed_stage_and_epoch_alone():
  plan = Plan(np.arange(24), 6, "drop", [0], SUBJECTS)
  names = ("row", "target", "partner")
  again = Plan(np.arange(24), 6, "drop", [0], SUBJECTS).columns(1, 2, names)
  for name, column in plan.columns(1, 2, names).items():
    np.testing.assert_array_equal(again[name], column)
    for other in (
      Plan(np.arange(24), 6, "drop", [1], SUBJECTS).columns(1, 2, names),
      plan.columns(0, 2, names),
    ):
      assert (other[name] != column).any()
  np.testing.assert_array_equal(plan.columns(1, 2, ("partner",))["partner"], again["partner"])


def test_one_subject_has_no_partners_and_columns_have_names():
  plan = Plan(np.arange(4), 2, "drop", [0], np.zeros(4, int))
  assert set(plan.columns(0, 0, ("row", "target"))) == {"row", "target"}
  with pytest.raises(UserError, match="all 4 training rows are of one subject"):
    plan.columns(0, 0, ("row", "partner"))
  with pytest.raises(UserError, match=r"'partners'.*did you mean 'partner'"):
    plan.columns(0, 0, ("row", "partners"))
