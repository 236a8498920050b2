"""Evaluates trainings on their test records. `jaxfer train`, `jaxfer evaluate` and studies all use these functions."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer import files, metrics
from jaxfer.data.datasets import DATASETS
from jaxfer.study.task import Task
from jaxfer.systems.prediction import ALONE, SHUFFLED, Prediction, in_batches
from jaxfer.train.members import Result

GROUPS = ("gender", "age", "race")  # Texts of records that name a group of people.


@dataclasses.dataclass(frozen=True)
class Evaluated:
  """A training and its predictions for its test records.

  Attributes:
    name: name of the training among those evaluated with it; "" if it is the only one.
    task: its config with the model and the data.
    result: result of the training.
    indices: [n] indices of the test records, in ascending order.
    outputs: [n, ...] outputs of the model for these records.
    predictions: predictions for these records, by name. The first one determines the accuracy. If the training failed,
      every record is wrong.
    failed: what was not finite, or None if the training succeeded.
  """

  name: str
  task: Task
  result: Result
  indices: np.ndarray
  outputs: np.ndarray
  predictions: Mapping[str, Prediction]
  failed: str | None

  @property
  def first(self) -> Prediction:
    """The prediction that determines the accuracy."""
    return next(iter(self.predictions.values()))

  @property
  def seed(self) -> int:
    """Seed of the training."""
    return self.task.config.seed

  @property
  def fold(self) -> int:
    """Fold of the training, 0 if there are no folds."""
    return self.task.config.split.fold or 0

  @property
  def history(self) -> list[dict[str, Any]]:
    """Metrics of the training with its name, seed and fold."""
    who = {"member": self.name, "seed": self.seed, "fold": self.fold}
    return [{**line, **who} for line in self.result.history]

  @property
  def trained(self) -> np.ndarray:
    """Indices of the training records, in ascending order."""
    return np.sort(self.result.member.plan.rows)

  @property
  def warnings(self) -> list[str]:
    """The system's warnings about the training, see `System.warnings`."""
    lines = self.task.system.warnings(self.task.model, self.result.history, self.outputs)
    return [f"{self.name}: {line}" if self.name else line for line in lines]

  @functools.cached_property
  def inference_state(self) -> Mapping[str, np.ndarray]:
    """Arrays besides the variables that predictions for other images need; see `System.inference_state`."""
    labels = np.asarray(self.task.data["label"][self.indices])
    return self.task.system.inference_state(self.task.model, self.outputs, labels)

  @functools.cached_property
  def probabilities(self) -> np.ndarray:
    """Probabilities [n, classes] of the first prediction, float32; see `System.probabilities`."""
    outputs = jnp.asarray(self.outputs)
    return np.asarray(self.task.system.probabilities(self.task, outputs, self.inference_state))

  @property
  def validation_probabilities(self) -> np.ndarray | None:
    """Like `probabilities`, for the validation records; None without them, or if the classes are not learned."""
    outputs = self.result.validation
    if outputs is None or not len(outputs) or self.first.by_trial is not None:
      return None
    return np.asarray(self.task.system.probabilities(self.task, jnp.asarray(outputs), {}))

  @property
  def new_people(self) -> bool:
    """Whether nobody shown in the test records is also shown in the training or validation records."""
    subjects, member = self.task.records.subjects, self.result.member
    seen = subjects[np.concatenate([member.plan.rows, member.validation])]
    return not len(np.intersect1d(seen, subjects[self.indices]))


def evaluate(name: str, task: Task, result: Result) -> Evaluated:
  """Computes the predictions of a training from its outputs for the test records."""
  assert result.outputs is not None
  order = np.argsort(result.member.test)
  indices, outputs = result.member.test[order], result.outputs[order]
  predictions = dict(task.predictions(outputs, indices))
  if result.shuffled is not None:
    shuffled = task.predictions(result.shuffled[order], indices)
    predictions |= {
      in_batches(name, SHUFFLED): dataclasses.replace(own, batches=SHUFFLED)
      for name, own in shuffled.items()
      if own.batches != ALONE
    }
  failed = result.failed
  if failed is None and not np.isfinite(outputs).all():
    failed = "the trained net's outputs"
  if failed is not None:
    predictions = {name: _all_wrong(own) for name, own in predictions.items()}
  return Evaluated(name, task, result, indices, outputs, predictions, failed)


def _all_wrong(prediction: Prediction) -> Prediction:
  """Returns the prediction that stands for a failed training."""
  rank, trials = prediction.rank, prediction.by_trial
  return dataclasses.replace(
    prediction,
    predicted=np.full_like(prediction.predicted, -1),
    correct=np.zeros_like(prediction.correct),
    rank=None if rank is None else np.full_like(rank, np.iinfo(rank.dtype).max),
    loss=None,
    by_trial=None if trials is None else np.full_like(trials, -1),
  )


def calibration(trainings: Sequence[Evaluated]) -> dict[str, float | None]:
  """Returns how well the probabilities of the first prediction agree with its accuracy, pooled over trainings.

  Returns:
    "error", the expected calibration error for the test records; "temperature", the mean over trainings of the
    temperature that is fitted to each one's validation records; and "error_scaled", the error for the test records if
    the logits of each training are divided by its temperature. The last two are None without validation records.
  """
  labels = [own.task.records.arrays["label"][own.indices] for own in trainings]
  test = np.concatenate([own.probabilities for own in trainings])
  pooled = np.concatenate(labels)
  found: dict[str, float | None] = {"error": metrics.calibration_error(test, pooled)}
  validation = [own.validation_probabilities for own in trainings]
  if any(own is None for own in validation):
    return {**found, "temperature": None, "error_scaled": None}
  temperatures, scaled = [], []
  for own, probabilities in zip(trainings, validation, strict=True):
    assert probabilities is not None
    true = own.task.records.arrays["label"][own.result.member.validation]
    temperatures.append(metrics.temperature(_logits(probabilities), true))
    scaled.append(_softmax(_logits(own.probabilities) / temperatures[-1]))
  error = metrics.calibration_error(np.concatenate(scaled), pooled)
  return {**found, "temperature": float(np.mean(temperatures)), "error_scaled": error}


