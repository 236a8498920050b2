"""A config applied to its data: the model, the split, the stages, and the evaluation. It does not depend on devices."""

import dataclasses
import inspect
import typing
import zlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxfer import config as configuration
from jaxfer import metrics
from jaxfer.config import Call, RunConfig
from jaxfer.data import folds, per_class, records
from jaxfer.data.plan import Plan
from jaxfer.data.stream import Column, Stream
from jaxfer.errors import UserError, unknown
from jaxfer.ranges import Range
from jaxfer.systems import SYSTEMS, create_model, model_class
from jaxfer.systems.system import Prediction, System
from jaxfer.train import memory
from jaxfer.train.stage import Stage, Variables


def options_of(field: str, call: Call) -> Mapping[str, Any]:
  """Returns the options that a call in a config accepts.

  Args:
    field: "recipe", "model" or "data".
    call: the call.

  Returns:
    Option name -> annotation with its type and range.

  Raises:
    UserError: there is no recipe, model or data set of this name.
  """
  if field == "recipe":
    parameters = inspect.signature(_system(call.name).recipe).parameters.values()
    return {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY}
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
  # "source" and "skip_bad" say where and how strictly `prepare` imports. They are not properties of the data.
  return {name: field.type for name, field in fields.items() if name not in ("source", "skip_bad")}


def _system(name: str) -> System:
  if name not in SYSTEMS:
    raise unknown("recipe", name, SYSTEMS)
  return SYSTEMS[name]


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
      "its layers, or leave dtype out"
    )
  return create_model(config.model.name, **options)


def folds_of(config: RunConfig, data: records.Records) -> int:
  """Returns the number of folds that a config trains; 0 if it is a single training."""
  split = config.split
  if split.fold is not None:
    return 0
  return len(data.subject_names) if split.kind == "leave_one_out" else split.folds


def split_of(config: RunConfig, data: records.Records) -> folds.Split:
  """Splits the records of a config into training, validation and test.

  Records whose text `purpose` is "training" are used only for training. Those whose `purpose` is "recognition" are used
  only for validation and test.

  Returns:
    The split, as masks over the records.

  Raises:
    UserError: the records cannot be split in this way, or nothing could be learned or tested with the split.
  """
  split = _all_of(config, data)
  if "purpose" in data.texts:
    purpose = np.asarray(data.texts["purpose"])
    learned, judged = (np.isin(purpose, ("", own)) for own in ("training", "recognition"))
    split = folds.Split(split.train & learned, split.validation & judged, split.test & judged)
  try:
    folds.assert_of_use(data.arrays["label"], data.label_names, split)
  except UserError as error:
    raise UserError(f"data set '{config.data.name}': {error}") from error
  return split


def _all_of(config: RunConfig, data: records.Records) -> folds.Split:
  split, subjects, labels = config.split, data.subjects, data.arrays["label"]
  seed = _split_seed(config.seed) if split.seed is None else split.seed
  aside: Any = {"validation_fraction": split.validation, "seed": seed}
  if split.kind == "per_class":
    people = set(data.subject_names) <= set(data.label_names)  # The classes are the people themselves.
    return per_class.per_class_split(labels, data.label_names, split.per_class, few=people, **aside)
  if split.kind == "per_class_people":
    return per_class.per_class_people_split(subjects, labels, data.label_names, split.per_class, **aside)
  if split.kind == "distributed":
    if "split" not in data.texts:
      raise UserError(
        f"data set '{config.data.name}' has no split by its distributor: choose another split.kind"
      )
    return folds.distributed_split(subjects, data.texts["split"], **aside)
  count = len(data.subject_names) if split.kind == "leave_one_out" else split.folds
  if count:
    return folds.fold_split(subjects, split.fold or 0, count, **aside)
  watched = (1 - split.test) * split.validation
  return folds.holdout_split(subjects, (1 - split.test - watched, watched, split.test), seed)


def _split_seed(seed: int) -> int:
  """Returns the seed of a split that each run draws anew. Its random numbers are independent of the batches' order."""
  return int(np.random.SeedSequence([seed, zlib.crc32(b"split")]).generate_state(1)[0])


