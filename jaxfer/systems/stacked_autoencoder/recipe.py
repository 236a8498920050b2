"""Paper 000: a stack of (denoising) autoencoders trained layer by layer, then with its classifier by the labels.

The paper gives the order of training (section 3, Fig. 2: each layer alone on what the layers below make of the
pictures, then all of them and the classifier), and noise on the input of the first two layers (section 3.2). Our
choices, as it gives no numbers: a share of 0.3 of the units set to zero in training each layer, not in
fine-tuning; half the squared error; stochastic gradient descent in batches of 20 at rate 0.1, 30 epochs a layer and 300
of fine-tuning; softmax and cross-entropy. A batch completes itself from the epoch's start where rows run out.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxfer import losses, metrics
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.ranges import Count, Range, Rate, ShareBelowOne
from jaxfer.systems.stacked_autoencoder import figures, published, table
from jaxfer.systems.stacked_autoencoder.model import StackedAutoencoder, noised
from jaxfer.systems.system import Prediction, System
from jaxfer.train import optim
from jaxfer.train.stage import Batch, Context, LossOut, Stage, Update

_LUMA = (0.299, 0.587, 0.114)
_FINE_TUNING = "fine-tuning"


def _descent(optimizer: str, rate: str) -> optax.GradientTransformation:
  constant = optim.schedule("constant", 1)
  return optim.adam(rate, constant) if optimizer == "adam" else optim.scale_by_hyper(rate, constant)


def _layer_loss(model: StackedAutoencoder, layer: int, noise_rate: float, reconstruction: str):
  """The error of an autoencoder on what the trained layers below it make of the clean pictures."""

  def loss(variables, batch, keys, context: Context) -> LossOut:
    del context
    clean: Any = model.apply(variables, batch["image"], layer - 1, method="encode")
    units = noised(clean, keys, noise_rate)
    sums: Any = model.apply(variables, units, layer, method="reconstruct")
    if reconstruction == "squared":
      errors = (model.activation(sums) - clean) ** 2 / 2
    else:
      errors = jnp.logaddexp(0, sums) - clean * sums
    return LossOut(loss={"error": (errors.sum(), jnp.float32(len(clean)))})

  return loss


class StackedAutoencoderSystem(System):
  """Denoising autoencoders that are trained layer by layer, then fine-tuned with a classifier."""

  models = {"stacked_autoencoder": StackedAutoencoder}
  citation = "paper 000, Table 2: JAFFE, CK, MSFDE and KDEF mixed, 70 of 1611 pictures tested, six seeds"
  paper_data = "paper000"
  paper_options = {"jaffe_labels": "rated"}
  published = (
    (
      "stacked denoising autoencoders",
      {
        "recipe.pretrain": True,
        "recipe.noise_layers": (1, 2),
        "recipe.noise_rate": Range(0, 1, above=True, below=True),
      },
      published.accuracy(published.NET),
    ),
  )

  def to_arrays(self, records: Records) -> dict[str, np.ndarray]:
    """Pictures [n, S, S, 1 or 3] uint8 and labels [n], as they are stored.

    Raises:
      UserError: the records hold no such pictures.
    """
    image = records.arrays.get("image")
    if image is None or image.dtype != np.uint8 or image.shape[-1] not in (1, 3):
      what = "no image" if image is None else f"image {image.dtype} {image.shape[1:]}"
      raise UserError(
        f"records with {what}: this system reads stills, [S, S, 1 or 3] uint8; choose another data set"
      )
    return {"image": image, "label": records.arrays["label"]}

  def eval_batch(self, data: Mapping[str, ArrayLike], rows: ArrayLike) -> Batch:
    """Grey pictures [rows, S, S, 1] in [0, 1] and labels of some rows; of colours their luma."""
    image = jnp.asarray(data["image"])[rows].astype(jnp.float32) / 255
    if image.shape[-1] == 3:
      image = (image * jnp.asarray(_LUMA)).sum(-1, keepdims=True)
    return {"image": image, "label": jnp.asarray(data["label"])[rows]}

  def inputs(self, model: nn.Module, batch: Batch) -> tuple[jax.Array]:
    """The model's arguments."""
    return (batch["image"],)

  def recipe(
    self,
    model: StackedAutoencoder,
    steps: int,
    *,
    pretrain: bool = True,
    pretrain_epochs: Count = 30,
    pretrain_rate: Rate = 0.1,
    noise_layers: tuple[Count, ...] = (1, 2),
    noise_rate: ShareBelowOne = 0.3,
    reconstruction: Literal["squared", "cross_entropy"] = "squared",
    epochs: Count = 300,
    learning_rate: Rate = 0.1,
    output: Literal["softmax", "sigmoid"] = "softmax",
    optimizer: Literal["sgd", "adam"] = "sgd",
  ) -> tuple[tuple[Stage, ...], dict[str, float]]:
    """A stage a layer, then fine-tuning, which leaves the decoders as they are.

    Args:
      model: the stack.
      steps: batches of an epoch.
      pretrain: whether there are stages for the layers; without them fine-tuning starts from the initial weights.
      pretrain_epochs: of each layer.
      pretrain_rate: of descent on a layer's error.
      noise_layers: layers, from 1, whose input is noised while they are trained.
      noise_rate: share of the units set to zero, in [0, 1).
      reconstruction: a layer's error against its clean input, summed over units: half the squares, or cross-entropy.
      epochs: of fine-tuning.
      learning_rate: of fine-tuning.
      output: "softmax" with cross-entropy, or "sigmoid" with half the squared error to 1 for the class and 0 for the
          others.
      optimizer: plain stochastic gradient descent, or Adam.

    Raises:
      UserError: a layer that the model lacks.
    """
    del steps  # Rates stay as they are.
    layers = range(1, len(model.sizes) + 1)
    if pretrain and (strangers := [layer for layer in noise_layers if layer not in layers]):
      raise UserError(
        f"recipe.noise_layers={noise_layers}: the model has no layer {strangers[0]}, give 1 to {len(layers)}"
      )
    stages = []
    if pretrain:
      for layer in layers:
        loss = _layer_loss(model, layer, noise_rate if layer in noise_layers else 0.0, reconstruction)
        update = Update(
          "net", loss, (f"encoder{layer}", f"decoder{layer}"), _descent(optimizer, "pretrain_rate")
        )
        stages.append(Stage(f"layer {layer}", (update,), pretrain_epochs, self._sample))
    moved = (*(f"encoder{layer}" for layer in layers), "classifier")
    update = Update("net", self._class_loss(model, output), moved, _descent(optimizer, "learning_rate"))
    stages.append(Stage(_FINE_TUNING, (update,), epochs, self._sample))
    rates = {"learning_rate": learning_rate} | ({"pretrain_rate": pretrain_rate} if pretrain else {})
    return tuple(stages), rates

  def _sample(self, data, columns, keys):
    del keys
    return self.eval_batch(data, columns["row"])

  def _class_loss(self, model: StackedAutoencoder, output: str):
    def loss(variables, batch, keys, context: Context) -> LossOut:
      del keys, context
      logits: Any = model.apply(variables, *self.inputs(model, batch))
      if output == "softmax":
        each = losses.cross_entropy(logits, batch["label"])
      else:
        wanted = jax.nn.one_hot(batch["label"], logits.shape[-1])
        each = ((jax.nn.sigmoid(logits) - wanted) ** 2).sum(-1) / 2
      count = jnp.float32(len(logits))
      correct = (metrics.predict(logits) == batch["label"]).sum(dtype=jnp.float32)
      return LossOut(loss={"loss": (each.sum(), count)}, metrics={"accuracy": (correct, count)})

    return loss

  def summaries(
    self, histories: Sequence[Sequence[Mapping[str, Any]]], readings: Sequence[Mapping[str, Prediction]]
  ) -> dict[str, list[float]]:
    """Each layer's training error in its last epoch, by training: per picture, with the training's noise."""
    del readings
    errors: dict[str, list[float]] = {}
    for history in histories:
      last = {row["stage"]: row["error"] for row in history if "error" in row}
      for stage, error in last.items():
        errors.setdefault(f"error of {stage}", []).append(error)
    return errors

  def figures(self, task, variables, trained, tested, folder):
    """What the first layer looks for and restores, and the pixels that matter; see `figures.draw`."""
    return figures.draw(task, variables, trained, tested, folder)

  def tables(self, variants, seeds, not_trained=()):
    """Table 2 in the paper's form; see `table.tables`."""
    return table.tables(variants, seeds, not_trained)

  def table_figures(self, variants, folder):
    """People beside models; see `table.figures`."""
    return table.figures(variants, folder)
