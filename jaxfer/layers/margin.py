"""Heads that train a face net to tell people apart: softmax, CosFace, ArcFace, AdaFace.

With the unit feature f, unit columns w_j of the kernel and cos theta_j = f w_j, the logits are scale times

  CosFace (Wang et al. 2018)   cos theta_y - m                          of the person y that it is
  ArcFace (Deng et al. 2019)   cos(theta_y + m)
  AdaFace (Kim et al. 2022)    cos(theta_y - m z) - (m + m z)
  all three                    cos theta_j                              of everyone else

AdaFace reads from the feature's length n how good the picture is: z = clip(h (n - mean) / (std + eps), -1, 1), with
moving averages of the batches' mean and standard deviation, and no gradient through n. So z = 0 is CosFace with m, z
= -1 ArcFace with m. Softmax has no margin: kernel and bias on the feature as it is, |f| and all (our choice: the
released code has none).

Constants are those of AdaFace's released code in its authors' recipe. As there, cosines and angles are kept an `eps`
off their ends, and AdaFace's averages move before they are used. Our choices: mean and (unbiased) standard deviation
are those of the global batch, over all devices, where the code takes each device's own; a batch of one, whose
deviation does not exist, leaves the averages as they are; so does evaluation.

Every head is called as `head(unit, norm, label, train=..., axis_name=...)`, `layers.face_resnet.unit` giving the first
two, and returns two times [batch, num_classes], float32: the logits to be trained by, inputs of a softmax
cross-entropy, and those without the margin, scale cos theta_j or softmax's own, which predict. Without labels the first
are the second. A label that is no class turns its row of the first to NaN.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxfer.layers.conv import fan_in_uniform


def unit_columns(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
  """First kernel of the margin heads: U(-1, 1), then every column of length 1."""
  return _columns(jax.random.uniform(key, shape, dtype, -1, 1))


def _columns(kernel: jax.Array) -> jax.Array:
  """Each of length 1; one of zeros, and its gradient, stay finite."""
  return kernel * lax.rsqrt(jnp.maximum((kernel**2).sum(0), 1e-24))


class _Head(nn.Module):
  num_classes: int
  dtype: Any = None
  param_dtype: Any = jnp.float32

  def _times_kernel(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The product in `dtype`, summed up in float32."""
    dtype = self.dtype or jnp.float32
    return jnp.matmul(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)

  def _is_target(self, label: jax.Array) -> jax.Array:
    """bool [batch, num_classes]."""
    return jnp.asarray(label, jnp.int32)[:, None] == jnp.arange(self.num_classes, dtype=jnp.int32)


