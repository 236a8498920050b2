"""Trains an image classifier of your own: any stock Flax Linen module, on any prepared data set.

The module is called as `model(x, train)`, where x is [batch, height, width, channels] in [-1, 1], or
[batch, frames, height, width, 3] for sequences. It returns logits [batch, classes]. It may use `nn.Dropout`, whose
masks differ from device to device, and `nn.BatchNorm`. If it has an attribute `num_classes`, it is given the number of
classes of the data.

A config names the module by its import path, as in `Call("my_models:CNN", width=32)`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxfer import losses, metrics
from jaxfer.data import augment
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.ranges import Count, Rate, ShareBelowOne
from jaxfer.systems.system import Options, System
from jaxfer.train import optim
from jaxfer.train.stage import Batch, Context, LossOut, Stage, Update, Variables

# The engine trains whole submodules, so the parameters of the user's module are under one name.
NET = "net"
AXIS = "data"  # Name of the axis of devices that share a batch.


def inside(variables: Variables) -> dict[str, Any]:
  """Returns the variables in the structure of the user's module."""
  return {collection: tree[NET] for collection, tree in variables.items() if NET in tree}


def outside(variables: Mapping[str, Any]) -> dict[str, Any]:
  """Undoes `inside`."""
  return {collection: {NET: tree} for collection, tree in variables.items()}


def check_norms(next_call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
  """An interceptor of Linen's methods that refuses a `nn.BatchNorm` which would see one device's share of a batch.

  Raises:
    UserError: the norm does not reduce over the devices.
  """
  norm = context.module
  if isinstance(norm, nn.BatchNorm) and norm.axis_name != AXIS and lax.psum(1, AXIS) > 1:
    raise UserError(
      f"nn.BatchNorm '{'/'.join(norm.path)}' has axis_name={norm.axis_name!r}: on several devices it would see only "
      f'one share of each batch; give it axis_name="{AXIS}", or set execution.devices=1'
    )
  return next_call(*args, **kwargs)


def _class_weight(k: int) -> str:
  """The name of a class's weight among the hyperparameters."""
  return f"class_weight/{k}"


def balanced(labels: np.ndarray, classes: int) -> np.ndarray:
  """Returns weights of classes that give every class the same total weight, as scikit-learn's "balanced" does.

  A class of c among n records gets n / (K c), where K is the number of classes that have records. The mean weight of
  the records is therefore 1. A class without records gets 0.

  Args:
    labels: [n] classes of the training records.
    classes: number of classes.

  Returns:
    [classes].
  """
  counts = np.bincount(labels, minlength=classes)
  present = counts > 0
  return np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 0.0)


def apply_in_training(
  model: nn.Module, variables: Variables, x: jax.Array, key: jax.Array
) -> tuple[Any, Any]:
  """Logits [batch, classes] in training mode, and the new values of every collection but the parameters."""
  mutable = [collection for collection in variables if collection != "params"]
  return model.apply(variables, x, train=True, rngs={"dropout": key}, mutable=mutable)


