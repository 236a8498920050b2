"""Tests that the tables of reliability match the committed results and count losses, and that growth is found."""

import copy
import itertools
import json

import pytest

from tests import reliability, soak

FAULTS = {
  "environment": {
    "processor": "A processor", "threads": 2, "python": "3.11.7", "jax": "0.10.1", "commit": "0123456789abcdef",
    "date": "2026-11-28",
  },
  "seconds": 549,
  "faults": {
    "training": {"kills": 50, "while writing": 12, "ends": 3, "lost": 0},
    "flipped bit": {"outcome": "reported; resumed", "lost": 0},
    "truncated checkpoint": {"outcome": "reported; resumed", "lost": 0},
    "full disk": {"outcome": "not run: mounting is not permitted", "lost": 0},
    "study": {"kills": 10, "while writing": 5, "ends": 1, "lost": 0},
  },
}  # fmt: skip
HOSTILE = {
  "environment": {},
  "rows": [
    {"kind": kind, "tried": 10000, "read": 1, "refused": 9999, "failed": 0, "peak_mib": peak, "slowest_seconds": 0.5}
    for kind, peak in ((".pth, older", 120.0), (".npy", 80.4))
  ],
}  # fmt: skip
VERSIONS = {
  "rows": [
    {"python": python, "jax": jax, "date": "2026-11-28", "machine": "A processor", "passed": 1500, "failed": 0,
     "skipped": 3, "suite": suite}
    for python, jax, suite in (("3.12.3", "0.11.1", "default"), ("3.11.7", "0.10.1", "default"),
                               ("3.11.7", "0.10.1", "slow"), ("3.11.7", "0.10.0", "default"))
  ]
}  # fmt: skip
DISTRIBUTED = {
  "systems": [{"lost": 0}],
  "faults": [
    {"processes": count, "signal": name, "lost": 0, "ends": [{"seconds": seconds}]}
    for count, name, seconds in ((2, "SIGKILL", 9.4), (4, "SIGSTOP", 8.0))
  ],
}
RESULTS = {"faults": FAULTS, "hostile": HOSTILE, "versions": VERSIONS}


@pytest.mark.parametrize("name", reliability.PAGES)
def test_the_tables_are_those_of_the_committed_results(name):
  text, page = reliability.texts()[name], reliability.PAGES[name].read_text()
  assert f"<!-- {name} -->\n\n{text}\n\n<!-- /{name} -->" in page


def test_committed_results_lost_nothing_and_name_no_folder():
  results = reliability.read(reliability.RESULTS)
  assert reliability.lost(results) == "**nothing**"
  for path in reliability.RESULTS.glob("*.json"):
    assert '"/' not in path.read_text(), path


def test_the_committed_long_runs_are_compared_as_the_script_does():
  runs = reliability.read(reliability.RESULTS).get("soak", {})
  for own in (runs[name] for name in ("training", "study") if name in runs):
    columns = own["samples"]
    samples = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert soak.compared(samples) == own["measures"]


def test_the_summary_counts_what_was_tried():
  lines = reliability.summary(RESULTS).splitlines()
  assert lines[2:] == [
    "| SIGKILL in a training and study | 50 and 10 kills, 12 and 5 of them while writing | resumed to the same results "
    "(metrics and weights; table), bit for bit |",
    "| flipped bit and truncated checkpoint in a training | once each | reported in one line; all resumed trainings "
    "gave the same result |",
    "| full disk in a training | once | not run: mounting is not permitted |",
    "| damaged and hostile inputs: .pth (older) and .npy | 20,000 inputs | 19,998 refused in one line, 2 read; none "
    "crashed, hung or ran code; memory grew by at most 120 MiB |",
    "| the test suite: Python 3.11 with JAX 0.10.0 and 0.10.1; Python 3.12 with JAX 0.11.1 | 4 runs | 6,000 passed, "
    "none failed |",
    "| lost in all trials |  | **nothing** |",
    "",
    "Results still missing: `soak.json` and `distributed.json`.",
  ]


