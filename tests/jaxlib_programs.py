"""Small programs that broken jaxlibs compute wrongly; each compares itself with NumPy in exact whole numbers.

python tests/jaxlib_programs.py NAME...
"""

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _moved(reductions: Mapping[str, Callable[[Any, Any], Any]]) -> None:
  """Multiplies a 2 x 3 or 3 x 3 matrix with (x, y, 1) of each pixel, as in an affine warp, and reduces the result."""
  matrix = np.asarray([[1, 2, 3], [-2, 1, 5], [0, 1, -7]], np.float32)
  for side, rows, (name, reduce) in itertools.product((182, 200), (2, 3), reductions.items()):
    y, x = np.mgrid[:side, :side]
    pixels = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3).astype(np.float32)

    def program(pixels, rows=rows, reduce=reduce):
      return jax.vmap(lambda pixel: reduce(jnp, matrix[:rows] @ pixel))(pixels)

    want = reduce(np, matrix[:rows] @ pixels.T)
    _compare(f"{name} of {rows} coordinates of {side} x {side} pixels", jax.jit(program)(pixels), want)


def squares() -> None:
  """Squares between a product and its sum: jax-ml/jax#39103, wrong in 0.10.2."""
  _moved({"sum of squares": lambda numpy, v: numpy.sum(v * v, axis=0)})


def direct() -> None:
  """Nothing between a product and its reduction: also wrong in 0.10.0 and 0.10.1."""
  _moved({"sum": lambda numpy, v: numpy.sum(v, axis=0), "largest": lambda numpy, v: numpy.max(v, axis=0)})


def dense_rows() -> None:
  """A dense layer whose outputs are reduced over many rows: 0.10.0 and 0.10.1 crash."""
  draw = np.random.default_rng(0).integers
  x, kernel = draw(-4, 5, (198_419, 3)).astype(np.float32), draw(-4, 5, (7, 3)).astype(np.float32)
  _compare(
    "largest of each column", jax.jit(lambda x, w: jnp.max(x @ w.T, axis=0))(x, kernel), (x @ kernel.T).max(0)
  )


def _weighted(shape: Sequence[int], weighted: int, axis: int) -> None:
  """Computes a sum over `axis` of an array with separate weights along its first `weighted` axes."""
  draw = np.random.default_rng(0).integers
  x = draw(0, 8, shape).astype(np.float32)
  for weights_shape in ((*shape[:weighted], *[1] * (len(shape) - weighted)), shape):
    weights = draw(0, 8, weights_shape).astype(np.float32)
    got = jax.jit(lambda x, w: jnp.sum(x * w, axis))(x, weights)
    _compare(f"{weights_shape} x {shape}", got, np.sum(x * weights, axis))


def gated_frames() -> None:
  """Frames weighted by a gate and summed: [member, batch, stream, frame, y, x, channel], jax-ml/jax#40412."""
  _weighted((3, 1, 2, 2, 8, 8, 8), weighted=4, axis=3)


def gated_patches() -> None:
  """The same at rank 8, [member, batch, frame, ...]: jax-ml/jax#39257."""
  _weighted((10, 4, 6, 9, 9, 9, 9, 9), weighted=3, axis=2)


# Correct with every admitted jaxlib without flags.
PROGRAMS = {program.__name__: program for program in (squares, gated_frames, gated_patches)}
# Correct with versions before 0.11.1 only if XLA makes no such fusions.
DIRECT = {program.__name__: program for program in (direct, dense_rows)}


def _compare(what: str, got: jax.Array, want: np.ndarray) -> None:
  wrong = np.asarray(got) != want
  if wrong.any():
    sys.exit(f"{what}: {wrong.sum()} of {wrong.size} numbers are wrong")


if __name__ == "__main__":
  for name in sys.argv[1:]:
    # The last printed name is that of the program that failed or crashed.
    print(f"program {name}:", file=sys.stderr, flush=True)
    (PROGRAMS | DIRECT)[name]()
