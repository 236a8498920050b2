"""How well subject and expression are read linearly from codes: what paper 003 claims of z_i and z_e, but not measures.

A probe is multinomial logistic regression on standardised features with a quadratic penalty on the weights: convex, so
that there is one answer, and nothing is drawn. Expression is learned from some people and read from others; subjects
are learned from half of each person's images and read from the other half.
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
    mean: [d] of the features it was fitted to.
    scale: [d] their deviation, 1 where they do not vary.
    weights: [d, classes], of standardised features.
    bias: [classes].
  """

  mean: jax.Array
  scale: jax.Array
  weights: jax.Array
  bias: jax.Array

  def logits(self, features: Any) -> jax.Array:
    """[n, d] -> [n, classes], float32."""
    return ((jnp.asarray(features, jnp.float32) - self.mean) / self.scale) @ self.weights + self.bias

  def predict(self, features: Any) -> np.ndarray:
    """[n, d] -> [n] classes; the lowest where several are alike."""
    return np.asarray(self.logits(features).argmax(-1))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _fit(features: jax.Array, labels: jax.Array, classes: int, penalty: float) -> Probe:
  mean, scale = features.mean(0), features.std(0)
  # Rounding leaves a constant feature a deviation that is not quite 0.
  scale = jnp.where(scale > 1e-6 * jnp.abs(features).max(0), scale, 1)
  standard = (features - mean) / scale

  def objective(params):
    weights, bias = params
    loss = cross_entropy(standard @ weights + bias, labels).mean()
    return loss + penalty / (2 * len(features)) * jnp.square(weights).sum()

  solver = optax.lbfgs()
  value_and_grad = optax.value_and_grad_from_state(objective)
  start = jnp.zeros((features.shape[1], classes)), jnp.zeros(classes)

  def unrest(carry):
    _, _, norm, iteration = carry
    return (norm > TOLERANCE) & (iteration < ITERATIONS)

  def body(carry):
    params, state, _, iteration = carry
    value, gradient = value_and_grad(params, state=state)
    updates, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=objective)
    params = optax.apply_updates(params, updates)
    return params, state, optax.tree.norm(optax.tree.get(state, "grad")), iteration + 1

  (weights, bias), *_ = lax.while_loop(unrest, body, (start, solver.init(start), jnp.inf, 0))
  return Probe(mean, scale, weights, bias)


def fit(features: Any, labels: Any, classes: int, *, penalty: float = PENALTY) -> Probe:
  """Fits a probe: minimises sum cross-entropy + penalty / 2 |weights|^2 over standardised features, from zero.

  Args:
    features: [n, d], numbers.
    labels: [n] in 0 .. classes - 1; a class may be missing.
    classes: how many.
    penalty: of the weights, not of the bias; at least 0.

  Raises:
    UserError: not one label a feature, a label that is no class, or features that are not finite.
  """
  features, labels = np.asarray(features, np.float32), np.asarray(labels)
  if features.ndim != 2 or not len(features) or labels.shape != features.shape[:1]:
    raise UserError(f"probe: features {features.shape} and labels {labels.shape}: give [n, d] and [n]")
  if not np.isfinite(features).all():
    row = int(np.flatnonzero(~np.isfinite(features).all(1))[0])
    raise UserError(f"probe: feature {row} is not finite: leave it out, or find where it comes from")
  if labels.min() < 0 or labels.max() >= classes:
    wrong = labels[(labels < 0) | (labels >= classes)][0]
    raise UserError(f"probe: label {wrong} of {classes} classes: number them 0 to {classes - 1}")
  return _fit(jnp.asarray(features), jnp.asarray(labels, jnp.int32), classes, penalty)


def linear_probe(train_features: Any, train_labels: Any, test_features: Any, classes: int) -> np.ndarray:
  """What a probe fitted to one part predicts of another: [n, d], [n] and [m, d] -> classes [m]; see `fit`."""
  return fit(train_features, train_labels, classes).predict(test_features)


def first_halves(subjects: Any, expressions: Any) -> np.ndarray:
  """[n] bool: every other image of each person with each expression, from the first, in the order given."""
  _, group = np.unique(np.stack([subjects, expressions]), axis=1, return_inverse=True)
  group = group.reshape(-1)  # NumPy 2.0.0 returns it with two axes.
  order = np.argsort(group, kind="stable")
  starts = np.searchsorted(group[order], group[order])
  chosen = np.zeros(len(group), bool)
  chosen[order] = (np.arange(len(group)) - starts) % 2 == 0
  return chosen


def read(
  codes: Mapping[str, Any], subjects: Any, expressions: Any, learned: Any
) -> dict[str, dict[str, float | None]]:
  """The table of what is read from which code.

  Args:
    codes: name -> [n, d], such as {"z_i": ..., "z_e": ...}, posterior means.
    subjects: [n] integers of any values.
    expressions: [n] integers of any values.
    learned: [n] bool: images of the people from whom expression is learned; it is read from the others.

  Returns:
    {name of the code: {"subject": accuracy, "expression": accuracy}}, 0..1; None where nothing is left to learn or to
    read from. Subjects are learned from `first_halves` of everyone's images and read from the rest.

  Raises:
    UserError: a person is on both sides of `learned`.
  """
  subjects, expressions, learned = np.asarray(subjects), np.asarray(expressions), np.asarray(learned, bool)
  if both := sorted(set(subjects[learned].tolist()) & set(subjects[~learned].tolist())):
    raise UserError(f"probe: subject {both[0]} is learned from and read from: put each person on one side")
  sides = {
    "subject": (subjects, first_halves(subjects, expressions)),
    "expression": (expressions, learned),
  }
  table: dict[str, dict[str, float | None]] = {name: {} for name in codes}
  for what, (labels, side) in sides.items():
    values, classes = np.unique(labels, return_inverse=True)
    for name, code in codes.items():
      if side.all() or not side.any():
        table[name][what] = None
        continue
      code = np.asarray(code)
      predicted = linear_probe(code[side], classes[side], code[~side], len(values))
      table[name][what] = float((predicted == classes[~side]).mean())
  return table
