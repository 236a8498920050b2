"""`System`, the base class of all systems, and the `Task` that it is given."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxfer.config import Call, RunConfig
from jaxfer.data.datasets import DATASETS
from jaxfer.data.plan import Plan
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.report.tables import Table
from jaxfer.systems.explanation import ClassMaps, Explanation
from jaxfer.systems.prediction import Prediction, from_logits
from jaxfer.train.stage import Batch, Stage, Variables

Options = Mapping[str, Any]
History = Sequence[Mapping[str, Any]]  # The metrics of one training, one mapping per epoch of each stage.
Variants = Sequence[Mapping[str, Any]]  # The variants of a study with their results, see `System.tables`.


class Task(Protocol):
  """The parts of `study.task.Task`, a config with its model and its data, that a system may use."""

  @property
  def config(self) -> RunConfig:
    """The config of the training."""

  @property
  def system(self) -> "System":
    """The system of the config."""

  @property
  def model(self) -> nn.Module:
    """The model, created for the classes of the data."""

  @property
  def data(self) -> Mapping[str, np.ndarray]:
    """The arrays that `System.to_arrays` returned, [n, ...] each."""

  @property
  def records(self) -> Records:
    """The records from which the arrays were made."""

  @property
  def test_batch(self) -> int:
    """Number of records in an evaluation batch."""

  def plan(self, train_indices: np.ndarray, /) -> Plan:
    """Returns the plan of the training batches."""

  def stages(self, steps: int, /) -> tuple[tuple[Stage, ...], Mapping[str, float]]:
    """Returns the stages and hyperparameters of `System.recipe` for `steps` batches per epoch."""

  def init(self, key: jax.Array, /) -> Variables:
    """Returns the initial variables."""

  def in_order(self, indices: np.ndarray, /) -> np.ndarray:
    """Returns the indices in the order in which evaluation batches are filled."""


class System:
  """A published method: its models, its training stages, its batches, its predictions and its tables.

  A subclass sets `models`, `citation` and `paper_data`, and defines `recipe`, `to_arrays`, `eval_batch` and `inputs`.
  Everything else has a default.

  Attributes:
    models: Linen modules, by the names that configs use for them.
    citation: source of the published numbers, with the data and the protocol.
    paper_data: name of the data set on which the published numbers were measured; "" if there is none.
    paper_options: options of this data set, with the values that they have in the paper.
    published: published results as (name, conditions, accuracy in [0, 1]). A config repeats a result if all conditions
      hold. A condition names an attribute of the model, an option of the recipe (such as "recipe.w") or "init_from",
      and gives its value or a `Range` of values.
    test_batch: number of records in an evaluation batch; None for the size of a training batch.
    batch_dependent: whether the outputs for a record depend on the other records of its batch. If so, evaluation
      batches follow the order of the distributor's files (`order` of the records), and a study also evaluates batches
      drawn at random.
    label_free: names of submodules that do not depend on the classes, so that they can be loaded from a training with
      other classes. A path such as "rgb/trunk" names a part that can be loaded without the rest of its submodule.
    bfloat16: whether trainings compute in bfloat16 on accelerators unless the config gives a dtype. It is true if
      `benchmarks.precision` found no loss of accuracy greater than one standard error.
    figure_options: options of `figures` that a config may set, by name, with their types and ranges.
  """

  models: Mapping[str, type[nn.Module]]
  citation: str
  paper_data: str
  paper_options: Options = {}
  published: Sequence[tuple[str, Options, float]] = ()
  test_batch: int | None = None
  batch_dependent: bool = False
  label_free: Sequence[str] = ()
  bfloat16: bool = False
  figure_options: Options = {}

  # A method (model, steps, *, options) -> (stages, hyperparameters by name), where `steps` is the number of batches per
  # epoch. Each subclass declares its options as keyword-only arguments with types and defaults, so no signature is
  # fixed here.
  recipe: Any

  def to_arrays(self, records: Records) -> dict[str, np.ndarray]:
    """Returns the arrays [n, ...] from which batches are gathered.

    The arrays of a data set that does not fit into memory are `data.stream.Column` objects. Return them unchanged.

    Raises:
      UserError: an array is missing, or the images are of another kind than the system needs.
    """
    raise NotImplementedError

  def eval_batch(self, data: Mapping[str, ArrayLike], indices: ArrayLike) -> Batch:
    """Returns the evaluation batch of some records, without augmentation.

    Args:
      data: the arrays of `to_arrays`.
      indices: [batch] indices of the records.
    """
    raise NotImplementedError

  def inputs(self, model: Any, batch: Batch) -> Sequence[jax.Array]:
    """Returns the positional arguments of the model for a batch of `eval_batch`."""
    raise NotImplementedError

  def data_hparams(self, options: Options, labels: np.ndarray, classes: int) -> Mapping[str, float]:
    """Returns the hyperparameters that depend on a training's records, by name. The default has none.

    Args:
      options: options of the recipe that the config sets.
      labels: [n] classes of the training records.
      classes: number of classes.
    """
    del options, labels, classes
    return {}

  def outputs(
    self,
    model: Any,
    variables: Variables,
    batch: Batch,
    hparams: Mapping[str, jax.Array],
    axis_name: str | None,
  ) -> jax.Array:
    """Computes the outputs of the model for an evaluation batch, [batch, ...]. The default is the model's logits.

    Args:
      model: the model.
      variables: variables of the model.
      batch: a batch of `eval_batch`, and "real" [batch], which is False for padding in the last batch.
      hparams: hyperparameters of the recipe.
      axis_name: name of the mapped axis over which a batch is split between devices, or None. Outputs that depend on
        other records of the batch must reduce over it.
    """
    del hparams, axis_name
    logits: jax.Array = model.apply(variables, *self.inputs(model, batch))
    return logits

  def predictions(self, model: Any, outputs: np.ndarray, labels: np.ndarray) -> Mapping[str, Prediction]:
    """Returns predictions by name, from the outputs [n, ...] and labels [n] of n records.

    The first prediction is the result of the training. Further ones are other ways to classify with the same model.
    """
    del model
    return {"": from_logits(outputs, labels)}

  def inference_state(self, model: Any, outputs: np.ndarray, labels: np.ndarray) -> Mapping[str, np.ndarray]:
    """Returns arrays that `probabilities` needs besides the outputs. They are stored with the weights of a training.

    Args:
      model: the model.
      outputs: outputs [n, ...] for the test records.
      labels: their labels [n].
    """
    del model, outputs, labels
    return {}

  def probabilities(self, task: Task, outputs: jax.Array, state: Mapping[str, np.ndarray]) -> jax.Array:
    """Returns the class probabilities [n, classes], float32, of the first prediction of `predictions`.

    It is called in compiled functions. The default is the softmax of the outputs.

    Args:
      task: the config with its model; its data are empty.
      outputs: outputs [n, ...] for new records.
      state: the arrays of `inference_state`.
    """
    del task, state
    return nn.softmax(outputs.astype(jnp.float32))

  def for_single_records(self, model: Any, variables: Variables) -> Any:
    """Returns a version of the model whose outputs for a record do not depend on the other records of the batch.

    The default is the model itself. A system that is `batch_dependent` must override this.
    """
    del variables
    return model

  def needs_landmarks(self, model: Any) -> bool:
    """Returns whether the outputs depend on landmarks, which the user must then provide for new images."""
    del model
    return False

  def load_pretrained(self, model: Any, given: Variables) -> Variables:
    """Selects the pretrained submodules from which a training starts, under the names of this model.

    The default refuses any pretrained weights.

    Args:
      model: the model.
      given: variables of another training, or converted weights.

    Returns:
      The variables of the selected submodules. All others start from their initial values.

    Raises:
      UserError: `given` has no weights that this system can use.
    """
    del given
    raise UserError(
      f"init_from: {type(model).__name__} cannot start from the weights of another training: leave it out"
    )

  def required_weights(self, options: Options) -> Mapping[str, str]:
    """Returns the submodules that need pretrained weights because the recipe does not train them.

    Args:
      options: options of the recipe that the config sets.

    Returns:
      For each name of a submodule the option that freezes it, such as "recipe.rgb=given".
    """
    del options
    return {}

  def input_spec(self, model: Any) -> Options:
    """Returns the preprocessing of the model's images: "colour_order", "mean", "std" and "input_size".

    It is stored with the weights. Weights can only be loaded into a model with the same preprocessing. The default is
    empty and requires nothing.
    """
    del model
    return {}

  def takes_any_size(self, model: Any) -> bool:
    """Returns whether weights fit that were trained on images of another "input_size"; there is a warning if so."""
    del model
    return False

  def relabel(self, records: Records, options: Options) -> Records:
    """Returns the records with the classes that the recipe learns, for example one class per person.

    Relabelling records twice is the same as relabelling them once.

    Args:
      records: the records of the data set.
      options: options of the recipe that the config sets.
    """
    del options
    return records

  def figures(
    self,
    task: Task,
    variables: Variables,
    train_indices: np.ndarray,
    test_indices: np.ndarray,
    folder: pathlib.Path,
  ) -> Mapping[str, str]:
    """Draws figures of a training as PNG files, and returns their captions by file name.

    Args:
      task: the config with its model and data. `task.config.figures` holds the options of the figures.
      variables: the trained variables.
      train_indices: indices of the training records.
      test_indices: indices of the test records.
      folder: an existing folder, into which the files are written.
    """
    del task, variables, train_indices, test_indices, folder
    return {}

  def explanation(self, task: Task, variables: Variables, layer: str | None) -> Explanation:
    """Returns what `jaxfer explain` draws of a trained model. The default is Grad-CAM++ of the predicted class.

    Args:
      task: the config with its model; its data are empty.
      variables: the trained variables.
      layer: the layer that the user has named, or None.

    Raises:
      UserError: the model cannot be explained, or has no such layer.
    """
    hparams = {name: jnp.float32(value) for name, value in task.stages(1)[1].items()}

    def logits_of(batch: Batch) -> jax.Array:
      return self.outputs(task.model, variables, batch, hparams, None)

    return ClassMaps(logits_of, task.records.label_names, layer)

  def summaries(
    self, histories: Sequence[History], predictions: Sequence[Mapping[str, Prediction]]
  ) -> Mapping[str, Sequence[float]]:
    """Returns further numbers of a variant by name, with one value per training.

    A study reports their mean and standard deviation.

    Args:
      histories: the metrics of each training.
      predictions: the predictions of each training, by name.
    """
    del histories, predictions
    return {}

  def table_summaries(
    self, histories: Sequence[History], predictions: Sequence[Mapping[str, Prediction]]
  ) -> Mapping[str, Sequence[float]]:
    """Like `summaries`, but for the system's own `tables` only. The general table of a study does not show them."""
    del histories, predictions
    return {}

  def metrics(
    self, task: Task, variables: Variables, train_indices: np.ndarray, test_indices: np.ndarray
  ) -> Mapping[str, float | None]:
    """Returns numbers of a training for the system's own tables, by name; None for a missing value.

    Arguments are those of `figures`.
    """
    del task, variables, train_indices, test_indices
    return {}

  def warnings(self, model: Any, history: History, outputs: np.ndarray) -> Sequence[str]:
    """Returns warnings about a training for its report, one line each.

    Args:
      model: the model.
      history: the metrics of the training.
      outputs: outputs [n, ...] for the test records.
    """
    del model, history, outputs
    return ()

  def tables(
    self, variants: Variants, seeds: Sequence[int], not_trained: Variants = ()
  ) -> Sequence[tuple[str, Table]]:
    """Returns further tables of a study as (title, table).

    Args:
      variants: the trained variants. Each has the fields of `report.study.summarize`, its "name", its comparisons with
        other variants ("compared"), the metrics of its trainings ("history"), its `RunConfig` ("config"), and
        "comparable": whether published numbers may be shown beside it.
      seeds: seeds of the study.
      not_trained: variants whose pretraining failed. Each has "name", "published" and "comparable".
    """
    del variants, seeds, not_trained
    return ()

  def table_figures(self, variants: Variants, folder: pathlib.Path) -> Mapping[str, str]:
    """Draws figures of a study as PNG files, and returns their captions by file name.

    Args:
      variants: see `tables`.
      folder: an existing folder, into which the files are written.
    """
    del variants, folder
    return {}

  def on_papers_data(self, data: Call) -> bool:
    """Returns whether the published numbers were measured on these data."""
    options = self.paper_options.items()
    return data.name == self.paper_data and all(
      data.options.get(name, value) == value for name, value in options
    )

  def comparable(self, data: Call) -> bool:
    """Returns whether published numbers may be shown beside ours on these data.

    This holds for the data of the paper, and for embedded data, which stand in for them and are labelled as such. On
    other data the published numbers would be meaningless.
    """
    return self.on_papers_data(data) or DATASETS[data.name].generated

  def init(self, model: nn.Module, data: Mapping[str, np.ndarray], key: jax.Array) -> Variables:
    """Returns the initial variables of the model.

    Args:
      model: the model.
      data: the arrays of `to_arrays`, with at least one record.
      key: a typed key.
    """
    return model.init(key, *self.inputs(model, self.eval_batch(data, np.zeros(1, np.int32))))
