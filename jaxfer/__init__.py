"""Facial-expression recognition on accelerators: five published methods as pure Flax modules."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
  """Imports `load` when it is asked for: `import jaxfer` alone stays light."""
  if name == "load":
    from jaxfer.predict import load

    return load
  raise AttributeError(f"module 'jaxfer' has no attribute '{name}'")
