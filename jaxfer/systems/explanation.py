"""Drawings of `jaxfer explain` for given faces: the base class, and maps of the predicted class."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.errors import UserError, unknown
from jaxfer.explain import grad_cam
from jaxfer.report import cams
from jaxfer.train.stage import Batch


class Explanation:
  """A way to show what a model looks at, or what it has learned, on given faces.

  Attributes:
    kind: kind of the model's inputs: "image" for faces, "sequence" for clips.
    most: maximum number of faces that are drawn at a time.
    least: minimum number of faces.
    together: whether the faces of all files are drawn together. Otherwise, each file gets a page.
    note: a line for the user, such as a part of the model that is not shown; "" for none.
  """

  kind: Literal["image", "sequence"] = "image"
  most: int = 6
  least: int = 1
  together: bool = False
  note: str = ""

  def draw(
    self, crops: np.ndarray, batch: Batch, names: Sequence[str], target: pathlib.Path, title: str
  ) -> Sequence[tuple[pathlib.Path, int]]:
    """Draws faces.

    Args:
      crops: uint8 [n, S, S, channels], or [n, T, S, S, 3] for clips; `least` <= n <= `most`.
      batch: the batch of `System.eval_batch` for these faces. It is padded to `most` rows.
      names: [n] names of the faces.
      target: the PNG; if `together`, the folder.
      title: first line of the title.

    Returns:
      The files that were written, each with the number of faces in it.
    """
    raise NotImplementedError


def no_layers(layer: str, shown: str) -> UserError:
  """Returns the error for a layer that a user names, although what is shown belongs to no layer."""
  return UserError(f"layer '{layer}': this model is explained by {shown}; leave the layer out")


@dataclasses.dataclass(frozen=True)
class ClassMaps(Explanation):
  """Grad-CAM++ of the class that the model predicts, over every face.

  The map belongs to one submodule. The default is the last one whose output is a map of more than one pixel for each
  channel: in a plain convolutional network the last convolution or its normalisation, in a network of blocks the last
  block, with its activation function. An activation function that is not a submodule itself, such as `nn.relu(x)` after
  the last normalisation, comes after the map.

  Attributes:
    logits_of: function (batch) -> logits [batch, classes], where no example depends on another one.
    label_names: names of the classes.
    layer: path of the submodule, such as "trunk/layer3"; None for the default.
    default: path of the default, if it is another one than above.
    part: submodule whose layers can be named; "" for the whole model.
    note: see `Explanation`.
  """

  logits_of: Callable[[Batch], jax.Array]
  label_names: Sequence[str]
  layer: str | None = None
  default: str | None = None
  part: str = ""
  note: str = ""

  def draw(
    self, crops: np.ndarray, batch: Batch, names: Sequence[str], target: pathlib.Path, title: str
  ) -> Sequence[tuple[pathlib.Path, int]]:
    """Draws a row for each face: the face, the map over it, and the most probable classes. See `Explanation`."""
    layer = self.chosen(batch)
    probabilities, maps = (np.asarray(array)[: len(crops)] for array in self._compute(layer, batch))
    rows = []
    for crop, name, map_, row in zip(crops, names, maps, probabilities, strict=True):
      order = np.argsort(-row, kind="stable")
      rows.append(cams.FaceMap(name, crop, map_, [(self.label_names[k], float(row[k])) for k in order]))
    cells = " x ".join(map(str, maps.shape[1:]))
    cams.faces_png(rows, target, f"{title}\nGrad-CAM++ of the predicted class\n{layer}, {cells} cells")
    return [(target, len(crops))]

  def compute(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Returns the probabilities [batch, classes], and the maps [batch, rows, columns] of the predicted classes.

    A map ranges from 0 to 1, or is zero everywhere. It has the resolution of the submodule's output.

    Raises:
      UserError: the model has no such submodule, or none with maps.
    """
    return self._compute(self.chosen(batch), batch)

  def chosen(self, batch: Batch) -> str:
    """Returns the path of the submodule; errors are those of `compute`."""
    names = grad_cam.layers_with_maps(self.logits_of, (batch,))
    if not names:
      raise UserError(
        "this model has no submodule whose output is a map for each channel: Grad-CAM++ explains convolutional networks"
      )
    if self.part:
      names = [name for name in names if f"{name}/".startswith(f"{self.part}/")]
    if self.layer is not None and self.layer not in names:
      raise unknown("layer", self.layer, names)
    return self.layer or self.default or names[-1]

  @functools.cached_property
  def _compiled(self) -> Callable[[str, Batch], tuple[jax.Array, jax.Array]]:
    def compute(layer: str, batch: Batch) -> tuple[jax.Array, jax.Array]:
      logits = self.logits_of(batch).astype(jnp.float32)
      path = tuple(layer.split("/"))
      found = grad_cam.class_activations(self.logits_of, (batch,), path, logits.argmax(-1))
      maps = grad_cam.grad_cam_plus_plus(*found)
      return nn.softmax(logits), grad_cam.over_picture(maps, *maps.shape[1:])

    return jax.jit(compute, static_argnums=0)

  def _compute(self, layer: str, batch: Batch) -> tuple[jax.Array, jax.Array]:
    return self._compiled(layer, batch)
