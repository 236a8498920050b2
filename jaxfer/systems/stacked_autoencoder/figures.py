"""Draws examples of the data, the first layer's weights and reconstructions, and the pixels that classes depend on."""

import pathlib
from typing import Any

import jax
import numpy as np

from jaxfer.data.datasets import DATASETS
from jaxfer.report import grids
from jaxfer.systems.stacked_autoencoder import effective_pixels
from jaxfer.systems.stacked_autoencoder.model import corrupt
from jaxfer.systems.system import Task
from jaxfer.train.stage import Variables
from jaxfer.train.state import SNAPSHOT


def draw(
  task: Task, variables: Variables, train_indices: np.ndarray, test_indices: np.ndarray, folder: pathlib.Path
) -> dict[str, str]:
  """Draws the figures of a training, and returns their captions by file name.

  - `data_sets.png`: examples of the training images.
  - `filters.png`: weights of the first layer.
  - `effective_pixels.png`: the pixels on which the classes depend, see `effective_pixels.draw`. The options in
    `task.config.figures` are its arguments.
  - `reconstructions.png`: what the first layer reconstructs. It is drawn if the layers were pre-trained.

  Arguments are those of `System.figures`.
  """
  drawn = {
    "data_sets.png": draw_examples(task, train_indices, folder / "data_sets.png"),
    "filters.png": _draw_filters(task, variables, folder / "filters.png"),
  }
  model: Any = task.model
  weights = effective_pixels.weights_of(model, variables)
  drawn |= effective_pixels.draw(weights, task.records, train_indices, folder, **task.config.figures)
  if task.config.recipe.options.get("pretrain", True):
    path = folder / "reconstructions.png"
    drawn["reconstructions.png"] = _draw_reconstructions(task, variables, test_indices, path)
  return drawn


def draw_examples(task: Task, indices: np.ndarray, path: pathlib.Path) -> str:
  """Draws one image of each class, a row for each data set of a mixture (paper 000, Fig. 4). Returns the caption.

  Args:
    task: the training.
    indices: indices of the records to choose from. The first one of a class and data set is drawn.
    path: path of the PNG.
  """
  name, records = task.config.data.name, task.records
  sets = np.asarray(
    [records.keys[k].partition("/")[0] if DATASETS[name].parts else name for k in np.sort(indices)]
  )
  image, label = (records.arrays[array][np.sort(indices)] for array in ("image", "label"))
  names = list(dict.fromkeys(sets.tolist()))
  pictures = np.full((len(names), len(records.label_names), *image.shape[1:]), 255, np.uint8)
  missing = False
  for row, column in np.ndindex(pictures.shape[:2]):
    found = np.flatnonzero((sets == names[row]) & (label == column))
    missing |= not len(found)
    pictures[row, column] = image[found[0]] if len(found) else 255
  grids.rows_png(pictures, names, path, "Training images")
  return (
    f"Fig. 4: one training image of each class and data set. From left to right: {', '.join(records.label_names)}."
    + (" White: the data set has no such image." if missing else "")
  )


def _draw_filters(task: Task, variables: Variables, path: pathlib.Path) -> str:
  """Draws the weights of up to 40 units of the first layer as images. Returns the caption."""
  kernel = np.asarray(variables["params"]["encoder1"]["kernel"])
  side = task.data["image"].shape[1]
  first = kernel.T[:40].reshape(-1, side, task.data["image"].shape[2])
  grids.signed_png(first, 10, path, "Weights of the first layer's units")
  return (
    f"Weights from the pixels to the first {len(first)} of {kernel.shape[1]} units of the first layer, after "
    "fine-tuning. Positive weights are red, negative ones blue; each unit has its own colour scale."
  )


def _draw_reconstructions(
  task: Task, variables: Variables, test_indices: np.ndarray, path: pathlib.Path
) -> str:
  """Draws the first test image of each class: clean, corrupted and reconstructed. Returns the caption."""
  rate = task.config.recipe.options.get("noise_rate", 0.3)
  labels, first = np.unique(task.data["label"][test_indices], return_index=True)
  batch = task.system.eval_batch(
    {name: array[test_indices[first]] for name, array in task.data.items()}, np.arange(len(first))
  )
  clean = batch["image"]
  units = corrupt(clean.reshape(len(clean), -1), jax.random.split(jax.random.key(0), len(clean)), rate)
  model: Any = task.model
  # Fine-tuning changes the encoder but not its decoder.
  pretrained = {"params": {**variables["params"], **variables[SNAPSHOT]}}
  restored = model.activation(model.apply(pretrained, units, 1, method="reconstruct"))
  shown = [np.asarray(values).reshape(clean.shape) for values in (clean, units, restored)]
  images = (255 * np.clip(np.stack(shown), 0, 1)).round().astype(np.uint8)
  grids.rows_png(images, ["clean", "corrupted", "reconstructed"], path, "Reconstructions by the first layer")
  names = ", ".join(task.records.label_names[label] for label in labels)
  return (
    f"One test image of each class ({names}), the same images with {rate:.0%} of the pixels set to zero, and their "
    "reconstructions by the first layer after its pre-training, before fine-tuning."
  )
