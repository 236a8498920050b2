"""Facial-expression recognition on accelerators: five published methods as pure Flax modules."""

__version__ = "0.1.0"
