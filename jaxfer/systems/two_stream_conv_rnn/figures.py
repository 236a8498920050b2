"""Draws the temporal gate of a trained model."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxfer.errors import unknown
from jaxfer.explain import gates
from jaxfer.report import grids
from jaxfer.systems.explanation import Explanation
from jaxfer.systems.system import Task
from jaxfer.systems.two_stream_conv_rnn.model import TwoStreamConvRNN
from jaxfer.train.stage import Batch, Variables

_STREAMS = ("rgb", "flow")


@dataclasses.dataclass(frozen=True)
class Gates(Explanation):
  """The temporal gates of a layer in both streams, over time.

  Attributes:
    model: a model with a temporal gate.
    variables: its variables.
    layer: name of the layer.
  """

  model: TwoStreamConvRNN
  variables: Variables
  layer: str
  kind = "sequence"
  most = 4

  def draw(
    self, crops: np.ndarray, batch: Batch, names: Sequence[str], target: pathlib.Path, title: str
  ) -> Sequence[tuple[pathlib.Path, int]]:
    """Draws the frames of each clip, and the gates of both streams below them. See `Explanation`."""
    of_stream = self._maps(self.variables, batch["frames"], batch["flow"])
    maps = {f"{stream} gate": np.asarray(of_stream[stream])[: len(crops)] for stream in _STREAMS}
    grids.gate_streams_png(crops, maps, names, target, f"{title}\ntemporal gates of {self.layer}")
    return [(target, len(crops))]

  @functools.cached_property
  def _maps(self) -> Any:
    def maps(variables: Variables, frames: jax.Array, flow: jax.Array) -> dict[str, jax.Array]:
      return {
        stream: gates.gate_maps(self.model, variables, frames, flow, stream, self.layer)
        for stream in _STREAMS
      }

    return jax.jit(maps)


def explanation(model: TwoStreamConvRNN, variables: Variables, layer: str | None) -> Gates:
  """Returns what `jaxfer explain` draws: the gates of a layer, by default of the first.

  Raises:
    UserError: the model has no temporal gate, or no such layer.
  """
  gates.check(model)
  names = [f"layer{k + 1}" for k in range(len(model.features))]
  if layer is not None and layer not in names:
    raise unknown("layer", layer, names)
  return Gates(model, variables, layer or names[0])


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
