"""Training and evaluation of paper 002: a landmark net beside an RGB net that stays fixed.

Training has two stages (paper, section 4.3 and Table 4). The first trains the RGB net by the recipe of its authors'
released code; weights converted by `jaxfer convert arm` can take its place. The second trains the landmark net and the
head with AdaBelief. There the RGB net is in evaluation mode, and does not change in any bit, including the running
statistics.

Options of the recipe and the model cover the paper's negative results: training the RGB net further by itself, training
it along with the others, from trained or from initial weights, and summing the two nets' probabilities. If the RGB net
is trained along, Equation 3 has no term for its classifier `fc`. This layer then gets no gradient, only weight decay,
but w still depends on its predictions; with `confidence=False, agreement=False` nothing depends on them.

From the released code:

- A quarter of the training images are mirrored, and noise is added to another quarter. All are resized and normalised.
  Then a box is erased from half of them.
- Adam has learning rate 1e-3 and coupled weight decay 1e-4. The learning rate is multiplied by 0.9 after each epoch.
- Training takes 70 epochs in batches of 256, of which the last one is shorter. Evaluation takes batches of 64 in the
  order of the distributor's list.

Our choices (README, section 3):

- The last batch of an epoch is filled up with records from the epoch's start (`remainder="wrap"`).
- The second stage has 70 epochs, a number that the paper does not give, and the same augmentation as the first. Image
  and heatmap are mirrored together; noise and erasing apply to the image only.
- Results are those of the last epoch. No epoch is chosen by its accuracy on the test set.

Deviation (README, section 4): in the released code the trunk starts from a ResNet18 trained on ImageNet. Here it starts
from random weights, unless `init_from` names converted ones (`jaxfer convert torchvision_resnet18`, see
configs/landmark_fusion/ablation.py).

With the affinity "batch", a prediction depends on the other records of its batch (`layers.amend`). Evaluation therefore
gives every number for batches of one too, and a study also gives it for one random order.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxfer import losses, metrics
from jaxfer.data import augment, heatmap
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.kernels import heatmap as kernels
from jaxfer.layers.amend import Affinity, flagged, is_written
from jaxfer.ranges import Count, CountOrZero, Factor, Rate, Share, Variance
from jaxfer.report.tables import Table
from jaxfer.systems.explanation import Explanation
from jaxfer.systems.landmark_fusion import figures, table
from jaxfer.systems.landmark_fusion.model import LandmarkFusion, Outputs, normalised
from jaxfer.systems.landmark_fusion.published import BEST_W, CONDITIONS
from jaxfer.systems.prediction import ALONE, Prediction, from_logits, in_batches
from jaxfer.systems.system import History, Options, System, Task, Variants
from jaxfer.train import optim
from jaxfer.train.stage import Batch, Context, LossFn, LossOut, SampleFn, Stage, Update, Variables


def _heatmaps(model: LandmarkFusion, batch: Batch) -> jax.Array:
  """The heatmaps [batch, image_size, image_size, 1] of a batch's landmarks."""
  return kernels.draw(batch["landmarks"], model.image_size, frame=batch["image"].shape[1], dot=model.dot)


def _modes(model: LandmarkFusion) -> dict[str, Affinity]:
  """The affinities to evaluate, by the name that `in_batches` gives their kind of batches; the model's own first."""
  return {"": "batch", ALONE: "alone"} if model.affinity == "batch" else {"": model.affinity}


def _decoders(model: LandmarkFusion) -> dict[str, Callable[[Outputs, Variables], jax.Array]]:
  """Functions that compute a prediction's logits from outputs and variables, by name; the model's answer comes first.

  They accept outputs with any leading axes. A landmark net that answers alone is also compared with the RGB net, for
  Table 2.
  """
  nets: dict[str, Callable[[Outputs, Variables], jax.Array]] = {
    table.RGB_NET: lambda out, variables: out.rgb,
    table.LANDMARK_NET: lambda out, variables: out.landmark,
  }
  if model.answer != "fused":
    return {"": lambda out, variables: model.logits(out), **(nets if model.answer == "landmark" else {})}

  def with_weight(w: float, out: Outputs, variables: Variables) -> jax.Array:
    nets = out.rgb, out.rgb_features, out.landmark, out.landmark_features
    logits: Any = model.apply(variables, *nets, w, method="fuse")
    return logits

  return {
    "": lambda out, variables: out.fused,
    **nets,
    table.SUM: lambda out, variables: model.clone(answer="sum").logits(out),
    **{table.at_test(w): functools.partial(with_weight, w) for w in table.WEIGHTS if model.agreement},
  }


