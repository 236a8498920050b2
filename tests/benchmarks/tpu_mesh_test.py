import re

import pytest

from benchmarks import harness, machine, records, tpu_mesh
from benchmarks.tpu_mesh import Collective


def test_collectives_are_read_with_the_bytes_of_their_results():
  text = """
  %sum.1 = f32[4,8]{1,0} all-reduce(f32[4,8]{1,0} %gradient), replica_groups={{0,1,2,3}}
  %sums = (f32[2]{0}, bf16[3]{0}) all-reduce(f32[2]{0} %a, bf16[3]{0} %b), to_apply=%add
  %part = (f32[10]{0}, f32[10]{0}) all-gather-start(f32[10]{0} %c), dimensions={0}
  %done = f32[10]{0} all-gather-done((f32[10]{0}, f32[10]{0}) %part)
  %other = f32[4] add(f32[4] %d, f32[4] %e)
  """
  assert tpu_mesh.collectives(text) == [
    Collective("all-reduce", 128),
    Collective("all-reduce", 14),
    Collective("all-gather", 40),
  ]


def test_the_estimate_counts_the_links_and_a_wait_for_each_hop():
  # 2 * 100 MB * 3 / 4 at 200 GB/s take 750 us, and 2 waits of 2 hops take 4 us; 1.5 M cycles take 1 ms.
  found = [Collective("all-reduce", 60_000_000), Collective("all-reduce", 40_000_000)]
  assert tpu_mesh.efficiency(found, 1.5e6, 4) == pytest.approx(1 / (1 + 0.750 + 0.004))


def test_the_pages_table_is_what_the_committed_records_say():
  (path,) = harness.RESULTS.glob("tpu-mesh-compiled-*.jsonl")
  made = {record["case"]: record["compiled"] for record in records.latest(records.read(path)).values()}
  whole = {
    case.split("/")[1]: about for case, about in made.items() if case.endswith("batch divided among 4")
  }
  assert set(whole) == set(tpu_mesh.CASES)
  page = (machine.ROOT / "benchmarks" / "README.md").read_text()
  rows = re.findall(
    r"^\| .*? \| [\d.]+ MiB \| (.*? all-reduce, .*? MiB) \| (\d+) \| (.*?) % \| (.*?) % \| (.*?) % \|$",
    page,
    re.M,
  )
  want = []
  for name, about in whole.items():
    found = [Collective(**one) for one in about["collectives"]]
    # Not the estimate in the record, because the step may have been compiled again since.
    cycles = tpu_mesh.committed_cycles(name)
    shares = [f"{100 * tpu_mesh.efficiency(found, cycles, chips):.1f}" for chips in tpu_mesh.CHIPS]
    want.append((tpu_mesh.summary(found), str(about["pallas_kernels"]), *shares))
  assert sorted(rows) == sorted(want)
