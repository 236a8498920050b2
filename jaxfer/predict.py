"""Converted weights at work: `jaxfer.load(FOLDER).predict(images)`."""

import dataclasses
import functools
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxfer.convert.importers import MODELS
from jaxfer.errors import UserError
from jaxfer.layers.amend import freeze
from jaxfer.train.weights import load_weights

BATCH = 64  # Of the authors' tests of ARM, whose predictions depend on it.


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
  """A trained model and what belongs to it.

  Attributes:
    model: the Flax module.
    variables: its collections.
    label_names: of the logits, in order; None where the source does not say.
    meta: where the weights come from and what pictures they expect, see `convert.importers.variables_of`.
  """

  model: nn.Module
  variables: dict[str, Any]
  label_names: tuple[str, ...] | None
  meta: dict[str, Any]

  def predict(self, images: np.ndarray) -> np.ndarray:
    """Classifies pictures.

    They are resized bilinearly (Pillow's, as the recipe does), normalised, and taken in batches of 64 in the order
    given. Affinity `batch` of ARM, the released code's, reads the batch-mates: one picture's logits depend on those
    that come with it and on their order; the last batch holds what is left over. `frozen` removes that.

    Args:
      images: uint8 [n, height, width, 3], RGB.

    Returns:
      Logits, float32 [n, num_classes], on the host.

    Raises:
      UserError: pictures of another type or layout.
    """
    _check(images)
    if not len(images):
      return np.zeros((0, self.meta["attributes"]["num_classes"]), np.float32)
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
    _check(images)
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
    mean, std = (jnp.asarray(self.meta[name], jnp.float32) for name in ("mean", "std"))
    return (x.astype(jnp.float32) / 255 - mean) / std

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
    UserError: a file is missing, damaged, or of a model that is not known.
  """
  variables, meta = load_weights(pathlib.Path(folder))
  if meta.get("model") not in MODELS:
    raise UserError(f"{folder} holds weights of {meta.get('model')!r}: jaxfer.load reads {', '.join(MODELS)}")
  model = MODELS[meta["model"]](**meta["attributes"])
  names = meta["label_names"]
  return Loaded(model, variables, tuple(names) if names else None, meta)
