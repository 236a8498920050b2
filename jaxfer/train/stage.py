"""The parts of a training method: stages, their updates, and the inputs and outputs of a loss."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax
import jax
import optax

PyTree = Any
Batch = Mapping[str, jax.Array]
Variables = Mapping[str, Mapping[str, PyTree]]  # collection ("params", "batch_stats") -> submodule -> tree
Sums = Mapping[str, tuple[jax.Array, jax.Array]]  # name -> (weighted sum, weight)


@flax.struct.dataclass
class Context:
  """Additional inputs of a loss.

  Attributes:
    hparams: numbers that may differ between members, by name, such as "generator/learning_rate" or "w".
    aux: the `aux` that the previous update of this batch returned.
    axis_name: name of the mapped axis. A loss that reduces over the batch must reduce over this axis too. None under
      plain jit.
  """

  hparams: Mapping[str, jax.Array]
  aux: PyTree = ()
  axis_name: str | None = flax.struct.field(pytree_node=False, default=None)


@flax.struct.dataclass
class LossOut:
  """The output of a loss.

  Attributes:
    loss: term name -> (weighted sum over the batch, weight). The step minimizes the sum of sum / weight over all
      terms, where both parts are first summed over all devices. A term whose weight is 0 on all devices drops out.
      Return sums, never means: only sums give the same gradient however the batch is split.
    metrics: further (sum, weight) pairs to report. The terms of the loss are reported without being listed here.
    collections: new values of collections other than the parameters, such as running statistics, by collection and
      submodule. They must be the same on every device.
    aux: passed to the next update of the same batch. No gradient flows through it.
  """

  loss: Sums
  metrics: Sums = dataclasses.field(default_factory=dict)
  collections: Mapping[str, Mapping[str, PyTree]] = dataclasses.field(default_factory=dict)
  aux: PyTree = ()


LossFn = Callable[[Variables, Batch, jax.Array, Context], LossOut]
# (data, columns, keys) -> batch. `data` are on the device: all of them, or a window. `columns` are the plan's columns
# [batch], which hold indices into `data`. `keys` are typed keys [batch].
SampleFn = Callable[[Mapping[str, jax.Array], Mapping[str, jax.Array], jax.Array], Batch]


def gather(data: Mapping[str, jax.Array], columns: Mapping[str, jax.Array], keys: jax.Array) -> Batch:
  """Returns the planned examples of every array, unchanged. This is the simplest `SampleFn`."""
  del keys
  return {name: array[columns["row"]] for name, array in data.items()}


@dataclasses.dataclass(frozen=True)
class Update:
  """One optimizer step on a batch.

  Attributes:
    name: name of the update, used in the names of its metrics and hyperparameters.
    loss: function of (variables, batch, keys [batch], context) that returns a `LossOut`.
    trainable: names of the top-level submodules that the update trains. A name that matches no submodule is an error.
    optimizer: called as update(grads, state, params, hparams=context.hparams).
  """

  name: str
  loss: LossFn
  trainable: tuple[str, ...]
  optimizer: optax.GradientTransformation


@dataclasses.dataclass(frozen=True)
class Stage:
  """Updates that are applied in order to each batch for some epochs. Each stage starts with fresh optimizers.

  Attributes:
    name: name of the stage.
    updates: the updates, applied in order. Each one receives the `aux` of the one before.
    epochs: number of passes over the training examples.
    sample: makes a batch on the device from the data, the planned columns and one key per example.
    columns: the indices that the plan draws for each position in a batch: "row", and optionally "target" and "partner"
      (see `data.plan.Plan.columns`).
    evaluated: whether members are also evaluated on their test examples at the end of the stage, for the metrics log.
    ema: decay of an exponential moving average of the trained submodules, of their parameters and of their running
      statistics. 0 keeps no average. If there is one, validation and tests evaluate it, and the stage ends with it;
      the gradients still use the variables themselves.
    select: the variables that the stage ends with. "last" takes those of the last epoch; "best_on_validation" takes
      those of the epoch with the highest validation accuracy, and ties go to the earlier epoch.
    snapshot: submodules that the stage trains and whose parameters at its start are kept, in the collection
      `state.SNAPSHOT` of the variables. They are for figures; no training or evaluation reads them.
  """

  name: str
  updates: tuple[Update, ...]
  epochs: int
  sample: SampleFn = gather
  columns: tuple[str, ...] = ("row",)
  evaluated: bool = False
  select: Literal["last", "best_on_validation"] = "last"
  ema: float = 0.0
  snapshot: tuple[str, ...] = ()

  @property
  def trainable(self) -> tuple[str, ...]:
    """Names of all submodules that the updates train, without repetition."""
    return tuple(dict.fromkeys(name for update in self.updates for name in update.trainable))
