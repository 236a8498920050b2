"""The cases of landmark_fusion.npz: nets of paper 002, with weights and batches drawn from seeds."""

import functools
import math
import pathlib

import exact
import jax
import jax.numpy as jnp
import nets_cases
import numpy as np

from jaxfer.systems.landmark_fusion.model import ArmNet, LandmarkFusion

PATH = pathlib.Path(__file__).with_name("landmark_fusion.npz")
# The paper's nets at the paper's size; the RGB net at an eighth of the widths, for its norms in training.
NETS = {"fusion": LandmarkFusion(7), "rgb": ArmNet(7, 0.125, 4)}
BATCH = {"fusion": (3, 224), "rgb": (4, 112)}
STEPS = 3
RATE = 1e-3  # Rate of plain gradient descent on landmark net and head.
WEIGHT = np.float32(0.6)
EMA_RATE = 0.1
# Of the maps [batch, size, size, channels] before the arrangement, every channel at this distance is stored.
KEPT = 16


@functools.cache
def variables(label):
  """Returns all variables in float32, including those of norms and the shared affinity."""
  net, (batch, size), draws = NETS[label], BATCH[label], exact.Draws(*label.encode(), 1)
  x = [jnp.zeros((batch, size, size, channels)) for channels in ((3, 1) if label == "fusion" else (3,))]
  inputs, keywords = ((*x, WEIGHT), {}) if label == "fusion" else (x, {"train": False})
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs, **keywords))

  def draw(path, leaf):
    kind, shape = path[-1].key, leaf.shape
    if leaf.dtype == bool:  # The shared affinity has been written.
      return np.ones(shape, bool)
    if kind in ("scale", "var", "alpha"):
      # With random branches of full size, training a deep net is chaotic, and float32 results are meaningless.
      small = 0.2 if kind == "scale" and path[-2].key == "bn2" else 1
      return (small * draws.uniform(0.5, 1.5, shape)).astype(np.float32)
    spread = math.sqrt(2 / math.prod(shape[:-1])) if kind == "kernel" else 0.1
    return (spread * draws.normal(shape)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def batches(label):
  """Returns `STEPS` batches (images, heatmaps, labels) with patches of 16 px; pure noise would look equal to the nets.

  With this seed the nets agree on one of the first three images.
  """
  (batch, size), draws = BATCH[label], exact.Draws(*label.encode(), 18)

  def patches(draw, channels):
    return draw((batch, size // 16, size // 16, channels)).repeat(16, 1).repeat(16, 2)

  def uniform(shape):
    return draws.uniform(0, 1, shape)

  def draw():
    images = 0.5 * draws.normal((batch, size, size, 3)) + patches(draws.normal, 3)
    shares = patches(uniform, 1)
    heatmaps = uniform((batch, size, size, 1)) * (shares * shares) * (shares * shares)
    return images.astype(np.float32), heatmaps.astype(np.float32), draws.integers(7, (batch,))

  return [draw() for _ in range(STEPS)]


@functools.cache
def directions():
  """Returns directions for the gradient: {parameter's name: array} of landmark net and head."""
  draws = exact.Draws(2)
  params = variables("fusion")["params"]
  moved = {name: params[name] for name in ("landmark", "head")}
  leaves = jax.tree.leaves_with_path(moved)
  return {nets_cases.name(path): draws.normal(leaf.shape) for path, leaf in leaves}


def features():
  """Returns features [2, 7, 7, 512] for the test of the arrangement."""
  return exact.Draws(3).normal((2, 7, 7, 512)).astype(np.float32)


@functools.cache
def golden():
  with np.load(PATH) as file:
    return dict(file)
