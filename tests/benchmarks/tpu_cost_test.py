"""Tests the cost of compiled TPU programs on committed excerpts of real ones; libtpu is not needed."""

import dataclasses
import functools
import json
import pathlib

import pytest

from benchmarks import (
  compare,
  conv_rnn,
  conv_rnn_scan_peer,
  harness,
  records,
  table,
  tpu_cost,
  tpu_hlo,
  tpu_schedule,
  tpu_table,
  tpu_traffic,
)
from benchmarks.conv_rnn_problem import Problem, inputs_of

TEXTS = pathlib.Path(__file__).parent / "tpu"
SCAN = (TEXTS / "scan.hlo.txt").read_text()  # Five steps of y = tanh(w * y + x[t]).
TOY = (
  TEXTS / "toy_final_bundles.txt"
).read_text()  # A Pallas kernel: grid 5, each with a loop of 7 iterations.
CHIP = tpu_cost.CHIPS["v5e"]
KERNEL = """HloModule toy

ENTRY %main.1 (x.1: f32[5,8,128]) -> f32[5,8,128] {
  %x.1 = f32[5,8,128]{2,1,0:T(8,128)} parameter(0)
  ROOT %toy.1 = f32[5,8,128]{2,1,0:T(8,128)} custom-call(%x.1), custom_call_target="tpu_custom_call"
}
"""


def runs(text):
  return {run.operation.name: run for run in tpu_hlo.Module(text).runs()}


def changed(old, new, text=SCAN):
  assert old in text
  return text.replace(old, new)


def test_loop_multiplies_its_body():
  found = runs(SCAN)
  assert {name: run.trips for name, run in found.items() if run.operation.cycles} == {
    "convert.3": 1, "copy.28": 5, "constant_dynamic-slice_fusion.2": 5, "fusion.15": 5,
    "copy_dynamic-update-slice_fusion.2": 5,
  }  # fmt: skip
  assert sum(run.trips * (run.operation.cycles or 0) for run in found.values()) == 2127 + 5 * (
    2365 + 1957 + 2783 + 32
  )


def test_nested_loops_multiply():
  """The convolution in the body is replaced by a second loop with the same counter."""
  start = SCAN.index("%wide.region_0.4.clone.sunk (")
  end = SCAN.index("ENTRY")
  copy = SCAN[start:end].replace("wide.region_", "inner.region_").replace("arg_tuple", "inner_tuple")
  loop = "  %inner = () while(%inner_start), condition=%inner.region_1.5.clone, body=%inner.region_0.4.clone.sunk\n"
  tuple_ = next(line for line in SCAN.splitlines() if "%tuple.16 = " in line).replace(
    "%tuple.16", "%inner_start"
  )
  tuple_ = tuple_.replace("(%copy.16,", "(%constant.11..sunk,")
  outer = changed("  %bitcast.14 =", f"{tuple_}\n{loop}  %bitcast.14 =")
  names = [run.trips for run in tpu_hlo.Module(copy + outer).runs() if run.operation.name == "fusion.15"]
  assert sorted(names) == [5, 25]


@pytest.mark.parametrize(
  ("old", "new", "trips"),
  [
    ("s32[]{:T(128)} constant(5)", "s32[]{:T(128)} constant(9)", 9),
    ("direction=LT", "direction=LE", 6),
    ("direction=LT", "direction=NE", 5),
    ("%copy.16 = s32[]{:T(128)} copy(%constant.11)", "%copy.16 = s32[]{:T(128)} copy(%constant.20)", 4),
    ("%constant.20..sunk = s32[]{:T(128)} constant(1)", "%constant.20..sunk = s32[]{:T(128)} constant(2)", 3),
  ],
)
def test_trips_follow_bound_direction_start_and_step(old, new, trips):
  assert runs(changed(old, new))["fusion.15"].trips == trips


