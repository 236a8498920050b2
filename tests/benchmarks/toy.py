"""An invented machine and invented records."""

import numpy as np

from benchmarks import records

ENVIRONMENT = {
  "platform": "cpu", "device_kind": "cpu", "device_count": 1, "platform_version": "", "cpu": "Some CPU", "threads": 2,
  "os": "Linux", "python": "3.11", "versions": {"jax": "0.10.2", "torch": None}, "commit": "0123456789abcdef",
  "uncommitted_changes": False, "xla_flags": "", "load_average": 0.1, "time": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


def record(seconds=0.1, case="a", implementation="jaxfer", status="ok", spread=0.01, **changes):
  times = [seconds * (1 + spread * x) for x in np.linspace(-1, 1, 20)]
  ok = status == "ok"
  return {
    "schema": 1, "benchmark": "conv_rnn", "case": case, "implementation": implementation, "status": status,
    "reason": None if ok else "torch is not installed", "quick": False, "settings": {"batch": 8}, "dtype": "float32",
    "matmul_precision": "default", "seconds": records.statistics(times) if ok else None, "lower_seconds": 0.5,
    "compile_seconds": 1.5, "first_call_seconds": seconds, "work": {"samples": 8}, "memory": None,
    "rates": {"samples_per_second": 8 / seconds}, "shares": {"matmul": 0.25},
    "agreement": {"reference": "plain", "error": 1e-7, "tolerance": 1e-4}, "environment": ENVIRONMENT,
    "ceilings": {"matmul": {"float32": 4e11}, "copy": 2e10, "size": 512, "copy_bytes": 1}, "compiled": None,
    **changes,
  }  # fmt: skip