def prediction_names(model: LandmarkFusion) -> dict[str, str]:
  """Names of the predictions, with their kind of batches, in the order of `LandmarkFusionSystem.outputs`.

  There is one prediction for each decoder and each kind of batches.
  """
  return {in_batches(decoder, batches): batches for decoder in _decoders(model) for batches in _modes(model)}


def _check(model: LandmarkFusion, rgb: str) -> None:
  """Raises `UserError` if this model cannot be trained with this `rgb`, see `LandmarkFusionSystem.recipe`."""
  if model.affinity not in ("batch", "alone", "ema"):
    raise UserError(
      f"model.affinity={model.affinity} cannot be trained: give batch, alone or ema; `jaxfer.load(...).frozen` is "
      "for converted weights"
    )
  if rgb == "further" and model.answer != "rgb":
    raise UserError(
      f"recipe.rgb=further trains the RGB net alone: take model.answer=rgb, not {model.answer}, or rgb=along"
    )
  if rgb == "along" and model.answer != "fused":
    raise UserError(
      f"recipe.rgb=along: without the head's loss nothing trains the RGB net: take model.answer=fused, not "
      f"{model.answer}"
    )
  if rgb == "given" and model.answer == "rgb":
    raise UserError(
      "recipe.rgb=given leaves nothing to train where model.answer=rgb: take rgb=first, rgb_epochs=0"
    )


def _sampler(system: System, model: LandmarkFusion, *, flip: bool, noise: float, erasing: float) -> SampleFn:
  """Makes augmented batches of "images", "heatmaps" and "label"; the options are those of the recipe."""

  def sample(data: Batch, columns: Batch, keys: jax.Array) -> Batch:
    batch = system.eval_batch(data, columns["row"])
    images, heatmaps = augment.flip_or_noise(
      keys, batch["image"], _heatmaps(model, batch), flip=flip, variance=noise
    )
    images = normalised(augment.resize(images, model.image_size))
    images = augment.random_erasing(keys, images, probability=erasing)
    return {"images": images, "heatmaps": heatmaps, "label": batch["label"]}

  return sample


def _loss(
  model: LandmarkFusion,
  trainable: tuple[str, ...],
  terms: Mapping[str, str],
  answer: Callable[[Outputs], jax.Array],
) -> LossFn:
  """The sum of cross-entropies of one or more logits.

  Args:
    model: the model.
    trainable: submodules in training mode.
    terms: name of each cross-entropy -> the field of `Outputs` that holds its logits.
    answer: the logits whose accuracy is reported.
  """

  def loss(variables: Variables, batch: Batch, keys: jax.Array, context: Context) -> LossOut:
    del keys
    out, changed = model.apply(
      variables,
      batch["images"],
      batch["heatmaps"],
      context.hparams["w"],
      train=trainable,
      axis_name=context.axis_name,
      mutable=["batch_stats", "affinity"],
    )
    assert isinstance(out, Outputs)
    count = jnp.float32(len(batch["label"]))
    correct = (metrics.predict(answer(out)) == batch["label"]).sum(dtype=jnp.float32)
    return LossOut(
      loss={
        name: (losses.cross_entropy(getattr(out, field), batch["label"]).sum(), count)
        for name, field in terms.items()
      },
      metrics={"accuracy": (correct, count)},
      collections={
        collection: {name: tree[name] for name in trainable if name in tree}
        for collection, tree in changed.items()
      },
    )

  return loss