def test_counting_down():
  text = changed("constant(5)", "constant(0)").replace("direction=LT", "direction=GT")
  text = changed("copy(%constant.11)", "copy(%constant.7)", text)
  text = changed("  %constant.20 = ", "  %constant.7 = s32[]{:T(128)} constant(7)\n  %constant.20 = ", text)
  text = changed("add(%copy.19, %constant.20..sunk)", "subtract(%copy.19, %constant.20..sunk)", text)
  assert runs(text)["fusion.15"].trips == 7


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ("%constant.23 = s32[]{:T(128)} constant(5)", "%constant.23 = s32[]{:T(128)} custom-call()"),
    ("%copy.16 = s32[]{:T(128)} copy(%constant.11)", "%copy.16 = s32[]{:T(128)} custom-call()"),
    ("add(%copy.19, %constant.20..sunk)", "multiply(%copy.19, %constant.20..sunk)"),
    ("compare(%get-tuple-element.48, %constant.23)", "custom-call(%get-tuple-element.48)"),
  ],
)
def test_loop_without_a_readable_count_is_an_error_that_names_it(old, new):
  with pytest.raises(tpu_hlo.Unreadable, match=r"while\.1"):
    runs(changed(old, new))


def test_of_branches_the_dearer_counts_and_calls_are_followed():
  text = """HloModule m

%cheap (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %c = f32[8]{0} copy(%a), backend_config={"estimated_cycles":"10"}
}

%dear (b: f32[8]) -> f32[8] {
  %b = f32[8]{0} parameter(0)
  ROOT %d = f32[8]{0} copy(%b), backend_config={"estimated_cycles":"30"}
}

ENTRY %main (p: pred[], x: f32[8]) -> f32[8] {
  %p = pred[] parameter(0)
  %x = f32[8]{0} parameter(1)
  %y = f32[8]{0} conditional(%p, %x, %x), branch_computations={%cheap, %dear}
  ROOT %z = f32[8]{0} call(%y), to_apply=%cheap
}
"""
  assert sum(run.operation.cycles or 0 for run in tpu_hlo.Module(text).runs()) == 40


def test_operations_that_share_a_schedule_are_alike():
  """The compiler schedules only one of several equal fusions; names, origins and the order of lines do not matter."""
  twin = "  %twin = f32[2,8,8,16]{3,0,2,1:T(2,128)S(1)} fusion(%constant_dynamic-slice_fusion.2, "
  twin += "%get-tuple-element.92, %copy.28, %compare.3), kind=kOutput, calls=%other, "
  twin += 'metadata={op_name="elsewhere"}, backend_config={"window_config":{"estimated_cycles":"2783"}}\n'
  start = SCAN.index("%fused_computation.3.clone.clone (")
  lines = SCAN[start : SCAN.index("}\n", SCAN.index("ROOT %tanh.5")) + 2].splitlines()
  other = "\n".join(["%other (" + lines[0].split("(", 1)[1], *lines[1:3][::-1], *lines[3:]])
  text = f"{other}\n\n{changed('  %bitcast.14 =', twin + '  %bitcast.14 =')}"
  module, found = tpu_hlo.Module(text), runs(text)
  alike = [module.likeness(found[name]) for name in ("fusion.15", "twin", "copy.28")]
  assert alike[0] == alike[1] != alike[2]
  schedules = {"fusion.15": TOY}
  cost = tpu_cost.cost(module, schedules, CHIP)
  assert cost.bundles == 10 * tpu_schedule.count(TOY).bundles
  assert cost.unscheduled == 4


def test_kinds_and_donation():
  module, found = tpu_hlo.Module(SCAN), runs(SCAN)
  kinds = {name: module.kind(found[name].operation) for name in ("fusion.15", "copy.28", "convert.3")}
  assert kinds == {"fusion.15": "convolution", "copy.28": "copy", "convert.3": "vector"}
  assert module.alias
  assert not tpu_hlo.Module(KERNEL).alias


def test_hbm_bytes_count_slices_padding_and_memory_spaces():
  module, found = tpu_hlo.Module(SCAN), runs(SCAN)
  # x[t], [1, 2, 8, 8, 16] float32 padded to 128 lanes, is copied to VMEM five times.
  assert tpu_traffic.hbm_bytes(module, found["constant_dynamic-slice_fusion.2"]) == 5 * (2 * 8 * 8 * 128 * 4)
  assert tpu_traffic.hbm_bytes(module, found["copy_dynamic-update-slice_fusion.2"]) == 0
  assert tpu_traffic.hbm_bytes(module, found["convert.3"]) == 3 * 3 * 16 * 128 * 4