class ClassifierSystem(System):
  """Any Linen module with `__call__(x, train)` that returns logits."""

  models: Mapping[str, type[nn.Module]] = {}
  citation = ""
  paper_data = ""

  def to_arrays(self, records: Records) -> dict[str, np.ndarray]:
    """Images [n, S, S, channels] uint8, or frames [n, T, S, S, 3] uint8 of sequences, as "x"; and labels [n].

    Raises:
      UserError: the records hold neither.
    """
    for name in ("image", "frames"):
      array = records.arrays.get(name)
      if array is not None and array.dtype == np.uint8:
        return {"x": array, "label": records.arrays["label"]}
    have = ", ".join(f"{name} {array.shape[1:]} {array.dtype}" for name, array in records.arrays.items())
    raise UserError(
      f"records of {have}: a classifier reads images or frames of uint8; choose another data set"
    )

  def eval_batch(self, data: Mapping[str, ArrayLike], indices: ArrayLike) -> Batch:
    """Images or frames in [-1, 1], and labels."""
    return {
      "x": jnp.asarray(data["x"])[indices].astype(jnp.float32) / 127.5 - 1,
      "label": jnp.asarray(data["label"])[indices],
    }

  def inputs(self, model: nn.Module, batch: Batch) -> tuple[jax.Array]:
    """The first argument of the model; the second, `train`, depends on the caller."""
    del model
    return (batch["x"],)

  def recipe(
    self,
    model: nn.Module,
    steps: int,
    *,
    epochs: Count = 30,
    learning_rate: Rate = 1e-3,
    schedule: Literal["constant", "cosine"] = "cosine",
    weight_decay: Rate = 1e-4,
    mirror: bool = True,
    select: Literal["last", "best_on_validation"] = "last",
    label_smoothing: ShareBelowOne = 0.0,
    class_weights: Literal["none", "balanced"] = "none",
    ema: ShareBelowOne = 0.0,
  ) -> tuple[tuple[Stage, ...], dict[str, float]]:
    """One stage of AdamW and cross-entropy.

    Args:
      model: the user's module.
      steps: batches of an epoch.
      epochs: passes over the training records.
      learning_rate: of AdamW.
      schedule: "constant", or "cosine" to zero over all epochs.
      weight_decay: of AdamW, times the learning rate.
      mirror: mirror images and sequences from left to right with probability 0.5.
      select: "last" keeps the weights of the last epoch, "best_on_validation" those of the epoch with the highest
        validation accuracy; ties go to the earlier epoch.
      label_smoothing: share of each target that is spread evenly over all classes.
      class_weights: "balanced" weighs the loss of a record by the inverse frequency of its class among the training
        records, see `balanced`.
      ema: decay of a moving average of the weights, such as 0.99. The average is evaluated and kept. 0 keeps no
        average.
    """

    def sample(data, columns, keys):
      batch = self.eval_batch(data, columns["row"])
      return {**batch, "x": augment.mirror(keys, batch["x"])} if mirror else batch

    def loss(variables, batch, keys, context: Context) -> LossOut:
      def forward(x):
        # Keys are per example, so that every device draws its own dropout masks.
        with nn.intercept_methods(check_norms):
          return apply_in_training(model, inside(variables), x, keys[0])

      if context.axis_name is None:
        # The program sees the whole batch. An axis of size one takes the place of the axis of devices.
        logits, changed = jax.tree.map(lambda a: a[0], jax.vmap(forward, axis_name=AXIS)(batch["x"][None]))
      else:
        logits, changed = forward(batch["x"])
      logits = logits.astype(jnp.float32)
      count = jnp.float32(len(logits))
      correct = (metrics.predict(logits) == batch["label"]).sum(dtype=jnp.float32)
      each = losses.cross_entropy(logits, batch["label"], label_smoothing)
      if class_weights == "balanced":
        weights = [context.hparams[_class_weight(k)] for k in range(logits.shape[-1])]
        each = each * jnp.stack(weights)[batch["label"]]
      return LossOut(
        loss={"loss": (each.sum(), count)},
        metrics={"accuracy": (correct, count)},
        collections=outside(changed),
      )

    rate = optim.schedule(schedule, epochs * steps)
    optimizer = optim.adamw("learning_rate", rate, {}, weight_decay=weight_decay)
    stage = Stage("train", (Update("net", loss, (NET,), optimizer),), epochs, sample, select=select, ema=ema)
    return (stage,), {"learning_rate": learning_rate}

  def data_hparams(self, options: Options, labels: np.ndarray, classes: int) -> dict[str, float]:
    """The weights of the classes, if the recipe weighs them."""
    if options.get("class_weights", "none") == "none":
      return {}
    return {_class_weight(k): float(weight) for k, weight in enumerate(balanced(labels, classes))}

  def outputs(
    self,
    model: nn.Module,
    variables: Variables,
    batch: Batch,
    hparams: Mapping[str, jax.Array],
    axis_name: str | None,
  ) -> jax.Array:
    """Logits [batch, classes] in evaluation mode, float32."""
    del hparams, axis_name
    logits: Any = model.apply(inside(variables), batch["x"], train=False)
    return logits.astype(jnp.float32)

  def load_pretrained(self, model: nn.Module, given: Variables) -> Variables:
    """Returns all weights of another training of the same module.

    Raises:
      UserError: the weights belong to another system.
    """
    if set(given["params"]) != {NET}:
      raise UserError(
        f"init_from: the weights of {', '.join(given['params'])} do not belong to a classifier: give those of a "
        f"training of {type(model).__name__}"
      )
    return given

  def init(self, model: nn.Module, data: Mapping[str, np.ndarray], key: jax.Array) -> Variables:
    """Initial variables; the module draws them as its own `init` does."""
    x = self.eval_batch(data, np.zeros(1, np.int32))["x"]
    return outside(model.init(key, x, train=False))
