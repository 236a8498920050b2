"""Figures of paper 003: swaps (Fig. 4), interpolations (Fig. 5), reconstructions and maps of the codes.

Each training draws its own figures. A study also draws Figs. 4 and 5 for all its variants, from the examples that their
trainings store.
"""

import dataclasses
import importlib.util
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import numpy as np

from jaxfer.errors import UserError
from jaxfer.report import grids, swaps
from jaxfer.systems.explanation import Explanation, no_layers
from jaxfer.systems.identity_expression_vae import code_metrics, examples
from jaxfer.systems.identity_expression_vae.examples import Interpolation, SwapGrid
from jaxfer.systems.identity_expression_vae.model import IdentityExpressionVAE
from jaxfer.systems.system import Task, Variants
from jaxfer.train.stage import Batch, Variables

_LABEL = 24  # Characters in a line of the label of a variant.


def figures(
  task: Task,
  variables: Variables,
  train_indices: np.ndarray,
  test_indices: np.ndarray,
  folder: pathlib.Path,
) -> Mapping[str, str]:
  """Draws the figures of a training.

  Every model gets `reconstructions.png`, `map.png`, and `map_tsne.png` if scikit-learn is installed. A model with two
  codes also gets `swaps.png` and `between.png`, and its examples are stored.

  Args:
    task: the config with its model and data.
    variables: the trained variables.
    train_indices: indices of the training records.
    test_indices: indices of the test records.
    folder: an existing folder, into which the files are written.

  Returns:
    Captions by file name.
  """
  captions = {"reconstructions.png": _draw_reconstructions(task, variables, test_indices, folder)}
  captions |= _draw_maps(task, variables, test_indices, folder)
  if not isinstance(task.model, IdentityExpressionVAE):
    return captions
  made = examples.make(task, variables, train_indices, test_indices)
  made.save(folder / examples.FILE)
  _draw_swaps({made.label: made.test}, folder / "swaps.png", "Swapped expressions, test people")
  _draw_interpolations({made.label: made.interpolation}, folder / "between.png")
  captions["swaps.png"] = (
    "Swapped expressions of test people: the image at the top gives the identity, the image on the left the expression."
  )
  captions["between.png"] = (
    "The expression code moves in equal steps from that of a test person to that of another one. The identity code is "
    "fixed."
  )
  return captions


def side_by_side(variants: Variants, folder: pathlib.Path) -> dict[str, str]:
  """Draws Figs. 4 and 5 for all variants of a study that have stored examples.

  Args:
    variants: the variants, see `System.tables`.
    folder: the folder of the study, into which the files are written.

  Returns:
    Captions by file name; empty if no variant has examples.

  Raises:
    UserError: a file of examples is damaged.
  """
  paths = {variant["name"]: folder / variant["folder"] / examples.FILE for variant in variants}
  named = [(name, examples.load(path)) for name, path in paths.items() if path.is_file()]
  if not named:
    return {}
  labelled = {textwrap.fill(label, _LABEL): stored for label, stored in examples.by_label(named).items()}
  captions = {}
  for side, people in (("test", "test people"), ("train", "training people")):
    grids_by_label = {label: getattr(stored, side) for label, stored in labelled.items()}
    _draw_swaps(grids_by_label, folder / f"swaps_{side}.png", f"Swapped expressions, {people}")
    captions[f"swaps_{side}.png"] = (
      f"Fig. 4: swapped expressions of {people}. The image at the top gives the identity, the image on the left the "
      "expression. Each row is a method with the image size in pixels, trained with the first seed."
    )
  interpolations = {label: stored.interpolation for label, stored in labelled.items()}
  _draw_interpolations(interpolations, folder / "between.png")
  captions["between.png"] = (
    "Fig. 5: the expression code moves in equal steps from that of the source to that of the target. The identity code "
    "is that of the source."
  )
  return captions


