"""The baselines of paper 003 (Table 3, rows 6-8): a plain VAE, and a conditional one that is told the subject.

The paper names them alone. Our choices: encoder and decoder are those of Tables 1 and 2, codes have 64
numbers, and the conditional VAE reads the subject's one-hot vector beside the encoder's pooled features and beside z.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import UserError
from jaxfer.ranges import Count, Units, Width
from jaxfer.systems.identity_expression_vae.model import (
  LATENT,
  Decoder,
  Encoder,
  Posterior,
  Size,
  check_images,
  sample,
)


class VAE(nn.Module):
  """An `encoder` and a `decoder`; in every method `train` and `axis_name` are BatchNorm's, where there is one.

  Attributes:
    image_size: 32, 64 or 128.
    width: factor on all channels but the image's.
    latent: length of z.
    uniform_4x4: see `Decoder`.
    norm: "none", or "batch" for BatchNorm.
    dtype: of the computation; results are float32.
    param_dtype: of the parameters.
  """

  image_size: Size = 64
  width: Width = 1.0
  latent: Units = LATENT
  uniform_4x4: bool = False
  norm: str = "none"
  dtype: Any = None
  param_dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts; the names are the checkpoint format."""
    shared = {name: getattr(self, name) for name in ("width", "norm", "dtype", "param_dtype")}
    self.encoder = Encoder(latent=self.latent, **shared)
    self.decoder = Decoder(image_size=self.image_size, uniform_4x4=self.uniform_4x4, **shared)

  def __call__(
    self,
    images: jax.Array,
    condition: jax.Array | None = None,
    *,
    train: bool = False,
    keys: jax.Array | None = None,
    axis_name: str | None = None,
  ) -> jax.Array:
    """Reconstructs images [batch, size, size, 3] from the means, or from samples by the keys [batch]."""
    posterior = self.encode(images, condition, train=train, axis_name=axis_name)
    z = posterior[0] if keys is None else sample(posterior, keys)
    return self.decode(z, condition, train=train, axis_name=axis_name)

  def encode(
    self,
    images: jax.Array,
    condition: jax.Array | None = None,
    *,
    train: bool = False,
    axis_name: str | None = None,
  ) -> Posterior:
    """Images [batch, size, size, 3] -> mean and log-variance of z [batch, latent]."""
    check_images(images, self.image_size)
    return self.encoder(images, self.checked(condition), train=train, axis_name=axis_name)

  def decode(
    self,
    z: jax.Array,
    condition: jax.Array | None = None,
    *,
    train: bool = False,
    axis_name: str | None = None,
  ) -> jax.Array:
    """z [batch, latent] -> images [batch, size, size, 3] in (0, 1)."""
    condition = self.checked(condition)
    z = z if condition is None else jnp.concatenate([z, condition.astype(z.dtype)], -1)
    return self.decoder(z, train=train, axis_name=axis_name)

  def checked(self, condition: jax.Array | None) -> jax.Array | None:
    """The condition, if it is what this net reads: none."""
    if condition is not None:
      raise UserError(f"condition {condition.shape}: a plain VAE reads none, a ConditionalVAE does")
    return None


class ConditionalVAE(VAE):
  """The VAE whose encoder and decoder are told who is seen (C-VAE; Kingma et al. 2014).

  Attributes:
    subjects: length of the one-hot vector `condition` [batch, subjects], which every call needs; 195 in the paper.
  """

  subjects: Count = 195

  def checked(self, condition: jax.Array | None) -> jax.Array:
    """The condition, if it is what this net reads: [batch, subjects]."""
    if condition is None or condition.ndim != 2 or condition.shape[1] != self.subjects:
      got = "none" if condition is None else condition.shape
      raise UserError(f"condition {got}: give the subjects' one-hot vectors [batch, {self.subjects}]")
    return condition


def condition(model: nn.Module, count: int, subjects: jax.Array | None) -> jax.Array | None:
  """What a model is told: a conditional VAE one-hot vectors of `subjects` [count], or zeros; others nothing."""
  if not isinstance(model, ConditionalVAE):
    return None
  return jnp.zeros((count, model.subjects)) if subjects is None else jax.nn.one_hot(subjects, model.subjects)
