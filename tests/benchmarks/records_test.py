"""Tests schema, comparison and tables of benchmark results with invented records; nothing is timed here."""

import copy
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import compare, harness, records, table
from benchmarks.records import BadRecords
from tests.benchmarks.toy import ENVIRONMENT, record


def test_statistics():
  s = records.statistics([1.0, 2.0, 3.0, 4.0, 100.0], calls_per_run=7)
  assert (s["median"], s["mad"], s["min"], s["mean"], s["runs"], s["calls_per_run"]) == (3, 1, 1, 22, 5, 7)
  assert s["p10"] == pytest.approx(1.4)
  assert s["p90"] == pytest.approx(61.6)


def test_records_survive_a_file_and_append(tmp_path):
  path = tmp_path / "new" / "results.jsonl"
  records.append(path, [record()])
  records.append(path, [record(0.2), record(case="b", status="missing")])
  found = records.read(path)
  assert found == [record(), record(0.2), record(case="b", status="missing")]
  latest = records.latest(found)
  assert [r["case"] for r in latest.values()] == ["a", "b"]
  assert latest["conv_rnn", "a", "jaxfer"]["seconds"]["median"] == pytest.approx(0.2)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"schema": 2}, "schema 2, this reader knows 1"),
    ({"status": "fine"}, "status 'fine'"),
    ({"dtype": 32}, "field 'dtype' is int"),
    ({"extra": 1}, "unknown field 'extra'"),
    ({"seconds": None}, "exactly the records of status ok have seconds"),
    ({"status": "failed", "seconds": None}, "without a reason"),
    ({"seconds": {"median": 1.0}}, "seconds lack p10"),
  ],
)
def test_what_the_schema_refuses(changes, message, tmp_path):
  with pytest.raises(BadRecords, match=message):
    records.append(tmp_path / "x.jsonl", [{**record(), **changes}])
  (tmp_path / "y.jsonl").write_text(json.dumps(record()) + "\n" + json.dumps({**record(), **changes}) + "\n")
  with pytest.raises(BadRecords, match=f"y.jsonl:2: .*{message}"):
    records.read(tmp_path / "y.jsonl")


def test_files_that_are_no_results(tmp_path):
  for name, text, message in (
    ("no.jsonl", None, "No such file"),
    ("e.jsonl", "", "no records"),
    ("j", "{", ":1: not JSON"),
  ):
    if text is not None:
      (tmp_path / name).write_text(text)
    with pytest.raises(BadRecords, match=message):
      records.read(tmp_path / name)
  missing = record()
  del missing["seconds"]
  with pytest.raises(BadRecords, match="'seconds' is missing"):
    records.check(missing, "here")


def verdicts(old, new, **options):
  return {c.key[1:]: c.verdict for c in compare.compare(old, new, **options)}


def test_comparison_tells_slower_from_noise():
  old = [record(case=c) for c in ("slower", "within margin", "faster", "equal")] + [
    record(case="noisy", spread=0.5)
  ]
  new = [record(0.12, "slower"), record(0.104, "within margin"), record(0.08, "faster"), record(case="equal"),
         record(0.12, "noisy", spread=0.5)]  # fmt: skip
  found = verdicts(old, new)
  want = {"slower": "slower", "within margin": "same", "faster": "faster", "equal": "same", "noisy": "same"}
  assert found == {(case, "jaxfer"): verdict for case, verdict in want.items()}
  assert verdicts(old, new, margin=0.01)["within margin", "jaxfer"] == "slower"
  [slower] = [c for c in compare.compare(old, new) if c.regression]
  assert slower.ratio == pytest.approx(1.2)
  assert slower.low == pytest.approx(1.2 * 0.992 / 1.008)
  assert slower.high == pytest.approx(1.2 * 1.008 / 0.992)


def test_only_our_own_regressions_count():
  old = [record(implementation=i) for i in ("jaxfer_scan", "torch")]
  assert [
    c.regression
    for c in compare.compare(old, [record(0.2, implementation=i) for i in ("jaxfer_scan", "torch")])
  ] == [
    True,
    False,
  ]


