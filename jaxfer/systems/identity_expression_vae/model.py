"""The networks of paper 003 (its Tables 1 and 2; README, section 2).

  image -> identity encoder   -> z_i -+
                                      +-> decoder -> image -> discriminator -> logit
  image -> expression encoder -> z_e -+

`conv1a` and `deconv1a` are layers 1.1 of the tables, and `conv1b` are layers 1.2. The layers that the tables show in
brackets (`conv5a`, `conv5b`, `deconv5a`) exist only for images of 128 pixels.

README, section 3 lists our choices where the tables are silent or contradict themselves. Some details of them:

- ReLU follows every convolution and `fc1`; nothing follows the dense layers of the encoder. The paper does not name the
  activation, but it prints He initialisation.
- `fc_log_variance` is the tables' "fc sigma".
- With `norm="batch"` there is a BatchNorm before each ReLU except that of `fc1`: `bn1a` follows `conv1a` or `deconv1a`,
  which then has no bias. The discriminator has no BatchNorm. It sees real and decoded images in separate batches, so
  the statistics of a batch would tell it which kind it sees.
- The 4096 outputs of `fc1` (at full width) are reshaped to channels, height, width (256, 4, 4), as in frameworks that
  put channels first.
- He initialisation of a deconvolution takes its number of output channels times the area of its kernel as the fan-in,
  as PyTorch and Chainer do.

`baselines.py` builds the baselines from the same encoder and decoder.
"""

from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import UserError
from jaxfer.layers.conv import Conv, ConvTranspose, he_fan_in
from jaxfer.ranges import OneOf, Units, Width

LATENT = 64  # Length of each code. The decoder reads both codes.
_STAGES = {32: 3, 64: 4, 128: 5}  # Number of convolutions that halve the image, by image size.
Size = Annotated[int, OneOf(tuple(_STAGES))]
_WIDTHS = (32, 64, 128, 256, 256)
_DECODER_WIDTHS = (128, 64, 32, 16, 8)
# Kernel sizes as printed in Table 2.
_DECODER_KERNELS = (4, 4, 3, 3, 3)
_NORMS = ("none", "batch")
_he_transposed = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=-1, out_axis=-2)

# Mean and log-variance of a normal distribution with diagonal covariance, [batch, latent] each, float32.
Posterior = tuple[jax.Array, jax.Array]


def sample(posterior: Posterior, keys: jax.Array) -> jax.Array:
  """Draws z = mean + sigma * noise, [batch, latent].

  Args:
    posterior: mean and log-variance.
    keys: [batch] typed keys, one per example.
  """
  mean, log_variance = posterior
  noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(keys)
  return mean + jnp.exp(log_variance / 2) * noise


def _stages(size: int) -> int:
  if size not in _STAGES:
    *others, last = _STAGES
    raise UserError(
      f"images of {size} pixels: the networks of paper 003 take {', '.join(map(str, others))} or {last}"
    )
  return _STAGES[size]


def _channels(full: int, width: float) -> int:
  if (channels := full * width) != int(channels) or channels < 1:
    raise UserError(
      f"width {width}: {full} channels times the width must be a whole number of at least 1; try 0.25"
    )
  return int(channels)


class _Base(nn.Module):
  """Attributes and layers that the encoder, the decoder and the discriminator share."""

  width: float = 1.0
  dtype: Any = None
  param_dtype: Any = jnp.float32

  def _dense(self, features: int, name: str) -> nn.Dense:
    return nn.Dense(
      features, dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=he_fan_in, name=name
    )

  def _conv(self, full: int, name: str, strides: int = 1, *, use_bias: bool = True) -> Conv:
    features = _channels(full, self.width)
    return Conv(features, 3, strides, 1, use_bias, dtype=self.dtype, param_dtype=self.param_dtype, name=name)

  def _trunk(
    self,
    x: jax.Array,
    after: Callable[[jax.Array, str], jax.Array],
    *,
    planes: jax.Array | None = None,
    use_bias: bool = True,
  ) -> jax.Array:
    """Applies the layers of Table 1 up to the average pool.

    Args:
      x: images [batch, size, size, 3].
      after: applied to the output of each convolution, with the number of the convolution, such as "1a".
      planes: [batch, size, size, n] further channels of the images; None for none.
      use_bias: whether the convolutions have a bias.

    Returns:
      Features [batch, channels], float32. At width 1 there are 128 channels for 32 pixels, and 256 for 64 and 128.
    """
    if x.ndim != 4 or x.shape[1] != x.shape[2] or x.shape[3] != 3:
      raise UserError(f"images {x.shape}: encoders and discriminator take [batch, size, size, 3]")
    x = x if planes is None else jnp.concatenate([x, planes.astype(x.dtype)], -1)
    for k, full in enumerate(_WIDTHS[: _stages(x.shape[1])], 1):
      for part, strides in (("a", 2), ("b", 1)):
        x = after(self._conv(full, f"conv{k}{part}", strides, use_bias=use_bias)(x), f"{k}{part}")
    return x.astype(jnp.float32).mean((1, 2))


