"""The cases of faces.npz: face networks and heads, with inputs and variables drawn from seeds."""

import dataclasses
import functools
import math
import pathlib

import exact
import jax
import numpy as np
from nets_cases import name

from jaxfer.layers import margin
from jaxfer.layers.face_resnet import FaceResNet

PATH = pathlib.Path(__file__).with_name("faces.npz")
TAPS = ("prelu", "layer1", "layer2", "layer3", "layer4", "bn2", "fc")


@dataclasses.dataclass(frozen=True)
class Case:
  """A net at a sixteenth of the widths with images of 32 px, so that its last map is 2 x 2; no dropout in training."""

  family: str
  depth: int
  train: bool = False

  @property
  def net(self):
    return FaceResNet(self.depth, self.family, 1 / 16, 32, 0 if self.train else None)


CASES = {
  "adaface18": Case("adaface", 18),
  "adaface50": Case("adaface", 50),
  "insightface18": Case("insightface", 18),
  "adaface18_train": Case("adaface", 18, True),
  "insightface18_train": Case("insightface", 18, True),
}
SHAPE = (4, 32, 32, 3)


@functools.cache
def drawn(label):
  """Returns {"variables", "x", "cotangent" of the output, "directions" by parameter's name and "x"}, all float32."""
  case, draws = CASES[label], exact.Draws(*label.encode())
  shapes = jax.eval_shape(
    lambda x: case.net.init(jax.random.key(0), x, train=False), jax.ShapeDtypeStruct(SHAPE, np.float32)
  )

  def draw(path, leaf):
    kind, shape = path[-1].key, leaf.shape
    if kind in ("scale", "var"):
      # With random branches of full size, training a deep net is chaotic, and float32 results are meaningless.
      small = 0.2 if kind == "scale" and path[-2].key == "bn3" else 1
      return (small * draws.uniform(0.5, 1.5, shape)).astype(np.float32)
    spread = math.sqrt(2 / math.prod(shape[:-1])) if kind == "kernel" else 0.1
    return (0.25 * (kind == "slope") + spread * draws.normal(shape)).astype(np.float32)

  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  directions = {
    name(path): draws.normal(leaf.shape).astype(np.float32)
    for path, leaf in jax.tree.leaves_with_path(variables["params"])
  }
  x, directions["x"] = draws.normal((2, *SHAPE)).astype(np.float32)
  cotangent = draws.normal((SHAPE[0], 32)).astype(np.float32)
  return {"variables": variables, "x": x, "cotangent": cotangent, "directions": directions}


def thinned(tap):
  """Selects equally spaced pixels of [batch, height, width, channels], at most 4 x 4."""
  step = max(1, tap.shape[1] // 4) if tap.ndim == 4 else 1
  return tap[:, ::step, ::step] if tap.ndim == 4 else tap


# Heads with our constructors; the generator has those of PyTorch.
HEADS = {
  "cosface": margin.CosFace,
  "arcface": margin.ArcFace,
  "adaface": margin.AdaFace,
}
CLASSES, FEATURES = 6, 8


@functools.cache
def drawn_head():
  """Returns {"kernel", "features" of two batches, "labels", "averages"}: lengths from 0.0001 to 900.

  In the first batch, three features are equal to their own column, to its opposite, and to another column, where
  cosines and angles are clipped.
  """
  draws = exact.Draws(7)
  kernel = draws.uniform(-1, 1, (FEATURES, CLASSES)).astype(np.float32)
  labels = draws.integers(CLASSES, (2, 7))
  features = draws.normal((2, 7, FEATURES))
  unit = kernel / exact.norm(kernel, 0)
  for row, column, sign in (
    (0, labels[0, 0], 1),
    (1, labels[0, 1], -1),
    (2, (labels[0, 2] + 1) % CLASSES, 1),
  ):
    features[0, row] = sign * unit[:, column]
  features /= exact.norm(features, -1)
  features *= np.array([3, 20, 30, 1e-4, 900, 12, 60])[:, None]
  return {
    "kernel": kernel,
    "features": features.astype(np.float32),
    "labels": labels,
    "averages": np.array([25.0, 9.0], np.float32),
  }


@functools.cache
def golden():
  with np.load(PATH) as file:
    return dict(file)
