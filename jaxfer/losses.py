"""Losses per example, without reduction."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


def cross_entropy(logits: ArrayLike, labels: ArrayLike, smoothing: float = 0.0) -> jax.Array:
  """Returns the softmax cross-entropy in nats.

  Args:
    logits: [batch, classes], float32.
    labels: [batch] class indices.
    smoothing: share of the target that is spread evenly over all classes, in [0, 1]. The label keeps the rest.

  Returns:
    [batch].
  """
  if smoothing:
    targets = optax.smooth_labels(jax.nn.one_hot(labels, jnp.shape(logits)[-1]), smoothing)
    return optax.softmax_cross_entropy(jnp.asarray(logits), targets)
  return optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), jnp.asarray(labels))