def test_processes_that_were_taken_away_are_counted():
  lines = reliability.summary({"distributed": DISTRIBUTED}).splitlines()
  assert lines[2:4] == [
    "| SIGKILL or SIGSTOP to one of 2 or 4 processes | 2 times | the others ended within 10 s and named it; resumed to "
    "the same numbers to 1e-5 |",
    "| lost in all trials |  | **nothing** |",
  ]
  results = copy.deepcopy(DISTRIBUTED)
  results["faults"][1]["lost"] = 1
  assert "**lost** 1 time" in reliability.summary({"distributed": results})
  results["systems"][0]["lost"] = 1
  assert reliability.lost({"distributed": results}) == "**2 results lost**"


def test_what_was_lost_is_counted():
  results = copy.deepcopy(RESULTS)
  results["faults"]["faults"]["training"] = {"outcome": "another result", "lost": 1}
  results["faults"]["faults"]["full disk"] = {"outcome": "a traceback", "lost": 1}
  results["hostile"]["rows"][1]["failed"] = 1
  results["versions"]["rows"][0]["failed"] = 2
  assert reliability.lost(results) == "**2 results lost, 1 input failed and 2 tests failed**"
  text = reliability.summary(results)
  assert "| SIGKILL in a training |  | **lost**: another result |" in text
  assert "| SIGKILL in a study | 10 kills, 5 of them while writing |" in text
  assert "**lost**: a traceback" in text
  assert "**1 failed**" in text
  assert "**2 failed**" in text


def test_files_that_are_missing_are_named(tmp_path):
  (tmp_path / "hostile.json").write_text(json.dumps(HOSTILE))
  texts = reliability.texts(tmp_path)
  for text in texts.values():
    assert text.endswith(
      "Results still missing: `faults.json`, `soak.json`, `versions.json` and `distributed.json`."
    )
  assert "| .npy | 10,000 | 1 | 9,999 | 0 | 80.4 | 0.5 |" in texts["trials"]


def samples(count=30, **growth):
  """Makes samples of a run in which the measures in `growth` grow; the last ten come from a slower processor."""
  found, cpu = [], 0.0
  for k in range(count):
    slowed = 1.5 if k >= count - 10 else 1.0
    cpu += (1.0 + growth.get("cpu_seconds", 0) * k) * slowed
    found.append(
      {
        "seconds": 2.0 * k, "done": 10 * k, "resident_mib": 500.0 + k % 2, "open_files": 20, "threads": 30,
        "arrays": 40 + 10 * (k % 5), "programs": 50, "cpu_seconds": cpu, "reference_seconds": 0.02 * slowed,
        "compiled": 7 + growth.get("compiled", 0) * k**2,
      }
    )  # fmt: skip
    for name in ("resident_mib", "open_files", "threads", "arrays", "programs"):
      found[-1][name] += growth.get(name, 0) * k
  return found


def test_a_run_that_does_not_grow_passes():
  compared = soak.compared(samples())
  assert set(compared) == set(soak.ALLOWED)
  assert not any(values["grows"] for values in compared.values())
  assert compared["cpu_seconds"]["last"] == pytest.approx(0.1)


@pytest.mark.parametrize(
  ("name", "step"),
  [
    ("resident_mib", 2),
    ("open_files", 1),
    ("threads", 1),
    ("arrays", 1),
    ("programs", 1),
    ("cpu_seconds", 0.02),
    ("compiled", 1),
  ],
)
def test_growth_is_found(name, step):
  grown = [measure for measure, values in soak.compared(samples(**{name: step})).items() if values["grows"]]
  assert grown == [name]


def test_warm_up_is_ignored_and_few_samples_are_refused():
  begun = samples()
  for sample in begun[:9]:
    sample["resident_mib"] = 100.0
  assert not soak.compared(begun)["resident_mib"]["grows"]
  with pytest.raises(ValueError, match="8 samples are too few to compare, at least nine are needed"):
    soak.compared(samples(9))


def test_a_training_and_a_study_are_sampled(tmp_path):
  training = soak.in_process(soak.train, tmp_path, 12)
  study = soak.in_process(soak.train_study, tmp_path, 3)
  assert len(training) >= 2
  assert len(study) == 3
  for taken in (training, study):
    assert all(new["done"] > old["done"] for old, new in itertools.pairwise(taken))
    assert all(
      sample[name] > 0
      for sample in taken
      for name in ("resident_mib", "open_files", "threads", "cpu_seconds")
    )
  assert training[-1]["compiled"] == training[-2]["compiled"]
  assert study[2]["compiled"] - study[1]["compiled"] >= 4
  assert study[2]["programs"] == study[1]["programs"]
