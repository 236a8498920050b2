"""Facial-expression recognition on accelerators: five published methods as pure Flax modules."""

import importlib.metadata
import sys
from typing import Any

__version__ = "0.1.0"

# What is wrong with jaxlib versions that `pyproject.toml` excludes. Importing jaxfer names one that is there all the
# same, since a wrong number says nothing of its own.
BROKEN_JAXLIB = {
  "0.10.2": "computes wrong numbers and crashes on CPU (jax-ml/jax#39103, jax-ml/jax#39257)",
  "0.11.0": "crashes on CPU (jax-ml/jax#39257)",
}


def __getattr__(name: str) -> Any:
  """Imports `load` when it is asked for: `import jaxfer` alone stays light."""
  if name == "load":
    from jaxfer.inference import load

    return load
  raise AttributeError(f"module 'jaxfer' has no attribute '{name}'")


def _name_a_broken_jaxlib() -> None:
  """Prints one line, not a `Warning`: the tests, where warnings are errors, shall run and show what is broken."""
  try:
    version = importlib.metadata.version("jaxlib")
  except importlib.metadata.PackageNotFoundError:
    return
  if version in BROKEN_JAXLIB:
    advice = "install jax 0.10.1 on Python 3.11, the newest JAX on a newer Python"
    print(f"jaxfer: warning: jaxlib {version} {BROKEN_JAXLIB[version]}: {advice}", file=sys.stderr)


_name_a_broken_jaxlib()
