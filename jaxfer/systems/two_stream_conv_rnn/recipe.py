"""Paper 001: two streams of conv-RNNs, trained with cross-entropy, judged on ten person-independent folds of CK+.

The paper gives no training recipe. Our choices: Adam at 1e-4, batch 16, 100 epochs, gradients clipped
to norm 5, the weights of the last epoch; the clip mirrored, turned by up to 10 degrees and shifted by up to 5 % as one,
frames and flow alike.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxfer import losses, metrics
from jaxfer.data.augment import random_affine
from jaxfer.data.records import Records
from jaxfer.experiments.experiment import Experiment
from jaxfer.explain import gates
from jaxfer.kernels import warp
from jaxfer.models.two_stream_conv_rnn import TwoStreamConvRNN
from jaxfer.ranges import Count, Degrees, Norm, Rate, Share
from jaxfer.report import grids
from jaxfer.train import optim
from jaxfer.train.stage import Batch, Context, LossOut, Stage, Update, Variables

if TYPE_CHECKING:
  from jaxfer.experiments.task import Task


def resident(records: Records) -> dict[str, np.ndarray]:
  """Frames [n, T, S, S, 3] uint8, flow [n, T, S, S, 2] int16 and labels [n], as they are stored."""
  return {name: records.arrays[name] for name in ("frames", "flow", "label")}


def example(data: Mapping[str, ArrayLike], rows: ArrayLike) -> Batch:
  """Frames and flow in [-1, 1] (flow in units of 20 pixels) and labels of some rows."""
  return {
    "frames": jnp.asarray(data["frames"])[rows].astype(jnp.float32) / 127.5 - 1,
    "flow": jnp.asarray(data["flow"])[rows].astype(jnp.float32) / 32767,
    "label": jnp.asarray(data["label"])[rows],
  }


def inputs(model: nn.Module, batch: Batch) -> tuple[jax.Array, jax.Array]:
  """The model's arguments."""
  del model
  return batch["frames"], batch["flow"]


def recipe(
  model: TwoStreamConvRNN,
  steps: int,
  *,
  epochs: Count = 100,
  learning_rate: Rate = 1e-4,
  schedule: Literal["constant", "cosine"] = "constant",
  clip_norm: Norm = 5.0,
  flip: bool = True,
  rotation: Degrees = 10.0,
  shift: Share = 0.05,
) -> tuple[tuple[Stage, ...], dict[str, float]]:
  """One stage of one update.

  Args:
    model: the two-stream net.
    steps: batches of an epoch.
    epochs: passes over the training clips.
    learning_rate: of Adam.
    schedule: "constant" or "cosine" over all epochs.
    clip_norm: largest global norm of the gradient.
    flip: mirror clips with probability one half.
    rotation: largest angle of rotation, degrees.
    shift: largest shift, as a share of the image.
  """

  def sample(data, columns, keys):
    batch = dict(example(data, columns["row"]))
    height, width = batch["frames"].shape[2:4]
    matrices = random_affine(keys, (height, width), flip=flip, rotation=rotation, shift=shift)
    return batch | {
      "frames": warp.affine(batch["frames"], matrices),
      "flow": warp.affine_flow(batch["flow"], matrices),
    }

  def loss(variables, batch, keys, context: Context) -> LossOut:
    del context
    logits: Any = model.apply(variables, *inputs(model, batch), train=True, keys=keys)
    count = jnp.asarray(len(logits), jnp.float32)
    correct = (metrics.predict(logits) == batch["label"]).sum(dtype=jnp.float32)
    return LossOut(
      loss={"loss": (losses.cross_entropy(logits, batch["label"]).sum(), count)},
      metrics={"accuracy": (correct, count)},
    )

  optimizer = optim.adam("learning_rate", optim.schedule(schedule, epochs * steps), clip_norm=clip_norm)
  return (Stage("train", (Update("net", loss, model.parts, optimizer),), epochs, sample),), {
    "learning_rate": learning_rate
  }


def figures(
  task: "Task", variables: Variables, trained: np.ndarray, tested: np.ndarray, folder: pathlib.Path
) -> Mapping[str, str]:
  """`gates.png`, of a net with a temporal gate: the gate over the first tested clip of each class."""
  del trained
  if not getattr(task.model, "temporal_gate", False):
    return {}
  labels, first = np.unique(task.data["label"][tested], return_index=True)
  clips = {name: array[tested[first]] for name, array in task.data.items()}
  batch = example(clips, np.arange(len(first)))
  maps = np.asarray(
    jax.jit(functools.partial(gates.gate_maps, task.model))(variables, *inputs(task.model, batch))
  )
  names = [task.records.label_names[label] for label in labels]
  title = "What the temporal gate lets through"
  grids.gates_png(clips["frames"], maps, names, folder / "gates.png", title)
  return {
    "gates.png": "What the temporal gate of the first RGB layer lets through: a row a tested record (of the first "
    "fold), a column a step. The first two steps look back on a zero state."
  }


_ENHANCED = {"temporal_gate": True, "temporal_skip": True, "spatial_skip": True}
_PLAIN = dict.fromkeys(_ENHANCED, False)

EXPERIMENT = Experiment(
  recipe=recipe,
  resident=resident,
  example=example,
  inputs=inputs,
  # Exact multiples of 1/327: the paper pools the counts of its folds.
  published=(
    ("ConvGRU", {"cell": "conv_gru", **_PLAIN}, 283 / 327),
    ("ConvLSTM", {"cell": "conv_lstm", **_PLAIN}, 281 / 327),
    ("enhanced ConvGRU", {"cell": "conv_gru", **_ENHANCED}, 291 / 327),
    ("enhanced ConvLSTM", {"cell": "conv_lstm", **_ENHANCED}, 296 / 327),
  ),
  source="paper 001, Table 1: CK+, ten person-independent folds, pooled",
  paper_data="ckplus",
  figures=figures,
)