def test_what_stops_running_is_a_regression_and_what_never_ran_is_none():
  old = [
    record(case="broken"),
    record(case="gone"),
    record(case="mended", status="failed"),
    record(case="other"),
  ]
  old[-1]["benchmark"] = "kmeans"  # Not run again, so it is not compared.
  new = [record(case="broken", status="mismatch"), record(case="mended"), record(case="new")]
  assert verdicts(old, new) == {
    ("broken", "jaxfer"): "broken",
    ("gone", "jaxfer"): "gone",
    ("mended", "jaxfer"): "repaired",
    ("new", "jaxfer"): "new",
  }
  assert sum(c.regression for c in compare.compare(old, new)) == 2


def test_files_that_cannot_be_compared():
  other = {**record(), "environment": {**ENVIRONMENT, "threads": 16}}
  for new, message in (
    (other, "threads differs: 2 against 16"),
    (record(quick=True), "--quick"),
    (record(matmul_precision="highest"), "matmul precision differs"),
  ):
    with pytest.raises(BadRecords, match=message):
      compare.compare([record()], [new])


def test_exit_codes_of_compare(tmp_path, capsys):
  for name, seconds in (("old", 0.1), ("same", 0.101), ("slow", 0.2)):
    records.append(tmp_path / name, [record(seconds)])
  paths = {name: str(tmp_path / name) for name in ("old", "same", "slow", "absent")}
  assert compare.main([paths["old"], paths["same"]]) == 0
  assert compare.main([paths["old"], paths["slow"]]) == 1
  assert " 2.000 " in capsys.readouterr().out
  assert compare.main([paths["old"], paths["slow"], "--margin", "1.5"]) == 0
  assert compare.main([paths["old"], paths["absent"]]) == 2
  assert "No such file" in capsys.readouterr().err


def test_table_shows_ours_peers_and_why_one_is_missing():
  found = [record(0.1), record(0.31, implementation="flax"), record(implementation="torch", status="missing")]
  text = table.section("benchmarks/results/some.jsonl", found)
  assert "`benchmarks/results/some.jsonl`" in text
  assert "**Some CPU**, 2 CPU threads; jax 0.10.2; Python 3.11; commit 0123456789ab" in text
  assert "| case | jaxfer | flax | torch |" in text
  assert "| a | 100 ms (99.2-101), 25% | 310 ms (308-312), 25%, 3.10x | missing (1) |" in text
  assert "(1) torch, missing: torch is not installed" in text
  assert "--quick" not in text
  assert "--quick" in table.section("x", [record(quick=True)])


def test_papers_times_are_shown_beside_ours():
  assert (
    "| 002 | an epoch of training on 12,271 images | 15 min | NVIDIA RTX A5000 | not measured |  |"
    in table.papers([])
  )
  ours = record(0.1, case="landmark_fusion/train_step", benchmark="convnets")  # 80 samples per second.
  assert "| 15 min | NVIDIA RTX A5000 | 3 min | Some CPU |" in table.papers([ours])
  assert "more than a day" in table.papers([ours])


def test_durations_and_milliseconds():
  assert [table.duration(s) for s in (0.42, 38.2, 153.4, 11_000)] == ["0.4 s", "38 s", "3 min", "3.1 h"]
  assert [table.milliseconds(s) for s in (1.234e-4, 4.567e-3, 0.0456, 1.234)] == [
    "0.123 ms", "4.57 ms", "45.6 ms", "1,234 ms",
  ]  # fmt: skip


def test_table_writes_between_markers_only(tmp_path):
  readme = tmp_path / "README.md"
  readme.write_text("top\n<!-- performance -->\nold\n<!-- /performance -->\nbottom\n")
  table.write(readme, "new")
  assert readme.read_text() == "top\n<!-- performance -->\n\nnew\n\n<!-- /performance -->\nbottom\n"
  table.write(readme, "newer")
  assert readme.read_text().count("new") == 1
  for text in ("no markers", "<!-- /performance --> <!-- performance -->"):
    readme.write_text(text)
    with pytest.raises(BadRecords, match="must hold"):
      table.write(readme, "x")
    assert readme.read_text() == text


