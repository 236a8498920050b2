"""The baselines of paper 003 (its Table 3, rows 6 to 8): a plain VAE and a conditional VAE.

The paper only names them, so their details are our choices (README, section 3). Both use the encoder and the decoder of
Tables 1 and 2. The conditional VAE also gets the one-hot vector of the person. It is concatenated with z, and enters
the encoder beside its pooled features or beside the image.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import UserError
from jaxfer.layers.conv import he_fan_in
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
  """A plain VAE with a single code.

  The arguments `train` and `axis_name` of the methods are those of `Encoder.__call__`.

  Attributes:
    image_size: 32, 64 or 128.
    width: factor on the numbers of channels, except for those of the image.
    latent: length of z.
    uniform_4x4: see `Decoder`.
    norm: "none", or "batch" for BatchNorm.
    dtype: dtype of the computation; results are float32.
    param_dtype: dtype of the parameters.
  """

  image_size: Size = 64
  width: Width = 1.0
  latent: Units = LATENT
  uniform_4x4: bool = False
  norm: str = "none"
  dtype: Any = None
  param_dtype: Any = jnp.float32

  def setup(self):
    """Creates the submodules. Checkpoints store their names."""
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
    """Reconstructs images.

    Args:
      images: [batch, size, size, 3] in [0, 1].
      condition: [batch, subjects] for a conditional VAE, else None.
      train: see `Encoder.__call__`.
      keys: [batch] typed keys, with which z is drawn from its posterior; None to decode the means.
      axis_name: see `Encoder.__call__`.

    Returns:
      Images of the same shape, in (0, 1), float32.

    Raises:
      UserError: images or a condition of another shape.
    """
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
    """Returns mean and log-variance of q(z | image), [batch, latent] each, for images [batch, size, size, 3].

    `condition` is [batch, subjects] for a conditional VAE, else None.

    Raises:
      UserError: images or a condition of another shape.
    """
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
    """Returns the images [batch, size, size, 3], in (0, 1), of codes z [batch, latent].

    `condition` is [batch, subjects] for a conditional VAE, else None.

    Raises:
      UserError: a condition of another shape.
    """
    condition = self.checked(condition)
    z = z if condition is None else jnp.concatenate([z, condition.astype(z.dtype)], -1)
    return self.decoder(z, train=train, axis_name=axis_name)

  def checked(self, condition: jax.Array | None) -> jax.Array | None:
    """Returns the condition if the model can use it, which for a plain VAE means None.

    Raises:
      UserError: there is a condition.
    """
    if condition is not None:
      raise UserError(
        f"condition {condition.shape}: a plain VAE takes none; leave it out, or use ConditionalVAE"
      )
    return None


class ConditionalVAE(VAE):
  """A VAE whose encoder and decoder also get the person in the image (C-VAE; Kingma et al. 2014).

  Every call needs the argument `condition`, the one-hot vectors [batch, subjects] of the people.

  Attributes:
    subjects: number of people, and length of the one-hot vectors; 195 in the paper.
    condition_at: where the person enters the encoder. "features": the one-hot vector is concatenated with the pooled
      features. "input": a linear layer turns it into three planes [image_size, image_size, 3], which are further
      channels of the image. For a vector of zeros, the planes are zero.
  """

  subjects: Count = 195
  condition_at: Literal["features", "input"] = "features"

  def setup(self):
    """Creates the submodules. Checkpoints store their names."""
    super().setup()
    if self.condition_at == "input":
      self.planes = nn.Dense(
        3 * self.image_size**2,
        use_bias=False,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        kernel_init=he_fan_in,
      )

  def encode(
    self,
    images: jax.Array,
    condition: jax.Array | None = None,
    *,
    train: bool = False,
    axis_name: str | None = None,
  ) -> Posterior:
    """See `VAE.encode`."""
    check_images(images, self.image_size)
    condition = self.checked(condition)
    if self.condition_at == "features":
      return self.encoder(images, condition, train=train, axis_name=axis_name)
    planes = self.planes(condition).reshape(images.shape)
    return self.encoder(images, None, planes, train=train, axis_name=axis_name)

  def checked(self, condition: jax.Array | None) -> jax.Array:
    """Returns the condition if the model can use it: [batch, subjects].

    Raises:
      UserError: there is no condition, or it has another shape.
    """
    if condition is None or condition.ndim != 2 or condition.shape[1] != self.subjects:
      got = "none" if condition is None else condition.shape
      raise UserError(f"condition {got}: give the subjects' one-hot vectors [batch, {self.subjects}]")
    return condition


def condition(model: nn.Module, count: int, subjects: jax.Array | None) -> jax.Array | None:
  """Returns the condition of a model for a batch: [count, number of subjects], or None if the model takes none.

  Args:
    model: the model.
    count: number of images in the batch.
    subjects: [count] people in the images, which become one-hot vectors; None for vectors of zeros.
  """
  if not isinstance(model, ConditionalVAE):
    return None
  return jnp.zeros((count, model.subjects)) if subjects is None else jax.nn.one_hot(subjects, model.subjects)
