"""Prediction with weights from `jaxfer convert`, and face networks, which compute features of faces."""

import dataclasses
import functools
import math
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxfer.convert.importers import MODELS
from jaxfer.errors import UserError
from jaxfer.inference.predictor import InputSpec, Predictor, check_images, resize
from jaxfer.layers.amend import flagged, freeze, is_written
from jaxfer.systems.elderly_transfer.model import FaceFeature
from jaxfer.systems.explanation import ClassMaps
from jaxfer.train.stage import Batch
from jaxfer.train.weights import load_weights

BATCH = 64  # Images per batch in the authors' tests of ARM, whose outputs depend on it.

# Required metadata and their checks. Nothing is guessed, because a wrong colour order would silently cost accuracy.
_META: dict[str, Callable[[Any], bool]] = {
  "colour_order": lambda value: value in ("RGB", "BGR"),
  "mean": lambda value: _three_numbers(value),
  "std": lambda value: _three_numbers(value) and min(value) > 0,
  "input_size": lambda value: type(value) is int and value > 0,
  "output": lambda value: value in ("logits", "embedding"),
  "label_names": lambda value: value is None or _texts(value),
}


def _three_numbers(value: Any) -> bool:
  return (
    isinstance(value, list)
    and len(value) == 3
    and all(type(v) in (int, float) and math.isfinite(v) for v in value)
  )


def _texts(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(text, str) for text in value)


