"""Runs the test suite with the installed Python and packages, and records the outcome as a row of a JSON file.

  python -m tests.versions --out benchmarks/results/reliability/versions.json
  python -m tests.versions --out FILE --suite golden      # or any other marker of `pytest -m`

The row replaces the earlier row of the same Python, JAX, machine and suite. Arguments after `--` are passed to pytest.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from collections.abc import Sequence
from typing import Any

from benchmarks import machine

DEFAULT = "default"
SAME = ("python", "jax", "machine", "suite")
COUNTED = ("tests", "failures", "errors", "skipped")


def commit(out: pathlib.Path) -> str:
  """Returns the commit that is checked out. Exits if a tracked file other than `out` differs from it."""

  def git(*arguments: str) -> str:
    done = subprocess.run(("git", *arguments), cwd=machine.ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()

  changed = [line for line in git("diff", "--name-only", "HEAD").splitlines() if machine.ROOT / line != out]
  if changed:
    sys.exit(f"{changed[0]} differs from the commit that the row would name: commit it first")
  return git("rev-parse", "--short", "HEAD")


def outcome(report: pathlib.Path) -> dict[str, int]:
  """Returns how many tests passed, failed and were skipped, from a report of `pytest --junitxml`."""
  suites = list(xml.etree.ElementTree.parse(report).getroot().iter("testsuite"))
  tests, failures, errors, skipped = (sum(int(suite.attrib[name]) for suite in suites) for name in COUNTED)
  failed = failures + errors
  return {"passed": tests - failed - skipped, "failed": failed, "skipped": skipped}


def run(suite: str, arguments: Sequence[str]) -> dict[str, int]:
  """Runs a suite, and returns the counts of `outcome`. Exits if pytest did not finish the run."""
  chosen = () if suite == DEFAULT else ("-m", suite)
  with tempfile.TemporaryDirectory() as folder:
    report = pathlib.Path(folder) / "report.xml"
    command = (sys.executable, "-m", "pytest", *chosen, f"--junitxml={report}", *arguments)
    if (code := subprocess.run(command, cwd=machine.ROOT).returncode) not in (0, 1):
      sys.exit(f"pytest ended with exit code {code}: no row is written")
    return outcome(report)


def add(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
  """Returns the sorted rows with one added. It replaces the row with the same `SAME` values."""
  kept = [old for old in rows if any(old[name] != row[name] for name in SAME)]
  return sorted([*kept, row], key=lambda one: [one[name] for name in SAME])


def main() -> int:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--out", type=pathlib.Path, required=True)
  flags.add_argument(
    "--suite", default=DEFAULT, help="a marker of pytest (default: the suite that runs without a marker)"
  )
  flags.add_argument("pytest", nargs="*", help="arguments for pytest")
  arguments = flags.parse_args()
  out = arguments.out.resolve()
  tested, environment = commit(out), machine.environment()
  found = run(arguments.suite, arguments.pytest)
  row = {
    "python": environment["python"],
    **{package: environment["versions"][package] for package in ("jax", "flax", "numpy")},
    "date": environment["time"][:10],
    "machine": environment["cpu"] if environment["platform"] == "cpu" else environment["device_kind"],
    "suite": arguments.suite,
    **found,
    "commit": tested,
  }
  before = json.loads(out.read_text())["rows"] if out.exists() else []
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text(json.dumps({"rows": add(before, row)}, indent=1) + "\n")
  print(json.dumps(row))
  return 1 if found["failed"] else 0


if __name__ == "__main__":
  sys.exit(main())
