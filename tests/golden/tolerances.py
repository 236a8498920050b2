"""How far a back end may be from the goldens, which are float64. Every test marked `golden` takes its tolerance here.

`pytest -m golden` computes on the back end that JAX finds, at the precision `highest`: products of float32 are then as
exact as float32 is. `JAX_DEFAULT_MATMUL_PRECISION=default pytest -m golden` checks what users get unless they ask for
more, which is TF32 on a GPU and bfloat16 on a TPU. The tolerances of the CPU leave room for the rounding of any x86-64
processor. Those of GPU and TPU follow from the bits of their products, and have not been tried: nothing has run there.
"""

from typing import Any, NamedTuple

import jax
import numpy as np


class Tolerance(NamedTuple):
  """Largest error, relative to the largest value of an array; for a slope, to the length of the gradient.

  Attributes:
    layer: of one layer, or of a recurrence of a few steps.
    net: of a net of up to 50 layers, and of the losses of one.
  """

  layer: float
  net: float


_FLOAT32 = Tolerance(1e-5, 1e-4)
_FLOAT64 = Tolerance(1e-6, 1e-6)
# By back end, as `jax.default_backend` names it, and precision: of products of float32, or float64.
TOLERANCES = {
  ("cpu", "default"): _FLOAT32,  # The same as "highest" there.
  ("cpu", "highest"): _FLOAT32,
  ("cpu", "float64"): _FLOAT64,
  ("gpu", "default"): Tolerance(2e-3, 2e-2),  # TF32: factors of 11 bits.
  ("gpu", "highest"): _FLOAT32,
  ("gpu", "float64"): _FLOAT64,
  ("tpu", "default"): Tolerance(2e-2, 2e-1),  # bfloat16: factors of 8 bits.
  ("tpu", "highest"): Tolerance(2e-5, 2e-4),  # Three parts of bfloat16 each, without the smallest products.
  ("tpu", "float64"): _FLOAT64,
}
# No rounding explains an error this large at the precision "highest".
WRONG = 2e-2


def here(precision: str | None = None) -> Tolerance:
  """Tolerance on the default back end.

  Args:
    precision: "float64" for what is computed in float64; by default that which JAX is set to.

  Raises:
    LookupError: no tolerance is named.
  """
  if precision is None:
    exact = jax.config.jax_default_matmul_precision in ("highest", "float32")
    precision = "highest" if exact else "default"
  key = jax.default_backend(), precision
  if key not in TOLERANCES:
    raise LookupError(
      f"no tolerance for back end and precision {key}: name one in tests/golden/tolerances.py"
    )
  return TOLERANCES[key]


def of(array: Any) -> Tolerance:
  """Tolerance of a result, by its dtype."""
  return here("float64" if np.asarray(array).dtype == np.float64 else None)
