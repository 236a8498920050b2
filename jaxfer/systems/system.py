"""What a system is: the base class that every system's package fills in, and what a model predicts."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np
from jax.typing import ArrayLike

from jaxfer import losses, metrics
from jaxfer.config import Call, RunConfig
from jaxfer.data.datasets import DATASETS
from jaxfer.data.plan import Plan
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.report.tables import Table
from jaxfer.train.stage import Batch, Stage, Variables

Options = Mapping[str, Any]
History = Sequence[Mapping[str, Any]]  # The rows of metrics of one training.
Variants = Sequence[Mapping[str, Any]]  # The rows of a study's table.


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a model's outputs predict for the test records.

  Attributes:
    predicted: [n] classes; -1 where the outputs are not finite. With several trials, the class that most trials give.
    correct: [n] in [0, 1]: whether each record is right, or with several trials the share of trials in which it is.
    rank: [n] number of classes that score higher than the true one; None where nothing ranks the classes.
    loss: [n]; None where there is none.
    by_trial: [n, trials] classes of a protocol with several trials, whose accuracy is the mean over them; else None.
  """

  predicted: np.ndarray
  correct: np.ndarray
  rank: np.ndarray | None = None
  loss: np.ndarray | None = None
  by_trial: np.ndarray | None = None

  @property
  def trials(self) -> int:
    """Number of trials of the protocol."""
    return 1 if self.by_trial is None else self.by_trial.shape[1]


def pooled_scores(
  evaluated: Sequence[tuple[np.ndarray, Mapping[str, Prediction]]], classes: int
) -> list[metrics.Score]:
  """The score of each named prediction, pooled over folds. A fold is its labels and its predictions."""
  labels = np.concatenate([own for own, _ in evaluated])
  return [
    metrics.score(
      labels, np.concatenate([predictions[name].correct for _, predictions in evaluated]), classes
    )
    for name in evaluated[0][1]
  ]


def pooled_confusion(
  evaluated: Sequence[tuple[np.ndarray, Mapping[str, Prediction]]], classes: int
) -> list[list[int | float]]:
  """C[true, predicted] of the first prediction, pooled over folds: counts, or means over the protocol's trials."""
  firsts = [next(iter(predictions.values())) for _, predictions in evaluated]
  by_trial = [own.predicted[:, None] if own.by_trial is None else own.by_trial for own in firsts]
  labels = np.concatenate([own for own, _ in evaluated])
  matrix = metrics.mean_confusion(labels, np.concatenate(by_trial), classes)
  return [[metrics.whole(count) for count in row] for row in matrix]


# Names of predictions made in other batches than those of the test: in batches drawn at random, and in batches of one
# record, which no other record can change.
SHUFFLED, ALONE = "shuffled", "batches of one"


def in_batches(prediction: str, batches: str) -> str:
  """Name of a prediction ("" is the model's answer) in other batches ("" are those of the test)."""
  return ", ".join(filter(None, (prediction, batches)))


def from_logits(logits: np.ndarray, labels: np.ndarray) -> Prediction:
  """The prediction of logits [n, classes]: the class with the largest one; ties go to the lower class."""
  predicted = np.asarray(metrics.predict(logits))
  rank, loss = metrics.rank(logits, labels), losses.cross_entropy(logits, labels)
  return Prediction(predicted, (predicted == labels).astype(np.float64), np.asarray(rank), np.asarray(loss))


class Task(Protocol):
  """What a system may read of a training: its config on its data (`experiments.task.Task`)."""

  @property
  def config(self) -> RunConfig:
    """The config as it was given."""

  @property
  def system(self) -> "System":
    """The system itself."""

  @property
  def model(self) -> nn.Module:
    """The model, built for the classes of the data."""

  @property
  def data(self) -> Mapping[str, np.ndarray]:
    """The arrays of `System.to_arrays`, [n, ...] each."""

  @property
  def records(self) -> Records:
    """The records that the arrays were made from."""

  @property
  def test_batch(self) -> int:
    """Size of an evaluation batch."""

  def plan(self, trained: np.ndarray, /) -> Plan:
    """The training batches of these records."""

  def stages(self, steps: int, /) -> tuple[tuple[Stage, ...], Mapping[str, float]]:
    """The result of `System.recipe` for this config."""

  def init(self, key: jax.Array, /) -> Variables:
    """Initial variables."""

  def in_order(self, rows: np.ndarray, /) -> np.ndarray:
    """The indices in the order in which evaluation takes them."""


