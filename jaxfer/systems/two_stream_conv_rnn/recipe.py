"""Paper 001: two streams of conv-RNNs, trained with cross-entropy, judged on ten person-independent folds of CK+.

The paper gives no training recipe. Our choices: Adam at 1e-4, batch 16, 100 epochs, gradients clipped
to norm 5, the weights of the last epoch; the clip mirrored, turned by up to 10 degrees and shifted by up to 5 % as one,
frames and flow alike.
"""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxfer import losses, metrics
from jaxfer.data.augment import random_affine
from jaxfer.data.records import Records
from jaxfer.kernels import warp
from jaxfer.ranges import Count, Degrees, Norm, Rate, Share
from jaxfer.systems.system import System
from jaxfer.systems.two_stream_conv_rnn import figures, published
from jaxfer.systems.two_stream_conv_rnn.model import TwoStreamConvRNN
from jaxfer.train import optim
from jaxfer.train.stage import Batch, Context, LossOut, Stage, Update


class TwoStreamSystem(System):
  """Two streams of conv-RNNs on sequences of frames and optical flow."""

  models = {"two_stream_conv_rnn": TwoStreamConvRNN}
  citation = "paper 001, Table 1: CK+, ten person-independent folds, pooled"
  paper_data = "ckplus"
  published = published.ROWS

  def to_arrays(self, records: Records) -> dict[str, np.ndarray]:
    """Frames [n, T, S, S, 3] uint8, flow [n, T, S, S, 2] int16 and labels [n], as they are stored."""
    return {name: records.arrays[name] for name in ("frames", "flow", "label")}

  def eval_batch(self, data: Mapping[str, ArrayLike], rows: ArrayLike) -> Batch:
    """Frames and flow in [-1, 1] (flow in units of 20 pixels) and labels of some rows."""
    return {
      "frames": jnp.asarray(data["frames"])[rows].astype(jnp.float32) / 127.5 - 1,
      "flow": jnp.asarray(data["flow"])[rows].astype(jnp.float32) / 32767,
      "label": jnp.asarray(data["label"])[rows],
    }

  def inputs(self, model: nn.Module, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The model's arguments."""
    return batch["frames"], batch["flow"]

  def recipe(
    self,
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
      batch = dict(self.eval_batch(data, columns["row"]))
      height, width = batch["frames"].shape[2:4]
      matrices = random_affine(keys, (height, width), flip=flip, rotation=rotation, shift=shift)
      return batch | {
        "frames": warp.affine(batch["frames"], matrices),
        "flow": warp.affine_flow(batch["flow"], matrices),
      }

    def loss(variables, batch, keys, context: Context) -> LossOut:
      del context
      logits: Any = model.apply(variables, *self.inputs(model, batch), train=True, keys=keys)
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

  def figures(self, task, variables, trained, tested, folder):
    """`gates.png` of a model with a temporal gate; see `figures.draw`."""
    del trained
    return figures.draw(task, variables, tested, folder)
