"""Stacked denoising autoencoders (paper 000): layer-by-layer pre-training, then fine-tuning with the labels.

The paper specifies two things: the order of training and the noise. Each layer is trained alone, on the output of the
layers below it, and then all encoders are trained together with the classifier (section 3, Fig. 2). The inputs of the
first two layers are corrupted by noise (section 3.2).

The paper gives no numbers, so the following are our choices (README, section 3). In pre-training 30 % of a layer's
input units are set to zero, in fine-tuning none. Layers minimise half the squared error. The optimizer is stochastic
gradient descent at rate 0.1 with batches of 20, for 30 epochs per layer and 300 epochs of fine-tuning. The classifier
has softmax outputs and cross-entropy. An incomplete last batch is filled up with records from the start of the epoch.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

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
from jaxfer.report.tables import Table
from jaxfer.systems.explanation import Explanation, no_layers
from jaxfer.systems.prediction import Prediction
from jaxfer.systems.stacked_autoencoder import figures, published, table
from jaxfer.systems.stacked_autoencoder.effective_pixels import EffectivePixels, weights_of
from jaxfer.systems.stacked_autoencoder.model import StackedAutoencoder, corrupt
from jaxfer.systems.system import History, System, Task, Variants
from jaxfer.train import optim
from jaxfer.train.stage import Batch, Context, LossFn, LossOut, Stage, Update, Variables

_LUMA = (0.299, 0.587, 0.114)


def _descent(optimizer: str, rate: str) -> optax.GradientTransformation:
  """The optimizer "sgd" or "adam", with a constant learning rate that is read from the hyperparameter `rate`."""
  constant = optim.schedule("constant", 1)
  return optim.adam(rate, constant) if optimizer == "adam" else optim.scale_by_hparam(rate, constant)


def _layer_loss(model: StackedAutoencoder, layer: int, noise_rate: float, reconstruction: str) -> LossFn:
  """The reconstruction error of one autoencoder. Its input is the output of the layers below for the clean images."""

  def loss(variables, batch, keys, context: Context) -> LossOut:
    del context
    clean: Any = model.apply(variables, batch["image"], layer - 1, method="encode")
    units = corrupt(clean, keys, noise_rate)
    logits: Any = model.apply(variables, units, layer, method="reconstruct")
    if reconstruction == "squared":
      errors = (model.activation(logits) - clean) ** 2 / 2
    else:
      errors = jnp.logaddexp(0, logits) - clean * logits
    return LossOut(loss={"error": (errors.sum(), jnp.float32(len(clean)))})

  return loss


class StackedAutoencoderSystem(System):
  """Denoising autoencoders, trained layer by layer and then fine-tuned together with a classifier (paper 000)."""

  models = {"stacked_autoencoder": StackedAutoencoder}
  citation = "paper 000, Table 2: JAFFE, CK, MSFDE and KDEF mixed, 70 of 1611 images tested, six seeds"
  paper_data = "paper000"
  bfloat16 = True
  paper_options = {"jaffe_labels": "rated"}
  figure_options = {
    "percentile": Annotated[float, Range(0, 100)],
    "kappa": Annotated[float, Range(-100, 100)] | None,
    "signed": bool,
    "share": Annotated[float, Range(0, 1, above=True)],
    "constant_pixels": bool,
  }
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
    """The stored images [n, S, S, 1 or 3] uint8 and labels [n].

    Raises:
      UserError: the records have no images of this kind.
    """
    image = records.arrays.get("image")
    if image is None or image.dtype != np.uint8 or image.shape[-1] not in (1, 3):
      what = "no image" if image is None else f"image {image.dtype} {image.shape[1:]}"
      raise UserError(
        f"records with {what}: this system reads still images, [S, S, 1 or 3] uint8; choose another data set"
      )
    return {"image": image, "label": records.arrays["label"]}

  def eval_batch(self, data: Mapping[str, ArrayLike], indices: ArrayLike) -> Batch:
    """Grey images [batch, S, S, 1] in [0, 1] and labels [batch]. Colours are converted to their luma."""
    image = jnp.asarray(data["image"])[indices].astype(jnp.float32) / 255
    if image.shape[-1] == 3:
      image = (image * jnp.asarray(_LUMA)).sum(-1, keepdims=True)
    return {"image": image, "label": jnp.asarray(data["label"])[indices]}

  def inputs(self, model: nn.Module, batch: Batch) -> tuple[jax.Array]:
    """The images of the batch."""
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
    """Returns one stage per layer and a stage of fine-tuning, which does not train the decoders.

    Args:
      model: the model.
      steps: number of batches per epoch.
      pretrain: whether to pre-train the layers. Otherwise fine-tuning starts from the initial weights.
      pretrain_epochs: number of epochs for each layer.
      pretrain_rate: learning rate of pre-training.
      noise_layers: numbers of the layers, from 1, whose input is corrupted while they are pre-trained.
      noise_rate: probability with which a unit is set to zero, in [0, 1).
      reconstruction: error of a layer's output against its clean input, summed over units: half the squared error
        ("squared") or the cross-entropy.
      epochs: number of epochs of fine-tuning.
      learning_rate: learning rate of fine-tuning.
      output: "softmax" outputs with cross-entropy, or "sigmoid" outputs with half the squared error to one-hot targets.
      optimizer: plain stochastic gradient descent ("sgd") or "adam".

    Raises:
      UserError: `noise_layers` names a layer that the model does not have.
    """
    del steps  # The learning rates are constant.
    layers = range(1, len(model.sizes) + 1)
    if pretrain and (missing := [layer for layer in noise_layers if layer not in layers]):
      raise UserError(
        f"recipe.noise_layers={noise_layers}: the model has no layer {missing[0]}, give 1 to {len(layers)}"
      )
    stages = []
    if pretrain:
      for layer in layers:
        loss = _layer_loss(model, layer, noise_rate if layer in noise_layers else 0.0, reconstruction)
        update = Update(
          "net", loss, (f"encoder{layer}", f"decoder{layer}"), _descent(optimizer, "pretrain_rate")
        )
        stages.append(Stage(f"layer {layer}", (update,), pretrain_epochs, self._sample))
    trainable = (*(f"encoder{layer}" for layer in layers), "classifier")
    update = Update("net", self._class_loss(model, output), trainable, _descent(optimizer, "learning_rate"))
    snapshot = ("encoder1",) if pretrain else ()  # For the figure of reconstructions.
    stages.append(Stage("fine-tuning", (update,), epochs, self._sample, snapshot=snapshot))
    rates = {"learning_rate": learning_rate} | ({"pretrain_rate": pretrain_rate} if pretrain else {})
    return tuple(stages), rates

  def _sample(
    self, data: Mapping[str, jax.Array], columns: Mapping[str, jax.Array], keys: jax.Array
  ) -> Batch:
    """The training batch, which is not augmented."""
    del keys
    return self.eval_batch(data, columns["row"])

  def _class_loss(self, model: StackedAutoencoder, output: str) -> LossFn:
    """The loss of fine-tuning, with the training accuracy as a metric."""

    def loss(variables, batch, keys, context: Context) -> LossOut:
      del keys, context
      logits: Any = model.apply(variables, *self.inputs(model, batch))
      if output == "softmax":
        each = losses.cross_entropy(logits, batch["label"])
      else:
        target = jax.nn.one_hot(batch["label"], logits.shape[-1])
        each = ((jax.nn.sigmoid(logits) - target) ** 2).sum(-1) / 2
      count = jnp.float32(len(logits))
      correct = (metrics.predict(logits) == batch["label"]).sum(dtype=jnp.float32)
      return LossOut(loss={"loss": (each.sum(), count)}, metrics={"accuracy": (correct, count)})

    return loss

  def probabilities(self, task: Task, outputs: jax.Array, state: Mapping[str, np.ndarray]) -> jax.Array:
    """The softmax of the outputs; for `output="sigmoid"` the sigmoids, divided by their sum."""
    if task.config.recipe.options.get("output") != "sigmoid":
      return super().probabilities(task, outputs, state)
    units = jax.nn.sigmoid(outputs)
    return units / units.sum(-1, keepdims=True)

  def summaries(
    self, histories: Sequence[History], predictions: Sequence[Mapping[str, Prediction]]
  ) -> dict[str, list[float]]:
    """The training error of each layer in its last epoch: the mean over images, measured on corrupted inputs."""
    del predictions
    errors: dict[str, list[float]] = {}
    for history in histories:
      last = {epoch["stage"]: epoch["error"] for epoch in history if "error" in epoch}
      for stage, error in last.items():
        errors.setdefault(f"error of {stage}", []).append(error)
    return errors

  def figures(
    self,
    task: Task,
    variables: Variables,
    train_indices: np.ndarray,
    test_indices: np.ndarray,
    folder: pathlib.Path,
  ) -> dict[str, str]:
    """Draws the first layer's weights and reconstructions and the effective pixels; see `figures.draw`."""
    return figures.draw(task, variables, train_indices, test_indices, folder)

  def explanation(self, task: Task, variables: Variables, layer: str | None) -> Explanation:
    """The effective pixels of each class; there are no layers to name."""
    if layer is not None:
      raise no_layers(layer, "effective pixels, which depend on all layers")
    model: Any = task.model
    return EffectivePixels(weights_of(model, variables), task.records.label_names)

  def tables(
    self, variants: Variants, seeds: Sequence[int], not_trained: Variants = ()
  ) -> list[tuple[str, Table]]:
    """Table 2 in the form of the paper; see `table.tables`."""
    del not_trained
    return table.tables(variants, seeds)

  def table_figures(self, variants: Variants, folder: pathlib.Path) -> dict[str, str]:
    """Draws the accuracy by class of people and models; see `table.figures`."""
    return table.figures(variants, folder)