class System:
  """A published method: its stages, how records become batches, how outputs become predictions, and its tables.

  A subclass sets `models`, `citation` and `paper_data`, and defines `recipe`, `to_arrays`, `eval_batch` and `inputs`.
  Everything else has a default.

  Attributes:
    models: Linen modules by the name that a config gives them.
    citation: source of the published numbers, and what they were measured on.
    paper_data: name of the data set that the published numbers were measured on; "" where there is none.
    paper_options: options of that data set that must hold, or the data are not the paper's.
    published: rows of the paper's table, as (name, conditions, accuracy). A condition is an attribute of the model, an
      option of the recipe such as "recipe.w", or "init_from", with its value or a `Range` of values.
    test_batch: size of an evaluation batch; None takes the size of a training batch.
    batch_dependent: whether outputs depend on the other records of a batch. Evaluation then follows the distributor's
      order of files (the records' `order`), and a study also evaluates in one random order.
    label_free: submodules that do not depend on the classes, so that they may come from a training with other classes.
      A part of one, such as "rgb/trunk", may be taken without the other parts.
  """

  models: Mapping[str, type[nn.Module]]
  citation: str
  paper_data: str
  paper_options: Options = {}
  published: Sequence[tuple[str, Options, float]] = ()
  test_batch: int | None = None
  batch_dependent: bool = False
  label_free: Sequence[str] = ()

  # A subclass declares the options of its recipe as keyword-only arguments with types and defaults, so the signature
  # of `recipe` is not fixed here: (model, steps per epoch, **options) -> (stages, hyperparameters by name).
  recipe: Any

  def to_arrays(self, records: Records) -> dict[str, np.ndarray]:
    """The arrays [n, ...] that batches are gathered from.

    The arrays of a data set that does not fit into memory are `stream.Column`s: pass them on unchanged.

    Raises:
      UserError: the records lack an array, or hold another kind of image.
    """
    raise NotImplementedError

  def eval_batch(self, data: Mapping[str, ArrayLike], indices: ArrayLike) -> Batch:
    """The batch of these records without augmentation, as evaluation reads it."""
    raise NotImplementedError

  def inputs(self, model: Any, batch: Batch) -> Sequence[jax.Array]:
    """The positional arguments of the model for a batch of `eval_batch`."""
    raise NotImplementedError

  def outputs(
    self,
    model: Any,
    variables: Variables,
    batch: Batch,
    hparams: Mapping[str, jax.Array],
    axis_name: str | None,
  ) -> jax.Array:
    """What evaluation computes for a batch, [batch, ...]; by default the logits that the model returns.

    Args:
      model: the model.
      variables: its variables.
      batch: of `eval_batch`, with "real" [batch], False for records that only complete the last batch.
      hparams: the recipe's hyperparameters.
      axis_name: axis of the devices that share the batch. Outputs that depend on other records reduce over it too.
    """
    del hparams, axis_name
    logits: jax.Array = model.apply(variables, *self.inputs(model, batch))
    return logits

  def predictions(self, model: Any, outputs: np.ndarray, labels: np.ndarray) -> Mapping[str, Prediction]:
    """The predictions of outputs [n, ...], by name.

    A training is judged by the first. The others are further ways to read the same model.
    """
    del model
    return {"": from_logits(outputs, labels)}

  def load_pretrained(self, model: Any, given: Variables) -> Variables:
    """The submodules that a training starts from, by the names that this model gives them.

    Args:
      model: the model.
      given: variables of another training, or converted weights.

    Raises:
      UserError: the weights hold nothing that this system uses.
    """
    del given
    raise UserError(
      f"init_from: {type(model).__name__} starts from no other training's weights: leave it out"
    )

  def required_weights(self, options: Options) -> Mapping[str, str]:
    """Submodules that the recipe leaves as they are given, with the option that says so."""
    del options
    return {}

  def input_spec(self, model: Any) -> Options:
    """What the model's images must be ("colour_order", "mean", "std", "input_size"); empty if nothing is required.

    It is stored with the weights, and must agree where weights are loaded into another model.
    """
    del model
    return {}

  def relabel(self, records: Records, options: Options) -> Records:
    """The records as the recipe sees them, for example with people as classes. Applying it twice changes nothing."""
    del options
    return records

  def figures(
    self, task: Task, variables: Variables, trained: np.ndarray, tested: np.ndarray, folder: pathlib.Path
  ) -> Mapping[str, str]:
    """Draws PNG files of a training into the folder, and returns their captions by file name.

    Args:
      task: what was trained.
      variables: its result.
      trained: indices of the training records.
      tested: indices of the test records.
      folder: an existing folder.
    """
    del task, variables, trained, tested, folder
    return {}

  def summaries(
    self, histories: Sequence[History], predictions: Sequence[Mapping[str, Prediction]]
  ) -> Mapping[str, Sequence[float]]:
    """Further numbers of a variant's trainings, one value per training.

    Args:
      histories: the rows of metrics of each training.
      predictions: those of each training.
    """
    del histories, predictions
    return {}

  def table_summaries(
    self, histories: Sequence[History], predictions: Sequence[Mapping[str, Prediction]]
  ) -> Mapping[str, Sequence[float]]:
    """As `summaries`, but only for the system's own `tables`: the study's general table does not show them."""
    del histories, predictions
    return {}

  def metrics(
    self, task: Task, variables: Variables, trained: np.ndarray, tested: np.ndarray
  ) -> Mapping[str, float | None]:
    """Numbers of a training for the system's own tables, by name; None where there is none. Arguments: `figures`."""
    del task, variables, trained, tested
    return {}

  def warnings(self, model: Any, history: History, outputs: np.ndarray) -> Sequence[str]:
    """One line per thing that a reader should be warned of, from the metrics and the outputs for the test records."""
    del model, history, outputs
    return ()

  def tables(
    self, variants: Variants, seeds: Sequence[int], not_trained: Variants = ()
  ) -> Sequence[tuple[str, Table]]:
    """Further tables of a study, with their titles.

    Args:
      variants: the rows of the study's table. Besides the fields of `report.study.judged` each has its "name", whether
        it is "comparable" with published numbers, the variants it is "compared" with, its `RunConfig` as "config", and
        its metrics as "history".
      seeds: of the study.
      not_trained: variants whose pretraining failed; each has "name", "published" and "comparable".
    """
    del variants, seeds, not_trained
    return ()

  def table_figures(self, variants: Variants, folder: pathlib.Path) -> Mapping[str, str]:
    """Draws PNG files of a study's table into the folder, and returns their captions by file name."""
    del variants, folder
    return {}

  def on_papers_data(self, data: Call) -> bool:
    """Whether these are the data that the published numbers were measured on."""
    options = self.paper_options.items()
    return data.name == self.paper_data and all(
      data.options.get(name, value) == value for name, value in options
    )

  def comparable(self, data: Call) -> bool:
    """Whether published numbers are shown beside ours on these data.

    They are on the paper's data, and on embedded data, which stand in for the paper's and are labelled so. On any other
    data the paper's numbers would say nothing.
    """
    return self.on_papers_data(data) or DATASETS[data.name].generated

  def init(self, model: nn.Module, data: Mapping[str, np.ndarray], key: jax.Array) -> Variables:
    """Initial variables of the model for these data."""
    return model.init(key, *self.inputs(model, self.eval_batch(data, np.zeros(1, np.int32))))
