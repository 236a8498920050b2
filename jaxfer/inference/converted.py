"""Weights of `jaxfer convert`, and the features of faces that a face model computes."""

import dataclasses
import functools
import math
import pathlib
import warnings
from collections.abc import Callable
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
from jaxfer.train.weights import load_weights

BATCH = 64  # Images per batch in the authors' tests of ARM, whose outputs depend on it.

# What a model's pictures must be; nothing is guessed: a wrong order of colours costs accuracy without a word.
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
    label_names: of the logits, in order; None where the source does not say, and of a face net.
    meta: where the weights come from and what pictures they expect, see `convert.importers.variables_of`.
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
    """Number of columns of `predict_proba`; raises `UserError` for a face net."""
    self._check_classifier()
    return self._shape[-1]

  def probabilities(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Softmax of the logits.

    An ARM whose affinity is the mean over the batch at hand takes each image's own affinity here, as if it came alone.
    `frozen` gives it the mean over a set of images instead.
    """
    self._check_classifier()
    images = arrays["image"]
    padded, _ = _padded(
      images, min(self.batch, 1 << (len(images) - 1).bit_length())
    )  # Few sizes are compiled.
    return np.asarray(self._probabilities(self.variables, padded))[: len(images)]

  def program(self, variables: Any, image: jax.Array) -> jax.Array:
    """The probabilities [batch, classes] of images, uint8 [batch, size, size, 3]; a pure function for `jax.jit`."""
    affinity = getattr(self.model, "affinity", "")
    frozen = self._arm and is_written(self.variables["affinity"]["arm"], "frozen")
    affinity = {"batch": "frozen" if frozen else "alone"}.get(affinity, affinity)
    return nn.softmax(self._apply(affinity, variables, image, None)[0].astype(jnp.float32))

  def outputs(self, images: np.ndarray) -> np.ndarray:
    """Computes logits; a face net computes features, from which faces are told apart.

    Classifiers resize bilinearly (Pillow's, as the recipe does). A face net reads an aligned face of exactly its
    input size, 112 px in the published ones, and its features are not normalised: `layers.face_resnet.unit` splits
    them into direction and length. Channels are put into the order that the model was trained with, and normalised.
    Pictures are taken in batches of 64 in the order given, as in the authors' tests. Affinity `batch` of ARM, the
    released code's, reads the batch-mates: one picture's logits depend on those that come with it and on their order;
    the last batch holds what is left over. `frozen` removes that, and `predict_proba` never depends on it; a batch that
    holds one picture is answered with a warning. So are pictures that are not square, which the resizing distorts.

    Args:
      images: uint8 [n, height, width, 3], RGB.

    Returns:
      Logits [n, num_classes] or features [n, features], float32, on the host.

    Raises:
      UserError: pictures of another type or layout; for a face net, of another size.
    """
    self._check(images)
    if self._arm and getattr(self.model, "affinity", "") == "batch" and len(images) % BATCH == 1:
      warnings.warn(
        "a batch of one picture: its affinity is its own instead of a mean over a batch, as in training; give more "
        "pictures, or classify with `.frozen(training pictures)`",
        stacklevel=2,
      )
    if not len(images):
      return np.zeros((0, *self._shape[1:]), np.float32)
    return self._over_batches(images, 0)

  def frozen(self, images: np.ndarray) -> "Converted":
    """An ARM whose affinity is the mean over `images`, such as its training set, whatever it is then given.

    The logits are not those of affinity `batch`; in exchange one picture alone can be classified.

    Args:
      images: uint8 [n, height, width, 3], RGB, n at least 1.

    Raises:
      UserError: pictures of another type or layout, or none; a model without an affinity.
    """
    if not self._arm:
      raise UserError(
        f"{self.meta['model']} has no affinity: its predictions never depend on their batch-mates"
      )
    self._check(images)
    if not len(images):
      raise UserError("no pictures to take the affinity from: give the training set, or a part of it")
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
    """(variables, uint8 pictures, mask) -> (logits, each picture's own features: nothing of the affinity in them)."""
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
    """Mean and standard deviation are of the channels in the model's order."""
    mean, std = (jnp.asarray(self.meta[name], jnp.float32) for name in ("mean", "std"))
    if self.meta["colour_order"] == "BGR":
      x = x[..., ::-1]
    return (x.astype(jnp.float32) / 255 - mean) / std

  def _check_classifier(self) -> None:
    if self.meta["output"] == "embedding":
      raise UserError(
        f"{self.meta['model']} is a face net without classes: take .outputs(images), the features of aligned faces, or "
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
    """One of the outputs, [n, ...], of batches in order, the last one filled up with masked zeros."""
    results = []
    batch = min(BATCH, len(images))
    for start in range(0, len(images), batch):
      part = resize(images[start : start + batch], self.input_spec)
      padded, mask = _padded(part, batch)
      results.append(np.asarray(self._outputs(self.variables, padded, mask)[output])[: len(part)])
    return np.concatenate(results)


def _padded(array: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """`array` [n, ...] filled up with zeros to [count, ...], and a mask [count] that is True for its rows."""
  padded = np.zeros((count, *array.shape[1:]), array.dtype)
  padded[: len(array)] = array
  return padded, np.arange(count) < len(array)


def converted(folder: str | pathlib.Path, variables: dict[str, Any], meta: dict[str, Any]) -> Converted:
  """Builds the model of a folder that `jaxfer convert` wrote.

  Args:
    folder: for messages.
    variables: of `load_weights`.
    meta: of `load_weights`.

  Raises:
    UserError: the model is not known, or the weights are not those of the model that they name.
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

  For a trained model, `outputs` returns the input of its head: the feature of a Face-ResNet, or for a ResNet the
  embedding, or the mean of the last maps over space if it has no embedding. Images must have the size that the model
  was trained on.

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
  """The model as the config of a training has it; {} where the weights are of no training."""
  return _dict(_dict(meta.get("config")).get("model"))


def _dict(value: Any) -> dict[str, Any]:
  return value if isinstance(value, dict) else {}


def _model(
  folder: str | pathlib.Path, kind: type[nn.Module], attributes: Any, variables: dict[str, Any], size: int
) -> nn.Module:
  """Builds the model, and compares the shapes of its variables with those given."""
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  try:
    model = kind(**attributes)
    fresh = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
  except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, UserError) as error:
    said = " ".join(str(error).split())[:100]
    raise UserError(
      f"{folder} says attributes {attributes!r}: {kind.__name__} cannot be built ({said})"
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
        f"{folder} says {name} {meta.get(name)!r}: convert the weights again with this version, or train anew"
      )
