"""What is measured of a trained identity/expression VAE beside its accuracy (paper 003).

Recognition of the people it learned from and of those it never saw, each with the deviation over trials; how well
person and expression are read linearly from each code; how large the error of reconstruction is; and of swapped images,
what share of its own accuracy an identity probe and an expression probe keep that learned from photographs.
"""

import functools
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
Model = IdentityExpressionVAE | VAE


def codes(model: Model, variables: Variables, images: jax.Array, subjects: jax.Array | None) -> jax.Array:
  """Posterior means [batch, z_i | z_e], or of a baseline [batch, z].

  Args:
    model: the nets.
    variables: of it.
    images: [batch, S, S, 3] in [0, 1].
    subjects: [batch] whom a conditional VAE is told that it sees; None tells it nothing, a vector of zeros.
  """
  if isinstance(model, IdentityExpressionVAE):
    both = [model.apply(variables, images, method=f"encode_{what}") for what in ("identity", "expression")]
    return jnp.concatenate([mean for mean, _ in both], -1)
  found: Any = model.apply(variables, images, condition(model, len(images), subjects), method="encode")
  return found[0]


def expression_of(model: nn.Module, found: np.ndarray) -> np.ndarray:
  """The part of codes [n, ...] that is clustered: z_e [n, latent]."""
  return found[:, model.latent :] if isinstance(model, IdentityExpressionVAE) else found


def distinct(features: np.ndarray) -> int:
  """How many different codes are among [n, ...]."""
  return len(np.unique(np.asarray(features, np.float32), axis=0))


