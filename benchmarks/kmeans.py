"""Compares 100 k-means trials at once (1842 points of 64 numbers, 9 clusters, as in paper 003) with scikit-learn.

The peer runs 100 fits of `KMeans(n_init=1)`, each with a different seed. Its seeding tries several candidates per
centre and differs from ours, so results are compared on trials that start from the same centres, but each is timed with
its own seeding.
"""

import functools
from typing import Any

import jax
import numpy as np

from benchmarks import harness
from jaxfer.kernels import kmeans

_COMPARED = 5


def points_of(n: int, d: int, k: int) -> np.ndarray:
  """Draws overlapping Gaussian clusters, float32 [n, d], for which Lloyd's algorithm takes 10 to 40 iterations."""
  rng = np.random.default_rng(0)
  centres = 0.5 * rng.standard_normal((k, d))
  return (centres[rng.integers(0, k, n)] + rng.standard_normal((n, d))).astype(np.float32)


def lloyd_float64(points: np.ndarray, centres: np.ndarray) -> float:
  """Returns the inertia after Lloyd's algorithm in NumPy, the reference (no trial here has an empty cluster)."""
  points, centres = points.astype(np.float64), centres.astype(np.float64)
  limit, before = kmeans.TOLERANCE * points.var(0).mean(), None
  for _ in range(kmeans.MAX_ITERATIONS):
    assignment = ((points[:, None] - centres) ** 2).sum(-1).argmin(1)
    moved = np.stack([points[assignment == j].mean(0) for j in range(len(centres))])
    shift, centres = ((moved - centres) ** 2).sum(), moved
    if shift <= limit or (before is not None and (assignment == before).all()):
      break
    before = assignment
  return ((points[:, None] - centres) ** 2).sum(-1).min(1).sum()


def jaxfer(points: np.ndarray, k: int, keys: jax.Array) -> harness.Program:
  """Runs all trials as one program; the time includes the check of the points on the host."""

  def call():
    return jax.block_until_ready(kmeans.kmeans(keys, points, k))

  return harness.Program(call, lambda: {"inertia": call().inertia[:_COMPARED]})


def scikit_learn(points: np.ndarray, k: int, starts: np.ndarray, trials: int) -> harness.Program:
  """Runs one fit after another, with as many OpenMP threads as XLA has."""
  try:
    from sklearn.cluster import KMeans
  except ImportError as error:
    raise harness.Missing(f"scikit-learn is not installed ({error})") from error

  def fit(**settings: Any):
    return KMeans(k, n_init=1, max_iter=kmeans.MAX_ITERATIONS, tol=kmeans.TOLERANCE, **settings).fit(points)

  def call():
    for trial in range(trials):
      fit(random_state=trial)

  return harness.Program(
    call, lambda: {"inertia": np.asarray([fit(init=start).inertia_ for start in starts])}
  )


def main() -> None:
  session = harness.session("kmeans", harness.parser(__doc__).parse_args())
  n, d, k, trials = (200, 8, 3, 6) if session.quick else (1842, 64, 9, 100)
  points, keys = points_of(n, d, k), jax.random.split(jax.random.key(0), trials)
  seed = jax.jit(kmeans.seed_centres, static_argnums=2)
  starts = np.stack([seed(key, points, k) for key in keys[:_COMPARED]])
  session.measure(
    harness.Case(
      name=f"trials{trials}-n{n}-d{d}-k{k}",
      settings={"trials": trials, "n": n, "d": d, "k": k, "max_iterations": kmeans.MAX_ITERATIONS},
      work={"trials": trials},
      tolerance=1e-4,
    ),
    [
      harness.Contender("jaxfer", functools.partial(jaxfer, points, k, keys)),
      *session.peer("scikit_learn", functools.partial(scikit_learn, points, k, starts, trials)),
    ],
    lambda: {"inertia": np.asarray([lloyd_float64(points, start) for start in starts])},
    "Lloyd in NumPy, float64, from the same centres",
  )
  harness.finish(session)


if __name__ == "__main__":
  main()
