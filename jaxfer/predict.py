"""Converted weights at work: `jaxfer.load(FOLDER).predict(images)`."""

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
from PIL import Image

from jaxfer.convert.importers import MODELS
from jaxfer.errors import UserError
from jaxfer.layers.amend import flagged, freeze
from jaxfer.systems.elderly_transfer.model import FaceFeature
from jaxfer.train.weights import load_weights

BATCH = 64  # Of the authors' tests of ARM, whose predictions depend on it.

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
class Loaded:
  """A trained model and what belongs to it.

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

  def predict(self, images: np.ndarray) -> np.ndarray:
    """Classifies pictures; a face net gives their features instead, from which faces are told apart.

    Classifiers resize bilinearly (Pillow's, as the recipe does). A face net reads an aligned face of exactly its
    input size, 112 px in the published ones, and its features are not normalised: `layers.face_resnet.unit` splits
    them into direction and length. Channels are put into the order that the model was trained with, and normalised.
    Pictures are taken in batches of 64 in the order given. Affinity `batch` of ARM, the released code's, reads the
    batch-mates: one picture's logits depend on those that come with it and on their order; the last batch holds what
    is left over. `frozen` removes that; a batch that holds one picture is answered with a warning. So are pictures that
    are not square, which the resizing distorts.

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
      size = self.meta["input_size"]
      shape, _ = jax.eval_shape(self._outputs, self.variables, np.zeros((1, size, size, 3)), np.ones(1, bool))
      return np.zeros((0, *shape.shape[1:]), np.float32)
    return self._over_batches(images, 0)

  def frozen(self, images: np.ndarray) -> "Loaded":
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
  def _outputs(self) -> Any:
    """(variables, uint8 pictures, mask) -> (logits, each picture's own features: nothing of the affinity in them)."""

    @jax.jit
    def outputs(variables: Any, x: jax.Array, mask: jax.Array) -> Any:
      x = self._normalised(x)
      if not self._arm:
        return self.model.apply(variables, x, train=False), ()
      modes = self.model.affinity, "none"
      both: Any = self.model.apply(variables, x, train=False, mask=mask, modes=modes)
      logits, features = both
      return logits[0], features[1]

    return outputs

  def _normalised(self, x: jax.Array) -> jax.Array:
    """Mean and standard deviation are of the channels in the model's order."""
    mean, std = (jnp.asarray(self.meta[name], jnp.float32) for name in ("mean", "std"))
    if self.meta["colour_order"] == "BGR":
      x = x[..., ::-1]
    return (x.astype(jnp.float32) / 255 - mean) / std

  def _check(self, images: np.ndarray) -> None:
    _check(images)
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
    size, results = self.meta["input_size"], []
    batch = min(BATCH, len(images))
    for start in range(0, len(images), batch):
      part = images[start : start + batch]
      x = np.zeros((batch, size, size, 3), np.uint8)
      for row, image in enumerate(part):
        x[row] = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
      mask = np.arange(batch) < len(part)
      results.append(np.asarray(self._outputs(self.variables, x, mask)[output])[: len(part)])
    return np.concatenate(results)


def _check(images: np.ndarray) -> None:
  """Refuses everything but uint8 [n, height, width, 3]."""
  fix = "give RGB pictures, uint8 [n, height, width, 3]"
  if not isinstance(images, np.ndarray):
    raise UserError(f"images is a {type(images).__name__}: {fix} in one numpy array")
  if images.dtype != np.uint8:
    raise UserError(f"images is an array of {images.dtype}: {fix}, 0 to 255")
  if images.ndim == 4 and images.shape[1] == 3 != images.shape[3]:
    raise UserError(f"images has shape {list(images.shape)}, channels first: {fix}")
  if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
    raise UserError(f"images has shape {list(images.shape)}: {fix}; repeat a grey channel three times")


def load(folder: str | pathlib.Path) -> Loaded:
  """Reads a folder that `jaxfer convert` wrote.

  Raises:
    UserError: a file is missing, damaged, or of a model that is not known; the weights hold NaN, or are not those of
      the model that they name.
  """
  variables, meta = load_weights(pathlib.Path(folder))
  variables = flagged(variables)
  kind = meta.get("model")
  if not isinstance(kind, str) or kind not in MODELS:
    named = kind or _trained(meta).get("name")
    raise UserError(f"{folder} holds weights of {named!r}: jaxfer.load reads {', '.join(MODELS)}")
  _check_meta(folder, meta)
  model = _model(folder, MODELS[kind], meta.get("attributes"), variables, meta["input_size"])
  names = meta.get("label_names")
  if names and len(names) != getattr(model, "num_classes", None):
    raise UserError(
      f"{folder} names {len(names)} classes, and its model has another number: convert them again"
    )
  return Loaded(model, variables, tuple(names) if names else None, meta)


def load_face_net(folder: str | pathlib.Path) -> Loaded:
  """Loads a model that computes features of faces: converted weights, or a trained `face_classifier`.

  For a trained model, `predict` returns the input of its head: the feature of a Face-ResNet, or for a ResNet the
  embedding, or the mean of the last maps over space if it has no embedding. Images must have the size that the model
  was trained on.

  Args:
    folder: the output of `jaxfer convert`, the `weights` of a run, or `sources/NAME/weights/TRAINING` of a study.

  Raises:
    UserError: as for `load`.
  """
  variables, meta = load_weights(pathlib.Path(folder))
  trained = _trained(meta)
  if trained.get("name") != "face_classifier":
    return load(folder)
  meta = {**meta, "model": "face_classifier", "output": "embedding"}
  _check_meta(folder, meta)
  attributes = {"num_classes": len(meta.get("label_names") or ()), **_dict(trained.get("options"))}
  kept = {c: {name: tree[name] for name in tree if name != "head"} for c, tree in variables.items()}
  model = _model(folder, FaceFeature, attributes, kept, meta["input_size"])
  return Loaded(model, kept, None, meta)


def _trained(meta: dict[str, Any]) -> dict[str, Any]:
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
