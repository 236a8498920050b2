"""A tiny two-update method for the engine's tests: a net with dropout and batch statistics, and a critic."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfer import losses
from jaxfer.config import Execution
from jaxfer.data.plan import Plan
from jaxfer.layers.dropout import Dropout
from jaxfer.train import optim
from jaxfer.train.members import Member, Training
from jaxfer.train.placement import Placement
from jaxfer.train.stage import LossOut, Stage, Update
from jaxfer.train.trainer import Trainer


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, *, train=False, keys=None, axis_name=None):
    x = nn.Dense(16, name="fc1")(x)
    x = nn.BatchNorm(not train, momentum=0.9, axis_name=axis_name, name="norm")(nn.tanh(x))
    x = Dropout(0.3, name="dropout")(x, keys, train=train)
    return nn.Dense(3, name="fc2")(x), nn.Dense(1, name="critic")(jax.lax.stop_gradient(x))


MODEL = Net()


def net_loss(variables, batch, keys, context):
  (logits, _), new = MODEL.apply(
    variables, batch["x"], train=True, keys=keys, axis_name=context.axis_name, mutable=["batch_stats"]
  )
  noise = jax.vmap(lambda k: jax.random.normal(k, ()))(keys)
  weight = (batch["label"] != 2).astype(jnp.float32)
  count = jnp.asarray(len(logits), jnp.float32)
  return LossOut(
    loss={
      "cross_entropy": (losses.cross_entropy(logits, batch["label"]).sum(), count),
      # Weighted by the examples to which it applies; one device may have none.
      "rare": ((weight * (logits[:, 0] + 0.1 * noise) ** 2).sum(), weight.sum()),
    },
    metrics={"accuracy": ((logits.argmax(-1) == batch["label"]).sum(dtype=jnp.float32), count)},
    collections=new,
    aux=logits,
  )


def critic_loss(variables, batch, keys, context):
  del keys
  _, value = MODEL.apply(variables, batch["x"], axis_name=context.axis_name)
  error = (value[:, 0] - context.aux.max(-1)) ** 2
  return LossOut(loss={"error": (error.sum(), jnp.asarray(len(error), jnp.float32))})


def stages(epochs=2, rounds=1, net=net_loss):
  schedule = optim.schedule("constant", 1)
  first = Stage(
    "both",
    (
      Update("net", net, ("fc1", "norm", "fc2"), optim.adam("net/rate", schedule, clip_norm=1.0)),
      Update("critic", critic_loss, ("critic",), optim.adam("critic/rate", schedule)),
    ),
    epochs,
  )
  second = Stage(
    "head", (Update("net", net_without_statistics, ("fc2",), optim.adam("net/rate", schedule)),), epochs
  )
  return (first, second) * rounds


def net_without_statistics(variables, batch, keys, context):
  del keys, context
  logits, _ = MODEL.apply(variables, batch["x"])
  count = jnp.asarray(len(logits), jnp.float32)
  return LossOut(loss={"cross_entropy": (losses.cross_entropy(logits, batch["label"]).sum(), count)})


def data(n=26):
  rng = np.random.default_rng(0)
  return {"x": rng.standard_normal((n, 5), np.float32), "label": rng.integers(0, 3, n).astype(np.int32)}


def training(batch_size=4, remainder="wrap", n=26, **kwargs):
  """Returns a single training."""
  plan = Plan(np.arange(n - 3), batch_size, remainder, [7])
  member = Member("", 3, plan, {"net/rate": 0.02, "critic/rate": 0.01})
  return Training(stages(**kwargs), [member], lambda key: MODEL.init(key, jnp.zeros((1, 5))), data(n))


def with_member(training, **changes):
  """Returns the training with changed fields of its only member."""
  (member,) = training.members
  return dataclasses.replace(training, members=[dataclasses.replace(member, **changes)])


def placed(backend, devices):
  """Returns the placement of a single training on a number of devices."""
  return Placement(tuple(jax.devices()[:devices]), devices, backend=backend, alone=True)


def run(folder, training, *, resume=False, log=print, **execution):
  """Returns the final variables of a single training."""
  training = dataclasses.replace(training, execution=Execution(**{"devices": 1, **execution}))
  (result,) = Trainer(training, folder, log=log).fit(resume=resume)
  return result.variables
