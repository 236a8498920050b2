"""The problems of the convolutional nets' benchmark: cases, nets, inputs and operations, for every implementation.

Every implementation gets the same variables (in the structure of our modules), inputs and weights, and returns arrays
by the names of `named`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.layers.conv import Conv, ConvTranspose, as_pads, as_pair
from jaxfer.layers.face_resnet import FaceResNet
from jaxfer.layers.resnet import ResNet
from jaxfer.systems.identity_expression_vae.model import LATENT, Decoder, Encoder
from jaxfer.systems.landmark_fusion.model import LandmarkFusion

FACE = "face_resnet"
FUSION = "landmark_fusion"
VAE = "identity_expression_vae/"
SGD = {"learning_rate": 0.05, "momentum": 0.9}
ADABELIEF = {"learning_rate": 1e-3, "weight_decay": 1e-2}  # Paper 002; the ResNets use SGD.
COLLECTIONS = ["batch_stats", "affinity"]  # Collections that a training step changes besides parameters.
STEP_AND_TEST = ("train_step", "forward")
KL_WEIGHT, ERROR_WEIGHT = 1e-5, 0.01  # As in the recipe of paper 003.


@dataclasses.dataclass(frozen=True)
class Problem:
  """One case: an operation on a net and a batch of images [batch, size, size, 3]."""

  net: str = VAE + "decoder"
  operation: str = "gradient"
  batch: int = 32
  size: int = 64
  dtype: str = "float32"
  width: float = 1.0
  num_classes: int = 1000

  @property
  def name(self) -> str:
    """Unique name in the benchmark; it contains the width if that is not the paper's."""
    joint = "_" if "/" in self.net else "/"
    narrow = "" if self.width == 1 else f"-w{self.width}"
    return f"{self.net}{joint}{self.operation}/b{self.batch}-s{self.size}{narrow}/{self.dtype}"

  @property
  def module(self) -> nn.Module:
    """Our net."""
    settings: dict[str, Any] = {"width": self.width, "dtype": jnp.dtype(self.dtype)}
    if self.net == VAE + "decoder":
      return Decoder(image_size=self.size, **settings)
    if self.net == VAE + "encoder":
      return _Encoder(**settings)
    if self.net == VAE + "autoencoder":
      return Autoencoder(**settings)
    if self.net == FUSION:
      # With an eighth of the widths, images have 112 px and end in maps of 4 x 4.
      small: dict[str, Any] = {"block": 4, "kernel_sizes": (5, 3, 3, 3, 1, 2)}
      return _Fusion(self.num_classes, **settings, **(small if self.width == 0.125 else {}))
    if self.net.startswith(FACE):
      return _Face(int(self.net.removeprefix(FACE)), self.num_classes, self.size, **settings)
    return ResNet(self.num_classes, int(self.net.removeprefix("resnet")), **settings)

  @property
  def trained(self) -> dict[str, Any]:
    """Keyword arguments of the net's call."""
    train = self.operation == "train_step"
    if self.net == FUSION:
      return {"train": ("landmark",) if train else ()}
    return {"train": train} if self.net.startswith(("resnet", FACE)) else {}

  @property
  def moved(self) -> tuple[str, ...]:
    """Submodules that a training step trains."""
    return ("landmark", "head") if self.net == FUSION else ("trunk", "fc")


class _Fusion(LandmarkFusion):
  """Returns the logits of the landmark net and of the head, which the loss reads, as [batch, 2, num_classes]."""

  def __call__(self, images: jax.Array, heatmaps: jax.Array, *_: Any, **options: Any) -> Any:
    outputs = super().__call__(images, heatmaps, jnp.float32(0.6), **options)
    return jnp.stack([outputs.landmark, outputs.fused], 1)


