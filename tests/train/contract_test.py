"""Tests that every system gives the same results on four devices as on one, and that a faulty model fails.

The compiled programs must not reduce a matrix product in a way that jaxlib 0.10.0 and 0.10.1 compute wrongly on CPU.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import losses
from jaxfer.systems import MODELS, SYSTEMS
from jaxfer.train.stage import LossOut
from tests import contract, drawn
from tests import small_systems as systems
from tests.compiled import reduced_products
from tests.train import toy


@pytest.fixture(scope="module", autouse=True)
def _installed():
  with systems.installed():
    yield


def test_every_system_is_here():
  configs = systems.SYSTEMS.values()
  assert {config.recipe.name for config in configs} == set(SYSTEMS)
  assert {config.model.name for config in configs} == {*MODELS, "tests.cnn:CNN"}


# Also compiled as for users: the system with BatchNorm that compiles fastest.
AS_USERS = ("elderly_transfer",)
# The default run maps the others only by jit: a system sees only the name of an axis, however it is mapped.
BY_PMAP = ("classifier", "elderly_transfer")


def cases():
  """Returns every system by jit and by pmap. All but those of `BY_PMAP` run only by jit, and by pmap in slow tests."""
  for name in systems.SYSTEMS:
    marks = [pytest.mark.optimized] * (name in AS_USERS)
    if name not in BY_PMAP:
      yield pytest.param(name, False, id=name)
    yield pytest.param(name, True, id=f"{name} by pmap", marks=marks)


@pytest.mark.parametrize(("name", "pmap"), [*cases()])
def test_one_device_equals_four_nothing_is_nan_and_no_product_is_reduced(name, pmap):
  """It runs with `jax_debug_nans`, so a step or an evaluation with an intermediate NaN fails too."""
  task = systems.made(name)
  plan = task.plan(np.arange(40))
  stages, hparams = task.stages(plan.steps)
  with jax.debug_nans(True):
    variables = drawn.variables(task.init)
    contract.check_steps(stages, variables, task.data, plan, hparams, pmap)
    contract.check_outputs(task.outputs, variables, task.data, hparams, 16, pmap)


class Forgetful(nn.Module):
  """A model whose norm reads only the examples of one device."""

  @nn.compact
  def __call__(self, x, *, train=False):
    x = nn.Dense(16, name="fc1")(x)
    return nn.Dense(3, name="fc2")(nn.BatchNorm(not train, name="norm")(x))


def forgetful_loss(variables, batch, keys, context):
  del keys, context
  logits, new = Forgetful().apply(variables, batch["x"], train=True, mutable=["batch_stats"])
  total = losses.cross_entropy(logits, batch["label"]).sum()
  return LossOut(loss={"loss": (total, jnp.float32(len(logits)))}, collections=new)


def local_mean_loss(variables, batch, keys, context):
  """Computes the mean over the examples of a class on one device; their number differs between devices."""
  del keys, context
  logits, _ = toy.MODEL.apply(variables, batch["x"])
  own = batch["label"] == 0
  total = (own * losses.cross_entropy(logits, batch["label"])).sum()
  return LossOut(loss={"mean": (total / jnp.maximum(own.sum(), 1), jnp.float32(1))})


@pytest.mark.parametrize("kind", ["sound", "norm", "mean"])
def test_a_model_that_forgets_the_other_devices_fails(kind):
  training = toy.training(8)
  stage = toy.stages()[1]
  loss = {"sound": toy.net_without_statistics, "norm": forgetful_loss, "mean": local_mean_loss}[kind]
  init = functools.partial(Forgetful().init, x=jnp.zeros((1, 5))) if kind == "norm" else training.init
  trained = ("fc1", "norm", "fc2") if kind == "norm" else ("fc2",)
  update = dataclasses.replace(stage.updates[0], loss=loss, trainable=trained)
  stage = dataclasses.replace(stage, updates=(update,))
  check = functools.partial(
    contract.check_steps,
    (stage,),
    jax.device_get(init(jax.random.key(0))),
    training.data,
    training.members[0].plan,
    training.members[0].hparams,
  )
  if kind == "sound":
    check()
  else:
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
      check()


@pytest.mark.parametrize("rows", [8, 512])
def test_products_that_nothing_but_reductions_read_are_found(rows):
  """jaxlib 0.10.1 fuses both for 512 rows, but not for 8."""

  def found(program):
    x, kernel = jnp.zeros((rows, 64)), jnp.zeros((64, 64))
    return len(reduced_products(jax.jit(program).lower(x, kernel).compile().as_text()))

  assert found(lambda x, w: (x @ w).sum(0)) == 1
  assert found(lambda x, w: (x @ w).max(1)) == 1
  assert found(lambda x, w: (x @ w).T.reshape(8, -1).mean()) == 1
  assert found(lambda x, w: ((x @ w).sum(), (x @ w).max(0))) == 1
  assert found(lambda x, w: jnp.tanh(x @ w) @ w) == 0
  assert found(lambda x, w: ((x @ w) ** 2).sum(0)) == 0
  assert found(lambda x, w: (x @ w + 1).max(0)) == 0
  assert found(lambda x, w: (x @ w, (x @ w).sum(0))) == 0


def test_a_system_with_a_reduced_product_fails():
  training, stage = toy.training(8), toy.stages()[1]

  def loss(variables, batch, keys, context):
    del keys, context
    total = (batch["x"] @ variables["params"]["fc2"]["kernel"][:5]).sum()
    return LossOut(loss={"loss": (total, jnp.float32(len(batch["x"])))})

  update = dataclasses.replace(stage.updates[0], loss=loss)
  stage = dataclasses.replace(stage, updates=(update,))
  variables = jax.device_get(training.init(jax.random.key(0)))
  with pytest.raises(AssertionError, match="compute a reduction of these products wrongly"):
    contract.check_steps(
      (stage,), variables, training.data, training.members[0].plan, training.members[0].hparams
    )