def recognise(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Labels said [trials, n] (`clustering.recognise`); of a collapsed code of few values as many clusters.

  Raises:
    UserError: there are no more images than clusters, so that each would be named by its own label.
  """
  if len(features) <= clustering.CLUSTERS:
    raise UserError(
      f"{len(features)} images to recognise by {clustering.CLUSTERS} clusters: each would be a cluster of its own and "
      "right; test more people (split.test), or add images"
    )
  clusters = min(clustering.CLUSTERS, distinct(features))
  return clustering.recognise(features, labels, jax.random.key(0), clusters=clusters)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _encode(
  model: Model, variables: Variables, images: jax.Array, subjects: jax.Array, told: bool
) -> jax.Array:
  return codes(model, variables, images.astype(jnp.float32) / 255, subjects if told else None)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _decode(
  model: Model, variables: Variables, found: jax.Array, subjects: jax.Array, told: bool
) -> jax.Array:
  if isinstance(model, IdentityExpressionVAE):
    parts: Any = found[:, : model.latent], found[:, model.latent :]
  else:
    parts = found, condition(model, len(found), subjects if told else None)
  images: Any = model.apply(variables, *parts, method="decode")
  return images


def encode(task: Task, variables: Variables, rows: np.ndarray, *, told: bool) -> np.ndarray:
  """Codes of some rows [n, ...], as `codes`; `told` whether a conditional VAE is told whom it sees."""
  parts = []
  for batch in plan.evaluation(rows, BATCH):
    image, subject = (np.asarray(task.data[name][batch["row"]]) for name in ("image", "subject"))
    parts.append(jax.device_get(_encode(task.model, variables, image, subject, told)))
  return np.concatenate(parts)[: len(rows)]


def decode(
  model: nn.Module, variables: Variables, found: np.ndarray, subjects: np.ndarray | None = None
) -> np.ndarray:
  """Images [n, S, S, 3] in [0, 1] of codes [n, z_i | z_e] or [n, z]; a conditional VAE is told `subjects`, if given."""
  parts = []
  for batch in plan.evaluation(np.arange(len(found)), BATCH):
    row = batch["row"]
    who = np.zeros(len(row), np.int32) if subjects is None else subjects[row]
    parts.append(jax.device_get(_decode(model, variables, found[row], who, subjects is not None)))
  return np.concatenate(parts)[: len(found)]


def swapped(model: IdentityExpressionVAE, one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Codes [n, z_i | z_e] with the identity of one and the expression of the other."""
  return np.concatenate([one[:, : model.latent], other[:, model.latent :]], -1)


def judged(task: Task, trained: np.ndarray) -> np.ndarray:
  """Rows of the people that were learned from, to be judged: those of the purpose recognition, where there are such."""
  if "purpose" not in task.records.texts:
    return trained
  subject = np.asarray(task.data["subject"])
  mine = np.isin(subject, subject[trained]) & (np.asarray(task.records.texts["purpose"]) == "recognition")
  return np.flatnonzero(mine)


def measures(
  task: Task, variables: Variables, trained: np.ndarray, tested: np.ndarray
) -> dict[str, float | None]:
  """All of a training, accuracies and shares 0 to 1; see the module. None where there are too few images or people.

  Args:
    task: what was trained.
    variables: its result.
    trained: rows that it learned from.
    tested: rows of other people.
  """
  model: Any = task.model
  label, subject = (np.asarray(task.data[name]) for name in ("label", "subject"))
  found: dict[str, float | None] = {}
  sides = {"train": judged(task, trained), "test": tested}
  by_side = {side: encode(task, variables, rows, told=side == "train") for side, rows in sides.items()}
  for side, rows in sides.items():
    features = expression_of(model, by_side[side])
    ways = {"": features}
    if isinstance(model, VAE) and not isinstance(model, ConditionalVAE) and len(rows):
      ways[", subject means subtracted"] = clustering.subtract_subject_means(features, subject[rows])
    for way, own in ways.items():
      mean = spread = None
      if len(rows) > clustering.CLUSTERS:
        rates = clustering.accuracy(recognise(own, label[rows]), label[rows])
        mean, spread = float(rates.mean()), float(rates.std())
      found |= {f"{side}{way}": mean, f"{side}{way}, sd over trials": spread}
    found[f"{side}, error"] = None
    if len(rows):
      told = subject[rows] if side == "train" else None
      errors = decode(model, variables, by_side[side], told) - _photographs(task, rows)
      found[f"{side}, error"] = float(255 * np.sqrt(np.square(errors).mean()))
  found |= _read_linearly(model, by_side, sides, label, subject)
  if isinstance(model, IdentityExpressionVAE):
    found |= _kept(task, variables, by_side, sides)
  return found


def _photographs(task: Task, rows: np.ndarray) -> np.ndarray:
  """[rows, S, S, 3] in [0, 1]."""
  return np.asarray(task.data["image"][rows]) / np.float32(255)


def _read_linearly(model, by_side, sides, label, subject) -> dict[str, float | None]:
  """Person and expression from each code: `probes.read`."""
  rows = np.concatenate([sides["train"], sides["test"]])
  every = np.concatenate([by_side["train"], by_side["test"]])
  parts = {"z": every}
  if isinstance(model, IdentityExpressionVAE):
    parts = {"z_i": every[:, : model.latent], "z_e": every[:, model.latent :]}
  learned = np.arange(len(rows)) < len(sides["train"])
  table = probes.read(parts, subject[rows], label[rows], learned)
  return {f"{what} from {code}": rate for code, own in table.items() for what, rate in own.items()}


def _kept(task: Task, variables: Variables, by_side, sides) -> dict[str, float | None]:
  """The shares of their own accuracy that both probes keep on swapped images, of people learned from and of others."""
  model: Any = task.model
  label, subject = (np.asarray(task.data[name]) for name in ("label", "subject"))
  kinds = ("{}, photographs, {}", "{} kept in swaps, {}")
  found: dict[str, float | None] = {
    kind.format(what, side): None for side in sides for what in ("subject", "expression") for kind in kinds
  }
  if not len(sides["train"]):
    return found
  read = image_probes.fitted(task, sides["train"], sides["test"])
  for side, rows in sides.items():
    # Photographs that neither probe learned from.
    place = np.flatnonzero(np.isin(rows, read.unseen))
    own, codes_of = rows[place], by_side[side][place]
    if len(np.unique(subject[own])) < 2:
      continue
    other = partners(subject[own])
    pictures = decode(model, variables, swapped(model, codes_of, codes_of[other]))
    wanted = {"subject": subject[own], "expression": label[own[other]]}
    plain = {"subject": subject[own], "expression": label[own]}
    photographs = _photographs(task, own)
    for what in ("subject", "expression"):
      real = float((read.predict(what, photographs) == plain[what]).mean())
      kept = float((read.predict(what, pictures) == wanted[what]).mean())
      found[f"{what}, photographs, {side}"] = real
      found[f"{what} kept in swaps, {side}"] = kept / real if real else None
  return found


def partners(subjects: np.ndarray) -> np.ndarray:
  """For each of [n] subjects the place of another one's, drawn once and for all.

  Raises:
    UserError: there is but one subject.
  """
  batch = plan.Plan(np.arange(len(subjects)), len(subjects), "drop", [0], subjects).columns(
    0, 0, ("row", "partner")
  )
  drawn = np.empty(len(subjects), int)
  drawn[batch["row"][0]] = batch["partner"][0]
  return drawn
