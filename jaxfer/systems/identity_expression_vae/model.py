"""Networks of the weakly supervised identity/expression VAE (paper 003, Tables 1 and 2).

  image -> identity encoder   -> z_i -+
                                      +-> decoder -> image -> discriminator -> logit
  image -> expression encoder -> z_e -+

The layer that the tables number 1.1 is `conv1a` or `deconv1a` here, 1.2 is `conv1b`; the layers in brackets (`conv5a`,
`conv5b`, `deconv5a`) exist at 128 px alone. Our choices where the tables are silent or contradict themselves:

- the average pool has no padding: with the printed 1 its output would be 3 x 3, not 1 x 1;
- `fc_log_variance` ("fc sigma") gives the logarithm of the variance;
- ReLU follows every convolution and fc1 (He initialisation is printed), nothing follows the fc layers of the encoder;
  a sigmoid follows conv6; the discriminator may have LeakyReLU(0.2) instead (`leaky`);
- there is no normalisation; `norm="batch"` puts BatchNorm (`bn1a` after `conv1a` or `deconv1a`, which then have no
  bias) before those ReLUs, not after fc1, and none into the discriminator: it sees real and made images apart, and
  their batches' own statistics would tell it which are which;
- deconvolutions with the printed kernel 3 have output padding 1, as only then do their outputs have the printed sizes;
  `uniform_4x4` takes kernel 4 instead, which needs none;
- fc1's 4096 numbers are reshaped to channels, height, width (256, 4, 4), in that order, as where images are channels
  first;
- "He" of a deconvolution counts features x kernel area, as PyTorch and Chainer do; biases start at zero;
- images of 32 px, for machines without an accelerator: a stage less than at 64, as 64 has one less than 128.

The baselines made of the same parts are in `vae_baselines.py`.
"""

from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import UserError
from jaxfer.layers.conv import Conv, ConvTranspose, he_fan_in
from jaxfer.ranges import OneOf, Units, Width

LATENT = 64  # Of each encoder; the decoder reads both.
_STAGES = {32: 3, 64: 4, 128: 5}  # Convolutions that halve the image, by its size.
Size = Annotated[int, OneOf(tuple(_STAGES))]
_WIDTHS = (32, 64, 128, 256, 256)
_DECODER_WIDTHS = (128, 64, 32, 16, 8)
# The tables' deconvolutions: four of kernel 4 would be uniform.
_DECODER_KERNELS = (4, 4, 3, 3, 3)
_NORMS = ("none", "batch")
_he_transposed = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=-1, out_axis=-2)

Posterior = tuple[jax.Array, jax.Array]  # Mean and log-variance, [batch, latent] each, float32.


def sample(posterior: Posterior, keys: jax.Array) -> jax.Array:
  """Draws z = mean + sigma epsilon [batch, latent], each example with its own of the typed `keys` [batch]."""
  mean, log_variance = posterior
  noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(keys)
  return mean + jnp.exp(log_variance / 2) * noise


def _stages(size: int) -> int:
  if size not in _STAGES:
    *others, last = _STAGES
    raise UserError(
      f"images of {size} px: the networks of paper 003 take {', '.join(map(str, others))} or {last}"
    )
  return _STAGES[size]


def _channels(full: int, width: float) -> int:
  if (channels := full * width) != int(channels) or channels < 1:
    raise UserError(f"width {width}: {full} channels times it must be a whole number, as with 0.25")
  return int(channels)


class _Net(nn.Module):
  """What all three share."""

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
    self, x: jax.Array, after: Callable[[jax.Array, str], jax.Array], *, use_bias: bool = True
  ) -> jax.Array:
    """[batch, size, size, 3] -> [batch, 256 width], float32: Table 1 up to the average pool.

    What comes `after` a convolution takes its output and which one it was, as "1a".
    """
    if x.ndim != 4 or x.shape[1] != x.shape[2] or x.shape[3] != 3:
      raise UserError(f"an encoder reads images [batch, size, size, 3], not {x.shape}")
    for k, full in enumerate(_WIDTHS[: _stages(x.shape[1])], 1):
      for part, strides in (("a", 2), ("b", 1)):
        x = after(self._conv(full, f"conv{k}{part}", strides, use_bias=use_bias)(x), f"{k}{part}")
    return x.astype(jnp.float32).mean((1, 2))


class _Normed(_Net):
  """What may have BatchNorm."""

  norm: str = "none"

  @property
  def _bias(self) -> bool:
    """Whether convolutions have one: BatchNorm takes it off again."""
    return self.norm == "none"

  def _norm(self, x: jax.Array, name: str, train: bool, axis_name: str | None) -> jax.Array:
    """BatchNorm as PyTorch has it by default (its momentum 0.1), or nothing."""
    if self.norm not in _NORMS:
      raise UserError(f"norm '{self.norm}': the networks of paper 003 take 'none' or 'batch'")
    if self.norm == "none":
      return x
    axis_name = axis_name if train else None
    return nn.BatchNorm(
      not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, axis_name=axis_name, name=name
    )(x)


