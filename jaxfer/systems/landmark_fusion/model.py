"""RGB and landmark-heatmap nets with confidence and agreement weights (paper 002, Fig. 2).

  image   -> ResNet18 trunk      -> ARM -> F_R -> fc -> logits_R ------ do the two agree? w
               (the RGB net)               |                             |
                                           +--------------------- [F_R ; p w F_L] -> head -> logits
                                                                         |
  heatmap -> 6 convolutions      -> ARM -> F_L -> fc -> logits_L -- how sure is it? p

p is the largest softmax probability of logits_L; w is 1 where both nets name the same class, and the weight given (0.6
in the paper) elsewhere. The RGB net is the released code's, layer by layer (`layers.resnet`, `layers.amend`).

Our choices, as the paper does not say: a ReLU after every convolution of the landmark net, before the
pooling, and no BatchNorm between them; He's normal kernels and zero biases there; the RGB features come first in the
head's input; gradients flow through p (`stop_gradient_p` stops them), never through w, which is piecewise constant;
dense layers start from PyTorch's default. `confidence` and `agreement` off leave out p and w.

Deviation: BatchNorm's running variance, see `layers.resnet`.
"""

import math
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxfer.errors import UserError, unknown
from jaxfer.layers.amend import Affinity, Amend
from jaxfer.layers.conv import Conv, fan_in_uniform
from jaxfer.layers.resnet import ResNetTrunk
from jaxfer.ranges import Block, Classes, ImageSize, Kernel, Width

# Channels of the landmark net's convolutions; 2 x 2 max pooling follows the first four (Table 1).
_CHANNELS = (32, 64, 128, 256, 512, 512)
_POOLED = 4


# Of images in [0, 1] (the released code's, from ImageNet).
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(images: jax.Array) -> jax.Array:
  """Images [..., 3] of grey levels 0 to 255, as the RGB net reads them."""
  return (images / 255 - jnp.asarray(_MEAN)) / jnp.asarray(_STD)


class Outputs(NamedTuple):
  """What the nets give; with `modes` a leading axis in all.

  Attributes:
    rgb: logits of the RGB net alone, [batch, num_classes].
    landmark: of the landmark net alone, [batch, num_classes].
    fused: of the head, [batch, num_classes].
    rgb_features: F_R, [batch, features].
    landmark_features: F_L before it is weighted, [batch, features].
  """

  rgb: jax.Array
  landmark: jax.Array
  fused: jax.Array
  rgb_features: jax.Array
  landmark_features: jax.Array


def _dense(net: Any, inputs: int, name: str) -> nn.Dense:
  """The last layer of `net`, from PyTorch's default."""
  uniform = fan_in_uniform(inputs)
  return nn.Dense(
    net.num_classes, dtype=net.dtype, param_dtype=net.param_dtype,
    kernel_init=uniform, bias_init=uniform, name=name,
  )  # fmt: skip


class ArmNet(nn.Module):
  """The RGB net: `trunk` of ResNet18, `arm`, and a dense layer `fc`.

  Attributes:
    num_classes: length of the logits.
    width: factor on all channels, see `ResNetTrunk`.
    block: of the arrangement, see `Amend`; 512 width must be a multiple of its square.
    affinity: see `Amend`.
    dtype: of the computation; logits and features are float32.
    param_dtype: of the parameters.
  """

  num_classes: int
  width: float = 1.0
  block: int = 16
  affinity: Affinity = "batch"
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
  ) -> tuple[jax.Array, jax.Array]:
    """Classifies images.

    Args:
      x: [batch, size, size, 3], normalised.
      train: whether the norms take the batch's statistics and update the running ones.
      mask: [batch], False in padding, see `Amend`; so are axis_name and modes.
      axis_name: mapped axis over which the batch lies, if any.
      modes: affinities to use in one pass.

    Returns:
      logits [batch, num_classes] and features [batch, (2 ceil(size / 32) - 3)^2], float32; with `modes` a leading axis.
    """
    settings = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    x = ResNetTrunk(18, self.width, **settings, name="trunk")(x, train=train, axis_name=axis_name)
    arm = Amend(self.block, self.affinity, **settings, name="arm")
    features = arm(x, train=train, mask=mask, axis_name=axis_name, modes=modes)
    return _dense(self, features.shape[-1], "fc")(features).astype(jnp.float32), features


