"""Paper 002's system on random images, with a stand-in for the ResNet trunk, which takes long to compile.

`tests/layers` and `tests/systems/landmark_fusion/model_test.py` compare the real trunk with PyTorch's. The tests that
use this module do not depend on what is inside the trunk.
"""

import contextlib
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import config as configuration
from jaxfer.config import Call, Execution, RunConfig, Split
from jaxfer.data.records import Records
from jaxfer.study import trainings
from jaxfer.study.task import options_of, task_of
from jaxfer.systems.landmark_fusion import SYSTEM, recipe
from jaxfer.systems.landmark_fusion import model as models
from jaxfer.train import weights

NAMES = ("surprise", "happiness", "neutral")
BASE = RunConfig(
  recipe=Call(
    "landmark_fusion", rgb_epochs=1, epochs=2, rgb_learning_rate=0.01, learning_rate=0.01, noise=0.0
  ),
  model=Call("landmark_fusion", width=0.0625, block=4, kernel_sizes=(5, 3, 3, 1, 1, 1), image_size=66),
  data=Call("synthetic_faces"),  # Only the name counts: the data are those of `records` below.
  split=Split(test=0.5),
  batch_size=4,
  execution=Execution(driver="steps", devices=1),
)


class Trunk(nn.Module):
  """Stands in for `ResNetTrunk`: its maps have the same size and the same number of channels."""

  depth: int
  width: float
  dtype: str | None = None
  param_dtype: type = jnp.float32

  @nn.compact
  def __call__(self, x, *, train, axis_name=None):
    x = nn.Conv(int(512 * self.width), (32, 32), (32, 32), use_bias=False, name="conv")(x)
    norm = nn.BatchNorm(not train, momentum=0.9, axis_name=axis_name if train else None, name="bn")
    return nn.relu(norm(x))


@contextlib.contextmanager
def installed():
  """Installs the stand-in, evaluation in batches of 16, and `records` in place of every data set."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(models, "ResNetTrunk", Trunk)
    patch.setattr(SYSTEM, "test_batch", 16)
    patch.setattr(trainings, "load_data", lambda config, data_dir: records())
    yield


@functools.cache
def records():
  """Three images each of eight people. The distributor's order is the reverse of the order of the keys.

  The class shows in the brightness of a corner and in the height of the landmarks. The last image has no landmarks.
  """
  rng = np.random.default_rng(0)
  label = np.tile(np.arange(3), 8)
  image = rng.integers(0, 160, (24, 66, 66, 3)).astype(np.uint8)
  image[:, :33, :33] += 30 * label[:, None, None, None].astype(np.uint8)
  landmarks = rng.uniform(10, 40, (24, 37, 2)) + 8 * label[:, None, None] * [0, 1]
  landmarks[-1] = np.nan
  arrays = {"image": image, "landmarks": landmarks.astype(np.float32), "label": label}
  subjects = [f"P{k // 3}" for k in range(24)]
  keys = [f"{subject}_{k % 3}" for k, subject in enumerate(subjects)]
  return Records.from_arrays(arrays | {"order": np.arange(24)[::-1]}, keys, NAMES, subjects)


def made(*overrides, config=BASE):
  """The task of a config with overrides, on `records`."""
  return task_of(configuration.override(config, overrides, options_of), records())


@functools.cache
def initial():
  """Initial variables with biases that make each net predict several classes, and with affinities written."""
  task = made()
  batch = task.system.eval_batch(task.data, np.arange(24))

  @jax.jit
  def make(key):
    variables = task.init(key)
    nets = task.model.apply(variables, *task.system.inputs(task.model, batch))
    params = {**variables["params"]}
    for name in ("rgb", "landmark"):
      fc = params[name]["fc"]
      params[name] = {**params[name], "fc": {**fc, "bias": fc["bias"] - getattr(nets, name).mean(0)}}
    affinity = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.1), variables["affinity"])
    return {**variables, "params": params, "affinity": affinity}

  return make(jax.random.key(0))


@functools.cache
def prepared(count):
  """A batch of the first `count` records as the stages sample it, but without augmentation."""
  task = made()
  example = task.system.eval_batch(task.data, np.arange(count))
  images, heatmaps = jax.jit(functools.partial(task.system.inputs, task.model))(example)
  return {"images": images, "heatmaps": heatmaps, "label": example["label"]}


@functools.cache
def evaluator(*overrides):
  """A function that evaluates the initial variables.

  It takes indices of records, which of them are real (all by default), and w (0.6 by default), and returns the logits
  [indices, classes] of each prediction by name.
  """
  task = made(*overrides)
  names, variables = recipe.prediction_names(task.model), initial()

  @jax.jit
  def outputs(row, real, weight):
    return task.outputs(variables, {"w": weight}, task.data, {"row": row, "real": real}, None)

  def evaluate(indices, real=None, weight=0.6):
    real = np.ones(len(indices), bool) if real is None else np.asarray(real)
    found = outputs(np.asarray(indices), real, jnp.float32(weight))
    assert found.shape[1] == len(names)
    return dict(zip(names, np.asarray(found).transpose(1, 0, 2), strict=True))

  return evaluate


def save_arm(folder):
  """Saves the RGB net of `initial` in the form that `jaxfer convert arm` gives weights, and returns the folder."""
  weights.save_weights(folder, {name: tree["rgb"] for name, tree in initial().items()}, {"model": "arm"})
  return folder
