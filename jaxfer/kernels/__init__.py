"""Numerical kernels whose speed matters: functions of arrays without Flax, each beside a plain reference."""
