"""Codes and images of a trained model, and the metrics that are computed from them (README, sections 2 and 6).

The metrics are computed for people of the training set and for people of the test set:

- accuracy of recognition by clustering, and its standard deviation over trials;
- accuracy of linear classifiers that predict the person and the expression from each code;
- reconstruction error;
- quality of images with swapped codes: two classifiers learn the person and the expression from photographs, and the
  metric is the share of its accuracy on photographs that each keeps on swapped images.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.data import plan
from jaxfer.errors import UserError
from jaxfer.systems.identity_expression_vae import clustering, image_probes, probes
from jaxfer.systems.identity_expression_vae.baselines import VAE, ConditionalVAE, condition
from jaxfer.systems.identity_expression_vae.model import IdentityExpressionVAE
from jaxfer.systems.system import Task
from jaxfer.train.stage import Variables

BATCH = 64
# Suffix of metrics of codes from which the means of people are subtracted (eq. 6).
SUBTRACTED = ", subject means subtracted"
Model = IdentityExpressionVAE | VAE


def codes(model: Model, variables: Variables, images: jax.Array, subjects: jax.Array | None) -> jax.Array:
  """Returns posterior means: [batch, z_i | z_e], or [batch, z] for a baseline.

  Args:
    model: the model.
    variables: variables of the model.
    images: [batch, S, S, 3] in [0, 1].
    subjects: [batch] people in the images, the condition of a conditional VAE; None for a condition of zeros. Other
      models ignore it.
  """
  if isinstance(model, IdentityExpressionVAE):
    both = [model.apply(variables, images, method=f"encode_{code}") for code in ("identity", "expression")]
    return jnp.concatenate([mean for mean, _ in both], -1)
  posterior: Any = model.apply(
    variables, images, condition(model, images.shape[0], subjects), method="encode"
  )
  return posterior[0]


def expression_of(model: nn.Module, outputs: Any) -> Any:
  """Returns the part of the codes [n, ...] that is clustered: z_e [n, latent], or the whole code of a baseline."""
  return outputs[:, model.latent :] if isinstance(model, IdentityExpressionVAE) else outputs


def distinct(features: np.ndarray) -> int:
  """Returns the number of distinct rows of [n, ...], compared in float32."""
  return len(np.unique(np.asarray(features, np.float32), axis=0))


def recognise(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Predicts labels [trials, n] by clustering, once per trial; arguments and errors are those of `clusters`."""
  return clusters(features, labels)[1]


def clusters(features: np.ndarray, labels: np.ndarray) -> tuple[clustering.Clusters, np.ndarray]:
  """Clusters codes, once per trial; see `clustering.fit`.

  A collapsed code may have fewer distinct values than there should be clusters. Each value is then a cluster.

  Args:
    features: [n, d] codes.
    labels: [n] true labels.

  Returns:
    (clusters, predicted labels [trials, n])

  Raises:
    UserError: there are at most as many images as clusters, so that each image would get its own label.
  """
  if len(features) <= clustering.CLUSTERS:
    raise UserError(
      f"{len(features)} images to recognise by {clustering.CLUSTERS} clusters: each image would be its own cluster, "
      "and every prediction correct; test more people (split.test), or add images"
    )
  count = min(clustering.CLUSTERS, distinct(features))
  return clustering.fit(features, labels, jax.random.key(0), clusters=count)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _encode(
  model: Model, variables: Variables, images: jax.Array, subjects: jax.Array, told: bool
) -> jax.Array:
  return codes(model, variables, images.astype(jnp.float32) / 255, subjects if told else None)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _decode(
  model: Model, variables: Variables, code: jax.Array, subjects: jax.Array, told: bool
) -> jax.Array:
  if isinstance(model, IdentityExpressionVAE):
    arguments: Any = code[:, : model.latent], code[:, model.latent :]
  else:
    arguments = code, condition(model, len(code), subjects if told else None)
  images: Any = model.apply(variables, *arguments, method="decode")
  return images


