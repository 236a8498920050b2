"""Draws what a trained stack looks for, what it restores, and which pixels matter."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxfer.report import grids
from jaxfer.systems.stacked_autoencoder import effective_pixels
from jaxfer.systems.stacked_autoencoder.model import noised
from jaxfer.systems.system import Task
from jaxfer.train import members
from jaxfer.train.stage import Variables


def draw(
  task: Task, variables: Variables, trained: np.ndarray, tested: np.ndarray, folder: pathlib.Path
) -> Mapping[str, str]:
  """`filters.png`, what the first layer looks for; `effective_pixels.png`; pre-trained, `reconstructions.png`."""
  drawn = {"filters.png": _draw_filters(task, variables, folder / "filters.png")}
  params: Any = variables["params"]
  layers = [*(f"encoder{k + 1}" for k in range(len(task.model.sizes))), "classifier"]
  drawn |= effective_pixels.draw([params[name]["kernel"] for name in layers], task.records, trained, folder)
  if task.config.recipe.options.get("pretrain", True):
    path = folder / "reconstructions.png"
    drawn["reconstructions.png"] = _draw_reconstructions(task, trained, tested, path)
  return drawn


def _draw_filters(task: Task, variables: Variables, path: pathlib.Path) -> str:
  kernel = np.asarray(variables["params"]["encoder1"]["kernel"])
  side = task.data["image"].shape[1]
  first = kernel.T[:40].reshape(-1, side, task.data["image"].shape[2])
  grids.signed_png(first, 10, path, "Weights of the first layer's units")
  return (
    f"Weights from the pixels to the first {len(first)} of {kernel.shape[1]} units of the first layer, after "
    "fine-tuning: red for more, blue for less light; each on a scale of its own."
  )


def _draw_reconstructions(task: Task, trained: np.ndarray, tested: np.ndarray, path: pathlib.Path) -> str:
  rate = task.config.recipe.options.get("noise_rate", 0.3)
  labels, first = np.unique(task.data["label"][tested], return_index=True)
  batch = task.system.eval_batch(
    {name: array[tested[first]] for name, array in task.data.items()}, np.arange(len(first))
  )
  clean = batch["image"]
  units = noised(clean.reshape(len(clean), -1), jax.random.split(jax.random.key(0), len(clean)), rate)
  model: Any = task.model
  restored = model.activation(model.apply(_after_first_stage(task, trained), units, 1, method="reconstruct"))
  rows = [np.asarray(each).reshape(clean.shape) for each in (clean, units, restored)]
  pictures = (255 * np.clip(np.stack(rows), 0, 1)).round().astype(np.uint8)
  grids.rows_png(pictures, ["clean", "noised", "restored"], path, "What the first layer restores")
  shown = ", ".join(task.records.label_names[label] for label in labels)
  return (
    f"Tested pictures ({shown}), the same with {rate:.0%} of their pixels set to zero, and restored from these by the "
    "first layer as its own stage left it, before fine-tuning."
  )


def _after_first_stage(task: Task, trained: np.ndarray) -> Variables:
  """The variables after the first layer's stage, which is run again: fine-tuning moves the encoder off its decoder."""
  plan = task.plan(trained)
  (stage, *_), hyper = task.stages(plan.steps)
  member = members.Member("first layer", task.config.seed, plan, hyper)
  with tempfile.TemporaryDirectory() as folder:
    (result,) = members.train(
      (stage,),
      [member],
      task.init,
      task.data,
      pathlib.Path(folder),
      execution=dataclasses.replace(task.config.execution, devices=1),
      say=lambda line: None,
    )
  return result.variables
