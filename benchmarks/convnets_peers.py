"""The same convolutional nets in stock Flax and PyTorch: same variables, inputs and results."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import optax

from benchmarks import elsewhere, harness, torch_peer
from benchmarks.convnets_problem import (
  ADABELIEF,
  FACE,
  FUSION,
  SGD,
  VAE,
  Problem,
  first_gradient,
  named,
  operate,
  stock,
  without_noise,
)

Inputs = Mapping[str, Any]


def flax(problem: Problem, inputs: Inputs, session: harness.Session | None) -> harness.JaxProgram:
  """Prepares our net with `nn.Conv` and `nn.ConvTranspose` and a plain optax step."""
  del session
  variables, x, weights = inputs["variables"], inputs["x"], inputs["weights"]

  def run(variables, weights, *x):
    with nn.intercept_methods(stock):
      return operate(problem, variables, weights, *x)

  if problem.operation != "train_step":
    return harness.JaxProgram(run, variables, weights, *x, named=named)
  optimizer = optax.sgd(**SGD)
  if problem.net == FUSION:
    belief = optax.scale_by_belief(0.9, 0.999, eps=1e-16, eps_root=1e-16)
    decay = optax.add_decayed_weights(ADABELIEF["weight_decay"])
    optimizer = optax.chain(belief, decay, optax.scale(-ADABELIEF["learning_rate"]))

  def trainable(params):
    return {name: params[name] for name in problem.moved}

  def train(state, weights, *x):
    variables, optimizer_state = state
    out = run(variables, weights, *x)
    moved = trainable(variables["params"])
    changes, optimizer_state = optimizer.update(out["params"], optimizer_state, moved)
    params = {**variables["params"], **optax.apply_updates(moved, changes)}
    return ({**out["fixed"], "params": params}, optimizer_state), out["loss"]

  def result(out):
    (_, optimizer_state), loss = out
    return named({"params": first_gradient(optimizer_state), "loss": loss})

  state = variables, optimizer.init(trainable(variables["params"]))
  return harness.JaxProgram(train, state, weights, *x, named=result, stepping=True)


def torch(
  problem: Problem,
  inputs: Inputs,
  session: harness.Session,
  *,
  channels_last: bool = False,
  compiled: bool = False,
) -> harness.Program:
  """Prepares PyTorch on the same kind of device, with as many threads as XLA."""
  torch_ = torch_peer.begin(session, channels_last=channels_last, compiled=compiled)
  library = torch_.library
  from benchmarks import torch_nets

  def encoder(p, x):
    return library.cat(torch_nets.encoder(p, x), -1)

  train = tuple(problem.trained.values())
  function, arguments = {
    VAE + "decoder": (torch_nets.decoder, ()),
    VAE + "encoder": (encoder, ()),
    VAE + "autoencoder": (torch_nets.autoencoder, ()),
    FUSION: (torch_nets.landmark_fusion, (problem.operation == "train_step",)),
    FACE + "18": (torch_nets.face_resnet, train),
    FACE + "50": (torch_nets.face_resnet, train),
  }.get(problem.net, (torch_nets.resnet, train))
  net = torch_.place(torch_nets.Net(function, inputs["variables"], *arguments))

  def placed(array):
    return torch_.images(array) if array.ndim == 4 else library.from_numpy(array).to(torch_.device)

  def unplaced(tensor):
    return torch_.numpy(tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor)

  x = [placed(array) for array in inputs["x"]]
  x[0].requires_grad_(problem.operation == "gradient")
  weights = placed(inputs["weights"])

  def scalar(y):
    if problem.operation == "gradient":
      return (y.float() * weights).sum()
    parts = y.float().unbind(1) if y.ndim == 3 else [y.float()]
    return sum(library.nn.functional.cross_entropy(part, weights.long()) for part in parts)

  def named_(first):
    if problem.operation == "forward":
      return {"output": unplaced(first)}
    if problem.operation == "gradient":
      return net.gradients() | {"x": unplaced(x[0].grad)}
    return without_noise(net.gradients()) | {"loss": torch_.numpy(first)}

  operation = problem.operation
  if problem.net == FUSION and operation == "train_step":
    for name, part in net.tree.named_children():
      part.requires_grad_(name in problem.moved)
    torch_nets.AdaBelief(net, ADABELIEF["learning_rate"], ADABELIEF["weight_decay"])
    operation = "gradient"  # AdaBelief updates the parameters during the backward pass.
  return torch_peer.program(
    torch_, net, x, operation=operation, dtype=problem.dtype, scalar=scalar, sgd=SGD, named=named_
  )


PEERS: dict[str, Callable[..., harness.Program | harness.JaxProgram]] = {
  "flax": flax,
  **elsewhere.peers(flax),
  "torch": torch,
  "torch_channels_last": functools.partial(torch, channels_last=True),
  "torch_compile": functools.partial(torch, channels_last=True, compiled=True),
}