class Encoder(_Normed):
  """q(z | image), of identity or expression (Table 1).

  Attributes:
    latent: length of z.
    width: factor on all channels.
    norm: "none", or "batch" for BatchNorm.
    dtype: of the computation; results are float32.
    param_dtype: of the parameters.
  """

  latent: int = LATENT

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    condition: jax.Array | None = None,
    *,
    train: bool = False,
    axis_name: str | None = None,
  ) -> Posterior:
    """Encodes images.

    Args:
      images: [batch, size, size, 3] in [0, 1], size 32, 64 or 128.
      condition: [batch, n] that the last layers read beside the features, if any.
      train: whether BatchNorm, where there is one, takes the batch's statistics and updates the running ones.
      axis_name: mapped axis over which the batch's statistics are taken, if any.

    Returns:
      Mean and log-variance, [batch, latent] each, float32.
    """

    def after(x, which):
      return nn.relu(self._norm(x, f"bn{which}", train, axis_name))

    x = self._trunk(images, after, use_bias=self._bias)
    x = x if condition is None else jnp.concatenate([x, condition.astype(x.dtype)], -1)
    mean, log_variance = (self._dense(self.latent, name)(x) for name in ("fc_mean", "fc_log_variance"))
    return mean.astype(jnp.float32), log_variance.astype(jnp.float32)


class Discriminator(_Net):
  """Table 1 up to the average pool and one output (section "Discriminator").

  Attributes:
    width: factor on all channels.
    leaky: LeakyReLU of slope 0.2 in place of ReLU.
    dtype: of the computation; logits are float32.
    param_dtype: of the parameters.
  """

  leaky: bool = False

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Images as `Encoder` takes them -> logits [batch] of being real, float32."""
    x = self._trunk(images, lambda x, _: nn.leaky_relu(x, 0.2) if self.leaky else nn.relu(x))
    return self._dense(1, "fc")(x)[:, 0].astype(jnp.float32)


class Decoder(_Normed):
  """Images from z = (z_i, z_e) (Table 2).

  Attributes:
    image_size: 32, 64 or 128.
    uniform_4x4: kernel 4 in all deconvolutions, in place of the printed kernels 4, 4, 3, 3, (3).
    width: factor on all channels but the image's.
    norm: "none", or "batch" for BatchNorm.
    dtype: of the computation; the result is float32.
    param_dtype: of the parameters.
  """

  image_size: int = 64
  uniform_4x4: bool = False

  @nn.compact
  def __call__(self, z: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
    """[batch, latent] (128 in the paper) -> images [batch, image_size, image_size, 3] in (0, 1), float32."""
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
  """Refuses images that are not [batch, size, size, 3]."""
  if images.shape[1:] != (size, size, 3):
    raise UserError(f"images {images.shape}: give [batch, {size}, {size}, 3], or change image_size")


class IdentityExpressionVAE(nn.Module):
  """Both encoders, the decoder and the discriminator, each called by a method of its own.

  In every method but `discriminate`, `train` says whether BatchNorm (where there is one) takes the batch's statistics,
  over the mapped axis `axis_name` too, and updates the running ones.

  Attributes:
    image_size: 32, 64 or 128.
    width: factor on all channels but the image's.
    latent: length of z_i and of z_e.
    uniform_4x4: see `Decoder`.
    norm: "none", or "batch" for BatchNorm.
    leaky: see `Discriminator`.
    dtype: of the computation; results are float32.
    param_dtype: of the parameters.
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
    """Makes the parts; the names are the checkpoint format."""
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
    """Reconstructs images [batch, size, size, 3] from the means, or from samples by the keys [batch]."""
    how: dict[str, Any] = {"train": train, "axis_name": axis_name}
    codes = [self.encode_identity(images, **how), self.encode_expression(images, **how)]
    if self.is_initializing():
      self.discriminate(images)
    if keys is None:
      z = [mean for mean, _ in codes]
    else:
      keys_of = jax.vmap(lambda key: jax.random.split(key, 2), out_axes=1)(keys)
      z = [sample(code, own) for code, own in zip(codes, keys_of, strict=True)]
    return self.decode(*z, **how)

  def encode_identity(
    self, images: jax.Array, *, train: bool = False, axis_name: str | None = None
  ) -> Posterior:
    """q(z_i | image): images [batch, size, size, 3] -> mean and log-variance [batch, latent]."""
    check_images(images, self.image_size)
    return self.identity_encoder(images, train=train, axis_name=axis_name)

  def encode_expression(
    self, images: jax.Array, *, train: bool = False, axis_name: str | None = None
  ) -> Posterior:
    """q(z_e | image): images [batch, size, size, 3] -> mean and log-variance [batch, latent]."""
    check_images(images, self.image_size)
    return self.expression_encoder(images, train=train, axis_name=axis_name)

  def decode(
    self, identity: jax.Array, expression: jax.Array, *, train: bool = False, axis_name: str | None = None
  ) -> jax.Array:
    """z_i and z_e, [batch, latent] each -> images [batch, size, size, 3] in (0, 1)."""
    return self.decoder(jnp.concatenate([identity, expression], -1), train=train, axis_name=axis_name)

  def discriminate(self, images: jax.Array) -> jax.Array:
    """Images [batch, size, size, 3] -> logits [batch] of being real."""
    check_images(images, self.image_size)
    return self.discriminator(images)
