"""Losses an example; whoever calls them reduces."""

import jax
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Softmax cross-entropy, nats.

  Args:
    logits: [batch, classes], float32.
    labels: [batch] class indices.

  Returns:
    [batch].
  """
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
