"""Heads that train a face network to distinguish people: softmax, CosFace, ArcFace and AdaFace.

With the unit feature f, unit columns w_j of the kernel and cos theta_j = f w_j, the logits are scale times

  CosFace (Wang et al. 2018)   cos theta_y - m                          for the true person y
  ArcFace (Deng et al. 2019)   cos(theta_y + m)                         for the true person y
  AdaFace (Kim et al. 2022)    cos(theta_y - m z) - (m + m z)           for the true person y
  all three                    cos theta_j                              for all other people j

AdaFace uses the length n of the feature as a measure of image quality: z = clip(h (n - mean) / (std + eps), -1, 1),
with moving averages of the mean and standard deviation of the batches, and without a gradient through n. For z = 0 it
is CosFace with margin m, for z = -1 ArcFace with margin m. Softmax has no margin: kernel and bias are applied to the
feature without normalisation (our choice, as the released code has no softmax head).

The constants are those of the authors' recipe in AdaFace's released code. As in that code, cosines and angles stay
`eps` away from the ends of their ranges, and AdaFace's averages are updated before they are used. Our choices: the mean
and the (unbiased) standard deviation are those of the global batch over all devices, while the released code uses those
of each device. A batch of one has no standard deviation and leaves the averages unchanged, and so does evaluation.

Every head is called as `head(unit, norm, label, train=..., axis_name=...)`; `layers.face_resnet.unit` computes the
first two arguments. A head returns two arrays [batch, num_classes], float32. The first has the logits for training with
a softmax cross-entropy. The second has the logits for prediction, which have no margin: scale cos theta_j, or the same
logits for softmax. Without labels, both are the second. If a label is not a class, its row of the first array is NaN.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxfer.layers.conv import fan_in_uniform


def unit_columns(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
  """Initialises the kernel of the margin heads: draws from U(-1, 1), then scales every column to length 1."""
  return _columns(jax.random.uniform(key, shape, dtype, -1, 1))


def _columns(kernel: jax.Array) -> jax.Array:
  """Scales columns to length 1. A column of zeros stays zero, and its gradient is finite."""
  return kernel * lax.rsqrt(jnp.maximum((kernel**2).sum(0), 1e-24))


class _Head(nn.Module):
  num_classes: int
  dtype: Any = None
  param_dtype: Any = jnp.float32

  def _times_kernel(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the product x kernel, computed in `dtype` and accumulated in float32."""
    dtype = self.dtype or jnp.float32
    return jnp.matmul(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)

  def _is_target(self, label: jax.Array) -> jax.Array:
    """Returns bool [batch, num_classes], True for the class of the label."""
    return jnp.asarray(label, jnp.int32)[:, None] == jnp.arange(self.num_classes, dtype=jnp.int32)


class Softmax(_Head):
  """A dense layer on the feature without normalisation, with PyTorch's default initialisation (our choice).

  Attributes:
    num_classes: number of people.
    dtype: dtype of the product, which is accumulated in float32.
    param_dtype: dtype of kernel and bias.
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
    """Returns the logits twice, see the docstring of the module.

    The only effect of `label` is the NaN for a label that is not a class; `train` and `axis_name` have no effect.
    """
    del train, axis_name
    init = fan_in_uniform(unit.shape[-1])
    kernel = self.param("kernel", init, (unit.shape[-1], self.num_classes), self.param_dtype)
    bias = self.param("bias", init, (self.num_classes,), self.param_dtype)
    logits = self._times_kernel(unit * norm[:, None], kernel) + bias.astype(jnp.float32)
    return (logits if label is None else _no_class(logits, self._is_target(label))), logits


class _MarginHead(_Head):
  """Scaled cosines; a subclass defines the margin for the cosine of the label."""

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
    """Returns the scaled cosines with the margin of the label, and without it.

    Args:
      unit: [batch, features], features of length 1.
      norm: [batch], lengths of the features before they were normalised.
      label: int [batch], 0 .. num_classes - 1; None for no margin.
      train: whether AdaFace's averages are updated.
      axis_name: name of the mapped axis over which the batch is split, if any.

    Returns:
      Two arrays [batch, num_classes], float32. If a label is not a class, its row of the first array is NaN.
    """
    quality = self._quality(norm, train and label is not None, axis_name)
    shape = unit.shape[-1], self.num_classes
    kernel = self.param("kernel", unit_columns, shape, self.param_dtype).astype(jnp.float32)
    cosine = self._times_kernel(unit, _columns(kernel)).clip(-1 + self.eps, 1 - self.eps)
    plain = self.scale * cosine
    if label is None:
      return plain, plain
    target = self._is_target(label)
    # Angles are expensive and there are many classes, so they are computed only for the labels.
    own = self._with_margin(jnp.where(target, cosine, 0).sum(-1), quality)
    return self.scale * _no_class(jnp.where(target, own[:, None], cosine), target), plain

  def _quality(self, norm: jax.Array, train: bool, axis_name: str | None) -> jax.Array | None:
    """Returns z [batch] (see the module docstring), or None if the head has no z. Training updates the averages."""
    del norm, train, axis_name
    return None

  def _with_margin(self, own: jax.Array, quality: jax.Array | None) -> jax.Array:
    """Applies the margins to the cosines `own` [batch] of the labels."""
    raise NotImplementedError

  def _turned(self, cosine: jax.Array, angle: jax.Array | float) -> jax.Array:
    """Returns the cosines after each angle is increased by `angle`, in radians."""
    return jnp.cos((jnp.arccos(cosine) + angle).clip(self.eps, math.pi - self.eps))


def _no_class(logits: jax.Array, target: jax.Array) -> jax.Array:
  return jnp.where(target.any(-1, keepdims=True), logits, jnp.nan)


class CosFace(_MarginHead):
  """A margin on the cosine, by default 0.4.

  Attributes:
    num_classes: number of people.
    dtype: dtype of the product, which is accumulated in float32.
    param_dtype: dtype of the kernel.
    scale: factor of the cosines.
    margin: m in the docstring of the module.
    eps: distance that cosines and angles keep from the ends of their ranges.
  """

  def _with_margin(self, own: jax.Array, quality: jax.Array | None) -> jax.Array:
    return own - self.margin


class ArcFace(_MarginHead):
  """A margin on the angle, by default 0.5 radians. Attributes are those of `CosFace`."""

  margin: float = 0.5

  def _with_margin(self, own: jax.Array, quality: jax.Array | None) -> jax.Array:
    return self._turned(own, self.margin)


class AdaFace(_MarginHead):
  """A margin that adapts to the length of the feature.

  The collection `margin` holds `batch_mean` and `batch_std`, each float32 [1]. Attributes not listed here are those of
  `CosFace`.

  Attributes:
    h: change of z per standard deviation of the length. In the released code, the default of the class is 0.333; that
      of the command line is 0, which gives CosFace.
    t_alpha: weight of each batch in the moving averages, in [0, 1]. In the released code, the default of the class is
      1; the recipe uses 0.01.
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