class Softmax(_Head):
  """Kernel and bias on the feature itself; PyTorch's default initialisation (our choice).

  Attributes:
    num_classes: how many people.
    dtype: of the product; it is summed up in float32.
    param_dtype: of kernel and bias.
  """

  @nn.compact
  def __call__(
    self,
    unit: jax.Array,
    norm: jax.Array,
    label: jax.Array | None = None,
    *,
    train: bool = False,
    axis_name: str | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """See the file's docstring; `label`, `train` and `axis_name` change nothing but a row of no class."""
    del train, axis_name
    init = fan_in_uniform(unit.shape[-1])
    kernel = self.param("kernel", init, (unit.shape[-1], self.num_classes), self.param_dtype)
    bias = self.param("bias", init, (self.num_classes,), self.param_dtype)
    logits = self._times_kernel(unit * norm[:, None], kernel) + bias.astype(jnp.float32)
    return (logits if label is None else _no_class(logits, self._is_target(label))), logits


class _MarginHead(_Head):
  """Cosines, and the margin of a subclass on the target's."""

  scale: float = 64.0
  margin: float = 0.4
  eps: float = 1e-4

  @nn.compact
  def __call__(
    self,
    unit: jax.Array,
    norm: jax.Array,
    label: jax.Array | None = None,
    *,
    train: bool = False,
    axis_name: str | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Scaled cosines, the target's with its margin; and all without it.

    Args:
      unit: [batch, features], of length 1.
      norm: [batch], the features' lengths.
      label: int [batch], 0 .. num_classes - 1; None for no margin.
      train: whether AdaFace's averages move.
      axis_name: mapped axis over which the batch lies, if any.

    Returns:
      [batch, num_classes] each, float32; NaN in rows of the first whose label is no class.
    """
    quality = self._quality(norm, train and label is not None, axis_name)
    shape = unit.shape[-1], self.num_classes
    kernel = self.param("kernel", unit_columns, shape, self.param_dtype).astype(jnp.float32)
    cosine = self._times_kernel(unit, _columns(kernel)).clip(-1 + self.eps, 1 - self.eps)
    plain = self.scale * cosine
    if label is None:
      return plain, plain
    target = self._is_target(label)
    # Angles of the targets alone: they are dear and the classes many.
    own = self._with_margin(jnp.where(target, cosine, 0).sum(-1), quality)
    return self.scale * _no_class(jnp.where(target, own[:, None], cosine), target), plain

  def _quality(self, norm: jax.Array, train: bool, axis_name: str | None) -> jax.Array | None:
    """z [batch] of the file's docstring, for a head that reads it; its averages move in training."""
    del norm, train, axis_name
    return None

  def _with_margin(self, own: jax.Array, quality: jax.Array | None) -> jax.Array:
    """The targets' cosines [batch] with their margins."""
    raise NotImplementedError

  def _turned(self, cosine: jax.Array, angle: jax.Array | float) -> jax.Array:
    """Cosines of the angles made larger by `angle`, radians."""
    return jnp.cos((jnp.arccos(cosine) + angle).clip(self.eps, math.pi - self.eps))


def _no_class(logits: jax.Array, target: jax.Array) -> jax.Array:
  return jnp.where(target.any(-1, keepdims=True), logits, jnp.nan)


class CosFace(_MarginHead):
  """A margin on the cosine, 0.4.

  Attributes:
    num_classes: how many people; this and the next two for every margin head.
    dtype: of the product; it is summed up in float32.
    param_dtype: of the kernel.
    scale: factor on the cosines.
    margin: m of the file's docstring.
    eps: how far cosines and angles stay off their ends.
  """

  def _with_margin(self, own: jax.Array, quality: jax.Array | None) -> jax.Array:
    return own - self.margin


class ArcFace(_MarginHead):
  """A margin on the angle, 0.5 radians; attributes as of `CosFace`."""

  margin: float = 0.5

  def _with_margin(self, own: jax.Array, quality: jax.Array | None) -> jax.Array:
    return self._turned(own, self.margin)


class AdaFace(_MarginHead):
  """A margin that the feature's length adapts; collection `margin` holds `batch_mean` and `batch_std`, [1] each.

  Attributes:
    h: how far the margin spreads, in 1 / standard deviations. The code's classes default to 0.333, its command line to
      0, which makes it CosFace.
    t_alpha: how far the averages move to each batch's, in [0, 1]; the code's class defaults to 1, its recipe says 0.01.
  """

  eps: float = 1e-3
  h: float = 0.333
  t_alpha: float = 0.01

  def _quality(self, norm: jax.Array, train: bool, axis_name: str | None) -> jax.Array:
    mean = self.variable("margin", "batch_mean", jnp.full, (1,), 20.0, jnp.float32)
    std = self.variable("margin", "batch_std", jnp.full, (1,), 100.0, jnp.float32)
    norm = lax.stop_gradient(norm.astype(jnp.float32)).clip(1e-3, 100)
    count = len(norm) * (1 if axis_name is None else lax.psum(1, axis_name))
    if train and count > 1 and not self.is_initializing():

      def total(values: jax.Array) -> jax.Array:
        return values.sum() if axis_name is None else lax.psum(values.sum(), axis_name)

      own_mean = total(norm) / count
      own_std = jnp.sqrt(total((norm - own_mean) ** 2) / (count - 1))
      mean.value = self.t_alpha * own_mean + (1 - self.t_alpha) * mean.value
      std.value = self.t_alpha * own_std + (1 - self.t_alpha) * std.value
    return (self.h * (norm - mean.value) / (std.value + self.eps)).clip(-1, 1)

  def _with_margin(self, own: jax.Array, quality: jax.Array | None) -> jax.Array:
    assert quality is not None
    return self._turned(own, -self.margin * quality) - (self.margin + self.margin * quality)


HEADS: dict[str, type[nn.Module]] = {
  "adaface": AdaFace,
  "arcface": ArcFace,
  "cosface": CosFace,
  "softmax": Softmax,
}
