import jax
import numpy as np
import pytest
import tolerances
import vae_cases

from jaxfer.errors import UserError
from jaxfer.systems.identity_expression_vae import probes


@pytest.mark.golden
def test_probabilities_equal_those_of_scikit_learn():
  """Scales of features range from 0.01 to 100. Only the training part is used for standardising."""
  with np.load(vae_cases.PATH) as file:
    want = file["probe/probabilities"]
  train, labels, test = vae_cases.features()
  got = jax.nn.softmax(probes.fit(train, labels, 4).logits(test))
  np.testing.assert_allclose(got, want, atol=10 * tolerances.of(got).net)  # At the end of many steps.
  np.testing.assert_array_equal(probes.linear_probe(train, labels, test, 4), want.argmax(1))


def test_a_missing_class_is_not_predicted_and_a_constant_feature_has_no_weight():
  features = np.array([[0.1, -1.0], [0.1, -2.0], [0.1, 1.0], [0.1, 2.0]])
  probe = probes.fit(features, [0, 0, 2, 2], 3)
  np.testing.assert_array_equal(probe.predict(features), [0, 0, 2, 2])
  np.testing.assert_allclose(probe.weights[0], 0, atol=1e-6)
  assert np.isfinite(probe.logits([[5.0, 0.0]])).all()


def test_probes_find_the_person_in_z_i_only_and_the_expression_in_z_e_only():
  """z_i is made of the person and noise, z_e of the expression and noise."""
  rng = np.random.default_rng(0)
  subjects, expressions = np.divmod(np.arange(6 * 32), 32)
  expressions //= 8
  person_codes, expression_codes = rng.standard_normal((6, 12)), rng.standard_normal((4, 12))
  z_i = 3 * person_codes[subjects] + rng.standard_normal((192, 12))
  z_e = 3 * expression_codes[expressions] + rng.standard_normal((192, 12))
  table = probes.accuracies({"z_i": z_i, "z_e": z_e}, 100 + subjects, expressions, subjects < 4)
  assert table["z_i"]["subject"] > 0.95
  assert table["z_e"]["expression"] > 0.95
  assert table["z_i"]["expression"] < 0.45
  assert table["z_e"]["subject"] < 0.35


def test_half_of_the_images_of_each_person_with_each_expression_is_selected():
  subjects = np.array([1, 1, 2, 1, 1, 1, 2, 2])
  expressions = np.array([0, 0, 0, 1, 0, 0, 0, 1])
  got = probes.first_halves(subjects, expressions)
  np.testing.assert_array_equal(got, [True, False, True, True, True, False, False, True])


def test_bad_input():
  features = np.eye(3)
  with pytest.raises(UserError, match=r"features \(3, 3\) and labels \(2,\): give \[n, d\] and \[n\]"):
    probes.fit(features, [0, 1], 2)
  with pytest.raises(UserError, match="label 2 with 2 classes: labels must be 0 to 1"):
    probes.fit(features, [0, 1, 2], 2)
  with pytest.raises(UserError, match="the features of example 1 are not finite"):
    probes.fit(features + np.array([[0], [np.nan], [0]]), [0, 1, 1], 2)
  with pytest.raises(UserError, match="subject 7 is among the training and the test people"):
    probes.accuracies({"z": features}, [7, 7, 8], [0, 1, 0], [True, False, False])


def test_accuracies_without_training_or_test_images_are_none():
  features = np.eye(3)
  for train in (True, False):
    table = probes.accuracies({"z": features}, [7, 7, 8], [0, 1, 0], [train] * 3)
    assert table == {"z": {"subject": None, "expression": None}}