def test_relative_error_sees_every_array():
  want = {"a": np.ones(3), "b": np.full(2, 100.0)}
  assert harness.relative_error(copy.deepcopy(want), want) == 0
  assert harness.relative_error({"a": np.ones(3), "b": np.float32([100, 101])}, want) == pytest.approx(0.01)
  assert harness.relative_error({"a": np.ones(3)}, want) == 0  # A peer may lack an array.
  assert harness.relative_error({"a": np.float32([1, np.nan, 1])}, want) == math.inf
  for bad in ({}, {"c": np.ones(3)}, {"a": np.ones(4)}):
    with pytest.raises(ValueError, match=r"not among|shape"):
      harness.relative_error(bad, want)


def test_contenders_run_in_turn_and_the_first_rotates():
  order = []
  calls = [lambda: order.append("a"), lambda: order.append("b")]
  taken = harness.interleave(calls, [3, 2], [1, 2])
  assert "".join(order) == "abb" + "bba" + "a"
  assert [len(t) for t in taken] == [3, 2]


def session(tmp_path, *flags):
  arguments = harness.parser(None).parse_args(["--quick", "--output", str(tmp_path / "out.jsonl"), *flags])
  return harness.Session("toy", arguments)


def test_a_session_checks_before_it_times_and_leaves_nobody_out(tmp_path, capsys):
  def broken():
    raise RuntimeError("out of\nmemory")

  def absent():
    raise harness.Missing("torch is not installed")

  calls = []
  wrong = harness.Program(lambda: calls.append("wrong"), lambda: {"y": np.full(4, 2.0)})
  square = lambda x: x * x  # noqa: E731
  step = lambda x, by: (x + by, (x + by).sum())  # noqa: E731
  x = np.ones(4, np.float32)
  s = session(tmp_path, "--peers", "absent,broken")
  contenders = [
    harness.Contender("jaxfer", lambda: harness.JaxProgram(square, x, named=lambda y: {"y": y})),
    harness.Contender(
      "jaxfer_step",
      lambda: harness.JaxProgram(step, x * 0, x, named=lambda out: {"y": out[0]}, stepping=True),
    ),
    harness.Contender("wrong", lambda: wrong),
    *s.peer("absent", absent),
    *s.peer("broken", broken),
    *s.peer("unwanted", broken),
  ]
  case = harness.Case("case", {"n": 4}, {"flops": 4.0}, tolerance=1e-6)
  s.measure(case, contenders, lambda: {"y": np.ones(4)}, "ones")
  found = {r["implementation"]: r for r in records.read(tmp_path / "out.jsonl")}
  assert {name: r["status"] for name, r in found.items()} == {
    "jaxfer": "ok", "jaxfer_step": "ok", "wrong": "mismatch", "absent": "missing", "broken": "failed",
    "unwanted": "missing",
  }  # fmt: skip
  assert calls == []
  assert found["broken"]["reason"] == "RuntimeError: out of"
  assert found["unwanted"]["reason"] == "not asked for: --peers absent,broken"
  ours = found["jaxfer"]
  assert ours["seconds"]["runs"] == harness.QUICK_RUNS
  assert ours["memory"]["output_bytes"] == 16
  assert ours["rates"]["flops_per_second"] == pytest.approx(4 / ours["seconds"]["median"])
  assert not s.broken
  assert "wrong" in capsys.readouterr().out
  s.measure(case, [harness.Contender("jaxfer", lambda: wrong)], lambda: {"y": np.ones(4)}, "ones")
  assert s.broken


def test_benchmarks_import_no_data_libraries():
  names = [
    "conv_rnn",
    "train_step",
    "kmeans",
    "compile_time",
    "input_pipeline",
    "prepare",
    "compare",
    "table",
  ]
  code = (
    f"import sys, {', '.join('benchmarks.' + n for n in names)}; "
    "print([m for m in ('tensorflow_datasets', 'grain', 'cv2', 'torch', 'keras', 'sklearn') if m in sys.modules])"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "[]"
