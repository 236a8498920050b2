"""k-means++ and Lloyd's algorithm, many trials at once (the protocol of paper 003, section 5.2.1).

Seeding is k-means++ as Arthur and Vassilvitskii (2007) state it: the first centre uniform over the points, each further
one with probability proportional to the squared distance D^2 to the nearest centre so far (scikit-learn's own default
draws several candidates and keeps the best, which is another protocol). Lloyd stops as scikit-learn's does: when no
assignment changes, when the centres' squared shift, summed over all of them, is at most `tolerance` times the mean
variance of the features, or after `max_iterations`. Ties go to the lowest index.

Under `vmap` over trials the loop runs until the last trial has converged, and finished trials stay as they are.

Where a cluster is empty, the point farthest from the centre it was assigned to becomes its centre and leaves its old
cluster. Only points of clusters with more than one member may move, so that no cluster is emptied in turn
(scikit-learn asks for no such thing).
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfer.errors import UserError

MAX_ITERATIONS, TOLERANCE = 300, 1e-4


class Clustering(NamedTuple):
  """Result of a trial; of trials at once each field has a leading axis.

  Attributes:
    centres: [k, d] float32.
    assignment: [n] int32, the centre nearest to each point, lowest index first.
    inertia: [] float32, sum over the points of the squared distance to their centre.
    iterations: [] int32, updates of the centres.
  """

  centres: jax.Array
  assignment: jax.Array
  inertia: jax.Array
  iterations: jax.Array


def _squared_distance(points: jax.Array, centre: jax.Array) -> jax.Array:
  """[n], by differences: exactly 0 for a copy of the centre, where the form with a matrix product leaves rounding."""
  chex.assert_equal_shape_suffix([points, centre], 1)
  return jnp.square(points - centre).sum(-1)


def seed_centres(key: jax.Array, points: jax.Array, k: int) -> jax.Array:
  """Draws k of the points by k-means++.

  Args:
    key: typed key.
    points: [n, d], with at least k distinct ones: no point is drawn twice, nor a copy of one.
    k: number of centres.

  Returns:
    [k, d] float32.
  """
  points = jnp.asarray(points, jnp.float32)
  keys = jax.random.split(key, k)

  def draw(i, state):
    centres, nearest = state
    # The first of independent clocks with rates D^2 to ring is a draw with probability proportional to D^2.
    rings = jnp.where(nearest > 0, jax.random.exponential(keys[i], nearest.shape) / nearest, jnp.inf)
    centre = points[rings.argmin()]
    distance = _squared_distance(points, centre)
    return centres.at[i].set(centre), jnp.where(i == 0, distance, jnp.minimum(nearest, distance))

  start = jnp.zeros((k, points.shape[1])), jnp.ones(len(points))
  return lax.fori_loop(0, k, draw, start)[0]


def _nearest(points: jax.Array, centres: jax.Array) -> jax.Array:
  """[n] int32: the nearest centre of each point. Points lie about the origin, which keeps the product accurate."""
  product = jnp.matmul(centres, points.T, precision=lax.Precision.HIGHEST)
  # |x - c|^2 / 2 without the share that all centres have in common; centres come first, so that the reductions over
  # them are vector operations over points.
  distance = jnp.square(centres).sum(-1, keepdims=True) / 2 - product
  index = lax.broadcasted_iota(jnp.int32, distance.shape, 0)
  # A point that is not finite goes to the last centre: an index beyond it would never let `_fill_empty` end.
  return jnp.where(distance == distance.min(0), index, len(centres) - 1).min(0)


def _members(assignment: jax.Array, k: int) -> jax.Array:
  """[k, n]: which points belong to which cluster."""
  return assignment == jnp.arange(k)[:, None]


def _fill_empty(points, centres, assignment):
  """Gives every empty cluster, in order, the farthest point that may move; returns counts [k] and assignment [n]."""

  def some_empty(state):
    return (state[0] == 0).any()

  def fill(state):
    counts, filled = state
    # In the loop, which is seldom entered: before it, every update of the centres would pay for it.
    distance = _squared_distance(points, centres[assignment])
    movable = (counts[filled] > 1) & (filled == assignment)
    point = jnp.where(movable, distance, -1).argmax()
    empty = (counts == 0).argmax()
    return counts.at[filled[point]].add(-1).at[empty].add(1), filled.at[point].set(empty)

  counts = _members(assignment, len(centres)).sum(1, dtype=jnp.int32)
  return lax.while_loop(some_empty, fill, (counts, assignment))


def _update(points: jax.Array, centres: jax.Array, assignment: jax.Array) -> jax.Array:
  counts, assignment = _fill_empty(points, centres, assignment)
  members = _members(assignment, len(centres)).astype(jnp.float32)
  return jnp.matmul(members, points, precision=lax.Precision.HIGHEST) / counts[:, None]


def lloyd(
  points: jax.Array,
  centres: jax.Array,
  *,
  max_iterations: int = MAX_ITERATIONS,
  tolerance: float = TOLERANCE,
) -> Clustering:
  """Moves centres to the means of their points until they rest.

  Args:
    points: [n, d], n >= k.
    centres: [k, d], where to begin.
    max_iterations: most updates of the centres.
    tolerance: largest sum of the centres' squared shifts at which they rest, in units of the points' mean variance
      over features (scikit-learn's `tol`).
  """
  points, centres = jnp.asarray(points, jnp.float32), jnp.asarray(centres, jnp.float32)
  chex.assert_equal_shape_suffix([points, centres], 1)
  mean = points.mean(0)
  points, centres = points - mean, centres - mean
  limit = tolerance * points.var(0).mean()

  def unrest(state):
    return ~state[2] & (state[3] < max_iterations)

  def body(state):
    centres, before, _, iterations = state
    assignment = _nearest(points, centres)
    moved = _update(points, centres, assignment)
    rests = (assignment == before).all() | (jnp.square(moved - centres).sum() <= limit)
    return moved, assignment, rests, iterations + 1

  nowhere = jnp.full(len(points), -1, jnp.int32)
  state = centres, nowhere, jnp.zeros((), bool), jnp.zeros((), jnp.int32)
  with jax.named_scope("lloyd"):
    centres, _, _, iterations = lax.while_loop(unrest, body, state)
  assignment = _nearest(points, centres)
  inertia = _squared_distance(points, centres[assignment]).sum()
  return Clustering(centres + mean, assignment, inertia, iterations)


def nearest_points(points: jax.Array, centres: jax.Array) -> jax.Array:
  """The single point nearest to each centre, from whose label the cluster is named (our choice).

  Args:
    points: [n, d].
    centres: [k, d].

  Returns:
    [k] int32 indices of points, the lowest where several are equally near.
  """
  points = jnp.asarray(points, jnp.float32)
  return jax.vmap(lambda centre: _squared_distance(points, centre).argmin())(centres)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _trials(keys, points, k, max_iterations, tolerance):
  def trial(key):
    with jax.named_scope("seed_centres"):
      centres = seed_centres(key, points, k)
    return lloyd(points, centres, max_iterations=max_iterations, tolerance=tolerance)

  return jax.vmap(trial)(keys)


def kmeans(
  keys: jax.Array,
  points: Any,
  k: int,
  *,
  max_iterations: int = MAX_ITERATIONS,
  tolerance: float = TOLERANCE,
) -> Clustering:
  """Clusters the points once for each key. Called from the host: it looks at the points first.

  Args:
    keys: [trials] typed keys.
    points: [n, d], anything that NumPy reads.
    k: clusters.
    max_iterations: see `lloyd`.
    tolerance: see `lloyd`.

  Returns:
    A `Clustering` whose fields have a leading axis of trials.

  Raises:
    UserError: the points are not [n, d] or not finite, or fewer than k of them are distinct.
  """
  points = np.asarray(points, np.float32)
  if points.ndim != 2 or not points.size:
    raise UserError(f"k-means reads points [n, d], not {list(points.shape)}: reshape them")
  if not np.isfinite(points).all():
    row = int(np.flatnonzero(~np.isfinite(points).all(1))[0])
    raise UserError(f"k-means: point {row} is not finite: leave it out, or find where its features come from")
  if not 1 <= k <= len(points):
    raise UserError(f"k-means: k={k} clusters of {len(points)} points: take k from 1 to {len(points)}")
  distinct = len(np.unique(points, axis=0))
  if distinct < k:
    raise UserError(
      f"k-means: k={k} clusters, but only {distinct} of {len(points)} points are distinct: take k <= {distinct}"
    )
  return _trials(keys, jnp.asarray(points), k, max_iterations, tolerance)
