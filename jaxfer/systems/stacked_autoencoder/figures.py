"""Draws the first layer's weights and reconstructions, and the pixels on which the classes depend."""

import dataclasses
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from jaxfer.report import grids
from jaxfer.systems.stacked_autoencoder import effective_pixels
from jaxfer.systems.stacked_autoencoder.model import corrupt
from jaxfer.systems.system import Task
from jaxfer.train import members, trainer
from jaxfer.train.stage import Variables


def draw(
  task: Task, variables: Variables, train_indices: np.ndarray, test_indices: np.ndarray, folder: pathlib.Path
) -> dict[str, str]:
  """Draws the figures of a training, and returns their captions by file name.

  `filters.png` shows weights of the first layer, and `effective_pixels.png` the pixels on which the classes depend.
  `reconstructions.png` shows what the first layer reconstructs; it is drawn if the layers were pre-trained.

  Arguments are those of `System.figures`.
  """
  drawn = {"filters.png": _draw_filters(task, variables, folder / "filters.png")}
  model: Any = task.model
  weights = effective_pixels.weights_of(model, variables)
  drawn |= effective_pixels.draw(weights, task.records, train_indices, folder)
  if task.config.recipe.options.get("pretrain", True):
    path = folder / "reconstructions.png"
    drawn["reconstructions.png"] = _draw_reconstructions(task, train_indices, test_indices, path)
  return drawn


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
  task: Task, train_indices: np.ndarray, test_indices: np.ndarray, path: pathlib.Path
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
  variables = _after_first_stage(task, train_indices)
  restored = model.activation(model.apply(variables, units, 1, method="reconstruct"))
  shown = [np.asarray(values).reshape(clean.shape) for values in (clean, units, restored)]
  images = (255 * np.clip(np.stack(shown), 0, 1)).round().astype(np.uint8)
  grids.rows_png(images, ["clean", "corrupted", "reconstructed"], path, "Reconstructions by the first layer")
  names = ", ".join(task.records.label_names[label] for label in labels)
  return (
    f"One test image of each class ({names}), the same images with {rate:.0%} of the pixels set to zero, and their "
    "reconstructions by the first layer after its pre-training, before fine-tuning."
  )


def _after_first_stage(task: Task, train_indices: np.ndarray) -> Variables:
  """Returns the variables after pre-training the first layer.

  This stage is run again here, because fine-tuning changes the encoder but not its decoder.
  """
  plan = task.plan(train_indices)
  (stage, *_), hparams = task.stages(plan.steps)
  member = members.Member("first layer", task.config.seed, plan, hparams)
  with tempfile.TemporaryDirectory() as folder:
    execution = dataclasses.replace(task.config.execution, devices=1)
    training = members.Training((stage,), [member], task.init, task.data, execution)
    (result,) = trainer.Trainer(training, pathlib.Path(folder), log=lambda line: None).fit()
  return result.variables