class _Normed(_Base):
  """A network that may have BatchNorm."""

  norm: str = "none"

  @property
  def _bias(self) -> bool:
    """Whether convolutions have a bias. BatchNorm would subtract it again."""
    return self.norm == "none"

  def _norm(self, x: jax.Array, name: str, train: bool, axis_name: str | None) -> jax.Array:
    """Applies BatchNorm with PyTorch's defaults (PyTorch's momentum 0.1 is 0.9 here), or nothing."""
    if self.norm not in _NORMS:
      raise UserError(f"norm '{self.norm}': the networks of paper 003 take 'none' or 'batch'")
    if self.norm == "none":
      return x
    axis_name = axis_name if train else None
    return nn.BatchNorm(
      not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, axis_name=axis_name, name=name
    )(x)


class Encoder(_Normed):
  """The posterior q(z | image) of the identity code or of the expression code (Table 1).

  Attributes:
    latent: length of z.
    width: factor on the numbers of channels.
    norm: "none", or "batch" for BatchNorm.
    dtype: dtype of the computation; results are float32.
    param_dtype: dtype of the parameters.
  """

  latent: int = LATENT

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    condition: jax.Array | None = None,
    planes: jax.Array | None = None,
    *,
    train: bool = False,
    axis_name: str | None = None,
  ) -> Posterior:
    """Encodes images.

    Args:
      images: [batch, size, size, 3] in [0, 1]; size is 32, 64 or 128.
      condition: [batch, n] further inputs of the last layers, concatenated with the features; None for none.
      planes: [batch, size, size, n] further channels of the images; None for none.
      train: whether BatchNorm uses the statistics of the batch and updates its running statistics.
      axis_name: name of the mapped axis over which the batch statistics are reduced, or None.

    Returns:
      Mean and log-variance, [batch, latent] each, float32.

    Raises:
      UserError: images of another shape, a width that gives no whole number of channels, or an unknown norm.
    """

    def after(x, which):
      return nn.relu(self._norm(x, f"bn{which}", train, axis_name))

    x = self._trunk(images, after, planes=planes, use_bias=self._bias)
    x = x if condition is None else jnp.concatenate([x, condition.astype(x.dtype)], -1)
    mean, log_variance = (self._dense(self.latent, name)(x) for name in ("fc_mean", "fc_log_variance"))
    return mean.astype(jnp.float32), log_variance.astype(jnp.float32)