def test_schedule_multiplies_nested_loops_and_skips_what_branches_skip():
  """Counted by hand: the outer loop has 7 iterations, of which the first and the last only move data."""
  around, every_trip, working_trips, first_trip, inner = 5, 29 + 7, 11, 2, 74
  count = tpu_schedule.count(TOY)
  assert count.unread == ()
  assert count.lines == around + every_trip + working_trips + first_trip + inner == 128
  assert count.bundles == around + 7 * every_trip + 5 * working_trips + first_trip + 5 * 7 * inner


def test_units_are_as_full_as_the_fullest_bundle_allows():
  text = """
     0   :  { %v1_v0 = vld [vmem:[%s1] sm:$0xff]  ;;  %v2_v1 = vld [vmem:[%s2] sm:$0xff]  ;;  %s3 = smov 0 }
   0x1   :  { %v3_v2 = vadd.f32 %v1_v0, %v2_v1  ;;  %v4_v3 = vsel /*vm=*/%vm1, %v3_v2  ;;  %5 = vtanh.f32 %v3_v2 }
   0x2   :  { %v6_v4 = vpop.eup %5  ;;  %v7_v5 = vld [vmem:[%s1] sm:$0xff]  ;;  %9 = vmatpush1.bf16.msra.mxu0 %v1_v0 }
   0x3   :  { %8 = vst [vmem:[%s4] sm:$0xff] /*vst_source=*/%v6_v4 }
"""
  units = tpu_schedule.count(text).units
  assert units == {
    "loads": 3 / 8,
    "vector": 2 / 8,
    "transcendentals": 1 / 4,
    "results": 1 / 4,
    "stores": 1 / 4,
    "matrix": 1 / 4,
  }
  # A bundle of the inner loop is executed 35 times.
  loop = changed("0x2d   : >> {", "0x2d   : >> { %v1_v0 = vld [vmem:[%s1] sm:$0xff]  ;;", TOY)
  assert tpu_schedule.count(loop).units == {"loads": 35 / tpu_schedule.count(TOY).bundles}


def test_schedule_with_an_unknown_bound_says_so():
  count = tpu_schedule.count(changed("%s145_s16, 7", "%s145_s16, %s9999_s1", TOY))
  assert count.unread == ("0x2c",)


def test_pallas_kernel_costs_the_larger_of_its_schedule_and_its_bytes():
  module = tpu_hlo.Module(KERNEL)
  bundles = tpu_schedule.count(TOY).bundles
  cost = tpu_cost.cost(module, {"toy.1": TOY}, CHIP)
  assert cost.cycles == cost.schedule_cycles == bundles
  assert cost.hbm_bytes == 2 * 5 * 8 * 128 * 4
  slow = dataclasses.replace(CHIP, bandwidth=1e9)
  assert (
    tpu_cost.cost(module, {"toy.1": TOY}, slow).cycles == round(cost.hbm_bytes / 1e9 * CHIP.clock) > bundles
  )
  assert cost.kinds["pallas"] == bundles
  assert cost.operations[0].name == "toy.1"


def test_pallas_kernel_without_a_counted_schedule_is_an_error():
  with pytest.raises(tpu_hlo.Unreadable, match=r"toy\.1: the dump holds no schedule"):
    tpu_cost.cost(tpu_hlo.Module(KERNEL), {}, CHIP)
  unknown = changed("%s145_s16, 7", "%s145_s16, %s9999_s1", TOY)
  with pytest.raises(tpu_hlo.Unreadable, match=r"toy\.1: trips of the loop at 0x2c unknown"):
    tpu_cost.cost(tpu_hlo.Module(KERNEL), {"toy.1": unknown}, CHIP)


@pytest.mark.parametrize(("operation", "unroll"), [("forward", 3), ("gradient", 1)])
def test_scan_peer_computes_the_enhanced_cell(operation, unroll):
  problem = Problem(operation, enhanced=True, batch=2, time=3, size=6, channels=3, features=(4,))
  inputs = inputs_of(problem)
  peer = functools.partial(conv_rnn_scan_peer.flax_scan, problem, inputs, None, unroll=unroll)
  assert harness.relative_error(peer().result(), conv_rnn.reference_result(problem, inputs)) < 1e-5