class LandmarkNet(nn.Module):
  """The landmark net (Table 1): `conv1` to `conv6` without padding, `arm` of its own, and `fc`.

  Attributes:
    num_classes: length of the logits.
    width: factor on all channels; 32 times it must be a whole number.
    block: of the arrangement, see `Amend`.
    kernel_sizes: of the six convolutions; the paper's lead from 224 px to 7 x 7.
    affinity: see `Amend`.
    dtype: of the computation; logits and features are float32.
    param_dtype: of the parameters.
  """

  num_classes: int
  width: float = 1.0
  block: int = 16
  kernel_sizes: tuple[int, ...] = (5, 3, 3, 3, 3, 4)
  affinity: Affinity = "batch"
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
  ) -> tuple[jax.Array, jax.Array]:
    """Classifies heatmaps [batch, size, size, 1] in [0, 1]; arguments and results as of `ArmNet`."""
    if len(self.kernel_sizes) != len(_CHANNELS):
      raise UserError(f"kernel_sizes {self.kernel_sizes}: the landmark net has {len(_CHANNELS)} convolutions")
    size, settings = x.shape[1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
    for k, (channels, kernel_size) in enumerate(zip(_CHANNELS, self.kernel_sizes, strict=True)):
      wide = int(channels * self.width)
      if wide != channels * self.width or wide < 1:
        raise UserError(
          f"width {self.width}: {channels} channels times it must be a whole number, as with 0.125"
        )
      if min(x.shape[1:3]) < kernel_size + (k < _POOLED):
        raise UserError(f"heatmaps of {size} px are too small for kernel_sizes {self.kernel_sizes}")
      x = nn.relu(Conv(wide, kernel_size, **settings, name=f"conv{k + 1}")(x))
      x = nn.max_pool(x, (2, 2), (2, 2)) if k < _POOLED else x
    arm = Amend(self.block, self.affinity, **settings, name="arm")
    features = arm(x, train=train, mask=mask, axis_name=axis_name, modes=modes)
    return _dense(self, features.shape[-1], "fc")(features).astype(jnp.float32), features


class LandmarkFusion(nn.Module):
  """Both nets and the dense layer `head` over their features.

  Attributes:
    num_classes: length of the logits.
    width: of both nets.
    block: of both arrangements.
    kernel_sizes: see `LandmarkNet`; both nets must end in maps of one size.
    confidence: whether p weighs the landmark features.
    agreement: whether w does.
    affinity: of both nets, see `Amend`.
    stop_gradient_p: whether p is a constant to the gradient.
    answer: which logits classify: the head's, or those of one net; "sum": the mean of both nets' probabilities, which
      the paper found worse than the RGB net alone (section 1).
    image_size: edge of what both nets read. The module does not read it, nor `dot`: what prepares its inputs does.
    dot: of the heatmaps, see `kernels.heatmap.draw`.
    dtype: of the computation; logits and features are float32.
    param_dtype: of the parameters.
  """

  num_classes: Classes
  width: Width = 1.0
  block: Block = 16
  kernel_sizes: tuple[Kernel, Kernel, Kernel, Kernel, Kernel, Kernel] = (5, 3, 3, 3, 3, 4)
  confidence: bool = True
  agreement: bool = True
  affinity: Affinity = "batch"
  stop_gradient_p: bool = False
  answer: Literal["fused", "rgb", "landmark", "sum"] = "fused"
  image_size: ImageSize = 224
  dot: Literal["disc", "gaussian"] = "disc"
  dtype: Any = None
  param_dtype: Any = jnp.float32

  def setup(self):
    """Makes the nets, whose names are the checkpoint format; `fuse` makes the head, whose size depends on theirs."""
    settings = {"affinity": self.affinity, "dtype": self.dtype, "param_dtype": self.param_dtype}
    self.rgb = ArmNet(self.num_classes, self.width, self.block, **settings, name="rgb")
    self.landmark = LandmarkNet(
      self.num_classes, self.width, self.block, self.kernel_sizes, **settings, name="landmark"
    )

  def __call__(
    self,
    images: jax.Array,
    heatmaps: jax.Array,
    weight: ArrayLike = 1.0,
    *,
    train: Collection[str] = (),
    mask: jax.Array | None = None,
    axis_name: str | None = None,
    modes: tuple[str, ...] | None = None,
  ) -> Outputs:
    """Classifies faces.

    Args:
      images: [batch, size, size, 3], normalised.
      heatmaps: [batch, size, size, 1], in [0, 1].
      weight: [], w where the nets disagree, in [0, 1].
      train: submodules in training mode, of "rgb" and "landmark"; the others keep their statistics. "head" may be named
        too: it has one mode.
      mask: [batch], False in padding, see `Amend`; so are axis_name and modes.
      axis_name: mapped axis over which the batch lies, if any.
      modes: affinities to use in one pass.

    Returns:
      The outputs, float32.

    Raises:
      UserError: unknown names in `train`, nets that end in maps of different sizes.
    """
    for name in train:
      if name not in (names := ("rgb", "landmark", "head")):
        raise unknown("submodule to train", name, names)
    shared: dict[str, Any] = {"mask": mask, "axis_name": axis_name, "modes": modes}
    rgb, rgb_features = self.rgb(images, train="rgb" in train, **shared)
    landmark, landmark_features = self.landmark(heatmaps, train="landmark" in train, **shared)
    fused = self.fuse(rgb, rgb_features, landmark, landmark_features, weight)
    return Outputs(rgb, landmark, fused, rgb_features, landmark_features)

  def logits(self, outputs: Outputs) -> jax.Array:
    """Those that classify, of `answer`: [..., num_classes]."""
    if self.answer == "sum":
      both = jnp.stack([nn.log_softmax(outputs.rgb), nn.log_softmax(outputs.landmark)])
      return jax.nn.logsumexp(both, 0) - math.log(2)
    return getattr(outputs, self.answer)

  @nn.compact
  def fuse(
    self,
    rgb: jax.Array,
    rgb_features: jax.Array,
    landmark: jax.Array,
    landmark_features: jax.Array,
    weight: ArrayLike,
  ) -> jax.Array:
    """The head's logits [..., num_classes] from logits [..., num_classes] and features [..., features] of both nets."""
    if rgb_features.shape != landmark_features.shape:
      sides = [(math.isqrt(features.shape[-1]) + 3) // 2 for features in (rgb_features, landmark_features)]
      raise UserError(
        "the RGB net ends in {0} x {0} and the landmark net in {1} x {1}: change kernel_sizes".format(*sides)
        + f" {self.kernel_sizes} or the picture size"
      )
    scale = jnp.ones(landmark.shape[:-1])
    if self.confidence:
      p = nn.softmax(landmark.astype(jnp.float32)).max(-1)
      scale *= lax.stop_gradient(p) if self.stop_gradient_p else p
    if self.agreement:
      scale *= jnp.where(landmark.argmax(-1) == rgb.argmax(-1), 1.0, weight)
    both = jnp.concatenate([rgb_features, scale[..., None] * landmark_features], -1)
    return _dense(self, both.shape[-1], "head")(both).astype(jnp.float32)
