"""The amend representation module (ARM) of paper 002, after the authors' released code.

  features [m, m, channels] -> arrangement: block x block channels become a block of pixels, [m block, m block, planes]
    -> de-albino: one convolution kernel for all planes, 2 block wide, stride block / 2, no padding, no bias
    -> BatchNorm over the planes -> their mean, xbar_n [2 m - 3, 2 m - 3] of example n
    -> sharing affinity: F_n = xbar_n + alpha G, alpha learnt -> flattened row by row

A pixel at the border lies in fewer windows of de-albino than one inside: so zeros that padding brought into the
features count for less. Nothing is masked, whatever the paper's words suggest.

Where G comes from (`AFFINITIES`). The code takes the mean of xbar over the batch at hand, in tests as well, so that a
prediction depends on its batch-mates; the figure and the paper speak of a moving average, which the code lacks.

  batch    mean over the real rows of the batch, on all devices; the released code
  alone    xbar_n itself: what `batch` gives for a batch of one, F_n = (1 + alpha) xbar_n
  ema      moving average over the training's batches
  frozen   mean over the training set, written once by `freeze`
  none     zero, F_n = xbar_n: what `freeze` takes the mean of

Our choices: in training every one of them takes the batch's G, unless `train_affinity` is "ema": then G is the moving
average after this batch has moved it, and gradients flow through the batch's share of it alone. The moving average
starts from the first batch's G and moves by `ema_rate` 0.1. Features that read `ema` or `frozen` before it is written
are NaN.

Deviation: BatchNorm's running variance, see `layers.resnet`. The code also takes maximum and minimum over the planes,
uses neither, and has dropout of rate 0: both are left out.
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
_WRITTEN = "_written"  # Follows the name of a mean in the name of its flag.


def arrange(x: jax.Array, block: int) -> jax.Array:
  """Pixels out of channels, as PyTorch's PixelShuffle: a plane's block x block channels are a block of its pixels.

  Args:
    x: [batch, height, width, planes block^2]; channel (plane block + i) block + j is pixel (i, j) of the block.
    block: side of a block.

  Returns:
    [batch, height block, width block, planes].

  Raises:
    UserError: channels that are no whole number of blocks.
  """
  batch, height, width, channels = x.shape
  planes, rest = divmod(channels, block**2)
  if rest:
    raise UserError(
      f"{channels} channels are no whole number of {block} x {block} blocks: change block or width"
    )
  x = x.reshape(batch, height, width, planes, block, block).transpose(0, 1, 4, 2, 5, 3)
  return x.reshape(batch, height * block, width * block, planes)


class Amend(nn.Module):
  """The module.

  Collection `affinity` holds `ema` and `frozen`, float32 [2 m - 3, 2 m - 3] each, and `ema_written` and
  `frozen_written`, bools that say whether they hold a mean already. Until then they are zero.

  Attributes:
    block: side of the arrangement's blocks, even; 16 in the paper, for 512 channels.
    affinity: where G comes from in evaluation, see above.
    train_affinity: where G comes from in training, "batch" or "ema", see above.
    ema_rate: how far the moving average goes to each batch's G, in [0, 1].
    dtype: of the convolution and the norm; affinity and result are float32.
    param_dtype: of de-albino's kernel and alpha.
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
    """Features of maps.

    Args:
      x: [batch, m, m, channels], m at least 2, channels a multiple of block^2.
      train: whether the norm takes the batch's statistics, G is that of `train_affinity`, and the moving average moves.
      mask: [batch], False in rows that are padding: G leaves them out. The norm does not: training pads nothing.
      axis_name: mapped axis over which the batch lies, if any.
      modes: affinities to use instead of the attribute, all in one pass.

    Returns:
      [batch, (2 m - 3)^2], float32; with `modes` [len(modes), batch, (2 m - 3)^2].

    Raises:
      UserError: a map or block that does not fit, an affinity that does not exist.
    """
    batch, height, width, _ = x.shape
    for mode in modes or (self.affinity,):
      if mode not in AFFINITIES:
        raise unknown("affinity", mode, AFFINITIES)
    if self.train_affinity not in get_args(TrainAffinity):
      raise unknown("value of train_affinity", self.train_affinity, get_args(TrainAffinity))
    if height != width or height < 2:
      raise UserError(f"features of {height} x {width} pixels: ARM takes square ones, 2 x 2 or more")
    if self.block % 2 or self.block < 2:
      raise UserError(f"block {self.block}: de-albino's stride is half of it, so give an even number")
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
    """G by mode, [n, n] or one per example, from xbar [batch, n, n]. In training, this moves the average."""
    real = jnp.ones(own.shape[0], bool) if mask is None else mask
    total = jnp.where(real[:, None, None], own, 0).sum(0)
    sums = total, real.sum().astype(jnp.float32)
    total, count = sums if axis_name is None else lax.psum(sums, axis_name)
    batch = total / jnp.maximum(count, 1)  # A batch may be nothing but padding.
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
      # A mean that is missing must not pass for a mean of zero.
      return value if self.is_initializing() else jnp.where(written[mode].value, value, jnp.nan)

    return {mode: read(mode) for mode in modes}


def is_written(affinity: Mapping[str, Any], name: str) -> bool:
  """Whether one module's `affinity` collection holds the mean `name`, "ema" or "frozen"."""
  return bool(affinity[name + _WRITTEN])


def flagged(variables: Mapping[str, Any]) -> dict[str, Any]:
  """Adds the flags to variables from before there were any, in which NaN marked a mean that is not written.

  Args:
    variables: collections on the host, in either form.

  Returns:
    Variables that share all other leaves with those given.
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
  """Variables whose `frozen` is written.

  Args:
    variables: of a net that holds one `Amend` or more.
    generic: path of each, as "arm" or "landmark/arm" -> mean over the training set of its features in evaluation mode,
      affinity "none", [features].

  Returns:
    Variables that share all other leaves with those given.
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