ENVIRONMENT = {
  "platform": "tpu", "device_kind": "TPU v5 lite", "device_count": 1, "platform_version": "", "cpu": "Some CPU",
  "threads": 2, "os": "Linux", "python": "3.11", "versions": {"jax": "0.10.1", "libtpu": "0.0.41"}, "commit": "0123",
  "uncommitted_changes": False, "xla_flags": "", "load_average": 0.1, "time": "2026-01-01T00:00:00+00:00",
  "topology": "v5e:1x1",
}  # fmt: skip


def record(cycles=1_000_000, implementation="jaxfer", schedule=500_000, **changes):
  line = {
    "name": "fusion.1",
    "kind": "vector",
    "source": "jit(f)/while/body/layer1/mul",
    "cycles": cycles // 4,
  }
  compiled = {
    "cycles": cycles, "schedule_cycles": schedule, "bundles": schedule, "hbm_bytes": 2**20, "unread_loops": 0,
    "kinds": {"vector": cycles}, "bounds": {"vector": 3, "memory": 1}, "operations": [line], "donated": False,
    "products": {"bf16 x bf16": 1},
  }  # fmt: skip
  return {
    "schema": 1, "benchmark": "tpu", "case": "v5e:1x1/layer", "implementation": implementation, "status": "compiled",
    "reason": None, "quick": False, "settings": {}, "dtype": "bfloat16", "matmul_precision": "default",
    "seconds": None, "lower_seconds": 1.0, "compile_seconds": 60.0, "first_call_seconds": None, "work": {"samples": 8},
    "rates": {}, "shares": {"matmul": 0.25, "hbm": 0.5}, "memory": {"temp_bytes": 2**21, "peak_bytes": 2**30},
    "agreement": None, "environment": ENVIRONMENT, "ceilings": {"matmul": {"bfloat16": 197e12}, "clock": 1.5e9},
    "compiled": compiled, **changes,
  }  # fmt: skip


def test_schema_knows_compiled_programs_and_reads_files_without_them(tmp_path):
  records.append(tmp_path / "new.jsonl", [record()])
  assert records.read(tmp_path / "new.jsonl") == [record()]
  for changes in ({"compiled": None}, {"status": "ok"}, {"status": "failed", "reason": "x"}):
    with pytest.raises(records.BadRecords, match=r"say what was compiled|seconds"):
      records.check({**record(), **changes}, "here")
  old = record(status="failed", reason="x")
  del old["compiled"]
  (tmp_path / "old.jsonl").write_text(json.dumps(old) + "\n")
  assert records.read(tmp_path / "old.jsonl")[0]["compiled"] is None


def test_comparison_of_compiled_programs_is_of_cycles():
  other = {**ENVIRONMENT, "cpu": "Another CPU", "threads": 16}  # The compiling machine does not matter.
  (change,) = compare.compare([record()], [record(1_100_000, environment=other)])
  assert (change.verdict, change.ratio, change.low, change.high) == ("slower", 1.1, 1.1, 1.1)
  assert change.regression
  (change,) = compare.compare([record()], [record(1_040_000)])
  assert change.verdict == "same"
  ran = {
    **record(),
    "status": "ok",
    "compiled": None,
    "seconds": {},
    "environment": {**ENVIRONMENT, "threads": 1},
  }
  with pytest.raises(records.BadRecords, match="threads differs"):
    compare.compare([record()], [ran])


def test_table_shows_both_counts_the_better_peer_and_where_we_lose():
  found = [record(), record(900_000, "flax", 600_000), record(2_000_000, "flax_unrolled", 900_000)]
  text = tpu_table.section(["some.jsonl"], found)
  assert text.startswith("### Compiled for TPU, not run\n")
  assert (
    "| v5e:1x1/layer | 1.00, 0.90 M | **0.90** | 0.50, 0.60 M | 1.20 | 25%, 25% | vector unit 75% |" in text
  )
  assert "| v5e:1x1/layer | 1, 1 MiB | 2, 2 MiB | 60, 60 s |" in text
  assert "`fusion.1` (vector, 25%) layer1/mul" in text
  largest = record()
  largest["compiled"]["largest_batch"] = {
    "batch": 100,
    "bytes_per_sample": 2.0**20,
    "points": [[1, 2], [2, 3]],
  }
  assert "| v5e:1x1/layer | 1.00 MiB | 100 | 1.00 GiB |" in tpu_table.section(["some.jsonl"], [largest])


