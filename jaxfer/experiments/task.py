"""What a config comes to on its data, whatever the devices: its stages, its variables, its outputs and their worth."""

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
  """The options, with their types and ranges, that a call of a config takes: `field` is "recipe", "model" or "data".

  Raises:
    UserError: there is no such recipe, model or data set.
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
  # Where to import from and how strictly are arguments of `prepare`, not properties of the data.
  return {name: field.type for name, field in fields.items() if name not in ("source", "skip_bad")}


def _system(name: str) -> System:
  if name not in SYSTEMS:
    raise unknown("recipe", name, SYSTEMS)
  return SYSTEMS[name]


def _model(config: RunConfig, data: records.Records) -> nn.Module:
  """The model, told of the data what it asks for: how many classes there are, or how many people.

  Raises:
    UserError: the config gives another number than the data have, or they have a single class.
  """
  if len(data.label_names) < 2:
    raise UserError(
      f"data set '{config.data.name}' has one class, '{data.label_names[0]}', and a training of one class is no "
      "result: check the folders or labels of the source"
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
      f"dtype={config.dtype}: model {config.model.name} has no attribute dtype to compute in: add one and pass it to "
      "its layers, or leave dtype out"
    )
  return create_model(config.model.name, **options)


def folds_of(config: RunConfig, data: records.Records) -> int:
  """How many trainings the config's split asks for, one a fold; 0: a single one."""
  split = config.split
  if split.fold is not None:
    return 0
  return len(data.subject_names) if split.kind == "leave_one_out" else split.folds


def split_of(config: RunConfig, data: records.Records) -> folds.Split:
  """Who trains, who watches, who is tested, as masks over the records.

  Records that are for training or for recognition alone (their text `purpose`) are on no other side.

  Raises:
    UserError: these records cannot be divided so, or nothing can be learned or tested then.
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
    people = set(data.subject_names) <= set(data.label_names)  # That is what is learned: who it is.
    return per_class.per_class_split(labels, data.label_names, split.per_class, few=people, **aside)
  if split.kind == "per_class_people":
    return per_class.per_class_people_split(subjects, labels, data.label_names, split.per_class, **aside)
  if split.kind == "distributed":
    if "split" not in data.texts:
      raise UserError(
        f"data set '{config.data.name}' has no split of its distributor's: choose another split.kind"
      )
    return folds.distributed_split(subjects, data.texts["split"], **aside)
  count = len(data.subject_names) if split.kind == "leave_one_out" else split.folds
  if count:
    return folds.fold_split(subjects, split.fold or 0, count, **aside)
  watched = (1 - split.test) * split.validation
  return folds.holdout_split(subjects, (1 - split.test - watched, watched, split.test), seed)


def _split_seed(seed: int) -> int:
  """Of a division drawn anew by each run: its own stream of random numbers, apart from the rows' order."""
  return int(np.random.SeedSequence([seed, zlib.crc32(b"split")]).generate_state(1)[0])


