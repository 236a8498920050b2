"""Four virtual CPU devices for every test, and each program compiled once a session."""

import tempfile

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)
# A fresh folder: nothing is left from an earlier session, but a program that two tests share compiles once.
_cache = tempfile.TemporaryDirectory()
jax.config.update("jax_compilation_cache_dir", _cache.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
  """Drops a file's programs when its tests are done: thousands at once exhaust the memory maps of a process."""
  yield
  jax.clear_caches()