@dataclasses.dataclass(frozen=True)
class Swaps(Explanation):
  """Swapped and interpolated expressions of the given faces.

  Attributes:
    model: the model.
    variables: its variables.
  """

  model: IdentityExpressionVAE
  variables: Variables
  most = 6
  least = 2
  together = True

  def draw(
    self, crops: np.ndarray, batch: Batch, names: Sequence[str], target: pathlib.Path, title: str
  ) -> Sequence[tuple[pathlib.Path, int]]:
    """Draws `swaps.png` with every identity and expression, and `interpolation.png` from the first to the last face.

    See `Explanation`.
    """
    del names, title
    encode = jax.jit(code_metrics.codes, static_argnums=0)
    codes = np.asarray(encode(self.model, self.variables, batch["image"], None))[: len(crops)]
    grid = SwapGrid(crops, crops, examples.decode_swaps(self.model, self.variables, codes, codes))
    between = examples.decode_between(self.model, self.variables, codes[0], codes[-1])
    first, second = target / "swaps.png", target / "interpolation.png"
    _draw_swaps({"expression of": grid}, first, "Swapped expressions")
    _draw_interpolations({"decoded": Interpolation(crops[0], crops[-1], between)}, second)
    return [(first, len(crops)), (second, 2)]


def explanation(model: nn.Module, variables: Variables, layer: str | None) -> Swaps:
  """Returns what `jaxfer explain` draws.

  Raises:
    UserError: a layer is named, or the model has a single code.
  """
  if not isinstance(model, IdentityExpressionVAE):
    raise UserError(
      f"{type(model).__name__} has one code for identity and expression, and no class score: only "
      "identity_expression_vae can be explained, by swapping its two codes"
    )
  if layer is not None:
    raise no_layers(layer, "swapping its two codes")
  return Swaps(model, variables)


def _draw_swaps(by_label: Mapping[str, SwapGrid], path: pathlib.Path, title: str) -> None:
  """Draws the swaps of all methods, with the identities and expressions of the largest images."""
  largest = max(by_label.values(), key=lambda grid: len(grid.identities[0]))
  swapped = {label: grid.swaps for label, grid in by_label.items()}
  swaps.swap_grid_png(largest.identities, largest.expressions, swapped, path, title)


def _draw_interpolations(by_label: Mapping[str, Interpolation], path: pathlib.Path) -> None:
  """Draws the interpolations of all methods, with the source and the target of the largest images."""
  largest = max(by_label.values(), key=lambda interpolation: len(interpolation.source))
  between = {label: interpolation.between for label, interpolation in by_label.items()}
  swaps.interpolation_png(largest.source, largest.target, between, path, "Interpolated expressions")


def _draw_reconstructions(
  task: Task, variables: Variables, test_indices: np.ndarray, folder: pathlib.Path
) -> str:
  """Draws one image of each expression and its reconstruction, and returns the caption."""
  labels = np.asarray(task.data["label"])
  by_label = [test_indices[labels[test_indices] == label] for label in np.unique(labels[test_indices])]
  # The position differs between the labels, so that the images do not all show the same person.
  indices = np.asarray([of_label[k * len(of_label) // len(by_label)] for k, of_label in enumerate(by_label)])
  decoded = code_metrics.decode(
    task.model, variables, code_metrics.encode(task, variables, indices, told=False)
  )
  both = np.stack([examples.images_of(task, indices), examples.to_bytes(decoded)])
  grids.rows_png(
    both, ["photograph", "decoded"], folder / "reconstructions.png", "Reconstructions of test images"
  )
  return "Images of test people, and the images that are decoded from the means of their codes."


def _draw_maps(
  task: Task, variables: Variables, test_indices: np.ndarray, folder: pathlib.Path
) -> Mapping[str, str]:
  """Draws the clustered codes of the test images in two dimensions, and returns captions by file name."""
  codes = code_metrics.expression_of(
    task.model, code_metrics.encode(task, variables, test_indices, told=False)
  )
  label, subject = (np.asarray(task.data[name])[test_indices] for name in ("label", "subject"))
  names, title = task.records.label_names, "Codes of test images"
  points, shares = swaps.pca(codes)
  swaps.latent_map_png(points, label, subject, names, folder / "map.png", title, shares)
  captions = {
    "map.png": "The codes of the test images that are clustered, projected on the two directions of largest variance."
  }
  if importlib.util.find_spec("sklearn"):
    swaps.latent_map_png(swaps.tsne(codes), label, subject, names, folder / "map_tsne.png", f"{title}, t-SNE")
    captions["map_tsne.png"] = "The same codes by t-SNE, which keeps neighbours together but not distances."
  return captions