def encode(task: Task, variables: Variables, indices: np.ndarray, *, told: bool) -> np.ndarray:
  """Returns the codes of some records, as `codes` does.

  Args:
    task: the config with its model and data.
    variables: variables of the model.
    indices: [n] indices of the records.
    told: whether the condition of a conditional VAE is the person; otherwise it is zero.

  Returns:
    [n, z_i | z_e], or [n, z] for a baseline.
  """
  parts = []
  for batch in plan.evaluation(indices, BATCH):
    image, subject = (np.asarray(task.data[name][batch["row"]]) for name in ("image", "subject"))
    parts.append(jax.device_get(_encode(task.model, variables, image, subject, told)))
  return np.concatenate(parts)[: len(indices)]


def decode(
  model: nn.Module, variables: Variables, code: np.ndarray, subjects: np.ndarray | None = None
) -> np.ndarray:
  """Returns the images [n, S, S, 3], in [0, 1], that the model decodes from codes.

  Args:
    model: the model.
    variables: variables of the model.
    code: [n, z_i | z_e], or [n, z] for a baseline.
    subjects: [n] people, the condition of a conditional VAE; None for a condition of zeros.
  """
  parts = []
  for batch in plan.evaluation(np.arange(len(code)), BATCH):
    index = batch["row"]
    subject = np.zeros(len(index), np.int32) if subjects is None else subjects[index]
    parts.append(jax.device_get(_decode(model, variables, code[index], subject, subjects is not None)))
  return np.concatenate(parts)[: len(code)]


