"""Facial-expression recognition on accelerators: five published methods as pure Flax modules."""

import importlib.metadata
import os
import sys
from typing import Any

__version__ = "0.1.0"

# Faults of jaxlib versions that `pyproject.toml` excludes. If one of them is installed anyway, importing jaxfer prints
# a warning, because users would not notice wrong numbers.
BROKEN_JAXLIB = {
  "0.10.0": "computes wrong numbers and crashes on CPU",
  "0.10.2": "computes wrong numbers and crashes on CPU (jax-ml/jax#39103, jax-ml/jax#39257)",
  "0.11.0": "crashes on CPU (jax-ml/jax#39257)",
}
# This version computes sums and maxima of matrix products wrongly on CPU (CHANGELOG, "Known faults of jaxlib"). All
# kinds of fusion except "reduce" are correct.
FAULTY_REDUCTIONS = "0.10.1"
_FUSIONS = "--xla_cpu_experimental_ynn_fusion_type"
RIGHT_REDUCTIONS = f"{_FUSIONS}=" + ",".join(
  f"LIBRARY_FUSION_TYPE_{kind}" for kind in ("INDIVIDUAL_DOT", "INDIVIDUAL_CONVOLUTION", "DOT")
)


def __getattr__(name: str) -> Any:
  """Imports `load` on first use, so that `import jaxfer` alone is fast."""
  if name == "load":
    from jaxfer.inference import load

    return load
  raise AttributeError(f"module 'jaxfer' has no attribute '{name}'")


def _guard_against_jaxlib() -> None:
  """Sets the XLA flag with which a faulty jaxlib is correct, and prints a warning if a jaxlib has no such flag.

  XLA reads the flag when JAX first uses a device, so jaxfer must be imported before that. A flag set by the user is
  kept. The warning is printed to stderr instead of using `warnings`, because the tests turn warnings into errors.
  """
  try:
    version = importlib.metadata.version("jaxlib")
  except importlib.metadata.PackageNotFoundError:
    return
  flags = os.environ.get("XLA_FLAGS", "")
  if version == FAULTY_REDUCTIONS and _FUSIONS not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} {RIGHT_REDUCTIONS}".strip()
  if version in BROKEN_JAXLIB:
    advice = "install jax 0.10.1 on Python 3.11, the newest JAX on a newer Python"
    print(f"jaxfer: warning: jaxlib {version} {BROKEN_JAXLIB[version]}: {advice}", file=sys.stderr)


_guard_against_jaxlib()
