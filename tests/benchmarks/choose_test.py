import dataclasses
import json

import pytest

from benchmarks import choose, conv_rnn_problem
from jaxfer.kernels.conv import choices
from jaxfer.kernels.conv.choices import Shape

SHAPE = Shape((3, 3), (1, 1), 8, 16, 64)


def record(operation, implementation, seconds, shape=SHAPE, quick=False):
  problem = choose.Problem(operation, shape, 2, "float32")
  return {
    "benchmark": "choose",
    "case": problem.name,
    "implementation": f"jaxfer_{implementation}",
    "status": "ok",
    "quick": quick,
    "settings": {**dataclasses.asdict(shape), "operation": operation},
    "seconds": {"median": seconds},
  }


def test_the_fastest_is_chosen_and_the_default_where_it_is_almost_as_fast():
  other = dataclasses.replace(SHAPE, channels=64)
  table = choose.table_of([
    record("forward", "xla", 3.0), record("forward", "patches", 2.0), record("forward", "shifts", 2.5),
    record("forward", "xla", 2.05, other), record("forward", "patches", 2.0, other),
    record("weight_gradient", "patches", 1.0, quick=True),
  ])  # fmt: skip
  assert [row["formulation"] for row in table["forward"]] == ["patches", "xla"]
  assert list(table["forward"][0]["milliseconds"]) == ["patches", "shifts", "xla"]
  assert "weight_gradient" not in table  # Quick times choose nothing.


def compiled(implementation, cycles, schedule_cycles):
  return {
    **record("transpose", implementation, None),
    "status": "compiled",
    "compiled": {"cycles": 1000 * cycles, "schedule_cycles": 1000 * schedule_cycles},
  }


def test_an_estimate_must_be_better_than_the_default_by_both_counts():
  only_by_xla = [compiled("phases", 100, 50), compiled("xla", 60, 49)]
  by_both = [*only_by_xla, compiled("patches", 80, 40)]
  for rows, best in ((only_by_xla, "phases"), (by_both, "patches")):
    (row,) = choose.table_of(rows)["transpose"]
    assert row["formulation"] == best
    assert row["thousand_cycles"]["phases"] == [100, 50]


def layer(implementation, seconds, **changes):
  problem = conv_rnn_problem.Problem(**changes)
  return {
    **record("forward", implementation, seconds),
    "benchmark": "conv_rnn",
    "case": problem.name,
    "settings": dataclasses.asdict(problem),
  }


def test_the_kernels_are_chosen_where_they_are_faster_in_every_training_case():
  enhanced, wide = {"enhanced": True}, {"channels": 128, "features": (128,)}
  rows = choose.recurrences_of([
    layer("scan", 3.0), layer("pallas", 1.0), layer("scan", 5.0, **enhanced), layer("pallas", 4.0, **enhanced),
    layer("scan", 1.0, operation="forward"), layer("pallas", 2.0, operation="forward"),
    layer("scan", 3.0, **wide), layer("pallas", 1.0, **wide),
    layer("scan", 3.0, **wide, **enhanced), layer("pallas", 4.0, **wide, **enhanced),
    layer("scan", 3.0, size=64), layer("flax", 1.0, size=64),
    layer("scan", 3.0, features=(8, 8)), layer("pallas", 1.0, features=(8, 8)),
  ])  # fmt: skip
  assert [(row["features"], row["formulation"]) for row in rows] == [(32, "pallas"), (128, "scan")]
  assert rows[0]["milliseconds"] == {"scan": (3000, 5000), "pallas": (1000, 4000)}


def test_the_table_is_written_one_line_a_shape_and_read_back():
  rows = choose.table_of([record("forward", "xla", 3.0), record("forward", "patches", 2.0)])
  table = {"schema": 1, "platforms": {"cpu": {"source": "r.jsonl", "device": "d", "choices": rows}}}
  text = choose._json(table)
  assert json.loads(text) == json.loads(json.dumps(table))
  assert sum("patches" in line for line in text.splitlines()) == 1


@pytest.mark.parametrize("shape", choose.SHAPES, ids=str)
def test_every_shape_has_the_output_it_names(shape):
  problem = choose.Problem("forward", shape, 1, "float32")
  (before, _), (after, _) = problem.sizes
  k, s, pads = shape.kernel_size[0], shape.strides[0], sum(problem.padding[0])
  assert (before + pads - k) // s + 1 == after
  assert after**2 == shape.pixels


def test_the_committed_table_covers_every_operation_of_the_measured_platforms():
  for entry in json.loads(choices.TABLE.read_text())["platforms"].values():
    assert set(entry["choices"]) - {"recurrence"} == set(choices.DEFAULTS) - {"recurrence"}
