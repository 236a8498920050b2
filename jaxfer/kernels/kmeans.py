"""k-means++ and Lloyd's algorithm for many trials at once (the protocol of paper 003, section 5.2.1).

The seeding is k-means++ as defined by Arthur and Vassilvitskii (2007). The first centre is drawn uniformly from the
points, and each further one with probability proportional to the squared distance D^2 to the nearest centre so far.
scikit-learn's default is a different protocol: it draws several candidates and keeps the best. The stopping rule of
Lloyd's algorithm is that of scikit-learn. It stops when no assignment changes, when the squared shift summed over all
centres is at most `tolerance` times the mean variance of the features, or after `max_iterations`. Ties go to the lowest
index.

Under `vmap` over trials, the loop runs until the last trial has converged; finished trials do not change any more.

If a cluster is empty, the point that is farthest from its assigned centre leaves its cluster and becomes the centre of
the empty one. Only points of clusters with more than one member may move, so that no other cluster becomes empty
(scikit-learn does not require this).
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
  """Result of one trial. For several trials, each field has a leading axis of trials.

  Attributes:
    centres: [k, d] float32.
    assignment: [n] int32, index of the centre nearest to each point; ties go to the lowest index.
    inertia: [] float32, sum of the squared distances of the points to their centres.
    iterations: [] int32, number of updates of the centres.
  """

  centres: jax.Array
  assignment: jax.Array
  inertia: jax.Array
  iterations: jax.Array


def _squared_distance(points: jax.Array, centre: jax.Array) -> jax.Array:
  """Returns the squared distances [n] from differences, so that the distance to a copy of the centre is exactly 0.

  With a matrix product, a rounding error would remain.
  """
  chex.assert_equal_shape_suffix([points, centre], 1)
  return jnp.square(points - centre).sum(-1)


def seed_centres(key: jax.Array, points: jax.Array, k: int) -> jax.Array:
  """Draws k of the points by k-means++.

  Args:
    key: typed key.
    points: [n, d]; at least k of them must be distinct, because no two centres are equal.
    k: number of centres.

  Returns:
    [k, d] float32.
  """
  points = jnp.asarray(points, jnp.float32)
  keys = jax.random.split(key, k)

  def draw(i, state):
    centres, nearest = state
    # Among independent exponential times with rates D^2, each is the smallest with probability proportional to D^2.
    rings = jnp.where(nearest > 0, jax.random.exponential(keys[i], nearest.shape) / nearest, jnp.inf)
    centre = points[rings.argmin()]
    distance = _squared_distance(points, centre)
    return centres.at[i].set(centre), jnp.where(i == 0, distance, jnp.minimum(nearest, distance))

  start = jnp.zeros((k, points.shape[1])), jnp.ones(len(points))
  return lax.fori_loop(0, k, draw, start)[0]


def _nearest(points: jax.Array, centres: jax.Array) -> jax.Array:
  """Returns the nearest centre of each point, int32 [n]. The points must be centred to keep the product accurate."""
  product = jnp.matmul(centres, points.T, precision=lax.Precision.HIGHEST)
  # |x - c|^2 / 2 without the term |x|^2 / 2, which is the same for all centres. The centres are the first axis, so that
  # reductions over them are vector operations over points.
  distance = jnp.square(centres).sum(-1, keepdims=True) / 2 - product
  index = lax.broadcasted_iota(jnp.int32, distance.shape, 0)
  # A point that is not finite is assigned to the last centre. With a larger index, `_fill_empty` would never end.
  return jnp.where(distance == distance.min(0), index, len(centres) - 1).min(0)


def _members(assignment: jax.Array, k: int) -> jax.Array:
  """Returns bool [k, n], whether each point belongs to each cluster."""
  return assignment == jnp.arange(k)[:, None]


def _fill_empty(points, centres, assignment):
  """Moves the farthest point that may move to each empty cluster in turn; returns counts [k] and assignment [n]."""

  def some_empty(state):
    return (state[0] == 0).any()

  def fill(state):
    counts, filled = state
    # Computed inside the loop, which is rarely entered. Outside, it would slow down every update of the centres.
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
  """Runs Lloyd's algorithm: moves the centres to the means of their points until they converge.

  Args:
    points: [n, d], n >= k.
    centres: [k, d], initial centres.
    max_iterations: maximum number of updates of the centres.
    tolerance: the algorithm stops if the sum of the squared shifts of the centres is at most this, in units of the mean
      variance of the features (scikit-learn's `tol`).
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
  """Returns the point nearest to each centre. The cluster is named by the label of this point (our choice).

  Args:
    points: [n, d].
    centres: [k, d].

  Returns:
    int32 [k], indices of points; ties go to the lowest index.
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
  """Clusters the points once for each key. It checks the points on the host, so it cannot be called inside jit.

  Args:
    keys: [trials] typed keys.
    points: [n, d], an array or anything that NumPy converts to one.
    k: number of clusters.
    max_iterations: see `lloyd`.
    tolerance: see `lloyd`.

  Returns:
    A `Clustering` whose fields have a leading axis of trials.

  Raises:
    UserError: the points are not [n, d] or not finite, or fewer than k of them are distinct.
  """
  points = np.asarray(points, np.float32)
  if points.ndim != 2 or not points.size:
    raise UserError(f"k-means needs points [n, d], not {list(points.shape)}: reshape them")
  if not np.isfinite(points).all():
    row = int(np.flatnonzero(~np.isfinite(points).all(1))[0])
    raise UserError(f"k-means: point {row} is not finite: leave it out, or find where its features come from")
  if not 1 <= k <= len(points):
    raise UserError(f"k-means: k={k} clusters for {len(points)} points: choose k from 1 to {len(points)}")
  distinct = len(np.unique(points, axis=0))
  if distinct < k:
    raise UserError(
      f"k-means: k={k} clusters, but only {distinct} of {len(points)} points are distinct: choose k <= {distinct}"
    )
  return _trials(keys, jnp.asarray(points), k, max_iterations, tolerance)
