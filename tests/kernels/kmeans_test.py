import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.kernels import kmeans

lloyd = jax.jit(kmeans.lloyd, static_argnames=("max_iterations", "tolerance"))


def nearest(points, centres):
  return ((points[:, None] - centres) ** 2).sum(-1).argmin(1)


def oracle(points, centres, max_iterations=300, tolerance=1e-4):
  """Runs Lloyd's algorithm in float64, directly by the module's docstring."""
  points, centres = points.astype(np.float64), centres.astype(np.float64)
  before = None
  iterations = 0
  while iterations < max_iterations:
    iterations += 1
    assignment = nearest(points, centres)
    filled = assignment.copy()
    for empty in range(len(centres)):
      if (filled == empty).any():
        continue
      sizes = np.bincount(filled, minlength=len(centres))
      distance = ((points - centres[assignment]) ** 2).sum(-1)
      distance[(sizes[filled] < 2) | (filled != assignment)] = -1
      filled[distance.argmax()] = empty
    moved = np.stack([points[filled == j].mean(0) for j in range(len(centres))])
    shift = ((moved - centres) ** 2).sum()
    centres = moved
    if (before is not None and (assignment == before).all()) or shift <= tolerance * points.var(0).mean():
      break
    before = assignment
  assignment = nearest(points, centres)
  return centres, assignment, ((points - centres[assignment]) ** 2).sum(), iterations


def mixture(n=200, d=5, k=4, seed=0, offset=0.0):
  rng = np.random.default_rng(seed)
  centres = 2 * rng.standard_normal((k, d))
  return (offset + centres[rng.integers(0, k, n)] + rng.standard_normal((n, d))).astype(np.float32)


def assert_clustering(got, want, tolerance=1e-5):
  centres, assignment, inertia, iterations = want
  np.testing.assert_allclose(got.centres, centres, rtol=tolerance, atol=tolerance * np.abs(centres).max())
  np.testing.assert_array_equal(got.assignment, assignment)
  np.testing.assert_allclose(got.inertia, inertia, rtol=tolerance)
  assert got.iterations == iterations


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_lloyd_equals_the_float64_oracle_far_from_the_origin_too(offset):
  points = mixture(offset=offset)
  for seed in range(5):
    start = points[np.random.default_rng(seed).choice(len(points), 4, replace=False)]
    want = oracle(points, start)
    assert want[3] > 3  # Long enough for a meaningful test.
    assert_clustering(lloyd(points, start), want)


def test_iterations_end_at_the_limit_and_at_the_tolerance():
  points, start = mixture(), mixture()[:4]
  want = oracle(points, start)
  short = lloyd(points, start, max_iterations=2)
  assert_clustering(short, oracle(points, start, max_iterations=2))
  assert short.iterations == 2 < want[3]
  loose = lloyd(points, start, tolerance=0.1)
  assert_clustering(loose, oracle(points, start, tolerance=0.1))
  assert loose.iterations < want[3]


def test_points_on_a_line():
  """A case computed by hand."""
  points = np.float32([[0], [1], [10], [11]])
  labels = np.array(["A", "B", "B", "B"])
  for key in jax.random.split(jax.random.key(0), 5):
    got = lloyd(points, kmeans.seed_centres(key, points, 2))
    order = np.argsort(got.centres[:, 0])
    np.testing.assert_array_equal(got.centres[order, 0], [0.5, 10.5])
    named = kmeans.nearest_points(points, got.centres)
    np.testing.assert_array_equal(named[order], [0, 2])  # Each is a tie, which goes to the lower index.
    predicted = labels[np.asarray(named)][np.asarray(got.assignment)]
    assert (predicted == labels).mean() == 3 / 4
    assert got.inertia == 1


def test_ties_between_centres_go_to_the_lowest():
  points = np.float32([[-1], [0], [1]])
  got = lloyd(points, np.float32([[1], [-1]]), max_iterations=0)
  np.testing.assert_array_equal(got.assignment, [1, 0, 0])


def test_an_empty_cluster_takes_the_farthest_point():
  points = np.float32([[0], [1], [2], [9]])
  got = lloyd(points, np.float32([[1], [100]]), max_iterations=1)
  np.testing.assert_allclose(got.centres[:, 0], [1, 9], atol=1e-6)
  assert_clustering(lloyd(points, np.float32([[1], [100]])), oracle(points, np.float32([[1], [100]])))


