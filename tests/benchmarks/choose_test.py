import dataclasses
import json

import pytest

from benchmarks import choose, conv_rnn_problem, machine
from jaxfer.kernels.conv import choices
from jaxfer.kernels.conv.choices import Shape
from tests.benchmarks import toy

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
  slower = choose.table_of([record("forward", "xla", 3.0), record("forward", "patches", 2.0)], gain=1.6)
  assert [row["formulation"] for row in slower["forward"]] == ["xla"]
  assert "weight_gradient" not in table  # Quick times are not used for choices.


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


def layer(implementation, seconds, cycles=None, **changes):
  """Returns a record of a conv-RNN layer, timed, or compiled if `cycles` has both counts."""
  problem = conv_rnn_problem.Problem(**changes)
  return {
    **record("forward", implementation, seconds),
    "benchmark": "tpu" if cycles else "conv_rnn",
    "case": problem.name,
    "settings": dataclasses.asdict(problem),
    **(
      {"status": "compiled", "compiled": dict(zip(("cycles", "schedule_cycles"), cycles, strict=True))}
      if cycles
      else {}
    ),
  }


def test_an_implementation_of_the_recurrence_is_chosen_where_it_is_faster_in_every_case():
  enhanced, wide = {"enhanced": True}, {"channels": 128, "features": (128,)}
  rows = [
    layer("scan", 3.0), layer("pallas", 1.0), layer("scan_folded2", 2.0),
    layer("scan", 6.0, batch=16), layer("pallas", 4.0, batch=16), layer("scan_folded2", 4.5, batch=16),
    layer("scan", 5.0, **enhanced), layer("pallas", 4.0, **enhanced),
    layer("scan", 1.0, operation="forward"), layer("pallas", 2.0, operation="forward"),
    layer("scan", 3.0, **wide), layer("pallas", 1.0, **wide),
    layer("scan", 3.0, **wide, **enhanced), layer("pallas", 4.0, **wide, **enhanced),
    layer("scan", 3.0, size=64), layer("flax", 1.0, size=64),
    layer("scan", 3.0, features=(8, 8)), layer("pallas", 1.0, features=(8, 8)),
    layer("scan", None, (1e3, 1e3), size=8), layer("pallas", None, (1, 1), size=8),  # Not what was timed.
  ]  # fmt: skip
  failed = [
    layer("scan", 3.0, size=4) | {"status": "failed"}, layer("pallas", 1.0, size=4),  # Nothing to compare with.
    layer("scan", 3.0, dtype="bfloat16") | {"status": "failed"}, layer("pallas", 1.0, dtype="bfloat16"),
  ]  # fmt: skip
  found = choose.recurrences_of([*failed, *rows])
  plain, skips = found["recurrence"], found["enhanced_recurrence"]
  assert [(row["features"], row["formulation"]) for row in plain] == [(32, "pallas"), (128, "pallas")]
  assert plain[0]["milliseconds"] == {
    "scan": [3000, 6000],
    "pallas": [1000, 4000],
    "scan_folded2": [2000, 4500],
  }
  assert [(row["features"], row["formulation"]) for row in skips] == [(32, "pallas"), (128, "scan")]


def test_an_estimate_folds_pixels_and_does_not_choose_the_kernels():
  rows = [
    layer("scan", None, (8000, 3000)), layer("scan_folded2", None, (6000, 2000)), layer("pallas", None, (1, 1)),
    layer("scan_folded4", None, (5000, 2900)),
  ]  # fmt: skip
  (row,) = choose.recurrences_of(rows)["recurrence"]
  assert row["formulation"] == "scan_folded2"  # The other one is not better by the schedule.
  assert row["thousand_cycles"]["pallas"] == [0.001, 0.001]


