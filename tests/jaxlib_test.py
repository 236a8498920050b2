"""Tests that the installed jaxlib computes small programs correctly, and that a broken one is named.

The programs run as for a user, in a separate process without the settings of tests/conftest.py, so that a crash or a
hang only fails its own test.
"""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.specifiers import SpecifierSet

import jaxfer
from tests import jaxlib_programs

ROOT = pathlib.Path(__file__).parents[1]
# A healthy program takes seconds. Only one that hangs takes so long.
HANGS_AFTER_SECONDS = 300


def run(*arguments, **more):
  """Runs Python as a user would: without the flags and options of these tests."""
  kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
  environment = kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | more
  command = [sys.executable, *arguments]
  return subprocess.run(
    command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_AFTER_SECONDS
  )


def test_the_installed_jaxlib_computes_the_programs_right():
  done = run("tests/jaxlib_programs.py", *jaxlib_programs.PROGRAMS)
  assert done.returncode == 0, f"jaxlib {importlib.metadata.version('jaxlib')}: {done.stderr[-1000:]}"


@pytest.mark.parametrize(
  "flag", sorted({jaxfer.RIGHT_REDUCTIONS, jaxfer.FLAGS.get(importlib.metadata.version("jaxlib"), "")})
)
def test_with_the_flags_that_jaxfer_sets_they_are_right_too(flag):
  programs = jaxlib_programs.PROGRAMS | jaxlib_programs.DIRECT
  done = run("tests/jaxlib_programs.py", *programs, XLA_FLAGS=flag)
  assert done.returncode == 0, f"jaxlib {importlib.metadata.version('jaxlib')}: {done.stderr[-1000:]}"


def imported(tmp_path, version, **more):
  """Returns the output of `import jaxfer`, and XLA's flags after it, as if the installed jaxlib had this version."""
  metadata = tmp_path / f"jaxlib-{version}.dist-info" / "METADATA"
  metadata.parent.mkdir(parents=True)
  metadata.write_text(f"Metadata-Version: 2.1\nName: jaxlib\nVersion: {version}\n")
  code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import jaxfer; assert 'jax' not in sys.modules"
  done = run("-W", "error", "-c", f"{code}; import os; print(os.environ.get('XLA_FLAGS', ''))", **more)
  assert done.returncode == 0, done.stderr
  return done.stderr, done.stdout.strip()


@pytest.mark.parametrize("version", jaxfer.BROKEN_JAXLIB)
def test_a_broken_jaxlib_is_named_in_one_line(tmp_path, version):
  (line,) = imported(tmp_path, version)[0].splitlines()
  assert line.startswith(f"jaxfer: warning: jaxlib {version} ")


@pytest.mark.parametrize("version", ["0.10.1", "0.11.1", "0.12.0.1"])
def test_a_jaxlib_that_is_admitted_is_not_named(tmp_path, version):
  said, flags = imported(tmp_path, version)
  assert said == ""
  assert flags == jaxfer.FLAGS.get(version, "")


def test_flags_of_the_users_stay(tmp_path):
  other, own = (
    "--xla_cpu_use_fusion_emitters=false",
    jaxfer.RIGHT_REDUCTIONS.replace(",LIBRARY_FUSION_TYPE_DOT", ""),
  )
  assert imported(tmp_path, "0.10.1", XLA_FLAGS=own)[1] == own
  assert imported(tmp_path / "other", "0.10.1", XLA_FLAGS=other)[1] == f"{other} {jaxfer.RIGHT_REDUCTIONS}"


def test_the_requirements_exclude_what_is_broken_and_nothing_else():
  (jax,) = (
    requirement
    for requirement in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    if re.match(r"jax\W", requirement)
  )
  admitted = SpecifierSet(jax.removeprefix("jax"))
  assert [version for version in jaxfer.BROKEN_JAXLIB if version in admitted] == []
  assert set(re.findall(r"!=([\d.]+)", jax)) <= set(jaxfer.BROKEN_JAXLIB)