def test_several_empty_clusters_take_several_points_and_empty_none():
  points = mixture(n=40, k=2)
  start = np.concatenate([points[:2], np.full((3, 5), 1e3), points[2:3], np.full((1, 5), -1e3)]).astype(
    np.float32
  )
  for iterations in (1, 300):
    got = lloyd(points, start, max_iterations=iterations)
    assert_clustering(got, oracle(points, start, max_iterations=iterations))
  # A single far point is the farthest of all, but alone in its cluster: it stays.
  lonely = np.float32([[0], [1], [3], [50]])
  start = np.float32([[1], [40], [1000]])
  got = lloyd(lonely, start, max_iterations=1)
  np.testing.assert_allclose(got.centres[:, 0], [0.5, 50, 3], atol=1e-5)


def test_trials_at_once_equal_trials_one_by_one():
  points, keys = mixture(n=150, k=5), jax.random.split(jax.random.key(1), 12)
  many = kmeans.kmeans(keys, points, 5)
  # Some finish early, and must not change any more.
  assert len(set(np.asarray(many.iterations).tolist())) > 1
  seed = jax.jit(kmeans.seed_centres, static_argnums=2)
  for i, key in enumerate(keys):
    start = np.asarray(seed(key, points, 5))
    want = oracle(points, start)
    assert_clustering(jax.tree.map(lambda a, i=i: a[i], many), want)


def test_seeds_are_drawn_in_proportion_to_the_squared_distance():
  points = np.float32([[0], [1], [3], [3]])
  keys = jax.random.split(jax.random.key(2), 20_000)
  seeds = np.asarray(jax.jit(jax.vmap(lambda key: kmeans.seed_centres(key, points, 3)))(keys))[..., 0]
  share = {x: (seeds[:, 0] == x).mean() for x in (0, 1, 3)}
  np.testing.assert_allclose([share[0], share[1], share[3]], [1 / 4, 1 / 4, 1 / 2], atol=0.015)
  second = seeds[seeds[:, 0] == 0, 1]
  np.testing.assert_allclose([(second == 1).mean(), (second == 3).mean()], [1 / 19, 18 / 19], atol=0.015)
  # The third is the remaining point; a copy of a centre is never drawn.
  np.testing.assert_array_equal(np.sort(seeds, axis=1), np.broadcast_to([0, 1, 3], seeds.shape))


def test_as_many_clusters_as_distinct_points():
  points = np.repeat(np.float32([[0, 0], [1e-3, 0], [5, 5]]), 4, axis=0)
  got = kmeans.kmeans(jax.random.split(jax.random.key(3), 8), points, 3)
  np.testing.assert_allclose(got.inertia, 0, atol=1e-9)


def test_bfloat16_points_are_clustered_in_float32():
  points = jnp.asarray(mixture(), jnp.bfloat16)
  got = lloyd(points, points[:4])
  assert got.centres.dtype == jnp.float32
  assert_clustering(got, oracle(np.asarray(points, np.float32), np.asarray(points[:4], np.float32)))


def test_points_that_are_not_finite_still_let_the_loop_end():
  got = lloyd(np.full((6, 2), np.nan, np.float32), np.zeros((3, 2), np.float32))
  assert np.isnan(got.inertia)


@pytest.mark.parametrize(
  ("points", "k", "message"),
  [
    (np.zeros((3, 2)), 4, "k=4 clusters for 3 points"),
    (np.zeros((3, 2)), 0, "choose k from 1 to 3"),
    (np.float32([[1, 1], [1, 1], [2, 2]]), 3, "only 2 of 3 points are distinct"),
    (np.zeros(5), 2, r"points \[n, d\], not \[5\]"),
    (np.zeros((0, 2)), 1, "not \\[0, 2\\]"),
    (np.float32([[0, 1], [np.nan, 0]]), 1, "point 1 is not finite"),
  ],
)
def test_bad_input(points, k, message):
  with pytest.raises(UserError, match=message):
    kmeans.kmeans(jax.random.split(jax.random.key(0), 2), points, k)


@pytest.mark.parametrize("function", [kmeans.lloyd, kmeans.nearest_points])
def test_centres_of_one_feature_do_not_stand_for_all(function):
  with pytest.raises(AssertionError, match="suffix"):
    function(jnp.zeros((5, 3)), jnp.zeros((2, 1)))
