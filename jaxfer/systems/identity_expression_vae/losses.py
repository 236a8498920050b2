"""Losses an example of the identity/expression VAE (paper 003, eqs. 1-4); whoever calls them reduces.

Paper 003 leaves open what follows; these are our choices. The reconstruction error is the sum over pixels and channels
(a Gaussian's log-likelihood up to constants). The generator climbs log D(x') rather than descend on log(1 - D(x')),
which hardly moves it while the discriminator wins; `saturating` is the printed form. Codes that the switch loss
compares are posterior means.
"""

import jax
import jax.numpy as jnp
from jax import lax


def kl(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """Divergence of N(mean, diag exp(log_variance)) [batch, d] from N(0, I): [batch], nats, at least 0."""
  return 0.5 * (jnp.square(mean) + jnp.expm1(log_variance) - log_variance).sum(-1)


def squared_error(images: jax.Array, decoded: jax.Array) -> jax.Array:
  """Sum over pixels and channels of the squared difference: [batch, height, width, channels] twice -> [batch]."""
  return jnp.square(images - decoded).sum(tuple(range(1, images.ndim)))


def discriminator_terms(real: jax.Array, reconstructed: jax.Array, prior: jax.Array) -> dict[str, jax.Array]:
  """The discriminator's side of eq. 3: -log D(x), -log(1 - D(x')) and -log(1 - D(x_p)).

  Args:
    real: logits [batch] of photographs.
    reconstructed: logits [batch] of their reconstructions x'; stop the gradient before the images.
    prior: logits [batch] of images x_p decoded from the prior; likewise.

  Returns:
    {"real", "reconstructed", "prior"}: [batch] each, at least 0. The loss is their sum: eq. 3 has no half.
  """
  return {
    "real": jax.nn.softplus(-real),
    "reconstructed": jax.nn.softplus(reconstructed),
    "prior": jax.nn.softplus(prior),
  }


def generator_terms(
  reconstructed: jax.Array, prior: jax.Array, *, saturating: bool = False
) -> dict[str, jax.Array]:
  """The generator's side of eq. 3; log D(x) has no gradient for it and is left out.

  Args:
    reconstructed: logits [batch] of reconstructions x'.
    prior: logits [batch] of images x_p decoded from the prior.
    saturating: log(1 - D), as printed, in place of -log D.

  Returns:
    {"reconstructed", "prior"}: [batch] each; the loss is their sum.
  """
  sign = -1.0 if saturating else 1.0
  # log(1 - D) = -softplus(logit), -log D = softplus(-logit).
  return {
    "reconstructed": sign * jax.nn.softplus(-sign * reconstructed),
    "prior": sign * jax.nn.softplus(-sign * prior),
  }


def switch(
  identity: jax.Array,
  identity_again: jax.Array,
  expression: jax.Array,
  expression_again: jax.Array,
  *,
  stop_gradient: bool = False,
) -> jax.Array:
  """Eq. 4: what decoding one person's identity with another's expression, and encoding it again, does to the codes.

  Args:
    identity: z_i [batch, d] of a person's image.
    identity_again: z_i' [batch, d], read from the swapped image.
    expression: z_e^d [batch, d] of the other person's image.
    expression_again: z_e^d' [batch, d], read from the swapped image.
    stop_gradient: take z_e^d as given, rather than move it towards z_e^d' too.

  Returns:
    [batch]: the sum of both mean squared differences, means over d.
  """
  if stop_gradient:
    expression = lax.stop_gradient(expression)
  return jnp.square(identity - identity_again).mean(-1) + jnp.square(expression - expression_again).mean(-1)