def test_records_of_other_devices_choose_nothing(tmp_path, monkeypatch):
  def on(kind, made):
    return toy.record() | made | {"environment": toy.ENVIRONMENT | {"platform": "tpu", "device_kind": kind}}

  convolution = [compiled("phases", 100, 50), compiled("xla", 60, 30)]
  layers = [layer("scan", None, (8000, 3000)), layer("scan_folded2", None, (6000, 2000))]
  elsewhere = [layer("scan", None, (1, 1)), layer("scan_folded2", None, (2, 2))]
  path = tmp_path / "compiled.jsonl"
  lines = [on("TPU v5 lite", made) for made in (*layers, *convolution)]
  lines += [on("TPU v6 lite", made | {"case": f"v6e/{made['case']}"}) for made in elsewhere]
  path.write_text("".join(json.dumps(line | {"seconds": None}) + "\n" for line in lines))
  table = tmp_path / "choices.json"
  table.write_text(json.dumps({"schema": 1, "platforms": {}}))
  monkeypatch.setattr(choices, "TABLE", table)
  choose.write([path])
  entry = json.loads(table.read_text())["platforms"]["tpu"]
  monkeypatch.undo()
  choices.reload()
  assert (entry["device"], entry["estimate"]) == ("TPU v5 lite", "compiled for this device, not run")
  (row,) = entry["choices"]["recurrence"]
  assert (row["formulation"], row["thousand_cycles"]["scan"]) == ("scan_folded2", [8, 3])


def test_the_table_is_written_one_line_a_shape_and_read_back():
  rows = choose.table_of([record("forward", "xla", 3.0), record("forward", "patches", 2.0)])
  table = {"schema": 1, "platforms": {"cpu": {"source": "r.jsonl", "device": "d", "choices": rows}}}
  text = choose._json(table)
  assert json.loads(text) == json.loads(json.dumps(table))
  assert sum("patches" in line for line in text.splitlines()) == 1


def test_a_shape_has_rows_inside_a_loop_and_outside_of_it():
  inside = dataclasses.replace(SHAPE, loop=True)
  old = record("forward", "xla", 3.0, dataclasses.replace(inside, channels=9))
  old["settings"]["loop"] = 2  # The number of iterations, as the records of 2026-11-21 have it.
  rows = choose.table_of([record("forward", "xla", 3.0), record("forward", "xla", 3.0, inside), old])[
    "forward"
  ]
  assert [row["loop"] for row in rows] == [False, True, True]


def test_the_loop_doubles_the_work_and_members_multiply_it():
  outside = choose.Problem("forward", SHAPE, 2, "float32")
  # Multiplications and additions, images, pixels, kernel, channels, features.
  flops = 2 * 2 * 64 * 9 * 8 * 16
  inside = dataclasses.replace(outside, shape=dataclasses.replace(SHAPE, loop=True))
  assert (outside.flops, inside.flops) == (flops, 2 * flops)
  assert dataclasses.replace(inside, members=3).flops == 6 * flops


@pytest.mark.parametrize("shape", choose.SHAPES, ids=str)
def test_every_shape_has_the_output_it_names(shape):
  problem = choose.Problem("forward", shape, 1, "float32")
  (before, _), (after, _) = problem.sizes
  k, s, pads = shape.kernel_size[0], shape.strides[0], sum(problem.padding[0])
  assert (before + pads - k) // s + 1 == after
  assert after**2 == shape.pixels


def test_the_committed_table_of_a_tpu_is_what_its_committed_results_give(tmp_path, monkeypatch):
  committed = choices.TABLE.read_text()
  sources = json.loads(committed)["platforms"]["tpu"]["source"].split(", ")
  table = tmp_path / "choices.json"
  table.write_text(committed)
  monkeypatch.setattr(choices, "TABLE", table)
  choose.write([machine.ROOT / source for source in sources])
  monkeypatch.undo()
  choices.reload()
  assert table.read_text() == committed


def test_the_committed_table_covers_every_operation_of_the_measured_platforms():
  for entry in json.loads(choices.TABLE.read_text())["platforms"].values():
    recurrences = {"recurrence", "enhanced_recurrence"}
    assert set(entry["choices"]) - recurrences == set(choices.DEFAULTS) - recurrences
