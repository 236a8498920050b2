"""Two-stream conv-RNNs (paper 001), trained with cross-entropy and evaluated on ten person-independent folds of CK+.

The paper does not describe the training, so the recipe is our choice (README, section 3): Adam at rate 1e-4, batches of
16 clips, 100 epochs, gradients clipped to norm 5, and the weights of the last epoch. A clip is mirrored at random,
rotated by up to 10 degrees and shifted by up to 5 % of the image. All its frames and flow are transformed in the same
way.
"""

import pathlib
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
from jaxfer.systems.explanation import Explanation
from jaxfer.systems.system import System, Task
from jaxfer.systems.two_stream_conv_rnn import figures, published
from jaxfer.systems.two_stream_conv_rnn.model import TwoStreamConvRNN
from jaxfer.train import optim
from jaxfer.train.stage import Batch, Context, LossOut, Stage, Update, Variables


class TwoStreamSystem(System):
  """Two streams of conv-RNNs on sequences of frames and optical flow (paper 001)."""

  models = {"two_stream_conv_rnn": TwoStreamConvRNN}
  citation = "paper 001, Table 1: CK+, ten person-independent folds, pooled"
  paper_data = "ckplus"
  bfloat16 = True
  published = published.VARIANTS

  def to_arrays(self, records: Records) -> dict[str, np.ndarray]:
    """The stored frames [n, T, S, S, 3] uint8, flow [n, T, S, S, 2] int16 and labels [n]."""
    return {name: records.arrays[name] for name in ("frames", "flow", "label")}

  def eval_batch(self, data: Mapping[str, ArrayLike], indices: ArrayLike) -> Batch:
    """Frames [batch, T, S, S, 3] in [-1, 1], flow [batch, T, S, S, 2] and labels [batch].

    The flow is in units of 20 pixels, in [-1, 1].
    """
    return {
      "frames": jnp.asarray(data["frames"])[indices].astype(jnp.float32) / 127.5 - 1,
      "flow": jnp.asarray(data["flow"])[indices].astype(jnp.float32) / 32767,
      "label": jnp.asarray(data["label"])[indices],
    }

  def inputs(self, model: nn.Module, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The frames and the flow of the batch."""
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
    """Returns a single stage, which trains the whole model.

    Args:
      model: the model.
      steps: number of batches per epoch.
      epochs: number of epochs.
      learning_rate: learning rate of Adam.
      schedule: schedule of the learning rate, "constant" or "cosine" over all epochs.
      clip_norm: largest global norm of the gradient.
      flip: whether to mirror clips with probability 0.5.
      rotation: largest angle of rotation, in degrees.
      shift: largest shift, as a share of the image size, in [0, 1].
    """

    def sample(data: Mapping[str, jax.Array], columns: Mapping[str, jax.Array], keys: jax.Array) -> Batch:
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

  def explanation(self, task: Task, variables: Variables, layer: str | None) -> Explanation:
    """The temporal gates of both streams over time; see `figures.explanation`."""
    model: Any = task.model
    return figures.explanation(model, variables, layer)

  def figures(
    self,
    task: Task,
    variables: Variables,
    train_indices: np.ndarray,
    test_indices: np.ndarray,
    folder: pathlib.Path,
  ) -> dict[str, str]:
    """Draws the temporal gate if the model has one; see `figures.draw`."""
    del train_indices
    return figures.draw(task, variables, test_indices, folder)
