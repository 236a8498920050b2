"""Linear probes: how well a linear classifier predicts the person and the expression from a code.

Paper 003 claims that z_i holds the identity and z_e the expression, but does not measure it.

A probe is a multinomial logistic regression on standardised features, with an L2 penalty on the weights. The problem is
convex and the fit starts at zero, so the result does not depend on random numbers. Probes for the expression are fitted
to some people and tested on others. Probes for the person are fitted to half of each person's images and tested on the
other half.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxfer.errors import UserError
from jaxfer.losses import cross_entropy

PENALTY, ITERATIONS, TOLERANCE = 1.0, 500, 1e-5


class Probe(NamedTuple):
  """A fitted linear classifier.

  Attributes:
    mean: [d] means of the features to which the classifier was fitted.
    scale: [d] standard deviations of these features; 1 for constant features.
    weights: [d, classes] weights of the standardised features.
    bias: [classes].
  """

  mean: jax.Array
  scale: jax.Array
  weights: jax.Array
  bias: jax.Array

  def logits(self, features: Any) -> jax.Array:
    """Returns logits [n, classes], float32, of features [n, d]."""
    return ((jnp.asarray(features, jnp.float32) - self.mean) / self.scale) @ self.weights + self.bias

  def predict(self, features: Any) -> np.ndarray:
    """Returns the classes [n] with the largest logits, of features [n, d]. Ties go to the lower class."""
    return np.asarray(self.logits(features).argmax(-1))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _fit(features: jax.Array, labels: jax.Array, classes: int, penalty: float) -> Probe:
  mean, scale = features.mean(0), features.std(0)
  # Because of rounding, the deviation of a constant feature may differ from 0.
  scale = jnp.where(scale > 1e-6 * jnp.abs(features).max(0), scale, 1)
  standard = (features - mean) / scale

  def objective(params):
    weights, bias = params
    loss = cross_entropy(standard @ weights + bias, labels).mean()
    return loss + penalty / (2 * len(features)) * jnp.square(weights).sum()

  solver = optax.lbfgs()
  value_and_grad = optax.value_and_grad_from_state(objective)
  initial = jnp.zeros((features.shape[1], classes)), jnp.zeros(classes)

  def unfinished(carry):
    _, _, norm, iteration = carry
    return (norm > TOLERANCE) & (iteration < ITERATIONS)

  def body(carry):
    params, state, _, iteration = carry
    value, gradient = value_and_grad(params, state=state)
    updates, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=objective)
    params = optax.apply_updates(params, updates)
    return params, state, optax.tree.norm(optax.tree.get(state, "grad")), iteration + 1

  (weights, bias), *_ = lax.while_loop(unfinished, body, (initial, solver.init(initial), jnp.inf, 0))
  return Probe(mean, scale, weights, bias)


def fit(features: Any, labels: Any, classes: int, *, penalty: float = PENALTY) -> Probe:
  """Fits a probe.

  It minimises the sum of cross-entropies over examples, plus penalty / 2 * |weights|^2. L-BFGS starts at zero, and
  stops after 500 iterations or if the norm of the gradient (of the mean over examples) is at most 1e-5.

  Args:
    features: [n, d] numbers.
    labels: [n] in 0 .. classes - 1; a class may be missing.
    classes: number of classes.
    penalty: penalty on the weights, but not on the bias; at least 0.

  Raises:
    UserError: the numbers of features and labels differ, a label is out of range, or a feature is not finite.
  """
  features, labels = np.asarray(features, np.float32), np.asarray(labels)
  if features.ndim != 2 or not len(features) or labels.shape != features.shape[:1]:
    raise UserError(
      f"probe: features {features.shape} and labels {labels.shape}: give [n, d] and [n], with n > 0"
    )
  if not np.isfinite(features).all():
    index = int(np.flatnonzero(~np.isfinite(features).all(1))[0])
    raise UserError(f"probe: the features of example {index} are not finite: leave the example out")
  if labels.min() < 0 or labels.max() >= classes:
    wrong = labels[(labels < 0) | (labels >= classes)][0]
    raise UserError(f"probe: label {wrong} with {classes} classes: labels must be 0 to {classes - 1}")
  return _fit(jnp.asarray(features), jnp.asarray(labels, jnp.int32), classes, penalty)


def linear_probe(train_features: Any, train_labels: Any, test_features: Any, classes: int) -> np.ndarray:
  """Fits a probe to training features and predicts the classes of test features.

  Args:
    train_features: [n, d] numbers.
    train_labels: [n] in 0 .. classes - 1.
    test_features: [m, d] numbers.
    classes: number of classes.

  Returns:
    [m] predicted classes.

  Raises:
    UserError: see `fit`.
  """
  return fit(train_features, train_labels, classes).predict(test_features)


def first_halves(subjects: Any, expressions: Any) -> np.ndarray:
  """Selects about half of the images of each person with each expression.

  Args:
    subjects: [n] people in the images.
    expressions: [n] their expressions.

  Returns:
    [n] bool: True for the first, third, fifth ... image of each pair of person and expression, in the given order.
  """
  _, group = np.unique(np.stack([subjects, expressions]), axis=1, return_inverse=True)
  group = group.reshape(-1)  # NumPy 2.0.0 returns it with two axes.
  order = np.argsort(group, kind="stable")
  starts = np.searchsorted(group[order], group[order])
  chosen = np.zeros(len(group), bool)
  chosen[order] = (np.arange(len(group)) - starts) % 2 == 0
  return chosen


def accuracies(
  codes: Mapping[str, Any], subjects: Any, expressions: Any, train: Any
) -> dict[str, dict[str, float | None]]:
  """Returns the test accuracy of linear probes for the person and the expression, for each code.

  Args:
    codes: codes [n, d] by name, such as {"z_i": ..., "z_e": ...}.
    subjects: [n] people in the images, any integers.
    expressions: [n] their expressions, any integers.
    train: [n] bool. Probes for the expression are fitted to the people of these images and tested on all others. Probes
      for the person do not use it: they are fitted to `first_halves` and tested on the other images.

  Returns:
    {name of the code: {"subject": accuracy, "expression": accuracy}}, in [0, 1]; None if there are no images to fit to
    or none to test on.

  Raises:
    UserError: `train` selects some, but not all images of a person.
  """
  subjects, expressions, train = np.asarray(subjects), np.asarray(expressions), np.asarray(train, bool)
  if both := sorted(set(subjects[train].tolist()) & set(subjects[~train].tolist())):
    raise UserError(
      f"probe: subject {both[0]} is among the training and the test people: put each into one of them"
    )
  targets = {
    "subject": (subjects, first_halves(subjects, expressions)),
    "expression": (expressions, train),
  }
  table: dict[str, dict[str, float | None]] = {name: {} for name in codes}
  for target, (labels, fitted) in targets.items():
    values, classes = np.unique(labels, return_inverse=True)
    for name, code in codes.items():
      if fitted.all() or not fitted.any():
        table[name][target] = None
        continue
      code = np.asarray(code)
      predicted = linear_probe(code[fitted], classes[fitted], code[~fitted], len(values))
      table[name][target] = float((predicted == classes[~fitted]).mean())
  return table
