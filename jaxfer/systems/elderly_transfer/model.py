"""Paper 004's nets: a trunk that is trained on one task and carried over to the next, and a head that is not.

  net              trunk, and what is carried over                              head of classes
  resnet18, 50     `layers.resnet`, before its pooling                          mean over space -> classes
  face_resnet18,   `layers.face_resnet`, with its dense layer and last norm     the feature as it is, 512
  50                                                                            long, not normalised -> classes

Where people are told apart, a head of `layers.margin` takes the feature's direction and length; the torchvision nets
get a dense layer of 512 and a norm in between (`embedding`; our choice), which is not carried over. The
paper does not say which layers it copies; ours are those that have the same meaning in both tasks.

Pictures come as grey levels 0 to 255 in RGB; they are resized to `image_size`, brought into the order of colours and
normalised as `pictures` says, which is stored with trained weights: those of a net that saw others are refused. A
Face-ResNet of `insightface` pictures is of that family of `layers.face_resnet`, of any other pictures of AdaFace's.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import unknown
from jaxfer.layers.conv import fan_in_uniform, he_fan_out
from jaxfer.layers.face_resnet import FaceResNet, Family, unit
from jaxfer.layers.margin import HEADS
from jaxfer.layers.resnet import ResNetTrunk
from jaxfer.ranges import Classes, ImageSize, Width

Net = Literal["resnet18", "resnet50", "face_resnet18", "face_resnet50"]
Head = Literal["classes", "softmax", "cosface", "arcface", "adaface"]
Pictures = Literal["", "imagenet", "adaface", "insightface"]

_HALVES = {"mean": [0.5] * 3, "std": [0.5] * 3}
# Mean and deviation are of the channels in that order, for values of 0 to 1.
PICTURES: Mapping[str, Mapping[str, Any]] = {
  "imagenet": {"colour_order": "RGB", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
  "adaface": {"colour_order": "BGR", **_HALVES},
  "insightface": {"colour_order": "RGB", **_HALVES},
}


class _Embedding(nn.Module):
  """[batch, n] -> [batch, features], float32: a dense layer, and BatchNorm without scale and bias."""

  features: int
  param_dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None) -> jax.Array:
    x = nn.Dense(self.features, kernel_init=he_fan_out, param_dtype=self.param_dtype, name="fc")(x)
    norm = nn.BatchNorm(
      not train,
      momentum=0.9,
      epsilon=1e-5,
      use_scale=False,
      use_bias=False,
      axis_name=axis_name if train else None,
      name="features",
    )
    return norm(x)


class _FaceNet(nn.Module):
  """What `FaceClassifier` and `FaceFeature` share.

  Attributes:
    num_classes: of expressions, objects or people.
    net: see the file's docstring.
    head: "classes", a dense layer; or one of `layers.margin`, to tell people apart.
    width: factor on all channels and on the length of the feature; 64 times it must be a whole number.
    image_size: side of the pictures that the trunk sees.
    pictures: a key of `PICTURES`; "" takes "imagenet" for torchvision's nets and "adaface" for the others.
    dtype: of the computation; norms' statistics, features and logits are float32.
    param_dtype: of kernels, biases and slopes.
  """

  num_classes: Classes
  net: Net = "resnet18"
  head: Head = "classes"
  width: Width = 1.0
  image_size: ImageSize = 112
  pictures: Pictures = ""
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @property
  def seen(self) -> Mapping[str, Any]:
    """What the trunk's pictures are: "colour_order", "mean", "std", "input_size".

    Raises:
      UserError: an attribute that does not exist.
    """
    for name, kind in (("net", Net), ("head", Head), ("pictures", Pictures)):
      if getattr(self, name) not in get_args(kind):
        raise unknown(f"value of model.{name}", getattr(self, name), get_args(kind))
    face = self.net.startswith("face_")
    return {
      **PICTURES[self.pictures or ("adaface" if face else "imagenet")],
      "input_size": self.image_size,
    }

  @property
  def parts(self) -> tuple[str, ...]:
    """Names of the submodules."""
    embedded = self.head != "classes" and not self.net.startswith("face_")
    return ("trunk", "embedding", "head") if embedded else ("trunk", "head")

  def normalised(self, images: jax.Array) -> jax.Array:
    """Grey levels [..., 3] 0 to 255, RGB, as the trunk takes them."""
    seen = self.seen
    if seen["colour_order"] == "BGR":
      images = images[..., ::-1]
    return (images / 255 - jnp.asarray(seen["mean"])) / jnp.asarray(seen["std"])

  def _feature(self, x: jax.Array, train: bool, keys: jax.Array | None, axis_name: str | None) -> jax.Array:
    """What the head reads, [batch, features], float32; for the compact method."""
    depth = int(self.net[-2:])
    settings: dict[str, Any] = {"width": self.width, "dtype": self.dtype, "param_dtype": self.param_dtype}
    if self.net.startswith("face_"):
      family: Family = "insightface" if self.pictures == "insightface" else "adaface"
      face = FaceResNet(depth, family, image_size=self.image_size, **settings, name="trunk")
      return face(x, train=train, keys=keys, axis_name=axis_name)
    maps = ResNetTrunk(depth, **settings, name="trunk")(x, train=train, axis_name=axis_name)
    feature = maps.astype(jnp.float32).mean((1, 2))
    if "embedding" not in self.parts:
      return feature
    embedding = _Embedding(int(512 * self.width), self.param_dtype, name="embedding")
    return embedding(feature, train=train, axis_name=axis_name)


class FaceClassifier(_FaceNet):
  """A trunk that is carried from task to task, and a head of classes or people; attributes as of `_FaceNet`."""

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    label: jax.Array | None = None,
    *,
    train: bool = False,
    keys: jax.Array | None = None,
    axis_name: str | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Maps normalised pictures to logits.

    Args:
      x: [batch, image_size, image_size, 3], see `normalised`.
      label: int [batch], for the margin of a head that has one; None for no margin.
      train: whether norms take the batch's statistics and update the running ones, and units are dropped.
      keys: [batch] typed keys, for dropout in training.
      axis_name: mapped axis over which the batch lies, if any.

    Returns:
      Logits to be trained by, and logits without a margin, which predict; [batch, num_classes] each, float32.
    """
    feature = self._feature(x, train, keys, axis_name)
    if self.head == "classes":
      uniform = fan_in_uniform(feature.shape[-1])
      dense = nn.Dense(
        self.num_classes, param_dtype=self.param_dtype, kernel_init=uniform, bias_init=uniform, name="head"
      )
      logits = dense(feature)
      return logits, logits
    head = HEADS[self.head](self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="head")
    pair: tuple[jax.Array, jax.Array] = head(*unit(feature), label, train=train, axis_name=axis_name)
    return pair


class FaceFeature(_FaceNet):
  """The same net without its head: normalised pictures to features [batch, features], not normalised, float32."""

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """See `FaceClassifier.__call__`."""
    return self._feature(x, train, None, None)
