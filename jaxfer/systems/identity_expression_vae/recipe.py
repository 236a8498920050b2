"""The system of paper 003: separate codes for identity and expression, learned without expression labels.

README, section 2 describes the two training stages and the evaluation, and section 3 our choices:

- Stage "identity" (eq. 1) trains the identity encoder and the decoder. The expression code is zero, and the target is a
  random image of the same person.
- Stage "expression" (eqs. 2 to 5) trains the expression encoder and the decoder, and with the adversarial loss the
  discriminator. The identity encoder is frozen, and the target is the input image.

Both stages can be repeated in rounds. Labels of expressions are used for evaluation only.

Two details are not in the README. In each step the generator is updated first, so its loss uses the discriminator of
the previous step. If all images of a batch show the same person, the partners of the switch loss come from the other
training images.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.ranges import Count, Factor, Rate, Weight
from jaxfer.report.tables import Table
from jaxfer.systems.explanation import Explanation
from jaxfer.systems.identity_expression_vae import clustering, code_metrics, figures, table, updates
from jaxfer.systems.identity_expression_vae.baselines import VAE, ConditionalVAE, condition
from jaxfer.systems.identity_expression_vae.model import IdentityExpressionVAE
from jaxfer.systems.prediction import Prediction
from jaxfer.systems.system import History, System, Task, Variants
from jaxfer.train import optim
from jaxfer.train.stage import Batch, SampleFn, Stage, Update, Variables

# Below this divergence, in nat, a code counts as collapsed: with its noise it holds almost no information on the image.
COLLAPSED = 0.05
# Below this loss of the discriminator, in nat, the generator learns nothing from it.
WON = 1e-3


class IdentityExpressionSystem(System):
  """A VAE with one code for the identity and one for the expression, and two baselines."""

  models = {"conditional_vae": ConditionalVAE, "identity_expression_vae": IdentityExpressionVAE, "vae": VAE}
  citation = "paper 003, Table 3: 195 test images of 7 people from MUG and CK+"
  paper_data = "paper003"
  bfloat16 = True
  paper_options = {"use": "both"}
  test_batch = 64

  def to_arrays(self, records: Records) -> dict[str, np.ndarray]:
    """RGB images [n, S, S, 3], uint8, and the person and the label of each, [n].

    Raises:
      UserError: the records hold no RGB images of 8 bits.
    """
    image = records.arrays.get("image")
    if image is None or image.dtype != np.uint8 or image.shape[-1] != 3:
      what = "no image" if image is None else f"image {image.dtype} {image.shape[1:]}"
      raise UserError(
        f"the records have {what}: this system reads RGB images (uint8, 3 channels); choose another data set"
      )
    return {"image": image, "subject": records.arrays["subject"], "label": records.arrays["label"]}

  def eval_batch(self, data: Mapping[str, ArrayLike], indices: ArrayLike) -> Batch:
    """RGB images [batch, S, S, 3], float32 in [0, 1], and the person and the label of each, [batch]."""
    return {
      "image": jnp.asarray(data["image"])[indices].astype(jnp.float32) / 255,
      "subject": jnp.asarray(data["subject"])[indices],
      "label": jnp.asarray(data["label"])[indices],
    }

  def inputs(self, model: nn.Module, batch: Batch) -> tuple[jax.Array, ...]:
    """The images, and for a conditional VAE also the one-hot vectors of the people they show."""
    one_hot = condition(model, len(batch["image"]), batch["subject"])
    return (batch["image"],) if one_hot is None else (batch["image"], one_hot)

  def recipe(
    self,
    model: IdentityExpressionVAE | VAE,
    steps: int,
    *,
    epochs: Count = 100,
    iterated: bool = False,
    rounds: Count = 5,
    round_epochs: Count = 50,
    adversarial: bool = True,
    switch: bool = True,
    learning_rate: Rate = 5e-4,
    decay: Factor = 0.95,
    kl_weight: Weight = 1e-5,
    error_weight: Weight = 0.01,
    error_reduction: Literal["sum", "mean"] = "sum",
    adversarial_weight: Weight = 1.0,
    switch_weight: Weight = 10.0,
    saturating: bool = False,
    fixed_target: bool = False,
  ) -> tuple[tuple[Stage, ...], dict[str, float]]:
    """Both stages, once or in rounds. A baseline has a single stage.

    Args:
      model: the model.
      steps: batches per epoch.
      epochs: epochs of each stage in a single pass.
      iterated: whether both stages are repeated, with an evaluation on the test records after each round.
      rounds: number of rounds if `iterated`; our choice (README, section 3).
      round_epochs: epochs of each stage in a round.
      adversarial: whether to use L_gan (eq. 3), which needs a discriminator.
      switch: whether to use L_switch (eq. 4).
      learning_rate: the learning rate of Adam at the start of each stage.
      decay: factor on the learning rate per epoch.
      kl_weight: a1, the weight of the divergence in nat.
      error_weight: a2, the weight of the squared error.
      error_reduction: whether the squared error that is weighted is the sum or the mean over pixels and channels. The
        metric "error" is always the sum.
      adversarial_weight: beta, the weight of L_gan.
      switch_weight: gamma, the weight of L_switch.
      saturating: whether the generator minimises log(1 - D), as printed; see `losses.generator_terms`.
      fixed_target: whether to stop the gradient of the target in L_switch; see `losses.switch`.

    Raises:
      UserError: `iterated` is set for a baseline.
    """
    if error_reduction == "mean":
      error_weight = error_weight / (3 * model.image_size**2)
    hparams = {"learning_rate": learning_rate, "kl_weight": kl_weight, "error_weight": error_weight}
    hparams |= {"adversarial_weight": adversarial_weight, "switch_weight": switch_weight}
    adam = optim.adam("learning_rate", optim.exponential(decay, steps))
    if isinstance(model, VAE):
      if iterated:
        raise UserError(
          "recipe.iterated=true: a plain or conditional VAE has one stage; leave the option out"
        )
      return self._baseline_stages(model, adam, epochs), hparams
    options = {"switch": switch, "saturating": saturating, "fixed_target": fixed_target}
    epochs = round_epochs if iterated else epochs
    stages = self._both_stages(model, adam, epochs, evaluated=iterated, adversarial=adversarial, **options)
    return stages * (rounds if iterated else 1), hparams

  def _baseline_stages(
    self, model: VAE, adam: optax.GradientTransformation, epochs: int
  ) -> tuple[Stage, ...]:
    """The single stage of a plain or conditional VAE."""
    update = Update("vae", updates.plain(model), updates.trained(model), adam)
    return (Stage("vae", (update,), epochs, self._sampler("target")),)

  def _both_stages(
    self,
    model: IdentityExpressionVAE,
    adam: optax.GradientTransformation,
    epochs: int,
    *,
    evaluated: bool,
    adversarial: bool,
    switch: bool,
    saturating: bool,
    fixed_target: bool,
  ) -> tuple[Stage, ...]:
    """Stage "identity" and stage "expression"; `evaluated` adds an evaluation at the end. See `recipe`."""
    identity = Update("identity", updates.identity(model), ("identity_encoder", "decoder"), adam)
    loss = updates.generator(
      model, adversarial=adversarial, switch=switch, saturating=saturating, fixed_target=fixed_target
    )
    expression = [Update("generator", loss, ("expression_encoder", "decoder"), adam)]
    if adversarial:
      expression.append(Update("discriminator", updates.discriminator(model), ("discriminator",), adam))
    columns = ("row", "partner") if switch else ("row",)
    return (
      Stage("identity", (identity,), epochs, self._sampler("target"), ("row", "target")),
      Stage("expression", tuple(expression), epochs, self._sampler("partner"), columns, evaluated=evaluated),
    )

  def _sampler(self, other: str) -> SampleFn:
    """Samples a batch as `eval_batch` does, with the images of the plan's column `other`, if it has this column."""

    def sample(data, columns, keys):
      del keys
      further = {other: self.eval_batch(data, columns[other])["image"]} if other in columns else {}
      return {**self.eval_batch(data, columns["row"]), **further}

    return sample

  def outputs(
    self,
    model: IdentityExpressionVAE | VAE,
    variables: Variables,
    batch: Batch,
    hparams: Mapping[str, jax.Array],
    axis_name: str | None,
  ) -> jax.Array:
    """Posterior means: [batch, z_i | z_e], or [batch, z] for a baseline.

    A conditional VAE gets a vector of zeros as condition, because the people of the test records are not among those
    of its training.
    """
    del hparams, axis_name
    return code_metrics.codes(model, variables, batch["image"], None)

  def predictions(
    self, model: IdentityExpressionVAE | VAE, outputs: np.ndarray, labels: np.ndarray
  ) -> dict[str, Prediction]:
    """Predictions by clustering the expression codes, in the paper's 100 trials (README, section 2).

    The accuracy is the mean over the trials, as in the paper (its section 5.2.1). The predicted class of a record is
    the one that most trials give it. This majority vote is more often correct than a single trial.
    """
    if not np.isfinite(outputs).all():
      missing = np.full((clustering.TRIALS, len(labels)), -1)
      return {"": Prediction(missing[0], np.zeros(len(labels)), by_trial=missing.T)}
    by_trial = code_metrics.recognise(code_metrics.expression_of(model, outputs), labels)
    votes = (by_trial[:, :, None] == np.arange(labels.max() + 1)).sum(0)
    return {"": Prediction(votes.argmax(-1), (by_trial == labels).mean(0), by_trial=by_trial.T)}

  def inference_state(
    self, model: IdentityExpressionVAE | VAE, outputs: np.ndarray, labels: np.ndarray
  ) -> dict[str, np.ndarray]:
    """The clusters of the test records in every trial, by which `predictions` classifies them."""
    if not np.isfinite(outputs).all():
      return {}
    found, _ = code_metrics.clusters(code_metrics.expression_of(model, outputs), labels)
    return {"centres": found.centres, "labels": found.labels}

  def probabilities(self, task: Task, outputs: jax.Array, state: Mapping[str, np.ndarray]) -> jax.Array:
    """The share of the trials in which the cluster nearest to an image's expression code has a class's label.

    For the test records of the training, these are the votes that `predictions` counts.

    Raises:
      UserError: the weights hold no clusters.
    """
    if not state:
      raise UserError(
        "the weights hold no clusters of codes: `jaxfer evaluate` the run again with this version"
      )
    found = clustering.Clusters(state["centres"], state["labels"])
    by_trial = found.predict(code_metrics.expression_of(task.model, outputs))
    classes = np.arange(len(task.records.label_names))
    return (by_trial[:, :, None] == classes).mean(0, dtype=jnp.float32)

  def warnings(self, model: IdentityExpressionVAE | VAE, history: History, outputs: np.ndarray) -> list[str]:
    """Warns about a collapsed code, a discriminator with almost no loss, and codes with too few distinct values."""
    lines = []
    for stage, metrics in {row["stage"]: row for row in history if row["split"] == "train"}.items():
      divergence = metrics.get("kl", metrics.get("generator/kl"))
      if divergence is not None and divergence < COLLAPSED:
        lines.append(
          f"the posterior of stage '{stage}' has collapsed: it is {divergence:.2g} nat from the prior, so the decoder "
          "gets almost no information on the image; lower recipe.kl_weight or raise recipe.error_weight"
        )
      terms = [value for name, value in metrics.items() if name.startswith("discriminator/")]
      if terms and sum(terms) < WON:
        lines.append(
          f"the discriminator of stage '{stage}' tells real and decoded images apart without error (loss "
          f"{sum(terms):.2g}): the generator learns nothing more from it"
        )
    values = code_metrics.distinct(code_metrics.expression_of(model, outputs))
    if values < clustering.CLUSTERS and np.isfinite(outputs).all():
      lines.append(
        f"the codes of the {len(outputs)} test images have only {values} distinct values: they form {values} clusters "
        f"instead of {clustering.CLUSTERS}"
      )
    return lines

  def figures(
    self,
    task: Task,
    variables: Variables,
    train_indices: np.ndarray,
    test_indices: np.ndarray,
    folder: pathlib.Path,
  ) -> Mapping[str, str]:
    """Reconstructions, maps of codes, and swapped and interpolated faces; see `figures.figures`."""
    return figures.figures(task, variables, train_indices, test_indices, folder)

  def explanation(self, task: Task, variables: Variables, layer: str | None) -> Explanation:
    """Swapped and interpolated expressions of given faces; see `figures.explanation`."""
    return figures.explanation(task.model, variables, layer)

  def summaries(
    self, histories: Sequence[History], predictions: Sequence[Mapping[str, Prediction]]
  ) -> Mapping[str, Sequence[float]]:
    """The divergence of each code from its prior, and the accuracy after each round; see `table.summaries`."""
    return table.summaries(histories, predictions)

  def metrics(
    self, task: Task, variables: Variables, train_indices: np.ndarray, test_indices: np.ndarray
  ) -> Mapping[str, float | None]:
    """Recognition, linear probes, image probes and reconstruction errors; see `code_metrics.metrics`."""
    return code_metrics.metrics(task, variables, train_indices, test_indices)

  def tables(
    self, variants: Variants, seeds: Sequence[int], not_trained: Variants = ()
  ) -> Sequence[tuple[str, Table]]:
    """Table 3 with our results, and tables of numbers that the paper does not report; see `table.tables`."""
    return table.tables(variants, seeds, not_trained)

  def table_figures(self, variants: Variants, folder: pathlib.Path) -> Mapping[str, str]:
    """The accuracy by round, and swapped and interpolated faces of all variants; see `table.figures`."""
    return table.figures(variants, folder)