def swapped(model: IdentityExpressionVAE, one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Returns codes [n, z_i | z_e] with the identity of `one` and the expression of `other`, [n, z_i | z_e] each."""
  return np.concatenate([one[:, : model.latent], other[:, model.latent :]], -1)


def recognition_indices(task: Task, train_indices: np.ndarray) -> np.ndarray:
  """Returns the indices of the records on which the people of the training set are evaluated.

  If the data hold separate frames for recognition ("purpose" of the records), they are those of the training people.
  Otherwise they are the training records.
  """
  if "purpose" not in task.records.texts:
    return train_indices
  subject = np.asarray(task.data["subject"])
  purpose = np.asarray(task.records.texts["purpose"])
  return np.flatnonzero(np.isin(subject, subject[train_indices]) & (purpose == "recognition"))


@dataclasses.dataclass(frozen=True)
class _Side:
  """The evaluated records of the training people or of the test people, and their codes.

  Attributes:
    indices: [n] indices of the records.
    subject: [n] their people.
    label: [n] their expressions.
    codes: [n, z_i | z_e], or [n, z] for a baseline.
    told: whether the condition of a conditional VAE is the person; otherwise it is zero.
  """

  indices: np.ndarray
  subject: np.ndarray
  label: np.ndarray
  codes: np.ndarray
  told: bool


def _side(task: Task, variables: Variables, indices: np.ndarray, *, told: bool) -> _Side:
  subject, label = (np.asarray(task.data[name])[indices] for name in ("subject", "label"))
  return _Side(indices, subject, label, encode(task, variables, indices, told=told), told)


def metrics(
  task: Task, variables: Variables, train_indices: np.ndarray, test_indices: np.ndarray
) -> dict[str, float | None]:
  """Computes all metrics of a training; see the module.

  Args:
    task: the config with its model and data.
    variables: the trained variables.
    train_indices: indices of the training records.
    test_indices: indices of the test records, which show other people.

  Returns:
    The metrics by name; None if there are too few images or people. Accuracies, their deviations and shares are in
    [0, 1]. The reconstruction error is a root mean square in grey levels, 0 to 255.
  """
  sides = {
    "train": _side(task, variables, recognition_indices(task, train_indices), told=True),
    "test": _side(task, variables, test_indices, told=False),
  }
  found: dict[str, float | None] = {}
  for name, side in sides.items():
    found |= {f"{name}{metric}": value for metric, value in _recognition(task.model, side).items()}
    found[f"{name}, error"] = _reconstruction_error(task, variables, side)
  found |= _linear_probes(task.model, sides)
  if isinstance(task.model, IdentityExpressionVAE):
    found |= _kept_in_swaps(task, variables, sides)
  return found


def _recognition(model: nn.Module, side: _Side) -> dict[str, float | None]:
  """Mean accuracy and its deviation over trials, for a plain VAE also after subtracting the means of people (eq. 6)."""
  features = expression_of(model, side.codes)
  variants = {"": features}
  if isinstance(model, VAE) and not isinstance(model, ConditionalVAE) and len(features):
    variants[SUBTRACTED] = clustering.subtract_subject_means(features, side.subject)
  found: dict[str, float | None] = {}
  for name, variant in variants.items():
    mean = deviation = None
    if len(variant) > clustering.CLUSTERS:
      rates = clustering.accuracy(recognise(variant, side.label), side.label)
      mean, deviation = float(rates.mean()), float(rates.std())
    found |= {name: mean, f"{name}, sd over trials": deviation}
  return found


def _reconstruction_error(task: Task, variables: Variables, side: _Side) -> float | None:
  """Root mean square over pixels and channels, in grey levels."""
  if not len(side.indices):
    return None
  decoded = decode(task.model, variables, side.codes, side.subject if side.told else None)
  return float(255 * np.sqrt(np.square(decoded - _photographs(task, side.indices)).mean()))


def _photographs(task: Task, indices: np.ndarray) -> np.ndarray:
  """Returns images [n, S, S, 3] in [0, 1]."""
  return np.asarray(task.data["image"][indices]) / np.float32(255)


def _linear_probes(model: nn.Module, sides: Mapping[str, _Side]) -> dict[str, float | None]:
  """Accuracy of linear classifiers for the person and the expression, for each code; see `probes.accuracies`."""
  subject, label, both = (
    np.concatenate([getattr(side, name) for side in sides.values()]) for name in ("subject", "label", "codes")
  )
  parts = {"z": both}
  if isinstance(model, IdentityExpressionVAE):
    parts = {"z_i": both[:, : model.latent], "z_e": both[:, model.latent :]}
  train = np.arange(len(label)) < len(sides["train"].label)
  table = probes.accuracies(parts, subject, label, train)
  return {f"{target} from {code}": rate for code, rates in table.items() for target, rate in rates.items()}


def _kept_in_swaps(task: Task, variables: Variables, sides: Mapping[str, _Side]) -> dict[str, float | None]:
  """Accuracy of both image probes on photographs, and the share of it that they keep on swapped images.

  Both are measured on photographs that neither probe was trained on.
  """
  model: Any = task.model
  targets = ("subject", "expression")
  names = ("{}, photographs, {}", "{} kept in swaps, {}")
  found: dict[str, float | None] = {
    name.format(target, side): None for side in sides for target in targets for name in names
  }
  if not len(sides["train"].indices):
    return found
  fitted = image_probes.fitted(task, sides["train"].indices, sides["test"].indices)
  for name, side in sides.items():
    unseen = np.flatnonzero(np.isin(side.indices, fitted.unseen))
    subject, label, code = side.subject[unseen], side.label[unseen], side.codes[unseen]
    if len(np.unique(subject)) < 2:
      continue
    other = partners(subject)
    images = decode(model, variables, swapped(model, code, code[other]))
    photographs = _photographs(task, side.indices[unseen])
    truth = {"subject": (subject, subject), "expression": (label, label[other])}
    for target, (in_photographs, in_swaps) in truth.items():
      real = float((fitted.predict(target, photographs) == in_photographs).mean())
      kept = float((fitted.predict(target, images) == in_swaps).mean())
      found[f"{target}, photographs, {name}"] = real
      found[f"{target} kept in swaps, {name}"] = kept / real if real else None
  return found


def partners(subjects: np.ndarray) -> np.ndarray:
  """Draws a record of another person for each record. The draw is the same in every call.

  Args:
    subjects: [n] people in the records.

  Returns:
    [n] positions in `subjects`.

  Raises:
    UserError: there is only one subject.
  """
  batch = plan.Plan(np.arange(len(subjects)), len(subjects), "drop", [0], subjects).columns(
    0, 0, ("row", "partner")
  )
  drawn = np.empty(len(subjects), int)
  drawn[batch["row"][0]] = batch["partner"][0]
  return drawn
