"""A config applied to its data: the model, the split, the stages, and the evaluation.

Only the default dtype and the default placement of the data depend on the devices.
"""

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxfer import config as configuration
from jaxfer import metrics
from jaxfer.config import Call, RunConfig
from jaxfer.data import records
from jaxfer.data.plan import Plan
from jaxfer.data.stream import Column, Stream
from jaxfer.errors import UserError, unknown
from jaxfer.ranges import Range
from jaxfer.systems import SYSTEMS, create_model, model_class
from jaxfer.systems.prediction import Prediction
from jaxfer.systems.system import System
from jaxfer.train import memory
from jaxfer.train.stage import Stage, Variables


def options_of(field: str, call: Call) -> Mapping[str, Any]:
  """Returns the options that a call in a config accepts.

  Args:
    field: "recipe", "model" or "data"; or "figures" for the options of the figures of a recipe's system.
    call: the call. For "figures" it is that of the recipe.

  Returns:
    Option name -> annotation with its type and range.

  Raises:
    UserError: there is no recipe, model or data set of this name.
  """
  if field == "recipe":
    parameters = inspect.signature(_system(call.name).recipe).parameters.values()
    return {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY}
  if field == "figures":
    return _system(call.name).figure_options
  if field == "model":
    model = model_class(call.name)
    hints = typing.get_type_hints(model, include_extras=True)
    ours = {f.name for f in dataclasses.fields(model)} - {
      "parent",
      "name",
      "dtype",
      "param_dtype",
    }
    return {name: hints[name] for name in ours}
  fields = records.option_fields(type(records.make_config(call.name, {})))
  # "source" and "skip_bad" configure the import by `prepare`. They are not properties of the data.
  return {name: field.type for name, field in fields.items() if name not in ("source", "skip_bad")}


def _system(name: str) -> System:
  if name not in SYSTEMS:
    raise unknown("recipe", name, SYSTEMS)
  return SYSTEMS[name]


def with_dtype(config: RunConfig, begun: str | None = None) -> RunConfig:
  """Returns the config with a dtype in place of "auto".

  It is bfloat16 if `System.bfloat16` is true and the device has fast products of bfloat16, as TPUs, NVIDIA GPUs of
  compute capability 8.0 or higher and the AMD GPUs that JAX supports have. Otherwise, it is float32.

  Args:
    config: the config.
    begun: the dtype with which the training was begun, if it is resumed. It takes the place of "auto".
  """
  if config.dtype != "auto":
    return config
  if begun is not None:
    return configuration.override(config, {"dtype": begun}, options_of)
  narrow = _system(config.recipe.name).bfloat16 and _fast_in_bfloat16(jax.devices()[0])
  return dataclasses.replace(config, dtype="bfloat16" if narrow else "float32")


def _fast_in_bfloat16(device: jax.Device) -> bool:
  old = getattr(device, "compute_capability", "").startswith(("5.", "6.", "7."))
  return device.platform in ("gpu", "tpu") and not old


def _model(config: RunConfig, data: records.Records) -> nn.Module:
  """Creates the model. A model with the option `num_classes` or `subjects` gets that number from the data.

  Raises:
    UserError: the config gives another number than the data, the data have a single class, or the model cannot compute
      in the dtype of the config.
  """
  if len(data.label_names) < 2:
    raise UserError(
      f"data set '{config.data.name}' has one class, '{data.label_names[0]}', and a training needs at least two: "
      "check the folders or labels of the source"
    )
  given = {"num_classes": len(data.label_names), "subjects": len(data.subject_names)}
  given = {name: count for name, count in given.items() if name in options_of("model", config.model)}
  for name, count in given.items():
    if (asked := config.model.options.get(name, count)) != count:
      what = "classes" if name == "num_classes" else "subjects"
      raise UserError(
        f"model.{name}={asked}: data set '{config.data.name}' has {count} {what}; give {count}, or leave it out"
      )
  options = {**given, **config.model.options}
  if "dtype" in {field.name for field in dataclasses.fields(model_class(config.model.name))}:
    options["dtype"] = None if config.dtype == "float32" else config.dtype
  elif config.dtype != "float32":
    raise UserError(
      f"dtype={config.dtype}: model {config.model.name} has no attribute dtype: add one and pass it to "
      "its layers, or give dtype=float32"
    )
  return create_model(config.model.name, **options)


