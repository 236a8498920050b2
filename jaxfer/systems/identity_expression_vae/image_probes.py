"""Classifiers of photographs, to judge made ones by: who is seen, and with which expression.

Two 3 x 3 convolutions (16 and 32 features), each with 2 x 2 pooling, and a dense layer. Who is seen is learned from
half of everyone's images, expression from the same half of the people of the training side. Our choice: the paper
judges swapped images by eye.
"""

import dataclasses
import functools
import pathlib
import tempfile
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfer import losses
from jaxfer.config import Execution
from jaxfer.data import plan
from jaxfer.layers.conv import Conv
from jaxfer.systems.identity_expression_vae import probes
from jaxfer.systems.system import Task
from jaxfer.train import members, optim
from jaxfer.train.stage import LossOut, Stage, Update, Variables

EPOCHS, BATCH, RATE, DECAY = 30, 32, 2e-3, 0.9


class Net(nn.Module):
  """Images [batch, S, S, 3] in [0, 1] -> logits [batch, classes]."""

  classes: int

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """See the class."""
    x = images - 0.5
    for k, features in enumerate((16, 32), 1):
      x = nn.relu(Conv(features, 3, 1, 1, name=f"conv{k}")(x))
      x = nn.max_pool(x, (2, 2), (2, 2))
    return nn.Dense(self.classes, name="fc")(x.reshape(len(x), -1))


@dataclasses.dataclass(frozen=True)
class Probes:
  """Both classifiers: net and variables by what they tell ("subject", "expression").

  Attributes:
    nets: what -> (net, variables).
    unseen: rows that neither learned from.
  """

  nets: dict[str, tuple[Net, Variables]]
  unseen: np.ndarray

  def predict(self, what: str, images: np.ndarray) -> np.ndarray:
    """Images [n, S, S, 3] in [0, 1] -> classes [n]."""
    net, variables = self.nets[what]
    parts = []
    for batch in plan.evaluation(np.arange(len(images)), BATCH):
      parts.append(np.asarray(_logits(net, variables, images[batch["row"]])))
    return np.concatenate(parts)[: len(images)].argmax(-1)


@functools.partial(jax.jit, static_argnums=0)
def _logits(net: Net, variables: Variables, images: jax.Array) -> jax.Array:
  logits: Any = net.apply(variables, images)
  return logits


_FITTED: dict[tuple[str, bytes, bytes], Probes] = {}


def fitted(task: Task, trained: np.ndarray, tested: np.ndarray) -> Probes:
  """Both probes of a data set so divided; fitted once, as all trainings of a study are judged by the same."""
  key = task.records.fingerprint, trained.tobytes(), tested.tobytes()
  if key not in _FITTED:
    rows = np.concatenate([trained, tested])
    half = probes.first_halves(task.data["subject"][rows], task.data["label"][rows])
    learned = {"subject": rows[half], "expression": rows[half & (np.arange(len(rows)) < len(trained))]}
    nets = {what: _fit(task, what, own) for what, own in learned.items()}
    _FITTED[key] = Probes(nets, rows[~half])
  return _FITTED[key]


def _fit(task: Task, what: str, rows: np.ndarray) -> tuple[Net, Variables]:
  labels = np.asarray(task.data["subject" if what == "subject" else "label"])
  net = Net(int(labels.max()) + 1)
  data = {"image": np.asarray(task.data["image"][rows]), "label": labels[rows]}

  def loss(variables, batch, keys, context) -> LossOut:
    del keys, context
    logits: Any = net.apply(variables, batch["image"].astype(jnp.float32) / 255)
    return LossOut({"loss": (losses.cross_entropy(logits, batch["label"]).sum(), jnp.float32(len(logits)))})

  batches = plan.Plan(np.arange(len(rows)), BATCH, "wrap", [0])
  optimizer = optim.adam("rate", optim.exponential(DECAY, batches.steps), weight_decay=1e-4)
  stage = Stage("probe", (Update("net", loss, ("conv1", "conv2", "fc"), optimizer),), EPOCHS)
  shape = (1, *data["image"].shape[1:])
  with tempfile.TemporaryDirectory() as folder:
    (result,) = members.train(
      (stage,),
      [members.Member(what, 0, batches, {"rate": RATE})],
      lambda key: net.init(key, jnp.zeros(shape)),
      data,
      pathlib.Path(folder),
      execution=Execution(devices=1, driver="steps"),
      say=lambda line: None,
    )
  return net, result.variables
