"""The amend representation module (ARM) of paper 002, which follows the authors' released code.

  features [m, m, channels] -> arrangement: block x block channels become a block of pixels, [m block, m block, planes]
    -> de-albino: one convolution kernel for all planes, 2 block wide, stride block / 2, no padding, no bias
    -> BatchNorm over the planes -> mean of the planes, xbar_n [2 m - 3, 2 m - 3] for example n
    -> sharing affinity: F_n = xbar_n + alpha G, with learned alpha -> flattened row by row

A pixel at the border lies in fewer windows of de-albino than a pixel inside. So zeros that come from padding have less
weight in the features. Nothing is masked, although the wording of the paper suggests it.

`AFFINITIES` are the possible sources of G. The released code uses the mean of xbar over the current batch, also in
evaluation, so a prediction depends on the other examples of its batch. The paper's text and figure mention a moving
average, which the code does not have.

  batch    mean over the examples of the batch, without padding, on all devices; the released code
  alone    xbar_n itself, the result of `batch` for a batch of one: F_n = (1 + alpha) xbar_n
  ema      moving average over the training batches
  frozen   mean over the training set, written once by `freeze`
  none     zero, F_n = xbar_n; `freeze` takes the mean of these features

Our choices: in training, all of them use the G of the batch, unless `train_affinity` is "ema": then G is the moving
average after this batch has moved it, and gradients flow only through the share of this batch. The moving average
starts from the G of the first batch and moves by `ema_rate` 0.1. If `ema` or `frozen` is used before it has been
written, the features are NaN.

Deviations: BatchNorm's running variance, see `layers.resnet`. The released code also computes the maximum and minimum
over the planes without using them, and has dropout of rate 0; both are left out here.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfer.errors import UserError, unknown
from jaxfer.layers.conv import Conv, fan_in_uniform

Affinity = Literal["batch", "alone", "ema", "frozen", "none"]
AFFINITIES: tuple[str, ...] = get_args(Affinity)
TrainAffinity = Literal["batch", "ema"]
_WRITTEN = "_written"  # Suffix that turns the name of a mean into the name of its flag.


def arrange(x: jax.Array, block: int) -> jax.Array:
  """Rearranges channels into pixels, like PyTorch's PixelShuffle: block^2 channels become a block of one plane.

  Args:
    x: [batch, height, width, planes block^2]; channel (plane block + i) block + j is pixel (i, j) of the block.
    block: edge of a block, in pixels.

  Returns:
    [batch, height block, width block, planes].

  Raises:
    UserError: the number of channels is not a multiple of block^2.
  """
  batch, height, width, channels = x.shape
  planes, rest = divmod(channels, block**2)
  if rest:
    raise UserError(
      f"{channels} channels are not a multiple of {block} x {block}, the size of a block: change block or width"
    )
  x = x.reshape(batch, height, width, planes, block, block).transpose(0, 1, 4, 2, 5, 3)
  return x.reshape(batch, height * block, width * block, planes)


class Amend(nn.Module):
  """The amend representation module.

  The collection `affinity` holds `ema` and `frozen`, each float32 [2 m - 3, 2 m - 3], and the bools `ema_written` and
  `frozen_written`, which tell whether these means have been written. Until then the means are zero.

  Attributes:
    block: edge of the arrangement's blocks, an even number; 16 in the paper, for 512 channels.
    affinity: source of G in evaluation, see the docstring of the module.
    train_affinity: source of G in training, "batch" or "ema".
    ema_rate: weight of each batch's G in the moving average, in [0, 1].
    dtype: dtype of the convolution and the norm; the affinity and the result are float32.
    param_dtype: dtype of alpha and of de-albino's kernel.
  """

  block: int = 16
  affinity: Affinity = "batch"
  train_affinity: TrainAffinity = "batch"
  ema_rate: float = 0.1
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
    modes: tuple[str, ...] | None = None,
  ) -> jax.Array:
    """Maps feature maps to feature vectors.

    Args:
      x: [batch, m, m, channels], m at least 2, channels a multiple of block^2.
      train: whether the norm uses the statistics of the batch, G is that of `train_affinity`, and the moving average
        is updated.
      mask: [batch], False for examples that are padding. They are left out of G, but not of the norm, because training
        batches have no padding.
      axis_name: name of the mapped axis over which the batch is split, if any.
      modes: affinities to use instead of the attribute, all in one pass.

    Returns:
      [batch, (2 m - 3)^2], float32; with `modes`, [len(modes), batch, (2 m - 3)^2].

    Raises:
      UserError: the feature maps or the block have an unsuitable size, or the affinity is unknown.
    """
    batch, height, width, _ = x.shape
    for mode in modes or (self.affinity,):
      if mode not in AFFINITIES:
        raise unknown("affinity", mode, AFFINITIES)
    if self.train_affinity not in get_args(TrainAffinity):
      raise unknown("value of train_affinity", self.train_affinity, get_args(TrainAffinity))
    if height != width or height < 2:
      raise UserError(
        f"features of {height} x {width} pixels: ARM needs square features of at least 2 x 2 pixels"
      )
    if self.block % 2 or self.block < 2:
      raise UserError(f"block {self.block}: the stride of de-albino is half of it, so give an even number")
    planes = arrange(x, self.block)
    side, count = planes.shape[1], planes.shape[3]
    de_albino = Conv(
      1, 2 * self.block, self.block // 2, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype,
      kernel_init=fan_in_uniform(4 * self.block**2), name="de_albino",
    )  # fmt: skip
    y = de_albino(planes.transpose(0, 3, 1, 2).reshape(batch * count, side, side, 1))
    y = y.reshape(batch, count, *y.shape[1:3]).transpose(0, 2, 3, 1)
    norm = nn.BatchNorm(
      not train,
      momentum=0.9,
      epsilon=1e-5,
      dtype=self.dtype,
      axis_name=axis_name if train else None,
      name="bn",
    )
    own = norm(y).astype(jnp.float32).mean(-1)
    generic = self._generic(own, train, mask, axis_name, modes or (self.affinity,))
    alpha = self.param("alpha", nn.initializers.ones, (1,), self.param_dtype).astype(jnp.float32)
    features = {mode: (own + alpha * g).reshape(batch, -1) for mode, g in generic.items()}
    return features[self.affinity] if modes is None else jnp.stack([features[mode] for mode in modes])

  def _generic(
    self,
    own: jax.Array,
    train: bool,
    mask: jax.Array | None,
    axis_name: str | None,
    modes: tuple[str, ...],
  ) -> dict[str, jax.Array]:
    """Computes mode -> G, [n, n] or [batch, n, n], from xbar [batch, n, n]; updates the moving average in training."""
    real = jnp.ones(own.shape[0], bool) if mask is None else mask
    total = jnp.where(real[:, None, None], own, 0).sum(0)
    sums = total, real.sum().astype(jnp.float32)
    total, count = sums if axis_name is None else lax.psum(sums, axis_name)
    batch = total / jnp.maximum(count, 1)  # A batch may consist of padding only.
    held, written = (
      {name: self.variable("affinity", name + suffix, jnp.zeros, shape, dtype) for name in ("ema", "frozen")}
      for suffix, shape, dtype in (("", own.shape[1:], jnp.float32), (_WRITTEN, (), bool))
    )
    if train:
      moved = (1 - self.ema_rate) * held["ema"].value + self.ema_rate * batch
      moved = jnp.where(written["ema"].value, moved, batch)
      if not self.is_initializing() and self.is_mutable_collection("affinity"):
        held["ema"].value, written["ema"].value = lax.stop_gradient(moved), jnp.ones((), bool)
      return dict.fromkeys(modes, moved if self.train_affinity == "ema" else batch)

    def read(mode: str) -> jax.Array:
      if mode not in held:
        return {"batch": batch, "alone": own, "none": jnp.zeros_like(batch)}[mode]
      value = held[mode].value
      # A mean that has not been written must not be mistaken for a mean of zero.
      return value if self.is_initializing() else jnp.where(written[mode].value, value, jnp.nan)

    return {mode: read(mode) for mode in modes}


def is_written(affinity: Mapping[str, Any], name: str) -> bool:
  """Returns whether the mean `name`, "ema" or "frozen", has been written to the `affinity` collection of a module."""
  return bool(affinity[name + _WRITTEN])


def flagged(variables: Mapping[str, Any]) -> dict[str, Any]:
  """Adds the flags to variables of an older form, which had none and marked a mean that is not written by NaN.

  Args:
    variables: collections on the host, with or without flags.

  Returns:
    The variables with flags; all other leaves are shared with those given.
  """

  def upgraded(tree: Mapping[str, Any]) -> dict[str, Any]:
    if "ema" not in tree:
      return {name: upgraded(own) for name, own in tree.items()}
    if "ema" + _WRITTEN in tree:
      return dict(tree)
    means = {name: tree[name] for name in ("ema", "frozen")}
    flags = {name + _WRITTEN: np.asarray(not np.isnan(mean).any()) for name, mean in means.items()}
    return {**{name: np.nan_to_num(mean) for name, mean in means.items()}, **flags}

  return {c: upgraded(tree) if c == "affinity" else tree for c, tree in variables.items()}


def freeze(variables: Mapping[str, Any], generic: Mapping[str, jax.Array]) -> dict[str, Any]:
  """Writes the means `frozen` into the variables of a model.

  Args:
    variables: variables of a model with at least one `Amend`.
    generic: path of each `Amend`, such as "arm" or "landmark/arm" -> [features], the mean over the training set of its
      features in evaluation mode with affinity "none".

  Returns:
    The variables with the means; all other leaves are shared with those given.
  """
  affinity = jax.tree.map(lambda leaf: leaf, dict(variables["affinity"]))  # New dicts, the same leaves.
  for path, mean in generic.items():
    tree: Any = affinity
    for part in path.split("/"):
      if part not in tree:
        raise unknown("submodule with an affinity", part, tree)
      tree = tree[part]
    tree["frozen"] = mean.reshape(tree["frozen"].shape)
    tree["frozen" + _WRITTEN] = np.ones((), bool)
  return {**variables, "affinity": affinity}
