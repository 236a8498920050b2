"""Prediction with trained weights: those of a run, of a fold of a run, or of a member of a study."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxfer import config as configuration
from jaxfer import files
from jaxfer.config import Execution, RunConfig
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.inference.predictor import InputSpec, Predictor
from jaxfer.study.inputs import ARRAYS, STATE
from jaxfer.study.task import Task, assemble, options_of
from jaxfer.systems.explanation import Explanation
from jaxfer.train.stage import Batch

_AGAIN = "write it again with `jaxfer evaluate RUN`, or train again"
_CLIPS = 8  # Number of clips per batch.
_DIMENSIONS = {"image": 3, "frames": 4, "flow": 4, "landmarks": 2}  # Of a record's arrays.
_MOST_PEOPLE = (
  1 << 21
)  # ImageNet, where each of 1.3 million images counts as a person of its own, has the most.


@dataclasses.dataclass(frozen=True, eq=False)
class Trained(Predictor):
  """A trained model.

  The outputs are computed by the functions that `jaxfer evaluate` uses. If a model's outputs depend on the other images
  of a batch (landmark_fusion with affinity "batch"), each image is computed as in a batch of one. `evaluate` also
  reports that result.

  Attributes:
    task: config and model of the training, without data.
    variables: variables of the model.
    state: arrays of `System.inference_state`.
    meta: metadata stored with the weights.
    input_names: name of each array of records that the model reads -> the name that `System.to_arrays` gives it.
    input_spec: see `Predictor`.
  """

  task: Task
  variables: Mapping[str, Any]
  state: Mapping[str, np.ndarray]
  meta: Mapping[str, Any]
  input_names: Mapping[str, str]
  input_spec: InputSpec

  @property
  def label_names(self) -> tuple[str, ...]:  # type: ignore[override]
    """Names of the classes."""
    return self.task.records.label_names

  @property
  def num_classes(self) -> int:
    """Number of columns of `predict_proba`."""
    return len(self.label_names)

  @property
  def batch(self) -> int:  # type: ignore[override]
    """Number of inputs that are computed at a time."""
    return _CLIPS if self.input_spec.kind == "sequence" else 64

  def probabilities(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """See `Predictor`."""
    self.task.system.to_arrays(
      dataclasses.replace(self.task.records, arrays={**self.task.records.arrays, **arrays})
    )
    arrays = {name: arrays[name] for name in self.input_names}
    count = len(next(iter(arrays.values())))
    size = min(self.batch, 1 << (count - 1).bit_length())  # Few batch sizes are compiled.
    filled = {
      name: np.concatenate([array, array[:1].repeat(size - count, 0)]) for name, array in arrays.items()
    }
    return np.asarray(self._compiled(self.variables, filled))[:count]

  def program(self, variables: Mapping[str, Any], arrays: Mapping[str, jax.Array]) -> jax.Array:
    """Computes the probabilities [batch, classes] of prepared inputs. This is a pure function for `jax.jit`.

    The outputs of the model are computed in the same way as by `jaxfer evaluate`. The keys of `arrays` are those of
    `input_names`.
    """
    hparams = {name: jnp.float32(value) for name, value in self.task.stages(1)[1].items()}
    system, model, batch = self.task.system, self.task.model, self.eval_batch(arrays)
    outputs = system.outputs(model, variables, batch, hparams, None)
    return system.probabilities(self.task, outputs, self.state)

  def explanation(self, layer: str | None = None) -> Explanation:
    """See `Predictor`."""
    return self.task.system.explanation(self.task, self.variables, layer)

  def eval_batch(self, arrays: Mapping[str, jax.Array]) -> Batch:
    """See `Predictor`. Values that the arrays do not contain, such as labels, are NaN or 0."""
    count = next(iter(arrays.values())).shape[0]
    data = {
      name: jnp.full((count, *array.shape[1:]), np.nan if array.dtype.kind == "f" else 0, array.dtype)
      for name, array in self.task.data.items()
    }
    data |= {name: arrays[of] for of, name in self.input_names.items() if of in arrays}
    return {**self.task.system.eval_batch(data, jnp.arange(count)), "real": jnp.ones(count, bool)}

  @functools.cached_property
  def _compiled(self) -> Any:
    return jax.jit(self.program)


def trained(folder: pathlib.Path, variables: Mapping[str, Any], meta: Mapping[str, Any]) -> Trained:
  """Builds the model of a folder of weights that a training or a study wrote.

  Args:
    folder: folder of the weights, for error messages.
    variables: variables returned by `load_weights`.
    meta: metadata returned by `load_weights`.

  Raises:
    UserError: the metadata are damaged or from another version, the model cannot be built, or the weights do not fit
      the model.
  """
  config = _config(folder, meta)
  state = dict(variables.get(STATE, {}))
  variables = {name: tree for name, tree in variables.items() if name != STATE}
  try:
    task = assemble(config, _records(folder, meta))
    task.stages(1)
    want = jax.eval_shape(task.init, jax.random.key(0))
  except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
    said = " ".join(str(error).split())[:100]
    raise UserError(f"{folder}: model {config.model.name} cannot be built ({said}); {_AGAIN}") from None
  _check_shapes(folder, config, want, variables)
  task = dataclasses.replace(task, model=task.system.for_single_records(task.model, variables))
  names = _input_names(task)
  return Trained(task, variables, state, meta, names, _input_spec(task, names, meta))


def _config(folder: pathlib.Path, meta: Mapping[str, Any]) -> RunConfig:
  execution = files.plain(dataclasses.asdict(Execution(placement="resident", devices=1)))

  def options(field: str, call: configuration.Call) -> Mapping[str, Any]:
    # The data are not read, so their options are accepted as they are.
    return dict.fromkeys(call.options, Any) if field == "data" else options_of(field, call)

  try:
    config = configuration.from_tree({**meta["config"], "execution": execution, "figures": {}})
    return configuration.check(config, options)
  except (UserError, ValueError, TypeError, KeyError) as error:
    raise UserError(f"{folder} was written by another version of jaxfer ({error}): {_AGAIN}") from None


def _records(folder: pathlib.Path, meta: Mapping[str, Any]) -> Records:
  """Returns an empty `Records` with the arrays and classes that the model was trained on."""
  try:
    arrays = {name: np.zeros((0, *array["shape"]), array["dtype"]) for name, array in meta["inputs"].items()}
    names, count = tuple(meta["label_names"]), meta["subjects"]
    if not {"image", "frames"} & set(arrays):
      raise KeyError("image")
    if not all(array.ndim == 1 + _DIMENSIONS[name] for name, array in arrays.items()):
      raise ValueError("shape")
    if not all(isinstance(name, str) for name in names) or type(count) is not int:
      raise TypeError("label_names or subjects")
    if not 0 <= count <= _MOST_PEOPLE:
      raise ValueError("subjects")
  except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
    raise UserError(f"{folder} does not describe the inputs of its model: {_AGAIN}") from None
  arrays |= {name: np.zeros(0, np.int32) for name in ("label", "subject")}
  # If the classes are the people themselves, both have the same names.
  subjects = names if count == len(names) else tuple(map(str, range(count)))
  return Records(arrays, (), names, subjects, "")


def _check_shapes(
  folder: pathlib.Path, config: RunConfig, want: Mapping[str, Any], have: Mapping[str, Any]
) -> None:
  shapes, found = (
    {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()}
    for tree in (want, have)
  )
  differing = sorted(path for path in {*shapes, *found} if shapes.get(path) != found.get(path))
  if differing:
    raise UserError(
      f"{folder} holds other weights than its {config.model.name} needs: {len(differing)} arrays differ, such as "
      f"{differing[0]}: {found.get(differing[0])} for {shapes.get(differing[0])}; {_AGAIN}"
    )


def _input_names(task: Task) -> dict[str, str]:
  """Returns `Trained.input_names` of a task."""
  records = task.records.arrays
  named = {of: name for name, array in task.data.items() for of in ARRAYS if records.get(of) is array}
  if not task.system.needs_landmarks(task.model):
    named.pop("landmarks", None)
  return named


def _input_spec(task: Task, names: Mapping[str, str], meta: Mapping[str, Any]) -> InputSpec:
  arrays, preparation = task.records.arrays, meta.get("preparation")
  preparation = preparation if isinstance(preparation, dict) else {}
  clips = "frames" in names
  return InputSpec(
    "sequence" if clips else "image",
    arrays["frames" if clips else "image"].shape[1:],
    crop=preparation.get("crop", "auto"),
    landmarks=arrays["landmarks"].shape[1] if "landmarks" in names else 0,
    flow="flow" in names,
  )
