"""Paper 004: nets pre-trained on objects, on expressions or on who is who, fine-tuned on a few elderly people.

The paper says no more than this: pre-train, copy the feature extractor as initial values, train on the elderly faces.
One recipe serves both; its numbers are our choice:

                 fine-tuning                        objects, expressions     who is who (`layers.margin`)
  optimizer      AdamW, 1e-4, head 1e-3, decay      the same, 1e-3           SGD, 0.1, momentum 0.9, decay 5e-4 but
                 0.01, cosine, 30 epochs            throughout               of norms, rate / 10 in epochs 12, 20,
                                                                             24 of 26
  pictures       mirrored, light colour jitter      the same                 AdaFace's: box on black, coarse,
                                                                             photometric (0.2 each), mirrored
  epoch          the best on validation people,     the last, nobody         the last, nobody watched
                 the earlier of equal ones          watched
  everything moves, head and norms included

The first column is this file's defaults; the others are what `configs/elderly_transfer` sets.

Right in training means the largest logit without the margin (our choice), so that a pre-training that learns nothing
(our rule: less than twice chance) is told by the same measure whatever its head.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxfer import losses, metrics
from jaxfer.data import augment
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.ranges import Count, CountOrZero, Rate
from jaxfer.systems.elderly_transfer import classes, published, table
from jaxfer.systems.elderly_transfer.model import FaceClassifier
from jaxfer.systems.system import System
from jaxfer.train import optim
from jaxfer.train.stage import Batch, Context, LossOut, Stage, Update, Variables


def pictures_of(model: FaceClassifier, images: jax.Array) -> jax.Array:
  """Grey levels [batch, S, S, 3], 0 to 255, RGB, as the model takes them."""
  return model.normalised(augment.resize(images, model.image_size))


def _refuse(name: str, value: Any, optimizer: str) -> None:
  if value is not None:
    raise UserError(f"recipe.{name}={value} with {optimizer}, which does not read it: leave it out")


def augmented(images: jax.Array, keys: jax.Array, kind: str) -> jax.Array:
  """Grey levels [batch, S, S, 3], 0 to 255, changed at random; see the file's docstring."""
  if kind == "adaface":
    images = augment.crop_on_black(keys, images, probability=0.2)
    images = augment.low_resolution(keys, images, probability=0.2)
    images = augment.colour_jitter(keys, images, strength=0.5, probability=0.2)
  elif kind == "light":
    images = augment.colour_jitter(keys, images, strength=0.2)
  return images if kind == "none" else augment.mirror(keys, images)


def _published() -> Sequence[tuple[str, Mapping[str, Any], float]]:
  scratch = zip(published.NETS, published.CORRECT["scratch"], strict=True)
  return tuple(
    (
      f"{net} from scratch",
      {"net": net, "head": "classes", "recipe.label": "label", "init_from": None},
      correct / published.TESTED,
    )
    for net, correct in scratch
    if correct is not None
  )


