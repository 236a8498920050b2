"""Four virtual CPU devices for every test, and each program compiled once a session."""

import tempfile

import jax

jax.config.update("jax_num_cpu_devices", 4)
# A fresh folder: nothing is left from an earlier session, but a program that two tests share compiles once.
_cache = tempfile.TemporaryDirectory()
jax.config.update("jax_compilation_cache_dir", _cache.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
