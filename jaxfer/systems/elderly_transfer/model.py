"""Paper 004's models: a trunk, which is transferred from one task to the next, and a head, which is not.

  net                          trunk (transferred)                        input of the head "classes"
  resnet18, resnet50           `layers.resnet` without its pooling        mean of the last maps over space
  face_resnet18,               `layers.face_resnet`, including its        the feature of 512 values, not
  face_resnet50                dense layer and last normalisation         normalised to length 1

A model that identifies people has a head of `layers.margin`, which reads the direction and the length of the feature.
In `resnet18` and `resnet50` a dense layer of 512 units and a normalisation (`embedding`) are between trunk and head.
They are our choice and are not transferred. The paper does not say which layers it copies. We transfer those that have
the same meaning in both tasks (README, section 3).

Images are RGB with values from 0 to 255. They are resized to `image_size`, and the attribute `pictures` sets their
colour order and normalisation. Both are stored with trained weights, and weights are refused by a model whose images
differ. Only the size may differ in a ResNet, which pools globally. `pictures` also sets the family of a Face-ResNet
(see `layers.face_resnet`): "insightface" for "insightface", and "adaface" for anything else.
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
# Means and standard deviations are those of the channels in the given order, for values between 0 and 1.
PICTURES: Mapping[str, Mapping[str, Any]] = {
  "imagenet": {"colour_order": "RGB", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
  "adaface": {"colour_order": "BGR", **_HALVES},
  "insightface": {"colour_order": "RGB", **_HALVES},
}


class _Embedding(nn.Module):
  """Maps [batch, n] to [batch, features], float32: a dense layer, then BatchNorm without scale and bias."""

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
  """The attributes and the trunk that `FaceClassifier` and `FaceFeature` share.

  Attributes:
    num_classes: number of classes: expressions, objects or people.
    net: architecture of the trunk; see the module's docstring.
    head: "classes" for a dense layer, or the name of a head in `layers.margin`, for identifying people.
    width: factor on the number of channels and on the length of the feature; 64 * width must be a whole number.
    image_size: height and width of the images that the trunk reads.
    pictures: colour order and normalisation of the images, a key of `PICTURES`. "" selects "imagenet" for `resnet18`
      and `resnet50`, and "adaface" for the others.
    dtype: dtype of the computation. Statistics of normalisations, features and logits are always float32.
    param_dtype: dtype of kernels, biases and slopes.
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
    """The images that the trunk reads, see `System.input_spec`: "colour_order", "mean", "std" and "input_size".

    Raises:
      UserError: `net`, `head` or `pictures` has an unknown value.
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
    """Names of the submodules of `FaceClassifier`."""
    embedded = self.head != "classes" and not self.net.startswith("face_")
    return ("trunk", "embedding", "head") if embedded else ("trunk", "head")

  def normalised(self, images: jax.Array) -> jax.Array:
    """Converts RGB images [..., 3] with values from 0 to 255 to the trunk's colour order and normalisation."""
    spec = self.seen
    if spec["colour_order"] == "BGR":
      images = images[..., ::-1]
    return (images / 255 - jnp.asarray(spec["mean"])) / jnp.asarray(spec["std"])

  def _feature(self, x: jax.Array, train: bool, keys: jax.Array | None, axis_name: str | None) -> jax.Array:
    """The input of the head, [batch, features], float32. It makes submodules, so call it in a compact method."""
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
  """A trunk and a head that classifies expressions, objects or people.

  The attributes are those of `_FaceNet`.
  """

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
    """Maps images to logits.

    Args:
      x: [batch, image_size, image_size, 3], the result of `normalised`.
      label: int [batch], the true classes, whose logits a margin head changes; None for no margin.
      train: whether normalisations use the batch's statistics and update the running ones, and dropout is active.
      keys: [batch] typed keys for dropout, one per example; needed only in training.
      axis_name: name of the mapped axis that the batch is split over, if any.

    Returns:
      Logits with the margin, for the loss, and logits without it, for predictions. Both are float32
      [batch, num_classes]; without a margin they are equal.
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
  """`FaceClassifier` without its head. It returns features [batch, features], float32, not of length 1."""

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps images to features; arguments as for `FaceClassifier.__call__`."""
    return self._feature(x, train, None, None)
