"""Classifiers of photographs that evaluate decoded images: one predicts the person, the other the expression.

Both are fitted to photographs. On images that are decoded from swapped codes, their accuracy says how much of the
person and of the expression can be seen in the images. The paper judges these images by eye; the classifiers are our
choice.

A classifier has two 3 x 3 convolutions with 16 and 32 features, each followed by 2 x 2 pooling, and a dense layer. The
one for the person is fitted to half of everyone's images (`probes.first_halves`), the one for the expression to the
training people among these.
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
from jaxfer.train import members, optim, trainer
from jaxfer.train.stage import LossOut, Stage, Update, Variables

EPOCHS, BATCH, RATE, DECAY = 30, 32, 2e-3, 0.9


class Classifier(nn.Module):
  """A small convolutional network.

  Attributes:
    classes: number of classes.
  """

  classes: int

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Returns logits [batch, classes] for images [batch, S, S, 3] in [0, 1]."""
    x = images - 0.5
    for k, features in enumerate((16, 32), 1):
      x = nn.relu(Conv(features, 3, 1, 1, name=f"conv{k}")(x))
      x = nn.max_pool(x, (2, 2), (2, 2))
    return nn.Dense(self.classes, name="fc")(x.reshape(len(x), -1))


@dataclasses.dataclass(frozen=True)
class Probes:
  """The fitted classifiers.

  Attributes:
    classifiers: the model and its variables for each target, "subject" and "expression".
    unseen: indices of the records to which no classifier was fitted.
  """

  classifiers: dict[str, tuple[Classifier, Variables]]
  unseen: np.ndarray

  def predict(self, target: str, images: np.ndarray) -> np.ndarray:
    """Predicts classes.

    Args:
      target: "subject" or "expression".
      images: [n, S, S, 3] in [0, 1].

    Returns:
      [n] classes.
    """
    model, variables = self.classifiers[target]
    parts = []
    for batch in plan.evaluation(np.arange(len(images)), BATCH):
      parts.append(np.asarray(_logits(model, variables, images[batch["row"]])))
    return np.concatenate(parts)[: len(images)].argmax(-1)


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Classifier, variables: Variables, images: jax.Array) -> jax.Array:
  logits: Any = model.apply(variables, images)
  return logits


_FITTED: dict[tuple[str, bytes, bytes], Probes] = {}


def fitted(task: Task, train_indices: np.ndarray, test_indices: np.ndarray) -> Probes:
  """Returns both classifiers for a data set and its split.

  They are fitted once and then reused, so that all trainings of a study are evaluated with the same classifiers.

  Args:
    task: the config with its data.
    train_indices: indices of the records of the training people.
    test_indices: indices of the records of the test people.
  """
  key = task.records.fingerprint, train_indices.tobytes(), test_indices.tobytes()
  if key not in _FITTED:
    indices = np.concatenate([train_indices, test_indices])
    half = probes.first_halves(task.data["subject"][indices], task.data["label"][indices])
    of_train = np.arange(len(indices)) < len(train_indices)
    classifiers = {
      "subject": _fit(task, "subject", indices[half]),
      "expression": _fit(task, "expression", indices[half & of_train]),
    }
    _FITTED[key] = Probes(classifiers, indices[~half])
  return _FITTED[key]


def _fit(task: Task, target: str, indices: np.ndarray) -> tuple[Classifier, Variables]:
  """Fits a classifier to the photographs of some records."""
  labels = np.asarray(task.data["subject" if target == "subject" else "label"])
  model = Classifier(int(labels.max()) + 1)
  data = {"image": np.asarray(task.data["image"][indices]), "label": labels[indices]}

  def loss(variables, batch, keys, context) -> LossOut:
    del keys, context
    logits: Any = model.apply(variables, batch["image"].astype(jnp.float32) / 255)
    return LossOut({"loss": (losses.cross_entropy(logits, batch["label"]).sum(), jnp.float32(len(logits)))})

  batches = plan.Plan(np.arange(len(indices)), BATCH, "wrap", [0])
  optimizer = optim.adam("rate", optim.exponential(DECAY, batches.steps), weight_decay=1e-4)
  stage = Stage("probe", (Update("classifier", loss, ("conv1", "conv2", "fc"), optimizer),), EPOCHS)
  shape = (1, *data["image"].shape[1:])
  with tempfile.TemporaryDirectory() as folder:
    training = members.Training(
      (stage,),
      [members.Member(target, 0, batches, {"rate": RATE})],
      lambda key: model.init(key, jnp.zeros(shape)),
      data,
      Execution(devices=1, driver="steps"),
    )
    (result,) = trainer.Trainer(training, pathlib.Path(folder), log=lambda line: None).fit()
  return model, result.variables
