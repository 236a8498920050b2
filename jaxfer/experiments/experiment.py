"""What a system hands to the one runner: its stages, how its data become batches, how it predicts."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np
from jax.typing import ArrayLike

from jaxfer.data.records import Records
from jaxfer.report.tables import Table
from jaxfer.train.stage import Batch, Stage, Variables

if TYPE_CHECKING:
  from jaxfer.experiments.task import Task


def no_figures(
  task: "Task", variables: Variables, tested: np.ndarray, folder: pathlib.Path
) -> Mapping[str, str]:
  """Draws nothing."""
  del task, variables, tested, folder
  return {}


def no_facts(histories: Sequence[Sequence[Mapping[str, Any]]]) -> Mapping[str, Sequence[float]]:
  """Tells nothing."""
  del histories
  return {}


def no_tables(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> Sequence[tuple[str, Table]]:
  """Adds nothing."""
  del rows, seeds
  return ()


def no_table_figures(rows: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> Mapping[str, str]:
  """Draws nothing."""
  del rows, folder
  return {}


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A system.

  Attributes:
    recipe: (model, steps an epoch, **numbers of the config) -> stages and the numbers that they read by name.
    resident: records -> the arrays that batches are made of, [n, ...] each. Those of a set too big for memory are
      `stream.Column`s: pass them on as they are.
    example: (data, rows) -> a batch without augmentation, as evaluation reads it.
    inputs: a batch -> the model's positional arguments.
    published: rows of the paper's table, (name, model attributes that tell it, accuracy).
    source: of the published rows.
    paper_data: the data set, by name, that the published rows were measured on.
    figures: (task, trained variables, tested rows, folder) -> PNG files drawn into the folder, each with its caption.
    facts: rows of metrics of each training of a study's row -> further numbers of theirs, a value a training.
    tables: (rows of a study's table, as `report.study.judged` makes them, each with its "name"; seeds) -> further
      tables with their titles, to stand below it.
    table_figures: (those rows, folder) -> PNG files drawn into the folder, each with its caption.
  """

  recipe: Callable[..., tuple[tuple[Stage, ...], Mapping[str, float]]]
  resident: Callable[[Records], dict[str, np.ndarray]]
  example: Callable[[Mapping[str, ArrayLike], ArrayLike], Batch]
  inputs: Callable[[Batch], Sequence[jax.Array]]
  published: Sequence[tuple[str, Mapping[str, Any], float]]
  source: str
  paper_data: str
  figures: Callable[["Task", Variables, np.ndarray, pathlib.Path], Mapping[str, str]] = no_figures
  facts: Callable[[Sequence[Sequence[Mapping[str, Any]]]], Mapping[str, Sequence[float]]] = no_facts
  tables: Callable[[Sequence[Mapping[str, Any]], Sequence[int]], Sequence[tuple[str, Table]]] = no_tables
  table_figures: Callable[[Sequence[Mapping[str, Any]], pathlib.Path], Mapping[str, str]] = no_table_figures

  def init(self, model: nn.Module, data: Mapping[str, np.ndarray], key: jax.Array) -> Variables:
    """Initial variables of the model for these data."""
    return model.init(key, *self.inputs(self.example(data, np.zeros(1, np.int32))))

  def predict(self, model: nn.Module, variables: Variables, batch: Batch) -> jax.Array:
    """Logits [batch, classes] as evaluation computes them."""
    logits = model.apply(variables, *self.inputs(batch))
    assert isinstance(logits, jax.Array)
    return logits