@dataclasses.dataclass(frozen=True, eq=False)
class Converted(Predictor):
  """A model with converted weights.

  Attributes:
    model: the Flax module.
    variables: its collections.
    label_names: names of the classes, in the order of the logits; None for a face network, or if the source of the
      weights does not name them.
    meta: the source of the weights and the preprocessing of the images, see `convert.importers.variables_of`.
  """

  model: nn.Module
  variables: dict[str, Any]
  label_names: tuple[str, ...] | None
  meta: dict[str, Any]

  @property
  def input_spec(self) -> InputSpec:  # type: ignore[override]
    """The inputs of the model. The published recipes resize bilinearly."""
    return InputSpec("image", (self.meta["input_size"],) * 2 + (3,), resample="bilinear")

  @property
  def num_classes(self) -> int:
    """Number of columns of `predict_proba`; raises `UserError` for a face network."""
    self._check_classifier()
    return self._shape[-1]

  def probabilities(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the softmax of the logits.

    An ARM with affinity `batch` uses the affinity of each image alone here, as in a batch of one. `frozen` makes it use
    the mean over a set of images instead.
    """
    self._check_classifier()
    images = arrays["image"]
    padded, _ = _padded(
      images, min(self.batch, 1 << (len(images) - 1).bit_length())
    )  # Few sizes are compiled.
    return np.asarray(self._probabilities(self.variables, padded))[: len(images)]

  def program(self, variables: Any, image: jax.Array) -> jax.Array:
    """Computes probabilities [batch, classes] of images uint8 [batch, size, size, 3]. A pure function for `jax.jit`."""
    return nn.softmax(self._logits_alone(variables, image).astype(jnp.float32))

  def explanation(self, layer: str | None = None) -> ClassMaps:
    """See `Predictor`. For an ARM, the default layer is the trunk, whose last layer is layer4."""
    self._check_classifier()
    names = self.label_names or tuple(map(str, range(self.num_classes)))
    trunk, part = ("trunk", "trunk") if self._arm else (None, "")
    return ClassMaps(
      lambda batch: self._logits_alone(self.variables, batch["image"]), names, layer, trunk, part=part
    )

  def eval_batch(self, arrays: Mapping[str, Any]) -> Batch:
    """See `Predictor`."""
    return {"image": jnp.asarray(arrays["image"])}

  def _logits_alone(self, variables: Any, image: jax.Array) -> jax.Array:
    """Computes logits that do not depend on the other images of the batch."""
    affinity = getattr(self.model, "affinity", "")
    frozen = self._arm and is_written(self.variables["affinity"]["arm"], "frozen")
    affinity = {"batch": "frozen" if frozen else "alone"}.get(affinity, affinity)
    return self._apply(affinity, variables, image, None)[0]

  def outputs(self, images: np.ndarray) -> np.ndarray:
    """Computes the logits of a classifier, or the features with which a face network distinguishes faces.

    Classifiers resize images bilinearly with Pillow, as in the published recipe. A face network needs aligned faces of
    exactly its input size, 112 pixels for the published ones. Its features are not normalised:
    `layers.face_resnet.unit` splits them into direction and length. Channels are reordered and normalised as in the
    model's training.

    Images are processed in batches of 64 in the given order, as in the authors' tests. The last batch may be smaller.
    With affinity `batch`, which the released code of ARM uses, the logits of an image depend on the other images of its
    batch. After `frozen` they do not, and `predict_proba` never depends on other images. A batch with a single image
    causes a warning, and so do images that are not square, because resizing distorts them.

    Args:
      images: uint8 [n, height, width, 3], RGB.

    Returns:
      Logits [n, num_classes] or features [n, features], float32, on the host.

    Raises:
      UserError: the images have another type or layout, or for a face network another size.
    """
    self._check(images)
    if self._arm and getattr(self.model, "affinity", "") == "batch" and len(images) % BATCH == 1:
      warnings.warn(
        "a batch of one picture: the affinity is not a mean over a batch, as in training, but its own; give more "
        "pictures, or classify with `.frozen(training pictures)`",
        stacklevel=2,
      )
    if not len(images):
      return np.zeros((0, *self._shape[1:]), np.float32)
    return self._over_batches(images, 0)

  def frozen(self, images: np.ndarray) -> "Converted":
    """Returns an ARM that always uses the mean affinity over `images`, for example over its training set.

    Its logits differ from those of affinity `batch`, but they do not depend on the other images of a batch, so that
    single images can be classified.

    Args:
      images: uint8 [n, height, width, 3], RGB, n at least 1.

    Raises:
      UserError: there are no images, they have another type or layout, or the model has no affinity.
    """
    if not self._arm:
      raise UserError(
        f"{self.meta['model']} has no affinity: its predictions never depend on the other images of a batch"
      )
    self._check(images)
    if not len(images):
      raise UserError(
        "there are no images from which to compute the affinity: give the training set, or a part of it"
      )
    generic = self._over_batches(images, 1).mean(0, np.float64).astype(np.float32)
    variables = freeze(self.variables, {"arm": generic})
    return dataclasses.replace(self, model=self.model.clone(affinity="frozen"), variables=variables)

  @property
  def _arm(self) -> bool:
    return "affinity" in self.variables

  @functools.cached_property
  def _shape(self) -> tuple[int, ...]:
    """Shape of the outputs for one image."""
    size = self.meta["input_size"]
    shape, _ = jax.eval_shape(self._outputs, self.variables, np.zeros((1, size, size, 3)), np.ones(1, bool))
    return shape.shape

  @functools.cached_property
  def _outputs(self) -> Any:
    """Function (variables, uint8 images, mask) -> (logits, features of each image without the affinity)."""
    return jax.jit(functools.partial(self._apply, getattr(self.model, "affinity", "")))

  @functools.cached_property
  def _probabilities(self) -> Any:
    return jax.jit(self.program)

  def _apply(self, affinity: str, variables: Any, x: jax.Array, mask: jax.Array | None) -> Any:
    x = self._normalised(x)
    if not self._arm:
      return self.model.apply(variables, x, train=False), ()
    both: Any = self.model.apply(variables, x, train=False, mask=mask, modes=(affinity, "none"))
    logits, features = both
    return logits[0], features[1]

  def _normalised(self, x: jax.Array) -> jax.Array:
    """Normalises images. The mean and standard deviation are in the model's order of channels."""
    mean, std = (jnp.asarray(self.meta[name], jnp.float32) for name in ("mean", "std"))
    if self.meta["colour_order"] == "BGR":
      x = x[..., ::-1]
    return (x.astype(jnp.float32) / 255 - mean) / std

  def _check_classifier(self) -> None:
    if self.meta["output"] == "embedding":
      raise UserError(
        f"{self.meta['model']} is a face network without classes: use .outputs(images), features of aligned faces, or "
        "`jaxfer verify`"
      )

  def _check(self, images: np.ndarray) -> None:
    check_images(images, self.input_spec)
    size = self.meta["input_size"]
    if self.meta["output"] == "embedding" and images.shape[1:3] != (size, size):
      raise UserError(
        f"images are of {images.shape[1]} x {images.shape[2]} pixels: {self.meta['model']} takes faces aligned to "
        f"{size} x {size}"
      )
    if len(images) and images.shape[1] != images.shape[2]:
      warnings.warn(
        f"images are of {images.shape[1]} x {images.shape[2]} pixels: they are distorted to {size} x {size}; crop them "
        "to squares",
        stacklevel=3,
      )

  def _over_batches(self, images: np.ndarray, output: int) -> np.ndarray:
    """Computes one of the outputs, [n, ...], in batches; the last batch is padded with masked zeros."""
    results = []
    batch = min(BATCH, len(images))
    for start in range(0, len(images), batch):
      part = resize(images[start : start + batch], self.input_spec)
      padded, mask = _padded(part, batch)
      results.append(np.asarray(self._outputs(self.variables, padded, mask)[output])[: len(part)])
    return np.concatenate(results)


def _padded(array: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns `array` [n, ...] padded with zeros to [count, ...], and a mask [count] that is True for its rows."""
  padded = np.zeros((count, *array.shape[1:]), array.dtype)
  padded[: len(array)] = array
  return padded, np.arange(count) < len(array)


def converted(folder: str | pathlib.Path, variables: dict[str, Any], meta: dict[str, Any]) -> Converted:
  """Builds the model of a folder that `jaxfer convert` wrote.

  Args:
    folder: folder of the weights, for error messages.
    variables: variables returned by `load_weights`.
    meta: metadata returned by `load_weights`.

  Raises:
    UserError: the model is unknown, or the weights do not fit the model that the metadata name.
  """
  variables = flagged(variables)
  kind = meta.get("model")
  if not isinstance(kind, str) or kind not in MODELS:
    named = kind or trained_model(meta).get("name")
    raise UserError(f"{folder} holds weights of {named!r}: converted weights are of {', '.join(MODELS)}")
  _check_meta(folder, meta)
  model = _model(folder, MODELS[kind], meta.get("attributes"), variables, meta["input_size"])
  names = meta.get("label_names")
  if names and len(names) != getattr(model, "num_classes", None):
    raise UserError(
      f"{folder} names {len(names)} classes, and its model has another number: convert them again"
    )
  return Converted(model, variables, tuple(names) if names else None, meta)


def load_face_net(folder: str | pathlib.Path) -> Converted:
  """Loads a model that computes features of faces: converted weights, or a trained `face_classifier`.

  For a trained model, `outputs` returns the input of the classification head. This is the feature of a Face-ResNet, and
  for a ResNet the embedding or, if it has none, the spatial mean of the last feature maps. Images must have the size
  that the model was trained on.

  Args:
    folder: the output of `jaxfer convert`, the `weights` of a run, or `sources/NAME/weights/TRAINING` of a study.

  Raises:
    UserError: as for `converted`, and `load_weights`.
  """
  variables, meta = load_weights(pathlib.Path(folder))
  trained = trained_model(meta)
  if trained.get("name") != "face_classifier":
    return converted(folder, variables, meta)
  meta = {**meta, "model": "face_classifier", "output": "embedding"}
  _check_meta(folder, meta)
  attributes = {"num_classes": len(meta.get("label_names") or ()), **_dict(trained.get("options"))}
  kept = {c: {name: tree[name] for name in tree if name != "head"} for c, tree in variables.items()}
  model = _model(folder, FaceFeature, attributes, kept, meta["input_size"])
  return Converted(model, kept, None, meta)


def trained_model(meta: dict[str, Any]) -> dict[str, Any]:
  """Returns the model of the training's config; {} if the weights do not come from a training."""
  return _dict(_dict(meta.get("config")).get("model"))


def _dict(value: Any) -> dict[str, Any]:
  return value if isinstance(value, dict) else {}


def _model(
  folder: str | pathlib.Path, kind: type[nn.Module], attributes: Any, variables: dict[str, Any], size: int
) -> nn.Module:
  """Builds the model, and checks that the given variables have the shapes that it needs."""
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  try:
    model = kind(**attributes)
    fresh = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
  except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, UserError) as error:
    said = " ".join(str(error).split())[:100]
    raise UserError(
      f"{folder} gives the attributes {attributes!r}: {kind.__name__} cannot be built ({said})"
    ) from None
  want, have = (
    {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()}
    for tree in (fresh, variables)
  )
  differing = sorted(path for path in {*want, *have} if want.get(path) != have.get(path))
  if differing:
    raise UserError(
      f"{folder} holds other weights than its {kind.__name__} needs: {len(differing)} arrays differ, such as "
      f"{differing[0]}: {have.get(differing[0])} for {want.get(differing[0])}; convert the weights again"
    )
  return model


def _check_meta(folder: str | pathlib.Path, meta: dict[str, Any]) -> None:
  for name, known in _META.items():
    if not known(meta.get(name)):
      raise UserError(
        f"{folder} gives {name} {meta.get(name)!r}: convert the weights again with this version, or train again"
      )