class LandmarkFusionSystem(System):
  """A landmark net beside an RGB net, fused by confidence and agreement weights."""

  models = {"landmark_fusion": LandmarkFusion}
  citation = "paper 002, Tables 5 and 6: RAF-DB, 3068 test images"
  paper_data = "raf_db"
  bfloat16 = True
  paper_options = {"subset": "basic"}
  published = CONDITIONS
  test_batch = 64
  batch_dependent = True
  label_free = ("rgb/trunk",)

  def to_arrays(self, records: Records) -> dict[str, np.ndarray]:
    """Images [n, S, S, 3] uint8, landmarks [n, 37, 2] in pixels of the image, and labels [n].

    Landmarks of an image that has none are all NaN.

    Raises:
      UserError: the records have no colour images or no landmarks, or only some landmarks of an image are finite.
    """
    image, landmarks = (records.arrays.get(name) for name in ("image", "landmarks"))
    if image is None or landmarks is None or image.dtype != np.uint8 or image.shape[-1] != 3:
      have = ", ".join(f"{name} {array.shape[1:]}" for name, array in records.arrays.items())
      raise UserError(
        f"records of {have}: this system needs colour images with landmarks; choose raf_db or synthetic_faces"
      )
    heatmap.checked(landmarks)
    return {"image": image, "landmarks": landmarks, "label": records.arrays["label"]}

  def eval_batch(self, data: Mapping[str, ArrayLike], indices: ArrayLike) -> Batch:
    """Images [batch, S, S, 3] float32 in [0, 255], landmarks [batch, 37, 2] as stored, and labels [batch]."""
    return {
      "image": jnp.asarray(data["image"])[indices].astype(jnp.float32),
      "landmarks": jnp.asarray(data["landmarks"])[indices],
      "label": jnp.asarray(data["label"])[indices],
    }

  def inputs(self, model: LandmarkFusion, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Images [batch, size, size, 3] from `normalised`, and heatmaps [batch, size, size, 1], without augmentation."""
    images = normalised(augment.resize(batch["image"], model.image_size))
    return images, _heatmaps(model, batch)

  def recipe(
    self,
    model: LandmarkFusion,
    steps: int,
    *,
    rgb: Literal["first", "given", "along", "further"] = "first",
    rgb_epochs: CountOrZero = 70,
    rgb_learning_rate: Rate = 1e-3,
    epochs: Count = 70,
    learning_rate: Rate = 1e-3,
    decay: Factor = 0.9,
    w: Share = BEST_W,
    flip: bool = True,
    noise: Variance = 30.0,
    erasing: Share = 0.5,
  ) -> tuple[tuple[Stage, ...], dict[str, float]]:
    """A stage for the RGB net, followed by one for the landmark net and the head.

    Args:
      model: the model. With `answer` "rgb" there is only the first stage, unless `rgb` is "further"; with "landmark"
        and "sum" the second stage trains the landmark net alone.
      steps: batches per epoch.
      rgb: "first" trains the RGB net in a separate stage. "given" keeps the RGB net of `init_from`. "along" trains it
        together with the landmark net and the head, starting from `init_from` if there is one. "further" trains only
        the RGB net, in the second stage, starting from `init_from` if there is one.
      rgb_epochs: epochs of the first stage. 0 leaves the RGB net as `init_from` gives it, or at its initial values.
      rgb_learning_rate: initial learning rate of Adam in the first stage.
      epochs: epochs of the second stage.
      learning_rate: initial learning rate of AdaBelief in the second stage.
      decay: factor by which both learning rates are multiplied after each epoch.
      w: weight of the landmark features where the nets disagree, in [0, 1].
      flip: whether to mirror a quarter of the training images with their heatmaps.
      noise: variance of the noise on another quarter of the training images, in squared grey levels.
      erasing: share of the training images from which a box is erased, in [0, 1].

    Raises:
      UserError: an affinity that cannot be trained; `rgb` "along" without a head; `rgb` "further" with one, or with a
        landmark net; `rgb` "given" if nothing else is left to train.
    """
    _check(model, rgb)
    sample = _sampler(self, model, flip=flip, noise=noise, erasing=erasing)
    factor = optim.exponential(decay, steps)
    stages = []
    if rgb == "first":
      adam = optim.adam("rgb_learning_rate", factor, weight_decay=1e-4)
      loss = _loss(model, ("rgb",), {"rgb": "rgb"}, lambda out: out.rgb)
      stages.append(Stage("rgb", (Update("rgb", loss, ("rgb",), adam),), rgb_epochs, sample))
    if model.answer != "rgb" or rgb == "further":
      name, only = ("further", "rgb") if rgb == "further" else ("fusion", "landmark")
      trainable: tuple[str, ...] = (only,)
      terms = {only: only}
      if model.answer == "fused":
        trainable += ("head", "rgb") if rgb == "along" else ("head",)
        terms["overall"] = "fused"
      belief = optim.adabelief("learning_rate", factor)
      update = Update(name, _loss(model, trainable, terms, model.logits), trainable, belief)
      stages.append(Stage(name, (update,), epochs, sample))
    return tuple(stages), {"rgb_learning_rate": rgb_learning_rate, "learning_rate": learning_rate, "w": w}

  def outputs(
    self,
    model: LandmarkFusion,
    variables: Variables,
    batch: Batch,
    hparams: Mapping[str, jax.Array],
    axis_name: str | None,
  ) -> jax.Array:
    """Logits [batch, predictions, classes] in the order of `prediction_names`, all from one pass through the nets."""
    modes = tuple(_modes(model).values())
    every = model.apply(
      variables,
      *self.inputs(model, batch),
      hparams["w"],
      mask=batch["real"],
      axis_name=axis_name,
      modes=modes,
    )
    assert isinstance(every, Outputs)
    logits = jnp.stack([decode(every, variables) for decode in _decoders(model).values()])
    # [decoders, modes, batch, classes] -> [batch, predictions, classes]
    return jnp.moveaxis(logits.reshape(-1, *logits.shape[2:]), 0, 1)

  def predictions(
    self, model: LandmarkFusion, outputs: np.ndarray, labels: np.ndarray
  ) -> dict[str, Prediction]:
    """The model's answer and the further predictions of `prediction_names`."""
    return {
      name: dataclasses.replace(from_logits(outputs[:, k], labels), batches=batches)
      for k, (name, batches) in enumerate(prediction_names(model).items())
    }

  def probabilities(self, task: Task, outputs: jax.Array, state: Mapping[str, np.ndarray]) -> jax.Array:
    """The softmax of the model's answer, which is the first of `prediction_names`."""
    return super().probabilities(task, outputs[:, 0], state)

  def for_single_records(self, model: LandmarkFusion, variables: Variables) -> LandmarkFusion:
    """The model with affinity "alone" in place of "batch": evaluation reports it as predictions in batches of one."""
    del variables
    return model.clone(affinity="alone") if model.affinity == "batch" else model

  def needs_landmarks(self, model: LandmarkFusion) -> bool:
    """Whether the answer is not that of the RGB net alone."""
    return model.answer != "rgb"

  def load_pretrained(self, model: LandmarkFusion, given: Variables) -> Variables:
    """The RGB net of a training of this system or of `jaxfer convert arm`, or the trunk of a converted ResNet18.

    A trunk is a starting point only: `required_weights` asks for a whole RGB net where it is not trained.

    Raises:
      UserError: the weights hold none of these, or not the moving average or frozen mean that the model's affinity
        uses.
    """
    if {*given["params"]} == {"trunk", "fc"}:
      return {c: {"rgb": {"trunk": tree["trunk"]}} for c, tree in given.items() if "trunk" in tree}
    if "rgb" in given["params"]:
      taken = {collection: {"rgb": tree["rgb"]} for collection, tree in given.items() if "rgb" in tree}
    elif {"trunk", "arm", "fc"} <= set(given["params"]):
      taken = {collection: {"rgb": tree} for collection, tree in given.items()}
    else:
      raise UserError(
        f"init_from: weights of {', '.join(given['params'])} hold no RGB net of this system: give those of "
        "`jaxfer convert arm` or `jaxfer convert torchvision_resnet18`, or of a training of this system"
      )
    taken = flagged(taken)
    if model.affinity in ("ema", "frozen") and not is_written(
      taken["affinity"]["rgb"]["arm"], model.affinity
    ):
      raise UserError(
        f"model.affinity={model.affinity}: the RGB net of init_from does not hold this mean: take "
        "model.affinity=batch or alone, or train the RGB net here, without init_from"
      )
    return taken

  def required_weights(self, options: Options) -> dict[str, str]:
    """The RGB net, if the recipe keeps it as it is given."""
    return {"rgb": "recipe.rgb=given"} if options.get("rgb") == "given" else {}

  def table_summaries(
    self, histories: Sequence[History], predictions: Sequence[Mapping[str, Prediction]]
  ) -> dict[str, list[float]]:
    """The counts of Table 2 for each training, by column of the table and kind of batches.

    They say how many test records both nets, one net alone, and neither net classify correctly. A model that answers
    with the RGB net or the sum has no predictions of both nets, and so no counts.
    """
    del histories
    found = {}
    for batches in table.BATCHES.values():
      rgb, landmark = (in_batches(net, batches) for net in (table.RGB_NET, table.LANDMARK_NET))
      if any(landmark not in own for own in predictions):
        continue
      right = [(own[rgb].correct > 0, own[landmark].correct > 0) for own in predictions]
      for column, (first, second) in table.AGREEMENT.items():
        counts = [float(((a == first) & (b == second)).sum()) for a, b in right]
        found[in_batches(column, batches)] = counts
    return found

  def figures(
    self, task: Task, variables: Variables, trained: np.ndarray, tested: np.ndarray, folder: pathlib.Path
  ) -> Mapping[str, str]:
    """Grad-CAM++ maps of both nets for some test images, see `figures.figures`."""
    return figures.figures(task, variables, tested, folder)

  def explanation(self, task: Task, variables: Variables, layer: str | None) -> Explanation:
    """Grad-CAM++ of the class that the RGB net predicts, see `figures.explanation`."""
    return figures.explanation(task, variables, layer)

  def tables(
    self, variants: Variants, seeds: Sequence[int], not_trained: Variants = ()
  ) -> Sequence[tuple[str, Table]]:
    """The paper's tables, see `table.tables`."""
    return table.tables(variants, seeds, not_trained)

  def table_figures(self, variants: Variants, folder: pathlib.Path) -> Mapping[str, str]:
    """Accuracy by w (Fig. 4), see `table.figures`."""
    return table.figures(variants, folder)