@dataclasses.dataclass(frozen=True)
class Task:
  """A config with its model and its data.

  Attributes:
    config: the config. Its dtype is not "auto".
    system: the system of the config.
    model: the model, created for the classes of the data.
    data: arrays [n, ...] on the host, from which the steps gather; a `Stream` if the data are not resident.
    records: the records from which the arrays were made.
    placement: description of the size of the data and where they are placed.
  """

  config: RunConfig
  system: System
  model: nn.Module
  data: Mapping[str, np.ndarray]
  records: records.Records
  placement: str

  def plan(self, indices: np.ndarray) -> Plan:
    """Returns the training batches.

    Args:
      indices: indices of the training examples. The seed of the config determines their order.
    """
    config = self.config
    subjects = self.records.arrays["subject"]
    return Plan(indices, config.batch_size, config.remainder, [config.seed], subjects)

  def stages(self, steps: int) -> tuple[tuple[Stage, ...], Mapping[str, float]]:
    """Returns the stages of the recipe, and the hyperparameters that they read by name.

    Args:
      steps: number of steps per epoch.
    """
    return self.system.recipe(self.model, steps, **self.config.recipe.options)

  def hparams(self, steps: int, indices: np.ndarray) -> Mapping[str, float]:
    """Returns the hyperparameters of a training by name.

    Args:
      steps: number of steps per epoch.
      indices: indices of the training examples.
    """
    labels = np.asarray(self.data["label"][indices])
    own = self.system.data_hparams(self.config.recipe.options, labels, len(self.records.label_names))
    return {**self.stages(steps)[1], **own}

  def init(self, key: jax.Array) -> Variables:
    """Returns the initial variables."""
    one = {name: np.zeros((1, *array.shape[1:]), array.dtype) for name, array in self.data.items()}
    return self.system.init(self.model, one, key)

  def outputs(
    self,
    variables: Variables,
    hparams: Mapping[str, jax.Array],
    data: Mapping[str, jax.Array],
    plan: Mapping[str, jax.Array],
    axis_name: str | None,
  ) -> jax.Array:
    """Computes the outputs [batch, ...] of the planned examples for evaluation; see `placement.Outputs`."""
    batch = {**self.system.eval_batch(data, plan["row"]), "real": plan["real"]}
    return self.system.outputs(self.model, variables, batch, hparams, axis_name)

  @property
  def test_batch(self) -> int:
    """Number of examples in an evaluation batch."""
    return self.system.test_batch or self.config.batch_size

  def in_order(self, indices: np.ndarray) -> np.ndarray:
    """Returns indices in the order of evaluation.

    If outputs depend on the other examples in a batch and the distributor gives an order, this is the distributor's
    order. Otherwise, the indices are returned unchanged.
    """
    if not self.system.batch_dependent or "order" not in self.records.arrays:
      return indices
    return indices[np.argsort(self.records.arrays["order"][indices], kind="stable")]

  def predictions(self, outputs: np.ndarray, indices: np.ndarray) -> Mapping[str, Prediction]:
    """Returns the predictions from outputs, by name. The first one determines the accuracy.

    Args:
      outputs: [n, ...] outputs of the model.
      indices: [n] indices of the examples.
    """
    return self.system.predictions(self.model, outputs, self.data["label"][indices])

  def evaluate(self, outputs: np.ndarray, indices: np.ndarray) -> dict[str, float]:
    """Returns the accuracy and, if there is one, the mean loss; the arguments are those of `predictions`."""
    first = next(iter(self.predictions(outputs, indices).values()))
    found = {"accuracy": self.score(first.correct, indices).accuracy}
    return found if first.loss is None else found | {"loss": float(first.loss.mean())}

  def score(self, correct: np.ndarray, indices: np.ndarray) -> metrics.Score:
    """Returns the score of predictions.

    Args:
      correct: [n] `Prediction.correct`.
      indices: [n] indices of the examples.
    """
    return metrics.score(self.data["label"][indices], correct, len(self.records.label_names))

  def published(self) -> dict[str, float]:
    """Returns the published accuracies that this config reproduces, by name.

    The result is empty if the paper has no row for this config, or if the data cannot be compared with the paper's.
    """
    if not self.system.comparable(self.config.data):
      return {}
    options = {p.name: p.default for p in inspect.signature(self.system.recipe).parameters.values()}
    options |= self.config.recipe.options

    def value(key: str) -> Any:
      if key == "init_from":
        return self.config.init_from
      of_recipe, option = key.startswith("recipe."), key.removeprefix("recipe.")
      return options[option] if of_recipe else getattr(self.model, key)

    def agrees(key: str, wanted: Any) -> bool:
      return wanted.holds(value(key)) if isinstance(wanted, Range) else value(key) == wanted

    return {
      name: accuracy
      for name, attributes, accuracy in self.system.published
      if all(agrees(key, wanted) for key, wanted in attributes.items())
    }


def relabelled(config: RunConfig, data: records.Records) -> records.Records:
  """Returns the records with the labels of the config's recipe; see `System.relabel`."""
  return _system(config.recipe.name).relabel(data, config.recipe.options)


def task_of(config: RunConfig, data: records.Records) -> Task:
  """Builds the model for the data. Nothing is compiled yet.

  Raises:
    UserError: a name in the config is unknown, or its options do not fit.
  """
  configuration.check(config, options_of)
  return assemble(config, data)


def assemble(config: RunConfig, data: records.Records) -> Task:
  """Builds the model like `task_of`, but without checking the options.

  The check reads the options of the data set from its TFDS builder.
  """
  config = with_dtype(config)
  system, data = _system(config.recipe.name), relabelled(config, data)
  arrays = system.to_arrays(data)
  streamed, placement = _placed(config.execution, arrays)
  model = _model(config, data)
  return Task(config, system, model, Stream(arrays) if streamed else arrays, data, placement)


def _placed(execution: configuration.Execution, arrays: Mapping[str, Any]) -> tuple[bool, str]:
  """Returns whether the data are streamed, and a description with the size and the reason."""
  size = sum(array.nbytes for array in arrays.values())
  if execution.placement != "auto":
    streamed, why = execution.placement == "streamed", "as asked"
  elif any(isinstance(array, Column) for array in arrays.values()):
    streamed, why = True, "from disk, too big for the host's memory"
  else:
    limit, why = memory.room(execution.devices)
    streamed = limit is not None and size > limit
  return streamed, f"{size / 2**20:.3g} MiB {'streamed' if streamed else 'resident'} ({why})"