class Discriminator(_Base):
  """The encoder of Table 1 with a single output in place of the posterior (the paper's section "Discriminator").

  Attributes:
    width: factor on the numbers of channels.
    leaky: use LeakyReLU with slope 0.2 in place of ReLU.
    dtype: dtype of the computation; logits are float32.
    param_dtype: dtype of the parameters.
  """

  leaky: bool = False

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Returns the logits [batch] of being real, float32. Images and errors are those of `Encoder`."""
    x = self._trunk(images, lambda x, _: nn.leaky_relu(x, 0.2) if self.leaky else nn.relu(x))
    return self._dense(1, "fc")(x)[:, 0].astype(jnp.float32)


class Decoder(_Normed):
  """Decodes images from z = (z_i, z_e) (Table 2).

  Attributes:
    image_size: 32, 64 or 128.
    uniform_4x4: use kernel 4 in all deconvolutions, in place of the printed kernels 4, 4, 3, 3, (3).
    width: factor on the numbers of channels, except for those of the image.
    norm: "none", or "batch" for BatchNorm.
    dtype: dtype of the computation; the result is float32.
    param_dtype: dtype of the parameters.
  """

  image_size: int = 64
  uniform_4x4: bool = False

  @nn.compact
  def __call__(self, z: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
    """Decodes codes.

    Args:
      z: [batch, n] codes; n is 128 in the paper, the length of both codes.
      train: see `Encoder.__call__`.
      axis_name: see `Encoder.__call__`.

    Returns:
      Images [batch, image_size, image_size, 3] in (0, 1), float32.

    Raises:
      UserError: an unknown image size or norm, or a width that gives no whole number of channels.
    """
    stages, channels = _stages(self.image_size), _channels(256, self.width)
    x = nn.relu(self._dense(channels * 16, "fc1")(z))
    x = x.reshape(-1, channels, 4, 4).transpose(0, 2, 3, 1)
    for k in range(stages):
      kernel = 4 if self.uniform_4x4 else _DECODER_KERNELS[k]
      deconv = ConvTranspose(
        _channels(_DECODER_WIDTHS[k], self.width), kernel, 2, 1, self._bias, output_padding=int(kernel == 3),
        dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=_he_transposed, name=f"deconv{k + 1}a",
      )  # fmt: skip
      x = nn.relu(self._norm(deconv(x), f"bn{k + 1}a", train, axis_name))
      x = self._conv(_DECODER_WIDTHS[k], f"conv{k + 1}b", use_bias=self._bias)(x)
      x = nn.relu(self._norm(x, f"bn{k + 1}b", train, axis_name))
    conv6 = Conv(3, 3, 1, 1, dtype=self.dtype, param_dtype=self.param_dtype, name="conv6")
    return nn.sigmoid(conv6(x).astype(jnp.float32))


def check_images(images: jax.Array, size: int) -> None:
  """Checks that images have the shape [batch, size, size, 3].

  Raises:
    UserError: they have another shape.
  """
  if images.shape[1:] != (size, size, 3):
    raise UserError(
      f"images {images.shape}: the model takes [batch, {size}, {size}, 3]; change model.image_size or the images"
    )


class IdentityExpressionVAE(nn.Module):
  """Both encoders, the decoder and the discriminator. Each has a method that calls it.

  The arguments `train` and `axis_name` of the methods are those of `Encoder.__call__`.

  Attributes:
    image_size: 32, 64 or 128.
    width: factor on the numbers of channels, except for those of the image.
    latent: length of z_i, and of z_e.
    uniform_4x4: see `Decoder`.
    norm: "none", or "batch" for BatchNorm in both encoders and the decoder.
    leaky: see `Discriminator`.
    dtype: dtype of the computation; results are float32.
    param_dtype: dtype of the parameters.
  """

  image_size: Size = 64
  width: Width = 1.0
  latent: Units = LATENT
  uniform_4x4: bool = False
  norm: str = "none"
  leaky: bool = False
  dtype: Any = None
  param_dtype: Any = jnp.float32

  def setup(self):
    """Creates the submodules. Checkpoints store their names."""
    shared = {name: getattr(self, name) for name in ("width", "dtype", "param_dtype")}
    normed = {**shared, "norm": self.norm}
    self.identity_encoder = Encoder(latent=self.latent, **normed)
    self.expression_encoder = Encoder(latent=self.latent, **normed)
    self.decoder = Decoder(image_size=self.image_size, uniform_4x4=self.uniform_4x4, **normed)
    self.discriminator = Discriminator(leaky=self.leaky, **shared)

  def __call__(
    self,
    images: jax.Array,
    *,
    train: bool = False,
    keys: jax.Array | None = None,
    axis_name: str | None = None,
  ) -> jax.Array:
    """Reconstructs images.

    Args:
      images: [batch, size, size, 3] in [0, 1].
      train: see `Encoder.__call__`.
      keys: [batch] typed keys, with which codes are drawn from their posteriors; None to decode the means.
      axis_name: see `Encoder.__call__`.

    Returns:
      Images of the same shape, in (0, 1), float32.
    """
    mode: dict[str, Any] = {"train": train, "axis_name": axis_name}
    posteriors = [self.encode_identity(images, **mode), self.encode_expression(images, **mode)]
    if self.is_initializing():
      self.discriminate(images)
    if keys is None:
      codes = [mean for mean, _ in posteriors]
    else:
      both_keys = jax.vmap(lambda key: jax.random.split(key, 2), out_axes=1)(keys)
      codes = [sample(posterior, own) for posterior, own in zip(posteriors, both_keys, strict=True)]
    return self.decode(*codes, **mode)

  def encode_identity(
    self, images: jax.Array, *, train: bool = False, axis_name: str | None = None
  ) -> Posterior:
    """Returns mean and log-variance of q(z_i | image), [batch, latent] each, for images [batch, size, size, 3]."""
    check_images(images, self.image_size)
    return self.identity_encoder(images, train=train, axis_name=axis_name)

  def encode_expression(
    self, images: jax.Array, *, train: bool = False, axis_name: str | None = None
  ) -> Posterior:
    """Returns mean and log-variance of q(z_e | image), [batch, latent] each, for images [batch, size, size, 3]."""
    check_images(images, self.image_size)
    return self.expression_encoder(images, train=train, axis_name=axis_name)

  def decode(
    self, identity: jax.Array, expression: jax.Array, *, train: bool = False, axis_name: str | None = None
  ) -> jax.Array:
    """Returns the images [batch, size, size, 3], in (0, 1), of codes z_i and z_e, [batch, latent] each."""
    return self.decoder(jnp.concatenate([identity, expression], -1), train=train, axis_name=axis_name)

  def discriminate(self, images: jax.Array) -> jax.Array:
    """Returns the logits [batch] of being real for images [batch, size, size, 3]."""
    check_images(images, self.image_size)
    return self.discriminator(images)