@dataclasses.dataclass(frozen=True)
class Task:
  """A config with its model and its data.

  Attributes:
    config: the config.
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

  def plan(self, trained: np.ndarray) -> Plan:
    """Returns the training batches.

    Args:
      trained: indices of the training examples. The seed of the config determines their order.
    """
    config = self.config
    subjects = self.records.arrays["subject"]
    return Plan(trained, config.batch_size, config.remainder, [config.seed], subjects)

  def stages(self, steps: int) -> tuple[tuple[Stage, ...], Mapping[str, float]]:
    """Returns the stages of the recipe, and the hyperparameters that they read by name.

    Args:
      steps: number of steps per epoch.
    """
    return self.system.recipe(self.model, steps, **self.config.recipe.options)

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

  def in_order(self, rows: np.ndarray) -> np.ndarray:
    """Returns indices in the order of evaluation.

    If outputs depend on the other examples in a batch and the distributor gives an order, this is the distributor's
    order. Otherwise, the indices are returned unchanged.
    """
    if not self.system.batch_dependent or "order" not in self.records.arrays:
      return rows
    return rows[np.argsort(self.records.arrays["order"][rows], kind="stable")]

  def read(self, outputs: np.ndarray, rows: np.ndarray) -> Mapping[str, Prediction]:
    """Returns the predictions from outputs, by name. The first one determines the accuracy.

    Args:
      outputs: [n, ...].
      rows: [n] indices of the examples.
    """
    return self.system.predictions(self.model, outputs, self.data["label"][rows])

  def judge(self, outputs: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """Returns the accuracy and, if there is one, the mean loss of outputs; the arguments are as in `read`."""
    reading = next(iter(self.read(outputs, rows).values()))
    numbers = {"accuracy": self.score(reading.correct, rows).accuracy}
    return numbers if reading.loss is None else numbers | {"loss": float(reading.loss.mean())}

  def score(self, correct: np.ndarray, rows: np.ndarray) -> metrics.Score:
    """Returns the score of predictions.

    Args:
      correct: [n] `Prediction.correct`.
      rows: [n] indices of the examples.
    """
    return metrics.score(self.data["label"][rows], correct, len(self.records.label_names))

  def taken_over(self, given: Variables, meta: Mapping[str, Any], source: str) -> tuple[Variables, str]:
    """Takes over the variables of another training in place of initial ones.

    Args:
      given: variables of another training, or converted ones.
      meta: the metadata stored with them. Their input specification must be that of this model. If a submodule is taken
        over that depends on the classes, their `label_names` must be those of the data.
      source: description of where the variables come from.

    Returns:
      (variables, line), where the line describes for the log what was taken over.

    Raises:
      UserError: the variables do not fit this model.
    """
    taken, names = self.system.load_pretrained(self.model, given), meta.get("label_names")
    modules = self._modules(taken["params"])
    bound = [name for name in modules if name not in self.system.label_free]
    if bound and names is not None and tuple(names) != self.records.label_names:
      raise UserError(
        f"init_from: {source} names its classes {', '.join(names)}, the data {', '.join(self.records.label_names)}: "
        "give data of the same classes in the same order"
      )
    self._check_pictures(meta, source)
    fresh = jax.eval_shape(self.init, jax.random.key(0))
    for name in taken["params"]:
      if name not in fresh["params"]:
        raise UserError(f"init_from: {source} gives '{name}', which {self.config.model.name} does not have")
    for name in modules:
      want, have = ({c: _at(tree, name) for c, tree in v.items()} for v in (fresh, taken))
      paths = [
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (want, have)
      ]
      if differing := sorted(k for k in {*paths[0], *paths[1]} if paths[0].get(k) != paths[1].get(k)):
        raise UserError(
          f"init_from: '{name}' of {source} is another net ({len(differing)} arrays differ, such as {differing[0]}: "
          f"{paths[1].get(differing[0])} for {paths[0].get(differing[0])}): give the same model options"
        )
    left = {name: tree for name, tree in fresh["params"].items() if name not in taken["params"]}
    for name in (name.partition("/")[0] for name in modules if "/" in name):
      rest = {f"{name}/{part}": tree for part, tree in fresh["params"][name].items()}
      left |= {part: tree for part, tree in rest.items() if part not in modules}
    line = f"taken over from {source}: {_named({name: _at(taken['params'], name) for name in modules})}"
    return taken, line + (f"; fresh: {_named(left)}" if left else "")

  def _modules(self, taken: Mapping[str, Any]) -> list[str]:
    """Returns the names of the submodules that are taken over.

    A submodule whose parts may be taken over separately is replaced by the names of these parts, such as "rgb/trunk".
    """
    modules: list[str] = []
    for name, tree in taken.items():
      parts = [f"{name}/{part}" for part in tree]
      modules += parts if set(parts) <= set(self.system.label_free) else [name]
    return modules

  def check_start(self, start: Variables | None) -> None:
    """Checks that every submodule that needs trained weights is given completely; see `System.required_weights`.

    Args:
      start: the variables that the training starts from, or None.

    Raises:
      UserError: a submodule is missing or incomplete. The message names it, and the option of the recipe.
    """
    given = {} if start is None else start["params"]
    for name, option in self.system.required_weights(self.config.recipe.options).items():
      if name not in self._modules(given):
        raise UserError(
          f"{option} does not train '{name}', and no trained '{name}' is given: name its folder of weights by init_from"
        )

  def _check_pictures(self, meta: Mapping[str, Any], source: str) -> None:
    """Raises `UserError` if weights were trained on other inputs than this model's, or do not specify their inputs."""
    for name, want in self.system.input_spec(self.model).items():
      if name not in meta:
        raise UserError(
          f"init_from: {source} does not record its {name}: convert or train it again with this version"
        )
      have = meta[name]
      if (list(have) if isinstance(have, list | tuple) else have) != want:
        raise UserError(
          f"init_from: {source} was trained with {name} {have}, this training reads {want}: set model.pictures or "
          "model.image_size as in that training"
        )

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


def seen(config: RunConfig, data: records.Records) -> records.Records:
  """Returns the records with the labels of the config's recipe; see `System.relabel`."""
  return _system(config.recipe.name).relabel(data, config.recipe.options)


def _at(tree: Any, path: str) -> Any:
  """Returns the part of a tree at a path such as "rgb/trunk", or None if there is none."""
  for name in path.split("/"):
    tree = None if tree is None else tree.get(name)
  return tree


def _named(params: Mapping[str, Any]) -> str:
  """Returns the names of submodules and their total number of parameters, in words."""
  return f"{', '.join(params)} ({sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters)"


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
  system, data = _system(config.recipe.name), seen(config, data)
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
