"""Compares the speed of the convolutional nets with stock Flax and PyTorch. The first case is the headline.

identity_expression_vae/decoder_gradient       gradient of sum(outputs * fixed weights) in parameters and z
identity_expression_vae/encoder_gradient       the same of (mean, log-variance), with respect to parameters and images
identity_expression_vae/autoencoder_gradient   of the mean loss (divergence and squared error) of both encoders and the
                                               decoder, with respect to parameters and images
resnet18/train_step, resnet50/train_step       SGD with momentum 0.9 on the cross-entropy, BatchNorm in training, ours
                                               through the engine (`jaxfer.train.step.step`, jitted, state donated)
face_resnet18, 50/train_step                   the same of AdaFace's IR, no dropout, with a classifier
resnet18/forward                               inference with running statistics
landmark_fusion/train_step                     paper 002: the RGB net forward, AdaBelief on landmark net and head by the
                                               sum of both cross-entropies, through the engine; of random pictures:
                                               augmentation, resizing and heatmaps are outside the timing
landmark_fusion/forward                        a test batch through all of it

followed by /b<batch>-s<image size>[-w<width>]/<dtype>. Compared before timing: outputs, gradients, or loss and first
momentum. "flax" is the same net with Flax's own convolutions, transposed convolutions and BatchNorm. On CPU, it is also
timed in separate processes with other XLA flags: with YNNPACK's convolutions ("flax_ynn_conv", XLA's default), and
without YNNPACK ("flax_no_ynn").
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks import convnets_peers as peers
from benchmarks import harness
from benchmarks.convnets_problem import (
  ADABELIEF,
  COLLECTIONS,
  FUSION,
  SGD,
  Problem,
  cross_entropy,
  first_gradient,
  flops,
  inputs_of,
  named,
  operate,
  problems,
  stock,
)
from jaxfer.train import optim
from jaxfer.train import step as engine
from jaxfer.train.stage import Context, LossOut, Stage, Update
from jaxfer.train.state import begin

REFERENCE = "stock Flax, float32, highest precision"


def reference_result(problem: Problem, inputs: Mapping[str, Any]) -> dict[str, Any]:
  """Computes the operation with Flax's layers in full float32 precision."""
  plain = dataclasses.replace(problem, dtype="float32")
  with jax.default_matmul_precision("highest"), nn.intercept_methods(stock):
    run = jax.jit(functools.partial(operate, plain))
    result = run(inputs["variables"], inputs["weights"], *inputs["x"])
  return named(jax.device_get(result))


def prepare(problem: Problem, inputs: Mapping[str, Any]) -> harness.JaxProgram:
  """Prepares our net."""
  variables, x, weights = inputs["variables"], inputs["x"], inputs["weights"]
  if problem.operation != "train_step":
    return harness.JaxProgram(functools.partial(operate, problem), variables, weights, *x, named=named)
  net = problem.module

  def loss(variables, batch, keys, context):
    del keys, context
    logits, new = net.apply(variables, *batch["x"], **problem.trained, mutable=COLLECTIONS)
    new = {kind: {name: tree[name] for name in problem.moved if name in tree} for kind, tree in new.items()}
    losses = cross_entropy(logits, batch["labels"])
    return LossOut({"cross_entropy": (losses.sum(), jnp.asarray(losses.size, jnp.float32))}, collections=new)

  optimizer = optax.sgd(**SGD)
  if problem.net == FUSION:
    decay = ADABELIEF["weight_decay"]
    optimizer = optim.adabelief("learning_rate", optim.schedule("constant", 1), weight_decay=decay)
  context = Context({"learning_rate": jnp.float32(ADABELIEF["learning_rate"])})
  stage = Stage("train", (Update("net", loss, problem.moved, optimizer),), 1)
  state = jax.jit(functools.partial(begin, stage))(variables)

  def train(trainable, frozen, batch, keys):
    now = dataclasses.replace(state, trainable=trainable, frozen=frozen)
    return engine.step(stage, now, batch, keys, context, reject=False)  # As in a training alone.

  def result(out):
    trainable, metrics = out
    total, count = metrics["net/cross_entropy"]
    return named({"params": first_gradient(trainable.optimizers["net"]), "loss": total / count})

  batch = {"x": x, "labels": weights}
  keys = jax.random.split(jax.random.key(0), problem.batch)
  return harness.JaxProgram(train, state.trainable, state.frozen, batch, keys, named=result, stepping=True)


def measure(session: harness.Session, problem: Problem, budget: float | None) -> None:
  """Measures one case: ours and the requested peers."""
  inputs = inputs_of(problem)
  case = harness.Case(
    name=problem.name,
    settings=dataclasses.asdict(problem),
    work={"samples": problem.batch, "flops": flops(problem, inputs)},
    tolerance=tolerance(problem, session),
    dtype=problem.dtype,
    budget=budget,
  )
  contenders = [harness.Contender("jaxfer", functools.partial(prepare, problem, inputs))]
  for name, make in peers.PEERS.items():
    contenders += session.peer(name, functools.partial(make, problem, inputs, session))
  session.measure(case, contenders, functools.partial(reference_result, problem, inputs), REFERENCE)


# Tolerance by arithmetic and operation, relative to the largest value of each array. Values are exact to 1e-5 in
# float32, and so are nearly all gradients. But if an activation is within rounding of zero, a ReLU may take different
# sides in different libraries, which changes a channel's gradient: by up to 6e-2 in ResNet50 (ours and stock Flax
# against PyTorch in float64), and in bfloat16 by 0.2 to 0.5 (all three against float32). An array in the wrong place or
# layout differs by 1 or more.
_TOLERANCE = {
  "float32": {"forward": 1e-4, "gradient": 0.02, "train_step": 0.2},
  "tf32": {"forward": 0.02, "gradient": 0.2, "train_step": 0.6},
  "bfloat16": {"forward": 0.1, "gradient": 0.6, "train_step": 0.8},
}


def tolerance(problem: Problem, session: harness.Session) -> float:
  """See `_TOLERANCE`."""
  exact = session.platform == "cpu" or session.arguments.precision == "highest"
  arithmetic = problem.dtype if problem.dtype == "bfloat16" or exact else "tf32"
  return _TOLERANCE[arithmetic][problem.operation]


if __name__ == "__main__":
  harness.sweep("convnets", __doc__, problems, measure, peers.PEERS)
