"""Recognition by clustering: the protocol of paper 003, section 5.2.1.

Features are clustered by k-means++ without their labels; then each cluster is named after the single point nearest to
its centroid, and all its points are predicted to be that. Several clusters may bear one name: there are more clusters
(9) than emotions. The paper repeats it 100 times with other seeds and gives mean and standard deviation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfer.errors import UserError
from jaxfer.kernels import kmeans

CLUSTERS, TRIALS = 9, 100


@jax.jit
def _names(points: jax.Array, centres: jax.Array) -> jax.Array:
  """[trials, k] points nearest to centres [trials, k, d]; trial by trial, so that memory does not grow with them."""
  return lax.map(lambda own: kmeans.nearest_points(points, own), centres)


def recognise(
  features: Any, labels: Any, key: jax.Array, *, clusters: int = CLUSTERS, trials: int = TRIALS
) -> np.ndarray:
  """Predicts labels by clustering, once a trial. Called from the host.

  Args:
    features: [n, d] numbers, such as posterior means; clustered as they are, without scaling.
    labels: [n] of any kind; of each cluster, that of one point is used.
    key: typed key, from which the trials' own are split.
    clusters: k.
    trials: how many times.

  Returns:
    [trials, n]: labels, of the kind of `labels`. Where several points are equally near to a centroid, the first names
    the cluster.

  Raises:
    UserError: not one label a feature, fewer distinct points than clusters, or features that are not finite.
  """
  features, labels = np.asarray(features, np.float32), np.asarray(labels)
  if labels.shape != features.shape[:1]:
    raise UserError(
      f"clustering: {len(features)} features but labels {list(labels.shape)}: give one label each"
    )
  if trials < 1:
    raise UserError(f"clustering: trials={trials}: take 1 or more; the paper has {TRIALS}")
  found = kmeans.kmeans(jax.random.split(key, trials), features, clusters)
  named = labels[np.asarray(_names(jnp.asarray(features), found.centres))]
  return np.take_along_axis(named, np.asarray(found.assignment), axis=1)


def accuracy(predicted: np.ndarray, labels: Any) -> np.ndarray:
  """Share of right predictions by trial: [trials, n] and [n] -> [trials], 0..1.

  The paper's figures are 100 times their mean and, by our choice, their population deviation (`std`).
  """
  return (predicted == np.asarray(labels)).mean(-1)


def subtract_subject_means(features: Any, subjects: Any) -> np.ndarray:
  """Eq. 6: takes from each feature the mean over its subject's images.

  Args:
    features: [n, d].
    subjects: [n] of any kind.

  Returns:
    [n, d] float64, of mean 0 over every subject.
  """
  features = np.asarray(features, np.float64)
  _, who = np.unique(np.asarray(subjects), return_inverse=True)
  sums = np.zeros((who.max() + 1, features.shape[1]))
  np.add.at(sums, who, features)
  return features - (sums / np.bincount(who)[:, None])[who]
