"""What a method consists of: stages, their updates, and what a loss reads and returns."""

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
  """What a loss may know beside its inputs.

  Attributes:
    hparams: numbers that may differ from member to member, by name ("generator/learning_rate", "w").
    aux: what the previous update of this batch passed on.
    axis_name: the mapped axis, to be reduced over by whatever reduces over the batch; None under plain jit.
  """

  hparams: Mapping[str, jax.Array]
  aux: PyTree = ()
  axis_name: str | None = flax.struct.field(pytree_node=False, default=None)


@flax.struct.dataclass
class LossOut:
  """What a loss returns.

  Attributes:
    loss: a term's name -> (weighted sum over the batch, weight). The step descends on the sum over terms of
      sum / weight, both taken over all devices; a term whose weight is zero everywhere drops out. Never means: only
      sums give the same gradient however the batch is split.
    metrics: further (sum, weight) pairs to report; the terms of the loss are reported by themselves.
    collections: new values of collections other than the parameters (running statistics), by collection and
      submodule; must be the same on every device.
    aux: for the next update of the same batch; no gradient flows through it.
  """

  loss: Sums
  metrics: Sums = dataclasses.field(default_factory=dict)
  collections: Mapping[str, Mapping[str, PyTree]] = dataclasses.field(default_factory=dict)
  aux: PyTree = ()


LossFn = Callable[[Variables, Batch, jax.Array, Context], LossOut]
# (data on the device, all or a window; the plan's columns [rows], which number rows of these; keys [rows]) -> batch
SampleFn = Callable[[Mapping[str, jax.Array], Mapping[str, jax.Array], jax.Array], Batch]


def gather(data: Mapping[str, jax.Array], columns: Mapping[str, jax.Array], keys: jax.Array) -> Batch:
  """The plainest `SampleFn`: the rows of every array, as they lie."""
  del keys
  return {name: array[columns["row"]] for name, array in data.items()}


@dataclasses.dataclass(frozen=True)
class Update:
  """One step of descent on a batch.

  Attributes:
    name: of the update, as in its metrics and `hparams` entries.
    loss: (variables, batch, keys [rows], context) -> LossOut.
    trainable: the top-level submodules that it moves; a name that matches nothing is an error.
    optimizer: called as update(grads, state, params, hparams=context.hparams).
  """

  name: str
  loss: LossFn
  trainable: tuple[str, ...]
  optimizer: optax.GradientTransformation


@dataclasses.dataclass(frozen=True)
class Stage:
  """Updates applied in order to each batch, for some epochs, with fresh optimizers.

  Attributes:
    name: of the stage.
    updates: applied in order; each sees what the one before passed on.
    epochs: passes over the training rows.
    columns: what the index plan draws for each place in a batch: "row", and as asked "target" and "partner" (see
      `data.plan.Plan.columns`).
    select: the variables it ends with: those of its "last" epoch, or of the "best_on_validation", by the accuracy of
      the watched rows, of equal ones the earlier; optimizers are fresh in each stage anyhow.
    judged: whether trainings are also judged on their tested rows at its end, for the record.
    sample: makes the batch on the device from resident data, planned rows and per-example keys.
  """

  name: str
  updates: tuple[Update, ...]
  epochs: int
  sample: SampleFn = gather
  columns: tuple[str, ...] = ("row",)
  judged: bool = False
  select: Literal["last", "best_on_validation"] = "last"

  @property
  def trainable(self) -> tuple[str, ...]:
    """Every submodule that some update moves, each once."""
    return tuple(dict.fromkeys(name for update in self.updates for name in update.trainable))
