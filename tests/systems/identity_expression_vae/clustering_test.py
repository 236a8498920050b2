import jax
import numpy as np
import pytest
import tolerances
import vae_cases

from jaxfer.errors import UserError
from jaxfer.kernels import kmeans
from jaxfer.systems.identity_expression_vae import clustering

KEY = jax.random.key(0)


def test_points_on_a_line_by_hand():
  """By hand: the centroids are 0.5 and 10.5. By the tie rule they take the labels of points 0 and 2."""
  labels = np.array(["A", "B", "B", "B"])
  predicted = clustering.recognise([[0.0], [1.0], [10.0], [11.0]], labels, KEY, clusters=2, trials=5)
  assert predicted.shape == (5, 4)
  assert (predicted == ["A", "A", "B", "B"]).all()
  np.testing.assert_array_equal(clustering.accuracy(predicted, labels), [3 / 4] * 5)


def test_several_clusters_may_have_one_label_and_a_label_may_have_no_cluster():
  """The point nearest to a centroid gives the label, not the majority."""
  features = np.float32([[0], [1], [1.9], [100], [200]])
  labels = np.array([7, 3, 7, 5, 5])
  predicted = clustering.recognise(features, labels, KEY, clusters=3, trials=4)
  assert (predicted == [3, 3, 3, 5, 5]).all()


def test_trials_differ_and_follow_the_protocol():
  rng = np.random.default_rng(0)
  features, labels = rng.standard_normal((60, 3)).astype(np.float32), rng.integers(0, 4, 60)
  predicted = clustering.recognise(features, labels, KEY, clusters=5, trials=6)
  found = kmeans.kmeans(jax.random.split(KEY, 6), features, 5)
  for trial, of_trial in enumerate(predicted):
    centres, assignment = np.asarray(found.centres[trial], np.float64), np.asarray(found.assignment[trial])
    nearest = [((features - centre) ** 2).sum(-1).argmin() for centre in centres]
    np.testing.assert_array_equal(of_trial, [labels[nearest[cluster]] for cluster in assignment])
  assert len(set(clustering.accuracy(predicted, labels).tolist())) > 1
  np.testing.assert_array_equal(predicted, clustering.recognise(features, labels, KEY, clusters=5, trials=6))


@pytest.mark.golden
def test_clusters_equal_those_of_scikit_learn_from_the_same_centres():
  with np.load(vae_cases.PATH) as file:
    inertia, labels = file["kmeans/inertia"], file["kmeans/labels"]
  found = jax.jit(kmeans.lloyd)(*vae_cases.points())
  np.testing.assert_allclose(found.inertia, inertia, rtol=tolerances.here("highest").layer)
  np.testing.assert_array_equal(found.assignment, labels)


def test_without_the_means_of_people_every_person_has_mean_zero():
  rng = np.random.default_rng(1)
  subjects = np.array(["ck:1", "mug:1", "ck:1", "mug:1", "ck:1", "mug:2"])
  features = 100 + rng.standard_normal((6, 4))
  got = clustering.subtract_subject_means(features, subjects)
  for subject in set(subjects):
    np.testing.assert_allclose(got[subjects == subject].mean(0), 0, atol=1e-12)
  np.testing.assert_allclose(got[0] - got[2], features[0] - features[2])


@pytest.mark.parametrize(
  ("features", "labels", "settings", "message"),
  [
    (np.zeros((3, 2)), [0, 1], {}, r"3 features but labels \[2\]: give one label for each feature"),
    (np.eye(3), [0, 1, 2], {}, "k=9 clusters for 3 points: choose k from 1 to 3"),
    (np.zeros((12, 2)), [0] * 12, {}, "only 1 of 12 points are distinct"),
    (np.eye(3), [0, 1, 2], {"clusters": 2, "trials": 0}, "trials=0: set it to 1 or more; the paper has 100"),
  ],
)
def test_bad_input(features, labels, settings, message):
  with pytest.raises(UserError, match=message):
    clustering.recognise(features, labels, KEY, **settings)
