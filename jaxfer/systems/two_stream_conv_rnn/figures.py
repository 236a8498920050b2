"""Draws what the temporal gate of a trained model lets through."""

import functools
import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from jaxfer.explain import gates
from jaxfer.report import grids
from jaxfer.systems.system import Task
from jaxfer.train.stage import Variables


def draw(task: Task, variables: Variables, tested: np.ndarray, folder: pathlib.Path) -> Mapping[str, str]:
  """`gates.png`, of a net with a temporal gate: the gate over the first tested clip of each class."""
  if not getattr(task.model, "temporal_gate", False):
    return {}
  labels, first = np.unique(task.data["label"][tested], return_index=True)
  clips = {name: array[tested[first]] for name, array in task.data.items()}
  batch = task.system.eval_batch(clips, np.arange(len(first)))
  maps = np.asarray(
    jax.jit(functools.partial(gates.gate_maps, task.model))(variables, *task.system.inputs(task.model, batch))
  )
  names = [task.records.label_names[label] for label in labels]
  title = "What the temporal gate lets through"
  grids.gates_png(clips["frames"], maps, names, folder / "gates.png", title)
  return {
    "gates.png": "What the temporal gate of the first RGB layer lets through: a row a tested record (of the first "
    "fold), a column a step. The first two steps look back on a zero state."
  }