def test_table_of_layers_shows_the_expensive_ones_and_sums_up_the_others():
  layered = record()
  layered["compiled"]["layers"] = {
    "conv1": {"cycles": 250_000, "schedule_cycles": 100_000, "flops": 0.5 * 197e12 / 1.5e9 * 1e5},
    "bn1": {"cycles": 720_000, "schedule_cycles": 380_000},
    "fc": {"cycles": 20_000, "schedule_cycles": 10_000, "flops": 0},
    "other": {"cycles": 10_000, "schedule_cycles": 10_000},
  }
  for cost in layered["compiled"]["layers"].values():
    cost.setdefault("flops", 0.0)
  text = tpu_table.section(["some.jsonl"], [layered])
  rows = [line for line in text.splitlines() if line.startswith("| v5e:1x1/layer | ") and " k (" in line]
  assert rows == [
    "| v5e:1x1/layer | bn1 | 720 k (72%) | - | 380 k (76%) | - |",
    "| v5e:1x1/layer | conv1 | 250 k (25%) | 20% | 100 k (20%) | 50% |",
    "| v5e:1x1/layer | the rest | 30 k (3%) | - | 20 k (4%) | - |",
  ]
  assert "per layer" not in tpu_table.section(["some.jsonl"], [record()])


def test_a_later_file_replaces_records_of_an_earlier_one():
  files = {"old.jsonl": [record(), record(implementation="flax")], "new.jsonl": [record(700_000)]}
  text = table.page_texts(files, only_headlines=True, with_papers=False)["compiled"]
  assert text.count("### Compiled for TPU, not run") == 1
  assert "From `old.jsonl` and `new.jsonl`" in text
  assert "| v5e:1x1/layer | 0.70, 1.00 M | 1.43 |" in text


def test_table_of_a_file_goes_where_its_records_belong(tmp_path, capsys):
  records.append(tmp_path / "tpu.jsonl", [record(), record(implementation="flax")])
  assert table.main([str(tmp_path / "tpu.jsonl")]) == 0
  assert "### Compiled for TPU, not run" in capsys.readouterr().out


def test_implementations_of_the_recurrence_are_beside_the_better_peer():
  packed = record(
    implementation="jaxfer_pallas_packed", schedule=1_000_000, work={"flops": 0.5 * 197e12 / 1.5e9 * 1e6}
  )
  packed["compiled"]["units"] = {
    "conv_recurrence_forward.1": {"loads": 0.25, "stores": 0.5, "vector": 0.125, "matrix": 0.0},
    "conv_recurrence_backward.1": {"matrix": 0.75},
  }
  made = [
    record(), record(implementation="jaxfer_scan_folded4", schedule=400_000),
    record(implementation="flax", schedule=900_000), record(implementation="flax_unrolled", schedule=600_000),
    record(implementation="jaxfer_pallas", schedule=300_000), packed,
  ]  # fmt: skip
  text = tpu_table.section(["tpu.jsonl"], made)
  assert "| case | auto | folded by 4 | Pallas | Pallas, packed in and out | peer | peer unrolled |" in text
  cells = (
    "1.00 / 0.50 | 1.00 / 0.40 | 1.00 / 0.30 | 1.00 / 1.00 | 1.00 / 0.90 | 1.00 / 0.60 | 2.00 | **0.60** |"
  )
  assert f"| v5e:1x1/layer | {cells}" in text
  assert "| v5e:1x1/layer | 50% | stores 50%, loads 25%, vector 12% | matrix 75% |" in text
  assert "Pallas" not in tpu_table.section(["tpu.jsonl"], made[:4])


def test_largest_batch_lies_on_the_line():
  assert tpu_cost.largest_batch([(10, 300.0), (20, 500.0)], 1000.0) == (45, 20.0)
  assert tpu_cost.largest_batch([(10, 300.0), (20, 500.0)], 999.0)[0] == 44
  with pytest.raises(ValueError, match="does not grow"):
    tpu_cost.largest_batch([(10, 300.0), (20, 300.0)], 1000.0)
