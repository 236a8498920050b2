"""Losses an example; whoever calls them reduces."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
  """Softmax cross-entropy, nats.

  Args:
    logits: [batch, classes], float32.
    labels: [batch] class indices.

  Returns:
    [batch].
  """
  return optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), jnp.asarray(labels))
