"""Recognition by clustering, the protocol of paper 003 (its section 5.2.1; README, section 2).

Features are clustered by k-means++ without their labels. Each cluster then takes the label of the single point nearest
to its centroid, and this label is predicted for all points of the cluster. Several clusters may have the same label,
because there are more clusters (9) than emotions. The paper repeats this 100 times with different seeds and gives the
mean and the standard deviation.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfer.errors import UserError
from jaxfer.kernels import kmeans

CLUSTERS, TRIALS = 9, 100


@jax.jit
def _nearest(points: jax.Array, centres: jax.Array) -> jax.Array:
  """Returns the indices [trials, k] of the points nearest to centres [trials, k, d].

  It goes through the trials one by one, so that the memory needed does not grow with their number.
  """
  return lax.map(lambda of_trial: kmeans.nearest_points(points, of_trial), centres)


class Clusters(NamedTuple):
  """The clusters of all trials.

  Attributes:
    centres: [trials, clusters, d], float32.
    labels: [trials, clusters], the label that each cluster predicts.
  """

  centres: np.ndarray
  labels: np.ndarray

  def predict(self, features: jax.Array) -> jax.Array:
    """Returns the labels [trials, n] of the clusters nearest to features [n, d]. Ties go to the first cluster."""

    def of_trial(trial: tuple[jax.Array, jax.Array]) -> jax.Array:
      centres, labels = trial
      return labels[jnp.square(features[:, None] - centres).sum(-1).argmin(-1)]

    # One trial after another, so that the memory needed does not grow with their number.
    return lax.map(of_trial, (jnp.asarray(self.centres), jnp.asarray(self.labels)))


def recognise(
  features: Any, labels: Any, key: jax.Array, *, clusters: int = CLUSTERS, trials: int = TRIALS
) -> np.ndarray:
  """Predicts labels [trials, n] by clustering, once per trial; arguments and errors are those of `fit`."""
  return fit(features, labels, key, clusters=clusters, trials=trials)[1]


def fit(
  features: Any, labels: Any, key: jax.Array, *, clusters: int = CLUSTERS, trials: int = TRIALS
) -> tuple[Clusters, np.ndarray]:
  """Clusters features once per trial, and names each cluster. Call it outside of compiled functions.

  Args:
    features: [n, d] numbers, such as posterior means. They are clustered without scaling.
    labels: [n] true labels, of any dtype. Only one label per cluster is used.
    key: typed key, which is split into one key per trial.
    clusters: number of clusters.
    trials: number of trials.

  Returns:
    (clusters, predicted labels [trials, n] of the dtype of `labels`). If several points are equally near to a centroid,
    the first one gives the label.

  Raises:
    UserError: the numbers of features and labels differ, there are fewer distinct points than clusters, a feature is
      not finite, or there are no trials.
  """
  features, labels = np.asarray(features, np.float32), np.asarray(labels)
  if labels.shape != features.shape[:1]:
    raise UserError(
      f"clustering: {len(features)} features but labels {list(labels.shape)}: give one label for each feature"
    )
  if trials < 1:
    raise UserError(f"clustering: trials={trials}: set it to 1 or more; the paper has {TRIALS}")
  found = kmeans.kmeans(jax.random.split(key, trials), features, clusters)
  cluster_labels = labels[np.asarray(_nearest(jnp.asarray(features), found.centres))]
  predicted = np.take_along_axis(cluster_labels, np.asarray(found.assignment), axis=1)
  return Clusters(np.asarray(found.centres), cluster_labels), predicted


def accuracy(predicted: np.ndarray, labels: Any) -> np.ndarray:
  """Returns the accuracy of each trial, [trials] in [0, 1].

  The paper gives their mean and standard deviation in percent. It does not say which deviation; ours is that of the
  population (`std` of NumPy).

  Args:
    predicted: [trials, n] predicted labels.
    labels: [n] true labels.
  """
  return (predicted == np.asarray(labels)).mean(-1)


def subtract_subject_means(features: Any, subjects: Any) -> np.ndarray:
  """Subtracts from each feature the mean over all images of the same person (eq. 6).

  Args:
    features: [n, d] numbers.
    subjects: [n] people, of any dtype.

  Returns:
    [n, d] float64. The mean over the images of each person is 0.
  """
  features = np.asarray(features, np.float64)
  _, person = np.unique(np.asarray(subjects), return_inverse=True)
  sums = np.zeros((person.max() + 1, features.shape[1]))
  np.add.at(sums, person, features)
  return features - (sums / np.bincount(person)[:, None])[person]