class _Face(nn.Module):
  """AdaFace's IR and a classifier of its feature, without dropout, because libraries would drop different units."""

  depth: int
  num_classes: int
  image_size: int
  width: float
  dtype: Any

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    settings: dict[str, Any] = {"width": self.width, "image_size": self.image_size, "dtype": self.dtype}
    feature = FaceResNet(self.depth, dropout=0.0, **settings, name="trunk")(images, train=train)
    return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(feature)


class _Encoder(Encoder):
  """Returns mean and log-variance as one array [batch, 128]."""

  def __call__(self, *inputs: Any, **options: Any) -> Any:
    return jnp.concatenate(super().__call__(*inputs, **options), -1)


class Autoencoder(nn.Module):
  """Both encoders and the decoder as in a training step: maps images and noise to a loss for each image [batch]."""

  width: float
  dtype: Any

  @nn.compact
  def __call__(self, images: jax.Array, noise: jax.Array) -> jax.Array:
    """Returns the divergence from the prior plus the squared error; noise [batch, 128] is for both codes."""
    settings: dict[str, Any] = {"width": self.width, "dtype": self.dtype}
    identity = Encoder(**settings, name="identity_encoder")(images)
    expression = Encoder(**settings, name="expression_encoder")(images)
    mean, log_variance = (jnp.concatenate(pair, -1) for pair in zip(identity, expression, strict=True))
    z = mean + jnp.exp(log_variance / 2) * noise
    decoded = Decoder(image_size=images.shape[1], **settings, name="decoder")(z)
    divergence = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(-1)
    return KL_WEIGHT * divergence + ERROR_WEIGHT * ((decoded - images) ** 2).sum((1, 2, 3))


def inputs_of(problem: Problem) -> dict[str, Any]:
  """Draws random arrays on the host: float32, and False for bools.

  Returns:
    "variables" of the net, "x", its inputs (a tuple), and "weights": labels [batch] of a training step, or the weights
    of the outputs for other operations.
  """
  rng = np.random.default_rng(0)
  images = rng.uniform(0, 1, (problem.batch, problem.size, problem.size, 3)).astype(np.float32)
  code = rng.standard_normal((problem.batch, 2 * LATENT), np.float32)
  x = {VAE + "decoder": (code,), VAE + "autoencoder": (images, code)}.get(problem.net, (images,))
  if problem.net == FUSION:
    x = images, rng.random((*images.shape[:3], 1), np.float32)
  net = problem.module
  shapes = jax.eval_shape(lambda *x: net.init(jax.random.key(0), *x, **problem.trained), *x)

  deep = problem.net == "resnet50" or problem.net.startswith(FACE)  # Three norms per block.

  def draw(path, leaf):
    name, shape = path[-1].key, leaf.shape
    if leaf.dtype == bool:  # Flags whether a moving average has a value.
      return np.zeros(shape, bool)
    if name in ("scale", "var"):
      # The last norm of a residual branch is small, as in a trained net. In a deep stack of random branches of full
      # size, rounding in bfloat16 leads to entirely different gradients in every library.
      last = name == "scale" and path[-2].key == ("bn3" if deep else "bn2")
      return ((0.1 if last else 1) * rng.uniform(0.5, 1.5, shape)).astype(np.float32)
    # Biases are random too, without zeros or symmetry, so that a parameter in the wrong place is detected.
    spread = (2 / math.prod(shape[:-1])) ** 0.5 if name == "kernel" else 0.1
    return np.float32(spread) * rng.standard_normal(shape, np.float32)

  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  if problem.operation == "train_step":
    weights = rng.integers(0, problem.num_classes, problem.batch).astype(np.int32)
  else:
    y = jax.eval_shape(lambda v, *x: net.apply(v, *x, **problem.trained), variables, *x)
    # The autoencoder's losses are averaged; other outputs get weights of both signs.
    mean = np.full(y.shape, 1 / problem.batch, np.float32)
    weights = mean if y.ndim == 1 else rng.standard_normal(y.shape, np.float32)
  return {"variables": variables, "x": x, "weights": weights}


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the training step's loss of each image; for paper 002, that of both logits [batch, 2, num_classes]."""
  if logits.ndim == 3:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels[:, None]).sum(1)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def operate(problem: Problem, variables: Any, weights: jax.Array, *x: jax.Array) -> dict[str, Any]:
  """Computes `forward` or `gradient`; for `train_step`, loss, gradient and new statistics."""
  net, fixed = problem.module, {name: tree for name, tree in variables.items() if name != "params"}
  if problem.operation == "forward":
    return {"output": net.apply(variables, *x, **problem.trained)}
  if problem.operation == "gradient":

    def weighed(params, first):
      y: Any = net.apply({**fixed, "params": params}, first, *x[1:], **problem.trained)
      return (y * weights).sum()

    d_params, d_x = jax.grad(weighed, argnums=(0, 1))(variables["params"], x[0])
    return {"params": d_params, "x": d_x}

  def loss(moved):
    params = {**variables["params"], **moved}
    logits, new = net.apply({**fixed, "params": params}, *x, **problem.trained, mutable=COLLECTIONS)
    return cross_entropy(logits, weights).mean(), new

  moved = {name: variables["params"][name] for name in problem.moved}
  (value, new), d_params = jax.value_and_grad(loss, has_aux=True)(moved)
  return {"params": d_params, "loss": value, "fixed": new}


