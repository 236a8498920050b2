"""The RGB net, the landmark net, and their fusion by confidence and agreement weights (paper 002, Fig. 2).

  image   -> ResNet18 trunk  -> ARM -> F_R -> fc -> logits_R      RGB net
  heatmap -> 6 convolutions  -> ARM -> F_L -> fc -> logits_L      landmark net

  p = max softmax(logits_L)                                       confidence of the landmark net
  w = 1 if argmax logits_R == argmax logits_L else `weight`       agreement of both nets; the paper's weight is 0.6
  logits = head([F_R; p w F_L])

The RGB net follows the released code layer by layer (`layers.resnet`, `layers.amend`). `confidence=False` leaves out p,
and `agreement=False` leaves out w.

The paper leaves some details open. Our choices (README, section 3):

- The landmark net has a ReLU after every convolution, before the pooling, and no BatchNorm between the convolutions.
- Its convolutions start from He's normal initialisation with zero biases. Dense layers start from PyTorch's default.
- The RGB features come first in the input of the head.
- Gradients flow through p, unless `stop_gradient_p` is set. None flow through w, which is piecewise constant.

Deviation (README, section 4): the running variance of BatchNorm, see `layers.resnet`.
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
from jaxfer.layers.amend import Affinity, Amend, TrainAffinity
from jaxfer.layers.conv import Conv, fan_in_uniform
from jaxfer.layers.resnet import ResNetTrunk
from jaxfer.ranges import Block, Classes, ImageSize, Kernel, Width

# Output channels of the landmark net's convolutions. A 2 x 2 max pooling follows each of the first four (Table 1).
_CHANNELS = (32, 64, 128, 256, 512, 512)
_POOLED = 4

# ImageNet statistics of images in [0, 1], as in the released code.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(images: jax.Array) -> jax.Array:
  """Scales images [..., 3] from [0, 255] to [0, 1], and normalises them for the RGB net."""
  return (images / 255 - jnp.asarray(_MEAN)) / jnp.asarray(_STD)


class Outputs(NamedTuple):
  """Outputs of `LandmarkFusion`, float32. If `modes` is given, every array has a leading axis with one entry per mode.

  Attributes:
    rgb: logits of the RGB net, [batch, num_classes].
    landmark: logits of the landmark net, [batch, num_classes].
    fused: logits of the head, [batch, num_classes].
    rgb_features: F_R, [batch, features].
    landmark_features: F_L before weighting, [batch, features].
  """

  rgb: jax.Array
  landmark: jax.Array
  fused: jax.Array
  rgb_features: jax.Array
  landmark_features: jax.Array


def _dense(module: Any, inputs: int, name: str) -> nn.Dense:
  """The last layer of `module`, which maps `inputs` features to logits, with PyTorch's default initialisation."""
  uniform = fan_in_uniform(inputs)
  return nn.Dense(
    module.num_classes, dtype=module.dtype, param_dtype=module.param_dtype,
    kernel_init=uniform, bias_init=uniform, name=name,
  )  # fmt: skip


