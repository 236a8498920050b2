"""Losses of paper 003 for each example (README, section 2, eqs. 1 to 4; our choices are in section 3).

No function reduces over the batch; the caller does.
"""

import jax
import jax.numpy as jnp
from jax import lax


def kl(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """Kullback-Leibler divergence of a normal posterior from the standard normal distribution (KL in eqs. 1 and 2).

  Args:
    mean: [batch, d].
    log_variance: [batch, d]; the covariance is diagonal.

  Returns:
    [batch] divergences in nat, at least 0.
  """
  return 0.5 * (jnp.square(mean) + jnp.expm1(log_variance) - log_variance).sum(-1)


def squared_error(images: jax.Array, decoded: jax.Array) -> jax.Array:
  """Squared error, summed over pixels and channels (Rec in eqs. 1 and 2).

  Up to constants it is the negative log-likelihood of a normal distribution.

  Args:
    images: [batch, height, width, channels].
    decoded: of the same shape.

  Returns:
    [batch] errors, at least 0.
  """
  return jnp.square(images - decoded).sum(tuple(range(1, images.ndim)))


def discriminator_terms(real: jax.Array, reconstructed: jax.Array, prior: jax.Array) -> dict[str, jax.Array]:
  """Terms of eq. 3 that the discriminator minimises: -log D(x), -log(1 - D(x')) and -log(1 - D(x_p)).

  Args:
    real: [batch] logits of real images x.
    reconstructed: [batch] logits of reconstructions x'. The caller must stop the gradient to these images.
    prior: [batch] logits of images x_p decoded from the prior. The caller must stop the gradient to these images.

  Returns:
    The terms "real", "reconstructed" and "prior", [batch] each, at least 0. The loss is their sum, as in eq. 3.
  """
  return {
    "real": jax.nn.softplus(-real),
    "reconstructed": jax.nn.softplus(reconstructed),
    "prior": jax.nn.softplus(prior),
  }


def generator_terms(
  reconstructed: jax.Array, prior: jax.Array, *, saturating: bool = False
) -> dict[str, jax.Array]:
  """Terms of eq. 3 that the generator minimises: -log D(x') and -log D(x_p).

  The term log D(x) is left out, because it does not depend on the generator.

  Args:
    reconstructed: [batch] logits of reconstructions x'.
    prior: [batch] logits of images x_p decoded from the prior.
    saturating: use log(1 - D) in place of -log D, as printed in the paper. Its gradient vanishes while the
      discriminator wins.

  Returns:
    The terms "reconstructed" and "prior", [batch] each. The loss is their sum.
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
  """Error of both codes after decoding and encoding them again (eq. 4).

  An image is decoded from the identity code of one person and the expression code of another. Codes are posterior
  means.

  Args:
    identity: [batch, d] identity codes z_i of images of one person.
    identity_again: [batch, d] identity codes z_i' of the swapped images.
    expression: [batch, d] expression codes z_e^d of images of another person.
    expression_again: [batch, d] expression codes z_e^d' of the swapped images.
    stop_gradient: stop the gradient to `expression`, the target of `expression_again`.

  Returns:
    [batch] sums of the mean squared errors of both codes.
  """
  if stop_gradient:
    expression = lax.stop_gradient(expression)
  return jnp.square(identity - identity_again).mean(-1) + jnp.square(expression - expression_again).mean(-1)
