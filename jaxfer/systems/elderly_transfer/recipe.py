"""Paper 004's method: pretrain on objects, expressions or identities, then fine-tune on images of a few elderly people.

The paper says only that the model is pretrained, that its feature extractor is copied as the initial values, and that
it is trained on the elderly faces. The same recipe serves pretraining and fine-tuning, with other options. All values
are our choice (README, section 3):

                 fine-tuning                     pretraining on objects,     pretraining on identities
                                                 expressions                 (`layers.margin`)
  optimizer      AdamW with a cosine schedule    AdamW with a cosine         SGD with momentum 0.9; rate divided by
                                                 schedule                    10 at epochs 12, 20 and 24
  learning rate  1e-4, head 1e-3                 1e-3, head 1e-3             0.1
  weight decay   0.01                            0.01                        5e-4, except normalisations
  epochs         30                              30                          26
  augmentation   mirroring, light colour         mirroring, light colour     AdaFace's: crop on black, low
                 jitter                          jitter; on ImageNet random  resolution and colour jitter, with
                                                 resized crops and mirroring probability 0.2 each; mirroring
  kept epoch     best on the validation          last                        last
                 people, ties to the earlier

Every parameter is trained, in the head and the normalisations too. The first column shows the defaults of
`ElderlyTransferSystem.recipe`. The configs in `configs/elderly_transfer` set the others.

Training accuracy is that of the logits without the margin (our choice). A pretraining counts as failed if it is below
twice chance (our rule), and without the margin this means the same for every head.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxfer import losses, metrics
from jaxfer.data import augment
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.ranges import Count, CountOrZero, Rate
from jaxfer.report.tables import Table
from jaxfer.systems.elderly_transfer import classes, published, table
from jaxfer.systems.elderly_transfer.model import FaceClassifier
from jaxfer.systems.system import Options, System, Task, Variants
from jaxfer.train import optim
from jaxfer.train.stage import Batch, Context, LossOut, Stage, Update, Variables


def model_images(model: FaceClassifier, images: jax.Array) -> jax.Array:
  """Converts RGB images [batch, S, S, 3], 0 to 255, to the size, colour order and normalisation of the model."""
  return model.normalised(augment.resize(images, model.image_size))


def _refuse(name: str, value: Any, optimizer: str) -> None:
  """Raises `UserError` if an option is given that the optimizer does not use."""
  if value is not None:
    raise UserError(f"recipe.{name}={value} has no effect with recipe.optimizer={optimizer}: leave it out")


def _sgd(milestones: Sequence[int], steps: int, weight_decay: float) -> optax.GradientTransformation:
  """SGD whose rate is divided by ten at the milestones, which are epochs of `steps` steps."""
  return optim.sgd("learning_rate", optim.multi_step(milestones, steps), weight_decay=weight_decay)


def _adamw(steps: int, weight_decay: float) -> optax.GradientTransformation:
  """AdamW with a cosine schedule over all steps, and a separate learning rate for the head."""
  cosine = optim.schedule("cosine", steps)
  return optim.adamw("learning_rate", cosine, {"head": "head_learning_rate"}, weight_decay=weight_decay)


def _loss(
  model: FaceClassifier, variables: Variables, batch: Batch, keys: jax.Array, context: Context
) -> LossOut:
  """Cross-entropy of the logits with the margin, and the accuracy of those without it."""
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


def augmented(images: jax.Array, keys: jax.Array, kind: str) -> jax.Array:
  """Augments RGB images [batch, S, S, 3], 0 to 255; the module's docstring describes the kinds.

  Args:
    images: the images.
    keys: [batch] typed keys, one per image.
    kind: "none", "light", "imagenet" or "adaface".
  """
  if kind == "adaface":
    images = augment.crop_on_black(keys, images, probability=0.2)
    images = augment.low_resolution(keys, images, probability=0.2)
    images = augment.colour_jitter(keys, images, strength=0.5, probability=0.2)
  elif kind == "imagenet":
    images = augment.random_resized_crop(keys, images)
  elif kind == "light":
    images = augment.colour_jitter(keys, images, strength=0.2)
  return images if kind == "none" else augment.mirror(keys, images)


def _published() -> Sequence[tuple[str, Options, float]]:
  """`System.published`: the accuracies from scratch. Those with pretraining belong to variants of a study."""
  scratch = zip(published.NETS, published.CORRECT["scratch"], strict=True)
  return tuple(
    (
      f"{net} from scratch",
      {"net": net, "head": "classes", "recipe.label": "label", "init_from": None},
      correct / published.TEST_IMAGES,
    )
    for net, correct in scratch
    if correct is not None
  )


class ElderlyTransferSystem(System):
  """Image classifiers that are pretrained on another task and fine-tuned on images of elderly people."""

  models = {"face_classifier": FaceClassifier}
  citation = (
    "paper 004: 768 test images of elderly people, nine classes (counts follow from the printed rates)"
  )
  paper_data = "nagoya"
  bfloat16 = True
  published = _published()
  test_batch = 64
  label_free = ("trunk",)

  def to_arrays(self, records: Records) -> dict[str, np.ndarray]:
    """Images [n, S, S, 3], uint8, and labels [n], as they are stored.

    Raises:
      UserError: the records hold no RGB images of 8 bits.
    """
    image = records.arrays.get("image")
    if image is None or image.dtype != np.uint8 or image.shape[-1] != 3:
      what = "no image" if image is None else f"image {image.dtype} {image.shape[1:]}"
      raise UserError(
        f"the records have {what}: this system reads RGB images (uint8, 3 channels); choose another data set"
      )
    return {"image": image, "label": records.arrays["label"]}

  def eval_batch(self, data: Mapping[str, ArrayLike], indices: ArrayLike) -> Batch:
    """RGB images [batch, S, S, 3], float32, 0 to 255, and labels [batch]."""
    image = jnp.asarray(data["image"])[indices].astype(jnp.float32)
    return {"image": image, "label": jnp.asarray(data["label"])[indices]}

  def inputs(self, model: FaceClassifier, batch: Batch) -> tuple[jax.Array]:
    """The images of the batch, as the model reads them."""
    return (model_images(model, batch["image"]),)

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
    augmentation: Literal["none", "light", "imagenet", "adaface"] = "light",
    select: Literal["last", "best_on_validation"] = "best_on_validation",
    label: Literal["label", "subject"] = "label",
  ) -> tuple[tuple[Stage, ...], dict[str, float]]:
    """One stage that trains every parameter.

    Args:
      model: the model.
      steps: batches per epoch.
      epochs: passes over the training records.
      optimizer: "adamw" with a cosine schedule to zero, or "sgd" with momentum 0.9 and `milestones`.
      learning_rate: the learning rate, with "adamw" of everything but the head.
      head_learning_rate: the learning rate of the head, with "adamw" only; None means 1e-3.
      weight_decay: weight decay; decoupled with "adamw", and added to the gradient with "sgd", which spares the
        parameters of BatchNorm.
      milestones: epochs, from 0, at which "sgd" divides its learning rate by ten; None means (12, 20, 24).
      augmentation: see the module's docstring.
      select: which epoch is kept: the last, or the one with the highest validation accuracy.
      label: the classes: the records' labels, or the people they show ("subject").

    Raises:
      UserError: an option that the optimizer does not use.
    """
    del label  # `relabel` reads it.
    hparams = {"learning_rate": learning_rate}
    if optimizer == "sgd":
      _refuse("head_learning_rate", head_learning_rate, optimizer)
      descent = _sgd((12, 20, 24) if milestones is None else milestones, steps, weight_decay)
    else:
      _refuse("milestones", milestones, optimizer)
      hparams["head_learning_rate"] = 1e-3 if head_learning_rate is None else head_learning_rate
      descent = _adamw(epochs * steps, weight_decay)

    def sample(data, columns, keys):
      batch = self.eval_batch(data, columns["row"])
      images = augmented(batch["image"], keys, augmentation)
      return {"x": model_images(model, images), "label": batch["label"]}

    def loss(variables, batch, keys, context: Context) -> LossOut:
      return _loss(model, variables, batch, keys, context)

    update = Update("net", loss, model.parts, descent)
    return (Stage("train", (update,), epochs, sample, select=select),), hparams

  def outputs(
    self,
    model: FaceClassifier,
    variables: Variables,
    batch: Batch,
    hparams: Mapping[str, jax.Array],
    axis_name: str | None,
  ) -> jax.Array:
    """Logits [batch, classes] without the margin."""
    del hparams, axis_name
    logits: Any = model.apply(variables, *self.inputs(model, batch))
    return logits[1]

  def load_pretrained(self, model: FaceClassifier, given: Variables) -> Variables:
    """The trunk of the given weights.

    They come from a training of this system, from a converted torchvision ResNet, or from a converted face network.
    All variables of a converted face network form the trunk.

    Raises:
      UserError: the weights come from none of these.
    """
    if "trunk" in given["params"]:
      return {name: {"trunk": tree["trunk"]} for name, tree in given.items() if "trunk" in tree}
    if model.net.startswith("face_") and {"conv1", "layer4", "features"} <= {
      *given["params"],
      *given.get("batch_stats", {}),
    }:
      return {name: {"trunk": tree} for name, tree in given.items()}
    raise UserError(
      f"init_from: weights of {', '.join(given['params'])} hold no trunk of this system: give weights from a training "
      "of this system or from `jaxfer convert`"
    )

  def relabel(self, records: Records, options: Options) -> Records:
    """The records with people as classes if the option `label` is "subject"."""
    if options.get("label", "label") == "label":
      return records
    arrays = {**records.arrays, "label": records.arrays["subject"]}
    return dataclasses.replace(records, arrays=arrays, label_names=records.subject_names)

  def input_spec(self, model: FaceClassifier) -> Options:
    """Colour order, mean, standard deviation and size of the images that the model reads."""
    return model.seen

  def takes_any_size(self, model: FaceClassifier) -> bool:
    """Whether the trunk pools globally, as that of a ResNet. A Face-ResNet has a dense layer over its last maps."""
    return not model.net.startswith("face_")

  def metrics(
    self, task: Task, variables: Variables, trained: np.ndarray, tested: np.ndarray
  ) -> Mapping[str, float | None]:
    """Rates of human raters on the test images and on all images; see `classes.rater_metrics`."""
    del variables, trained
    whole = np.arange(len(task.records.keys))
    return {
      **classes.rater_metrics(task.records, tested),
      **classes.rater_metrics(task.records, whole, classes.ALL),
    }

  def tables(
    self, variants: Variants, seeds: Sequence[int], not_trained: Variants = ()
  ) -> Sequence[tuple[str, Table]]:
    """Accuracy, differences and epochs by initialisation, and results by class; see `table.tables`."""
    del seeds
    return table.tables(variants, not_trained)

  def table_figures(self, variants: Variants, folder: pathlib.Path) -> Mapping[str, str]:
    """Learning curves and epochs by initialisation; see `table.figures`."""
    return table.figures(variants, folder)
