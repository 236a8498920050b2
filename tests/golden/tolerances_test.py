"""Which tolerance a golden is held to."""

import os

import jax
import numpy as np
import pytest
import tolerances


def test_a_tolerance_is_that_of_back_end_and_precision(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  for precision, name in (("highest", "highest"), ("float32", "highest"), ("tensorfloat32", "default")):
    with jax.default_matmul_precision(precision):
      assert tolerances.here() is tolerances.of(np.float32(1)) is tolerances.TOLERANCES["gpu", name]
      assert tolerances.of(np.float64(1)) is tolerances.TOLERANCES["gpu", "float64"]
  monkeypatch.setattr(jax, "default_backend", lambda: "abacus")
  with pytest.raises(
    LookupError, match=r"no tolerance for .*'abacus', 'default'.*: name one in tests/golden"
  ):
    tolerances.here()


@pytest.mark.golden
def test_goldens_are_computed_with_exact_products_unless_told_otherwise():
  assert jax.config.jax_default_matmul_precision == os.environ.get("JAX_DEFAULT_MATMUL_PRECISION", "highest")
