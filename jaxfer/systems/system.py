"""What a system hands to the one runner: its stages, how its data become batches, how it predicts."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np
from jax.typing import ArrayLike

from jaxfer import losses, metrics
from jaxfer.config import Call
from jaxfer.data.datasets import DATASETS
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.report.tables import Table
from jaxfer.train.stage import Batch, Stage, Variables

if TYPE_CHECKING:
  from jaxfer.experiments.task import Task


@dataclasses.dataclass(frozen=True)
class Reading:
  """What a net's outputs say of the tested records.

  Attributes:
    predicted: [n] classes; -1 where the outputs are not finite. Of several trials, the class that most of them say.
    correct: [n] in [0, 1], whether each is right; where a protocol has several trials, in what share of them.
    rank: [n] how many classes stand before the true one, 0 for a right prediction; None where nothing ranks classes.
    loss: [n]; None where there is none.
    by_trial: [n, trials] classes, where a protocol has several trials: accuracy is their mean. None otherwise.
  """

  predicted: np.ndarray
  correct: np.ndarray
  rank: np.ndarray | None = None
  loss: np.ndarray | None = None
  by_trial: np.ndarray | None = None

  @property
  def trials(self) -> int:
    """How many trials the protocol has."""
    return 1 if self.by_trial is None else self.by_trial.shape[1]


def pooled_scores(
  tested: Sequence[tuple[np.ndarray, Mapping[str, Reading]]], classes: int
) -> list[metrics.Score]:
  """The score of each reading, pooled over folds, from the labels and readings of each."""
  labels = np.concatenate([own for own, _ in tested])
  return [
    metrics.score(labels, np.concatenate([readings[name].correct for _, readings in tested]), classes)
    for name in tested[0][1]
  ]


def pooled_confusion(
  tested: Sequence[tuple[np.ndarray, Mapping[str, Reading]]], classes: int
) -> list[list[int | float]]:
  """C[true, predicted] of the first reading, pooled over folds: counts, or their means over several trials."""
  firsts = [next(iter(readings.values())) for _, readings in tested]
  by_trial = [own.predicted[:, None] if own.by_trial is None else own.by_trial for own in firsts]
  labels = np.concatenate([own for own, _ in tested])
  matrix = metrics.mean_confusion(labels, np.concatenate(by_trial), classes)
  return [[metrics.whole(count) for count in row] for row in matrix]


# What a reading is named after where batches are not those of the test: drawn anew, and of one record, which no other
# record changes.
SHUFFLED, ALONE = "shuffled", "batches of one"


def in_batches(reading: str, batches: str) -> str:
  """The name of a reading ("" is the answer) in other batches ("" are those of the test)."""
  return ", ".join(filter(None, (reading, batches)))


def read_logits(logits: np.ndarray, labels: np.ndarray) -> Reading:
  """The reading of logits [n, classes]: the largest is predicted, the lower class where two are equal."""
  predicted = np.asarray(metrics.predict(logits))
  rank, loss = metrics.rank(logits, labels), losses.cross_entropy(logits, labels)
  return Reading(predicted, (predicted == labels).astype(np.float64), np.asarray(rank), np.asarray(loss))


Outputs = Callable[[Any, Variables, Batch, Mapping[str, jax.Array], str | None], jax.Array]


def one_reading(model: nn.Module, outputs: np.ndarray, labels: np.ndarray) -> Mapping[str, Reading]:
  """Of outputs that are logits."""
  del model
  return {"": read_logits(outputs, labels)}


def nothing_taken_over(model: nn.Module, given: Variables) -> Variables:
  """Refuses."""
  del given
  raise UserError(f"init_from: {type(model).__name__} takes nothing over from another training: leave it out")


def needs_nothing(options: Mapping[str, Any]) -> Mapping[str, str]:
  """Trains everything."""
  del options
  return {}


def no_pictures(model: nn.Module) -> Mapping[str, Any]:
  """Stores nothing, and asks for nothing."""
  del model
  return {}


def as_they_are(records: Records, options: Mapping[str, Any]) -> Records:
  """Changes nothing."""
  del options
  return records


def no_figures(
  task: "Task", variables: Variables, trained: np.ndarray, tested: np.ndarray, folder: pathlib.Path
) -> Mapping[str, str]:
  """Draws nothing."""
  del task, variables, trained, tested, folder
  return {}


def no_facts(
  histories: Sequence[Sequence[Mapping[str, Any]]], readings: Sequence[Mapping[str, Reading]]
) -> Mapping[str, Sequence[float]]:
  """Tells nothing."""
  del histories, readings
  return {}


def no_measures(
  task: "Task", variables: Variables, trained: np.ndarray, tested: np.ndarray
) -> Mapping[str, float | None]:
  """Measures nothing."""
  del task, variables, trained, tested
  return {}


def no_remarks(model: nn.Module, history: Sequence[Mapping[str, Any]], outputs: np.ndarray) -> Sequence[str]:
  """Says nothing."""
  del model, history, outputs
  return ()


def no_tables(
  rows: Sequence[Mapping[str, Any]], seeds: Sequence[int], not_trained: Sequence[Mapping[str, Any]] = ()
) -> Sequence[tuple[str, Table]]:
  """Adds nothing."""
  del rows, seeds, not_trained
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
    inputs: (model, batch) -> the model's positional arguments.
    published: rows of the paper's table, (name, what tells it, accuracy): attributes of the model, options of the
      recipe as "recipe.w", and "init_from", with their values or a range of them.
    source: of the published rows.
    paper_data: the data set, by name, that the published rows were measured on.
    paper_options: options of that data set that must be so, or the data are not the paper's.
    figures: (task, trained variables, rows trained on, tested rows, folder) -> PNG files drawn into the folder, each
      with its caption.
    outputs: (model, variables, batch, hyper, axis_name) -> what evaluation computes of a batch, [batch, ...]; None for
      the logits [batch, classes] that the model gives. The batch has "real" [batch], False in rows that only complete
      it; outputs that depend on the rows around them reduce over `axis_name` too.
    readings: (model, outputs of the tested rows [n, ...] on the host, their labels) -> what they say, by name. A
      training is judged by the first; the others are further ways to read the same net.
    test_batch: rows of a batch of evaluation; None takes that of training.
    mates: whether outputs depend on the rows around them: then evaluation follows the distributor's order of files
      (records' `order`), and a study gives every reading for one random order too, but for those of batches of one.
    take_over: (model, variables of another training or of converted weights) -> the submodules to start from, each as
      this model names it.
    label_free: submodules that have nothing to do with what the classes are: they may be taken from a training of
      other classes. Parts of one, as "rgb/trunk", may be taken without its other parts.
    needs: options of the recipe -> submodules that it leaves as they are given, and the option that says so: without
      them nothing is trained.
    pictures: model -> what its pictures must be ("colour_order", "mean", "std", "input_size"), which is stored with the
      weights, and must agree where weights are taken over. Empty: nothing is stored or asked for.
    seen: (records, numbers of the recipe) -> the records as the recipe sees them, such as with people for labels; the
      same however often it is applied.
    facts: (rows of metrics of each training of a study's row, readings of each) -> further numbers of theirs, a value a
      training. A name that begins with "_" is for the system's own tables alone.
    measures: (task, trained variables, rows trained on, tested rows) -> numbers of a training for the system's own
      tables, by name; None where there is none.
    remarks: (model, rows of metrics of a training, outputs of the tested rows) -> lines of warning for the reader.
    tables: (rows of a study's table, as `report.study.judged` makes them, each with its "name", whether
      it is "comparable" with published rows, those it is "compared" with, by name, and its rows of metrics as
      "history"; seeds; rows that were not trained since their pre-training failed, of which there is "name",
      "published" and "comparable") -> further tables with their titles, to stand below it.
    table_figures: (those rows, folder) -> PNG files drawn into the folder, each with its caption.
  """

  recipe: Callable[..., tuple[tuple[Stage, ...], Mapping[str, float]]]
  resident: Callable[[Records], dict[str, np.ndarray]]
  example: Callable[[Mapping[str, ArrayLike], ArrayLike], Batch]
  inputs: Callable[[Any, Batch], Sequence[jax.Array]]
  published: Sequence[tuple[str, Mapping[str, Any], float]]
  source: str
  paper_data: str
  paper_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  outputs: Outputs | None = None
  readings: Callable[[Any, np.ndarray, np.ndarray], Mapping[str, Reading]] = one_reading
  test_batch: int | None = None
  mates: bool = False
  take_over: Callable[[Any, Variables], Variables] = nothing_taken_over
  label_free: Sequence[str] = ()
  needs: Callable[[Mapping[str, Any]], Mapping[str, str]] = needs_nothing
  pictures: Callable[[Any], Mapping[str, Any]] = no_pictures
  seen: Callable[[Records, Mapping[str, Any]], Records] = as_they_are
  figures: Callable[["Task", Variables, np.ndarray, np.ndarray, pathlib.Path], Mapping[str, str]] = no_figures
  facts: Callable[
    [Sequence[Sequence[Mapping[str, Any]]], Sequence[Mapping[str, Reading]]], Mapping[str, Sequence[float]]
  ] = no_facts
  measures: Callable[["Task", Variables, np.ndarray, np.ndarray], Mapping[str, float | None]] = no_measures
  remarks: Callable[[Any, Sequence[Mapping[str, Any]], np.ndarray], Sequence[str]] = no_remarks
  tables: Callable[
    [Sequence[Mapping[str, Any]], Sequence[int], Sequence[Mapping[str, Any]]], Sequence[tuple[str, Table]]
  ] = no_tables
  table_figures: Callable[[Sequence[Mapping[str, Any]], pathlib.Path], Mapping[str, str]] = no_table_figures

  def on_papers_data(self, data: Call) -> bool:
    """Whether the data are those that the published rows were measured on."""
    options = self.paper_options.items()
    return data.name == self.paper_data and all(
      data.options.get(name, value) == value for name, value in options
    )

  def comparable(self, data: Call) -> bool:
    """Whether published numbers are shown beside ours on these data.

    They are on the paper's data, and on embedded data, which stand in for those and are labelled so. On anybody's own
    data the paper's numbers would say nothing.
    """
    return self.on_papers_data(data) or DATASETS[data.name].generated

  def init(self, model: nn.Module, data: Mapping[str, np.ndarray], key: jax.Array) -> Variables:
    """Initial variables of the model for these data."""
    return model.init(key, *self.inputs(model, self.example(data, np.zeros(1, np.int32))))