@dataclasses.dataclass(frozen=True)
class Task:
  """A config on its data.

  Attributes:
    config: as it was given.
    system: its system.
    model: with the classes of the data.
    data: the arrays that the steps gather from, [n, ...] each, on the host; a `Stream` where not resident.
    records: what they were made from.
    placement: their size and where they go, in words.
  """

  config: RunConfig
  system: System
  model: nn.Module
  data: Mapping[str, np.ndarray]
  records: records.Records
  placement: str

  def plan(self, trained: np.ndarray) -> Plan:
    """The batches of the rows to train on, in the order of the config's seed."""
    config = self.config
    subjects = self.records.arrays["subject"]
    return Plan(trained, config.batch_size, config.remainder, [config.seed], subjects)

  def stages(self, steps: int) -> tuple[tuple[Stage, ...], Mapping[str, float]]:
    """The stages, and the numbers they read by name, where an epoch has so many steps."""
    return self.system.recipe(self.model, steps, **self.config.recipe.options)

  def init(self, key: jax.Array) -> Variables:
    """Initial variables."""
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
    """What evaluation computes of the planned rows, [rows, ...]; see `placement.Outputs`."""
    batch = {**self.system.eval_batch(data, plan["row"]), "real": plan["real"]}
    return self.system.outputs(self.model, variables, batch, hparams, axis_name)

  @property
  def test_batch(self) -> int:
    """Rows of a batch of evaluation."""
    return self.system.test_batch or self.config.batch_size

  def in_order(self, rows: np.ndarray) -> np.ndarray:
    """The rows as evaluation takes them: where batch-mates matter, in the distributor's order."""
    if not self.system.batch_dependent or "order" not in self.records.arrays:
      return rows
    return rows[np.argsort(self.records.arrays["order"][rows], kind="stable")]

  def read(self, outputs: np.ndarray, rows: np.ndarray) -> Mapping[str, Prediction]:
    """What some rows' outputs say, by name; the first is what counts."""
    return self.system.predictions(self.model, outputs, self.data["label"][rows])

  def judge(self, outputs: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """Accuracy and mean loss of some rows' outputs."""
    reading = next(iter(self.read(outputs, rows).values()))
    numbers = {"accuracy": self.score(reading.correct, rows).accuracy}
    return numbers if reading.loss is None else numbers | {"loss": float(reading.loss.mean())}

  def score(self, correct: np.ndarray, rows: np.ndarray) -> metrics.Score:
    """How many of some rows are right, where `correct` is that of a `Prediction` of them."""
    return metrics.score(self.data["label"][rows], correct, len(self.records.label_names))

  def taken_over(self, given: Variables, meta: Mapping[str, Any], source: str) -> tuple[Variables, str]:
    """What this training starts from instead of initial values, and a line that says so.

    Args:
      given: variables of another training, or converted ones.
      meta: what is stored beside them; `label_names` there must be those of these data where something is taken that
        depends on them, and the pictures those of this model.
      source: where they are from, in words.

    Raises:
      UserError: they do not fit this model.
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
    """What is taken over: submodules, or those parts of one, as "rgb/trunk", that may be taken without the others."""
    modules: list[str] = []
    for name, tree in taken.items():
      parts = [f"{name}/{part}" for part in tree]
      modules += parts if set(parts) <= set(self.system.label_free) else [name]
    return modules

  def check_start(self, start: Variables | None) -> None:
    """Refuses a training whose recipe leaves a submodule as it is given, where it is not given, or in part.

    Raises:
      UserError: naming the option and the submodule.
    """
    given = {} if start is None else start["params"]
    for name, option in self.system.required_weights(self.config.recipe.options).items():
      if name not in self._modules(given):
        raise UserError(
          f"{option} leaves '{name}' as it is given, and no trained '{name}' is given: name its weights by init_from"
        )

  def _check_pictures(self, meta: Mapping[str, Any], source: str) -> None:
    """Refuses weights that were trained on other pictures than those this model is given, or do not say on which."""
    for name, want in self.system.input_spec(self.model).items():
      if name not in meta:
        raise UserError(
          f"init_from: {source} does not say its {name}: convert or train it again with this version"
        )
      have = meta[name]
      if (list(have) if isinstance(have, list | tuple) else have) != want:
        raise UserError(
          f"init_from: {source} was trained with {name} {have}, this training reads {want}: set model.pictures or "
          "model.image_size as there"
        )

  def published(self) -> dict[str, float]:
    """The paper's row that this config repeats, if any, on data that may be compared with the paper's."""
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
  """The records as the config's recipe sees them; see `System.relabel`."""
  return _system(config.recipe.name).relabel(data, config.recipe.options)


def _at(tree: Any, path: str) -> Any:
  """The part of a tree at a path such as "rgb/trunk"; None where it has none."""
  for name in path.split("/"):
    tree = None if tree is None else tree.get(name)
  return tree


def _named(params: Mapping[str, Any]) -> str:
  """Submodules, and how many parameters they have together."""
  return f"{', '.join(params)} ({sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters)"


def task_of(config: RunConfig, data: records.Records) -> Task:
  """Builds the model for these data; nothing is compiled yet.

  Raises:
    UserError: an unknown name, or options that do not fit.
  """
  configuration.check(config, options_of)
  return assemble(config, data)


def assemble(config: RunConfig, data: records.Records) -> Task:
  """`task_of` without the check of the options, which reads those of the data set from its TFDS builder."""
  system, data = _system(config.recipe.name), seen(config, data)
  arrays = system.to_arrays(data)
  streamed, placement = _placed(config.execution, arrays)
  model = _model(config, data)
  return Task(config, system, model, Stream(arrays) if streamed else arrays, data, placement)


def _placed(execution: configuration.Execution, arrays: Mapping[str, Any]) -> tuple[bool, str]:
  """Whether the data are streamed, and why."""
  size = sum(array.nbytes for array in arrays.values())
  if execution.placement != "auto":
    streamed, why = execution.placement == "streamed", "as asked"
  elif any(isinstance(array, Column) for array in arrays.values()):
    streamed, why = True, "from disk, too big for the host's memory"
  else:
    limit, why = memory.room(execution.devices)
    streamed = limit is not None and size > limit
  return streamed, f"{size / 2**20:.3g} MiB {'streamed' if streamed else 'resident'} ({why})"