class ElderlyTransferSystem(System):
  """Image classifiers that are pretrained elsewhere and fine-tuned on pictures of elderly people."""

  models = {"face_classifier": FaceClassifier}
  citation = (
    "paper 004: 768 tested pictures of elderly people, nine classes (counts follow from the printed rates)"
  )
  paper_data = "nagoya"
  published = _published()
  test_batch = 64
  label_free = ("trunk",)

  def to_arrays(self, records: Records) -> dict[str, np.ndarray]:
    """Pictures [n, S, S, 3] uint8 and labels [n], as they are stored.

    Raises:
      UserError: the records hold no such pictures.
    """
    image = records.arrays.get("image")
    if image is None or image.dtype != np.uint8 or image.shape[-1] != 3:
      what = "no image" if image is None else f"image {image.dtype} {image.shape[1:]}"
      raise UserError(f"records with {what}: this system reads coloured stills; choose another data set")
    return {"image": image, "label": records.arrays["label"]}

  def eval_batch(self, data: Mapping[str, ArrayLike], rows: ArrayLike) -> Batch:
    """Pictures [rows, S, S, 3] of grey levels 0 to 255, RGB, and labels of some rows."""
    image = jnp.asarray(data["image"])[rows].astype(jnp.float32)
    return {"image": image, "label": jnp.asarray(data["label"])[rows]}

  def inputs(self, model: FaceClassifier, batch: Batch) -> tuple[jax.Array]:
    """The model's argument without augmentation."""
    return (pictures_of(model, batch["image"]),)

  def recipe(
    self,
    model: FaceClassifier,
    steps: int,
    *,
    epochs: Count = 30,
    optimizer: Literal["adamw", "sgd"] = "adamw",
    learning_rate: Rate = 1e-4,
    head_learning_rate: Rate | None = None,
    weight_decay: Rate = 1e-2,
    milestones: tuple[CountOrZero, ...] | None = None,
    augmentation: Literal["none", "light", "adaface"] = "light",
    select: Literal["last", "best_on_validation"] = "best_on_validation",
    label: Literal["label", "subject"] = "label",
  ) -> tuple[tuple[Stage, ...], dict[str, float]]:
    """One stage that moves everything.

    Args:
      model: the net.
      steps: batches of an epoch.
      epochs: passes over the training records.
      optimizer: "adamw" with a cosine to zero, or "sgd" with momentum 0.9 and `milestones`.
      learning_rate: of the trunk; with "sgd" of everything.
      head_learning_rate: of the head, for "adamw" alone; None is 1e-3.
      weight_decay: times the rate; with "sgd" not of BatchNorm's parameters.
      milestones: epochs, from 0, at which "sgd" divides its rate by ten, for that alone; None is (12, 20, 24).
      augmentation: see the file's docstring.
      select: which epoch counts.
      label: what is learned: the records' label, or whom they show.

    Raises:
      UserError: a number that the optimizer does not read.
    """
    del label  # See `seen`.
    hyper = {"learning_rate": learning_rate}
    if optimizer == "sgd":
      _refuse("head_learning_rate", head_learning_rate, optimizer)
      drops = optim.multi_step((12, 20, 24) if milestones is None else milestones, steps)
      descent = optim.sgd("learning_rate", drops, weight_decay=weight_decay)
    else:
      _refuse("milestones", milestones, optimizer)
      hyper["head_learning_rate"] = 1e-3 if head_learning_rate is None else head_learning_rate
      cosine = optim.schedule("cosine", epochs * steps)
      descent = optim.adamw(
        "learning_rate", cosine, {"head": "head_learning_rate"}, weight_decay=weight_decay
      )

    def sample(data, columns, keys):
      batch = self.eval_batch(data, columns["row"])
      images = augmented(batch["image"], keys, augmentation)
      return {"x": pictures_of(model, images), "label": batch["label"]}

    def loss(variables, batch, keys, context: Context) -> LossOut:
      (logits, plain), changed = model.apply(
        variables,
        batch["x"],
        batch["label"],
        train=True,
        keys=keys,
        axis_name=context.axis_name,
        mutable=["batch_stats", "margin"],
      )
      count = jnp.float32(len(logits))
      correct = (metrics.predict(plain) == batch["label"]).sum(dtype=jnp.float32)
      return LossOut(
        loss={"loss": (losses.cross_entropy(logits, batch["label"]).sum(), count)},
        metrics={"accuracy": (correct, count)},
        collections=changed,
      )

    update = Update("net", loss, model.parts, descent)
    return (Stage("train", (update,), epochs, sample, select=select),), hyper

  def outputs(
    self,
    model: FaceClassifier,
    variables: Variables,
    batch: Batch,
    hyper: Mapping[str, jax.Array],
    axis_name: str | None,
  ) -> jax.Array:
    """Logits [batch, classes], without a margin."""
    del hyper, axis_name
    found: Any = model.apply(variables, *self.inputs(model, batch))
    return found[1]

  def load_pretrained(self, model: FaceClassifier, given: Variables) -> Variables:
    """The trunk of such a net, of a converted torchvision net, or a converted face net, which is a trunk.

    Raises:
      UserError: none of these.
    """
    if "trunk" in given["params"]:
      return {name: {"trunk": tree["trunk"]} for name, tree in given.items() if "trunk" in tree}
    if model.net.startswith("face_") and {"conv1", "layer4", "features"} <= {
      *given["params"],
      *given.get("batch_stats", {}),
    }:
      return {name: {"trunk": tree} for name, tree in given.items()}
    raise UserError(
      f"init_from: weights of {', '.join(given['params'])} hold no trunk of this system: give those of "
      "`jaxfer convert`, or of a training of this system"
    )

  def relabel(self, records: Records, options: Mapping[str, Any]) -> Records:
    """With people for classes, where the recipe's `label` says so."""
    if options.get("label", "label") == "label":
      return records
    arrays = {**records.arrays, "label": records.arrays["subject"]}
    return dataclasses.replace(records, arrays=arrays, label_names=records.subject_names)

  def input_spec(self, model):
    """Colour order, mean, standard deviation and size of the images that the model reads."""
    return model.seen

  def metrics(self, task, variables, trained, tested):
    """Rates of human raters on the same pictures; see `classes.measures`."""
    return classes.measures(task, variables, trained, tested)

  def tables(self, variants, seeds, not_trained=()):
    """Nets by initialisation, the paper's claims, epochs needed, and classes; see `table.tables`."""
    return table.tables(variants, seeds, not_trained)

  def table_figures(self, variants, folder):
    """Learning curves and epochs by initialisation; see `table.figures`."""
    return table.figures(variants, folder)
