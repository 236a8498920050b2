"""Draws the temporal gate of a trained model."""

import functools
import pathlib

import jax
import numpy as np

from jaxfer.explain import gates
from jaxfer.report import grids
from jaxfer.systems.system import Task
from jaxfer.train.stage import Variables


def draw(task: Task, variables: Variables, test_indices: np.ndarray, folder: pathlib.Path) -> dict[str, str]:
  """Draws `gates.png`: the temporal gate of the first RGB layer, for the first test clip of each class.

  Draws nothing if the model has no temporal gate.

  Args:
    task: the training.
    variables: the trained variables.
    test_indices: indices of the test records.
    folder: an existing folder.

  Returns:
    The caption by file name.
  """
  if not getattr(task.model, "temporal_gate", False):
    return {}
  labels, first = np.unique(task.data["label"][test_indices], return_index=True)
  clips = {name: array[test_indices[first]] for name, array in task.data.items()}
  batch = task.system.eval_batch(clips, np.arange(len(first)))
  maps = np.asarray(
    jax.jit(functools.partial(gates.gate_maps, task.model))(variables, *task.system.inputs(task.model, batch))
  )
  names = [task.records.label_names[label] for label in labels]
  title = "Temporal gate"
  grids.gates_png(clips["frames"], maps, names, folder / "gates.png", title)
  return {
    "gates.png": "Temporal gate of the first RGB layer, averaged over features. Each row is a test record (of the "
    "first fold), and each column a time step. In the first two steps the state of two steps ago is zero."
  }