class ArmNet(nn.Module):
  """The RGB net: the ResNet18 `trunk`, `arm` (`layers.amend`), and the dense layer `fc`.

  Attributes:
    num_classes: number of classes.
    width: multiplier of the numbers of channels, see `ResNetTrunk`.
    block: side of a block in the arrangement, see `Amend`; 512 * width must be a multiple of its square.
    affinity: see `Amend`.
    train_affinity: see `Amend`.
    dtype: dtype of the computation. Logits and features are always float32.
    param_dtype: dtype of the parameters.
  """

  num_classes: int
  width: float = 1.0
  block: int = 16
  affinity: Affinity = "batch"
  train_affinity: TrainAffinity = "batch"
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
      x: images [batch, size, size, 3] from `normalised`.
      train: whether BatchNorm normalises with batch statistics and updates the running ones.
      mask: [batch], False for padding, see `Amend`.
      axis_name: mapped axis over which the batch is split, if any, see `Amend`.
      modes: affinities to evaluate in one pass, see `Amend`.

    Returns:
      Logits [batch, num_classes] and features [batch, (2 ceil(size / 32) - 3)^2], float32. If `modes` is given, both
      have a leading axis with one entry per mode.
    """
    settings = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    x = ResNetTrunk(18, self.width, **settings, name="trunk")(x, train=train, axis_name=axis_name)
    arm = Amend(self.block, self.affinity, self.train_affinity, **settings, name="arm")
    features = arm(x, train=train, mask=mask, axis_name=axis_name, modes=modes)
    return _dense(self, features.shape[-1], "fc")(features).astype(jnp.float32), features


class LandmarkNet(nn.Module):
  """The landmark net (Table 1): the unpadded convolutions `conv1` to `conv6`, its own `arm`, and the dense layer `fc`.

  Attributes:
    num_classes: number of classes.
    width: multiplier of the numbers of channels; 32 * width must be a whole number.
    block: side of a block in the arrangement, see `Amend`.
    kernel_sizes: sizes of the six kernels. The paper's sizes, which are the default, reduce 224 px to 7 x 7.
    affinity: see `Amend`.
    train_affinity: see `Amend`.
    dtype: dtype of the computation. Logits and features are always float32.
    param_dtype: dtype of the parameters.
  """

  num_classes: int
  width: float = 1.0
  block: int = 16
  kernel_sizes: tuple[int, ...] = (5, 3, 3, 3, 3, 4)
  affinity: Affinity = "batch"
  train_affinity: TrainAffinity = "batch"
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
    """Classifies heatmaps.

    Args:
      x: heatmaps [batch, size, size, 1] in [0, 1].
      train: whether BatchNorm normalises with batch statistics and updates the running ones.
      mask: [batch], False for padding, see `Amend`.
      axis_name: mapped axis over which the batch is split, if any, see `Amend`.
      modes: affinities to evaluate in one pass, see `Amend`.

    Returns:
      Logits [batch, num_classes] and features [batch, (2 m - 3)^2] of maps of m x m, float32. If `modes` is given, both
      have a leading axis with one entry per mode.

    Raises:
      UserError: not six kernel sizes, heatmaps that are too small for them, or a width that gives no whole numbers of
        channels.
    """
    if len(self.kernel_sizes) != len(_CHANNELS):
      raise UserError(f"kernel_sizes {self.kernel_sizes}: the landmark net has {len(_CHANNELS)} convolutions")
    size, settings = x.shape[1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
    for k, (channels, kernel_size) in enumerate(zip(_CHANNELS, self.kernel_sizes, strict=True)):
      wide = int(channels * self.width)
      if wide != channels * self.width or wide < 1:
        raise UserError(
          f"width {self.width}: {channels} * width channels must be a whole number, as with width 0.125"
        )
      if min(x.shape[1:3]) < kernel_size + (k < _POOLED):
        raise UserError(f"heatmaps of {size} px are too small for kernel_sizes {self.kernel_sizes}")
      x = nn.relu(Conv(wide, kernel_size, **settings, name=f"conv{k + 1}")(x))
      x = nn.max_pool(x, (2, 2), (2, 2)) if k < _POOLED else x
    arm = Amend(self.block, self.affinity, self.train_affinity, **settings, name="arm")
    features = arm(x, train=train, mask=mask, axis_name=axis_name, modes=modes)
    return _dense(self, features.shape[-1], "fc")(features).astype(jnp.float32), features


class LandmarkFusion(nn.Module):
  """Both nets, and the dense layer `head` over their features.

  Attributes:
    num_classes: number of classes.
    width: multiplier of the numbers of channels of both nets.
    block: side of a block in the arrangements of both nets.
    kernel_sizes: see `LandmarkNet`. Both nets must end in maps of the same size.
    confidence: whether the landmark features are weighted by p.
    agreement: whether the landmark features are weighted by w.
    affinity: affinity of both nets, see `Amend`.
    train_affinity: affinity of both nets in training, see `Amend`.
    stop_gradient_p: whether the gradient treats p as a constant.
    answer: the logits that classify: those of the head ("fused") or those of one net ("rgb", "landmark"). "sum" takes
      the mean of both nets' probabilities, which the paper found worse than the RGB net alone (section 1).
    image_size: height and width of images and heatmaps in pixels. The module itself reads none of `image_size`, `dot`
      and `cam`; `LandmarkFusionSystem` prepares its inputs with the first two, and its figures with the last.
    dot: shape of a landmark in the heatmaps, see `kernels.heatmap.draw`.
    cam: the convolution of the landmark net whose Grad-CAM++ map is drawn. The paper's footnote names the fifth, and
      also says "before the ARM block", where the sixth is.
    dtype: dtype of the computation. Logits and features are always float32.
    param_dtype: dtype of the parameters.
  """

  num_classes: Classes
  width: Width = 1.0
  block: Block = 16
  kernel_sizes: tuple[Kernel, Kernel, Kernel, Kernel, Kernel, Kernel] = (5, 3, 3, 3, 3, 4)
  confidence: bool = True
  agreement: bool = True
  affinity: Affinity = "batch"
  train_affinity: TrainAffinity = "batch"
  stop_gradient_p: bool = False
  answer: Literal["fused", "rgb", "landmark", "sum"] = "fused"
  image_size: ImageSize = 224
  dot: Literal["disc", "gaussian"] = "disc"
  cam: Literal["conv5", "conv6"] = "conv5"
  dtype: Any = None
  param_dtype: Any = jnp.float32

  def setup(self):
    """Creates both nets, whose names are part of the checkpoint format. `fuse` creates the head."""
    settings: dict[str, Any] = {"affinity": self.affinity, "train_affinity": self.train_affinity}
    settings |= {"dtype": self.dtype, "param_dtype": self.param_dtype}
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
      images: [batch, size, size, 3] from `normalised`.
      heatmaps: [batch, size, size, 1] in [0, 1].
      weight: scalar in [0, 1], the value of w where the nets disagree.
      train: names of the nets in training mode, "rgb" and "landmark". The other nets keep their running statistics.
        "head" is accepted too, and changes nothing.
      mask: [batch], False for padding, see `Amend`.
      axis_name: mapped axis over which the batch is split, if any, see `Amend`.
      modes: affinities to evaluate in one pass, see `Amend`.

    Returns:
      The outputs of both nets and the head.

    Raises:
      UserError: unknown names in `train`, nets that end in maps of different sizes, or anything `LandmarkNet` refuses.
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
    """The logits [..., num_classes] that `answer` asks for."""
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
    """The logits of the head from the logits and features of both nets.

    Args:
      rgb: logits of the RGB net, [..., num_classes].
      rgb_features: F_R, [..., features].
      landmark: logits of the landmark net, [..., num_classes].
      landmark_features: F_L, [..., features].
      weight: scalar in [0, 1], the value of w where the nets disagree.

    Returns:
      Logits [..., num_classes], float32.

    Raises:
      UserError: the nets have different numbers of features, so that their maps differ in size.
    """
    if rgb_features.shape != landmark_features.shape:
      sides = [(math.isqrt(features.shape[-1]) + 3) // 2 for features in (rgb_features, landmark_features)]
      raise UserError(
        "the RGB net ends in {0} x {0} and the landmark net in {1} x {1}: change kernel_sizes".format(*sides)
        + f" {self.kernel_sizes} or image_size"
      )
    scale = jnp.ones(landmark.shape[:-1])
    if self.confidence:
      p = nn.softmax(landmark.astype(jnp.float32)).max(-1)
      scale *= lax.stop_gradient(p) if self.stop_gradient_p else p
    if self.agreement:
      scale *= jnp.where(landmark.argmax(-1) == rgb.argmax(-1), 1.0, weight)
    both = jnp.concatenate([rgb_features, scale[..., None] * landmark_features], -1)
    return _dense(self, both.shape[-1], "head")(both).astype(jnp.float32)
