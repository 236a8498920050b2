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
# On CPU, XLA uses the library YNNPACK for the operations that this flag lists.
_FUSIONS = "--xla_cpu_experimental_ynn_fusion_type"
# Version 0.10.1 computes sums and maxima of matrix products wrongly on CPU (CHANGELOG, "Known faults of jaxlib"). All
# kinds of fusion except "reduce" are correct.
RIGHT_REDUCTIONS = f"{_FUSIONS}=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_DOT"
# XLA's own convolutions are faster: with YNNPACK's, training steps of stock Flax's nets take 1 to 23 % longer
# (benchmarks/README.md). The list for 0.10.1 above leaves out YNNPACK's convolutions too.
OWN_CONVOLUTIONS = f"{_FUSIONS}=-individual_convolution"
# Only for versions that were tested with their flag, because XLA aborts the process if it does not know a flag.
FLAGS = {"0.10.1": RIGHT_REDUCTIONS, "0.12.0.1": OWN_CONVOLUTIONS}


def __getattr__(name: str) -> Any:
  """Imports `load` on first use, so that `import jaxfer` alone is fast."""
  if name == "load":
    from jaxfer.inference import load

    return load
  raise AttributeError(f"module 'jaxfer' has no attribute '{name}'")


def _prepare_jaxlib() -> None:
  """Sets the XLA flag with which a jaxlib is correct and fast on CPU, and prints a warning if a jaxlib is broken.

  XLA reads the flag when JAX first uses a device, so jaxfer must be imported before that. A flag set by the user is
  kept. The warning is printed to stderr instead of using `warnings`, because the tests turn warnings into errors.
  """
  try:
    version = importlib.metadata.version("jaxlib")
  except importlib.metadata.PackageNotFoundError:
    return
  flags = os.environ.get("XLA_FLAGS", "")
  if version in FLAGS and _FUSIONS not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} {FLAGS[version]}".strip()
  if version in BROKEN_JAXLIB:
    advice = "install jax 0.10.1 on Python 3.11, the newest JAX on a newer Python"
    print(f"jaxfer: warning: jaxlib {version} {BROKEN_JAXLIB[version]}: {advice}", file=sys.stderr)


_prepare_jaxlib()
