"""The cases of nets.npz: nets, and inputs, weights and directions drawn from seeds, for the generator and the tests.

Outputs are computed in float32, as users compute them. Gradients through ReLUs and poolings are computed in float64
(`precise`). Among hundreds of thousands of units, a few are always so close to the kink that rounding in float32
decides on which side they are, and processors round differently.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Any

import chex
import exact
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tolerances

from jaxfer.layers.conv import Conv, ConvTranspose
from jaxfer.layers.resnet import ResNetTrunk
from jaxfer.systems.identity_expression_vae.model import Decoder, Encoder

PATH = pathlib.Path(__file__).with_name("nets.npz")
TAPS = ("bn1", "layer1", "layer2", "layer3")  # Tapped parts of residual nets; layer4 is their output.


class Layers(nn.Module):
  """Each kind of layer on the same images; the flattened outputs are concatenated."""

  @nn.compact
  def __call__(self, x):
    outputs = [
      Conv(4, 3, 2, 1, name="conv3")(x),
      Conv(4, 7, 2, 3, use_bias=False, name="conv7")(x),
      Conv(4, 1, 2, name="conv1")(x),
      Conv(4, (3, 2), (1, 2), ((0, 0), (1, 1)), name="conv_uneven")(x),
      ConvTranspose(4, 4, 2, 1, name="deconv4")(x),
      ConvTranspose(4, 3, 2, 1, output_padding=1, name="deconv3")(x),
    ]
    return jnp.concatenate([y.reshape(len(y), -1) for y in outputs], -1)


@dataclasses.dataclass(frozen=True)
class Case:
  """A net, the shape of its input, its call's arguments, and the norm that ends each residual branch."""

  net: nn.Module
  shape: tuple[int, ...]
  arguments: Any = dataclasses.field(default_factory=dict)
  last_norm: str = ""

  @property
  def tapped(self):
    """Whether the golden also has the outputs of `TAPS`."""
    return self.last_norm != "" and not self.arguments["train"]

  def apply(self, variables, x):
    """Returns the output as one array, and new statistics."""
    y, new = self.net.apply(variables, x, **self.arguments, mutable=["batch_stats"])
    return jnp.concatenate(y, -1) if isinstance(y, tuple) else y, new


IMAGES = (4, 64, 64, 3)
CASES = {
  "layers": Case(Layers(), (2, 7, 6, 3)),
  "encoder": Case(Encoder(width=0.25), (2, 64, 64, 3)),
  "decoder": Case(Decoder(width=0.25), (1, 128)),
  "resnet18_eval": Case(ResNetTrunk(18, 0.125), IMAGES, {"train": False}, "bn2"),
  "resnet18_train": Case(ResNetTrunk(18, 0.125), IMAGES, {"train": True}, "bn2"),
  "resnet50_eval": Case(ResNetTrunk(50, 0.125), (2, 32, 32, 3), {"train": False}, "bn3"),
  "resnet50_train": Case(ResNetTrunk(50, 0.125), IMAGES, {"train": True}, "bn3"),
}


def name(path):
  """Returns the path of a leaf, such as "layer1/block0/conv1/kernel"."""
  return "/".join(part.key for part in path)


@functools.cache
def drawn(label):
  """Returns {"variables", "x", "cotangent" of the output, "directions" by parameter's name and "x"}, all float32."""
  case, draws = CASES[label], exact.Draws(*label.encode())
  shapes = jax.eval_shape(
    lambda x: case.net.init(jax.random.key(0), x, **case.arguments), jnp.zeros(case.shape)
  )

  def draw(path, leaf):
    kind, shape = path[-1].key, leaf.shape
    if kind in ("scale", "var"):
      # With random branches of full size, training a deep net is chaotic, and float32 results are meaningless.
      small = 0.2 if kind == "scale" and path[-2].key == case.last_norm else 1
      return (small * draws.uniform(0.5, 1.5, shape)).astype(np.float32)
    spread = math.sqrt(2 / math.prod(shape[:-1])) if kind == "kernel" else 0.1
    return (spread * draws.normal(shape)).astype(np.float32)

  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  x = draws.normal(case.shape).astype(np.float32)
  y, _ = jax.eval_shape(case.apply, variables, x)
  cotangent = draws.normal(y.shape).astype(np.float32)
  directions = {
    name(path): draws.normal(leaf.shape).astype(np.float32)
    for path, leaf in jax.tree.leaves_with_path(variables["params"])
  }
  directions["x"] = draws.normal(case.shape).astype(np.float32)
  return {"variables": variables, "x": x, "cotangent": cotangent, "directions": directions}


@functools.cache
def golden():
  with np.load(PATH) as file:
    return dict(file)


def compare(label, y, gradients=None):
  """Compares an output, and gradients of sum(cotangent * output) by parameter's name and "x", with the golden."""
  want, own = golden(), drawn(label)
  close(y, want[f"{label}/output"])
  if gradients is None:
    return
  slopes = dict(zip(want[f"{label}/names"], want[f"{label}/slopes"], strict=True))
  assert set(gradients) == set(slopes) == set(own["directions"])
  for key, slope in slopes.items():
    close_slope(own["directions"][key], gradients[key], slope, key)


def close(got, want, message="", tolerance=None):
  """Holds an array to the golden, by default to the tolerance of its dtype."""
  tolerance = tolerance or tolerances.of(got).net
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  chex.assert_equal_shape([got, want])
  np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max(), err_msg=message)


def close_slope(direction, gradient, want, message, tolerance=None):
  """Holds the slope along a direction to the golden, by default to the tolerance of the gradient's dtype."""
  tolerance, gradient = tolerance or tolerances.of(gradient).net, np.float64(gradient)
  got = (direction * gradient).sum()
  assert abs(got - want) <= tolerance * np.linalg.norm(gradient), (message, got, want)


def gradients_of(d_params, d_x):
  """Returns gradients by name, as `compare` takes them."""
  return {"x": d_x, **{name(path): leaf for path, leaf in jax.tree.leaves_with_path(d_params)}}


def precise(function):
  """Makes a function compute in float64: enables float64, and casts its float32 arguments."""

  def cast(leaf):
    return leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf

  @functools.wraps(function)
  def call(*args):
    with jax.enable_x64(True):
      return jax.device_get(function(*jax.tree.map(cast, args)))

  return call


def run(label):
  """Computes our output, gradients and new statistics of a case in one program; in float64 for nets with kinks."""
  case, own = CASES[label], drawn(label)

  @jax.jit
  def program(variables, x):
    fixed = {key: tree for key, tree in variables.items() if key != "params"}

    def scalar(params, x):
      y, new = case.apply({**fixed, "params": params}, x)
      return (y * own["cotangent"]).sum(), (y, new)

    (_, (y, new)), (d_params, d_x) = jax.value_and_grad(scalar, (0, 1), has_aux=True)(variables["params"], x)
    return y, gradients_of(d_params, d_x), new

  return (program if label == "layers" else precise(program))(own["variables"], own["x"])