def first_gradient(state: Any) -> Any:
  """Returns the first step's gradient from the optimizer: the momentum of SGD, or ten times that of AdaBelief."""
  return jax.tree.map(lambda m: 10 * m, state[0].mu) if hasattr(state[0], "mu") else state[0].trace


def named(result: Mapping[str, Any]) -> dict[str, Any]:
  """Returns arrays by name, with parameters such as "trunk/conv1/kernel"; statistics are left out."""
  flat = {name: array for name, array in result.items() if name not in ("params", "fixed")}
  for path, array in jax.tree_util.tree_flatten_with_path(result.get("params", {}))[0]:
    flat["/".join(part.key for part in path)] = array
  return without_noise(flat)


def without_noise(gradients: Mapping[str, Any]) -> dict[str, Any]:
  """Drops the biases of face networks that a later norm cancels: their gradients are zero except for rounding."""
  face = "trunk/fc/bias" in gradients
  idle = ("bn3/bias", "downsample_bn/bias", "trunk/bn2/bias", "trunk/fc/bias")
  return {path: array for path, array in gradients.items() if not (face and path.endswith(idle))}


def stock(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
  """Interceptor that replaces our layers by Flax's with the same parameters (`nn.intercept_methods`)."""
  layer = context.module
  if not isinstance(layer, Conv | ConvTranspose) or context.method_name != "__call__":
    return call(*args, **kwargs)
  if layer.is_initializing():
    return call(*args, **kwargs)
  params, kernel_size, strides = (
    dict(layer.variables["params"]),
    as_pair(layer.kernel_size),
    as_pair(layer.strides),
  )
  pads = as_pads(layer.padding)
  shared: dict[str, Any] = {"use_bias": layer.use_bias, "dtype": layer.dtype, "parent": None}
  if isinstance(layer, Conv):
    theirs: nn.Module = nn.Conv(layer.features, kernel_size, strides, pads, **shared)
  else:
    # Flax neither flips the kernel nor has an output padding; its padding is that of the dilated input.
    params["kernel"] = params["kernel"][::-1, ::-1]
    more = as_pair(layer.output_padding)
    spread = [(k - 1 - lo, k - 1 - hi + m) for k, (lo, hi), m in zip(kernel_size, pads, more, strict=True)]
    theirs = nn.ConvTranspose(layer.features, kernel_size, strides, spread, **shared)
  return theirs.apply({"params": params}, *args)


def flops(problem: Problem, inputs: Mapping[str, Any]) -> float:
  """Counts FLOP of convolutions and dense layers: two per multiplication, where padding counts as work.

  A convolution's forward pass multiplies kernel area x channels x features for each pixel of its output, a transposed
  one for each pixel of its input. A gradient counts as three forward passes (value, gradients of input and kernel). A
  training step does not need the gradient of the images, and only the forward pass of submodules that it does not
  train.
  """
  works = []

  def count(call, args, kwargs, context):
    y = call(*args, **kwargs)
    layer = context.module
    if isinstance(layer, Conv | ConvTranspose | nn.Dense) and context.method_name == "__call__":
      pixels = args[0] if isinstance(layer, ConvTranspose) else y
      work = 2.0 * math.prod(pixels.shape[:-1]) * math.prod(layer.variables["params"]["kernel"].shape)
      works.append((work, layer.path[0] in problem.moved))
    return y

  net = problem.module
  with nn.intercept_methods(count):
    jax.eval_shape(lambda v, *x: net.apply(v, *x, **problem.trained, mutable=COLLECTIONS),
                   inputs["variables"], *inputs["x"])  # fmt: skip
  forward = sum(work for work, _ in works)
  if problem.operation == "forward":
    return forward
  if problem.operation == "gradient":
    return 3 * forward
  moved = [work for work, moves in works if moves]
  return forward + 2 * sum(moved) - moved[0]


def problems(platform: str, quick: bool) -> list[Problem]:
  """Returns the default sweep; the first is always the gradient of paper 003's decoder, batch 32, 64 px."""
  nets = ("decoder", "encoder", "autoencoder")
  if quick:
    vae = [Problem(VAE + net, batch=2, width=0.125) for net in nets]
    tiny: dict[str, Any] = {"batch": 4, "size": 64, "width": 0.125, "num_classes": 10}
    steps = [Problem("resnet18", "forward", **tiny), Problem("resnet18", "train_step", **tiny)]
    steps.append(Problem("resnet50", "train_step", **{**tiny, "width": 0.0625}))
    steps.append(Problem(FACE + "18", "train_step", **{**tiny, "size": 32, "width": 0.0625}))
    steps += [Problem(FUSION, operation, 4, 112, "float32", 0.125, 7) for operation in STEP_AND_TEST]
    return [*vae, *steps]
  vae = [Problem(VAE + net) for net in nets]
  if platform == "cpu":
    resnets = [Problem("resnet18", operation, 8, 112) for operation in STEP_AND_TEST]
    resnets.append(Problem("resnet18", "train_step", 32, 112))  # The optimizer takes a smaller share.
    return [*vae, Problem(VAE + "decoder", size=128), *resnets, Problem("resnet50", "train_step", 8, 112),
            *(Problem(FACE + depth, "train_step", 8, 112) for depth in ("18", "50")),
            *(Problem(FUSION, operation, 8, 224, num_classes=7) for operation in STEP_AND_TEST)]  # fmt: skip
  vae += [Problem(VAE + net, batch=256, dtype=dtype) for dtype in ("bfloat16", "float32") for net in nets]
  steps = [
    Problem(net, "train_step", batch, 224, dtype)
    for dtype in ("bfloat16", "float32")
    for net in ("resnet18", "resnet50")
    for batch in (128, 256)
  ]
  faces = [
    Problem(FACE + depth, "train_step", 256, 112, dtype)
    for dtype in ("bfloat16", "float32")
    for depth in ("18", "50")
  ]
  return [
    *vae,
    *steps,
    *faces,
    *(Problem("resnet18", "forward", 128, 224, dtype) for dtype in ("bfloat16", "float32")),
    # The paper's batches: 256 in training, 64 in tests.
    *(
      Problem(FUSION, operation, batch, 224, dtype, num_classes=7)
      for dtype in ("bfloat16", "float32")
      for operation, batch in zip(STEP_AND_TEST, (256, 64), strict=True)
    ),
  ]