def _logits(probabilities: np.ndarray) -> np.ndarray:
  """Returns logits whose softmax is `probabilities`."""
  return np.log(np.maximum(np.asarray(probabilities, np.float64), np.finfo(np.float32).tiny))


def _softmax(logits: np.ndarray) -> np.ndarray:
  weights = np.exp(logits - logits.max(1, keepdims=True))
  return weights / weights.sum(1, keepdims=True)


def by_group(trainings: Sequence[Evaluated]) -> dict[str, dict[str, dict[str, float]]]:
  """Returns the accuracy of the first prediction for each group of test records, pooled over trainings.

  Groups are read from the texts `GROUPS` of the records, and for a mixture from the data set that a record is from.
  Records without a text count as "not stated". A column whose test records are all of one group is left out.

  Returns:
    Column -> group -> "accuracy", from 0 to 1, and "count", the number of test records.
  """
  columns: dict[str, list[str]] = {}
  for own in trainings:
    for name, values in _groups(own.task).items():
      columns.setdefault(name, []).extend(values[index] or "not stated" for index in own.indices)
  correct, found = np.concatenate([own.first.correct for own in trainings]), {}
  for name, values in columns.items():
    groups = sorted(set(values))
    rows = {group: correct[np.asarray(values) == group] for group in groups}
    if len(groups) > 1:
      found[name] = {group: {"accuracy": float(own.mean()), "count": len(own)} for group, own in rows.items()}
  return found


def _groups(task: Task) -> dict[str, Sequence[str]]:
  """Returns the groups of all records by column."""
  groups: dict[str, Sequence[str]] = {
    name: task.records.texts[name] for name in GROUPS if name in task.records.texts
  }
  if task.config.data.name in DATASETS and DATASETS[task.config.data.name].parts:
    groups["data set"] = [key.partition("/")[0] for key in task.records.keys]
  return groups


def by_seed(trainings: Sequence[Evaluated]) -> dict[str, Any]:
  """Returns the predictions of trainings for each seed, pooled over folds, as JSON.

  Returns:
    "label_names"; "key", "subject" and "label" of the test records; "predicted", "correct", "rank" and "by_trial" of
    the first prediction, see `Prediction` (the last two may be None); and "predictions", the same fields except
    "by_trial" of the other predictions, by name. Each value has one list per seed, with the records in ascending order.
  """
  data = trainings[0].task.records
  seeds = dict.fromkeys(own.seed for own in trainings)
  of_seed = [[own for own in trainings if own.seed == seed] for seed in seeds]
  pooled = [np.concatenate([own.indices for own in group]) for group in of_seed]
  orders = [np.argsort(indices, kind="stable") for indices in pooled]
  tested = [indices[order] for indices, order in zip(pooled, orders, strict=True)]

  def values(name: str, field: str) -> list[list[Any]] | None:
    found = []
    for group, order in zip(of_seed, orders, strict=True):
      parts = [getattr(own.predictions[name], field) for own in group]
      if any(part is None for part in parts):
        return None
      found.append(np.concatenate(parts)[order].tolist())
    return found

  first, *others = trainings[0].predictions
  fields = ("predicted", "correct", "rank")
  return {
    "label_names": list(data.label_names),
    "key": [[data.keys[index] for index in own] for own in tested],
    "subject": [data.subjects[own].tolist() for own in tested],
    "label": [data.arrays["label"][own].tolist() for own in tested],
    **{field: values(first, field) for field in (*fields, "by_trial")},
    "predictions": {name: {field: values(name, field) for field in fields} for name in others},
  }


def variant(trainings: Sequence[Evaluated], folder: pathlib.Path) -> dict[str, Any]:
  """Evaluates the trainings of a variant, and draws the system's figures of the first one that did not fail.

  Args:
    trainings: one training for each seed and fold.
    folder: folder for the figures.

  Returns:
    The keys of `by_seed`, and "parameters", "failed", "summaries", "table_summaries", "figures", "metrics" and
    "warnings" as `report.study.summarize` reads them.
  """
  system = trainings[0].task.system
  histories, predictions = [own.result.history for own in trainings], [own.predictions for own in trainings]
  finite = [own for own in trainings if own.failed is None]
  measured = [system.metrics(own.task, own.result.variables, own.trained, own.indices) for own in finite]
  return {
    **by_seed(trainings),
    "parameters": sum(a.size for a in jax.tree.leaves(trainings[0].result.variables["params"])),
    "failed": [
      {"member": own.name, "seed": own.seed, "fold": own.fold, "where": own.failed}
      for own in trainings
      if own.failed is not None
    ],
    "summaries": dict(system.summaries(histories, predictions)),
    "table_summaries": dict(system.table_summaries(histories, predictions)),
    "figures": figures(finite[0], folder) if finite else {},
    "metrics": {name: [own[name] for own in measured] for name in (measured or [{}])[0]},
    "warnings": [line for own in trainings for line in own.warnings],
  }


def figures(training: Evaluated, folder: pathlib.Path) -> dict[str, str]:
  """Draws the system's figures of a training into a folder; returns their captions by file name."""
  files.make_folder(folder)
  task, result = training.task, training.result
  return dict(task.system.figures(task, result.variables, training.trained, training.indices, folder))
