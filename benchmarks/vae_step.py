"""Compares the speed of a training step of paper 003's expression stage with stock Flax and PyTorch.

A call is one step of the generator (both encoders, the decoder three times, the codes of swapped images encoded again,
adversarial and switch loss; Adam on expression encoder and decoder), then one of the discriminator on the same fakes.
Ours uses the engine (`jaxfer.train.step.step`, jitted, state donated) and draws its noise; the others are given the
same noise. All terms of both losses and both gradients are compared before timing. Names of cases are:

vae_step/b<batch>-s<image size>[-w<width>]/<dtype>

Stock Flax is also timed with other XLA flags (see benchmarks.convnets).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import elsewhere, harness, torch_peer
from benchmarks.convnets_problem import stock
from jaxfer.systems.identity_expression_vae import SYSTEM
from jaxfer.systems.identity_expression_vae.model import LATENT, IdentityExpressionVAE
from jaxfer.train import step as engine
from jaxfer.train.stage import Context
from jaxfer.train.state import State, begin

# Losses agree up to rounding; a ReLU near its kink may change a channel's gradient (see benchmarks.convnets).
_TOLERANCE = {"float32": 0.05, "tf32": 0.4, "bfloat16": 0.8}
_MOVED = ("expression_encoder", "decoder")


@dataclasses.dataclass(frozen=True)
class Problem:
  """A batch of images of one size, and the width of the net."""

  batch: int = 32
  size: int = 64
  dtype: str = "float32"
  width: float = 1.0

  @property
  def name(self) -> str:
    """Unique name in the benchmark."""
    narrow = "" if self.width == 1 else f"-w{self.width}"
    return f"vae_step/b{self.batch}-s{self.size}{narrow}/{self.dtype}"

  @functools.cached_property
  def model(self) -> IdentityExpressionVAE:
    """The nets."""
    return IdentityExpressionVAE(self.size, self.width, dtype=jnp.dtype(self.dtype))

  @functools.cached_property
  def stage(self) -> tuple[Any, Mapping[str, float]]:
    """Returns the expression stage and its hyperparameters."""
    (_, expression), hparams = SYSTEM.recipe(self.model, 1)
    return expression, hparams


def problems(platform: str, quick: bool) -> list[Problem]:
  """Returns the sweep; the first is the paper's net at 64 px."""
  if quick:
    return [Problem(batch=2, width=0.125)]
  if platform == "cpu":
    return [Problem(), Problem(size=32, width=0.25)]
  return [Problem(batch, size, dtype) for dtype in ("bfloat16", "float32") for size, batch in
          ((64, 64), (64, 256), (128, 64))]  # fmt: skip


def inputs_of(problem: Problem) -> dict[str, Any]:
  """Returns variables, a batch, the data of its keys, and the noise [4, batch, 64] that the step draws from these."""
  rng = np.random.default_rng(0)
  shape = problem.batch, problem.size, problem.size, 3
  batch = {name: rng.uniform(0, 1, shape).astype(np.float32) for name in ("image", "partner")}
  keys = jax.random.split(jax.random.key(1), problem.batch)
  of_update = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)

  def noise(number):
    own = jax.vmap(jax.random.fold_in, (0, None))(of_update, number)
    return jax.vmap(lambda key: jax.random.normal(key, (LATENT,)))(own)

  variables = jax.jit(problem.model.init)(jax.random.key(0), batch["image"])
  drawn = np.stack([noise(number) for number in range(4)])
  return {
    "variables": variables,
    "batch": batch,
    "keys": np.asarray(jax.random.key_data(keys)),
    "noise": drawn,
  }


def named(out: tuple[Any, Any]) -> dict[str, Any]:
  """Returns losses, and gradients by path from Adam's first moments, which are a tenth of them."""
  trainable, metrics = out
  found = {name: total / count for name, (total, count) in metrics.items()}
  for state in trainable.optimizers.values():
    for path, moment in jax.tree.leaves_with_path(state[0].mu):
      found["/".join(part.key for part in path)] = 10 * moment
  return found


def prepare(problem: Problem, inputs: Mapping[str, Any], *, plain: bool = False) -> harness.JaxProgram:
  """Prepares the engine's step; `plain` uses Flax's convolutions."""
  stage, hparams = problem.stage
  state = jax.jit(functools.partial(begin, stage))(inputs["variables"])
  context = Context({name: jnp.float32(value) for name, value in hparams.items()})

  step = functools.partial(engine.step, reject=False)  # As in a training alone.

  def train(trainable, frozen, batch, keys):
    if not plain:
      return step(stage, State(trainable, frozen), batch, keys, context)
    with nn.intercept_methods(stock):
      return step(stage, State(trainable, frozen), batch, keys, context)

  keys = jax.random.wrap_key_data(inputs["keys"])
  return harness.JaxProgram(
    train, state.trainable, state.frozen, inputs["batch"], keys, named=named, stepping=True
  )


def flax(problem: Problem, inputs: Mapping[str, Any], session: harness.Session | None) -> harness.JaxProgram:
  """Prepares the engine's step with Flax's convolutions."""
  del session
  return prepare(problem, inputs, plain=True)


def reference(problem: Problem, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
  """Computes the same with Flax's layers in full float32 precision."""
  with jax.default_matmul_precision("highest"):
    return prepare(dataclasses.replace(problem, dtype="float32"), inputs, plain=True).result()


def torch(
  problem: Problem,
  inputs: Mapping[str, Any],
  session: harness.Session,
  *,
  channels_last: bool = False,
  compiled: bool = False,
) -> harness.Program:
  """Prepares the same net and step in PyTorch, with its fused Adam."""
  peer = torch_peer.begin(session, channels_last=channels_last, compiled=compiled)
  library = peer.library
  from benchmarks import torch_nets

  functional, softplus = library.nn.functional, library.nn.functional.softplus
  tree = peer.place(torch_nets.Tree(inputs["variables"]["params"], {}))
  image, partner = (peer.images(inputs["batch"][name]) for name in ("image", "partner"))
  noise = library.from_numpy(inputs["noise"]).to(peer.device)
  _, hparams = problem.stage

  def drawn(code, number):
    return code[0] + library.exp(code[1] / 2) * noise[number]

  def decode(*codes):
    return torch_nets.decoder(tree.decoder, library.cat(codes, -1)).float()

  def encode(which, images):
    return [part.float() for part in torch_nets.encoder(getattr(tree, which), images)]

  def judge(images):
    return torch_nets.discriminator(tree.discriminator, images).float()

  def generator(image, partner):
    identity, expression = encode("identity_encoder", image), encode("expression_encoder", image)
    decoded, imagined = decode(drawn(identity, 0), drawn(expression, 1)), decode(noise[2], noise[3])
    mean, log_variance = expression
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()
    error = (decoded - image).square().sum((1, 2, 3)).mean()
    other = encode("expression_encoder", partner)[0]
    swapped = decode(identity[0], other)
    again = encode("identity_encoder", swapped)[0], encode("expression_encoder", swapped)[0]
    switch = functional.mse_loss(again[0], identity[0]) + functional.mse_loss(again[1], other)
    fooled = (softplus(-judge(decoded)) + softplus(-judge(imagined))).mean()
    terms = {
      "generator/kl_term": hparams["kl_weight"] * kl,
      "generator/error_term": hparams["error_weight"] * error,
      "generator/adversarial_term": hparams["adversarial_weight"] * fooled,
      "generator/switch_term": hparams["switch_weight"] * switch,
    }
    return terms, decoded, imagined

  def discriminator(image, decoded, imagined):
    return {
      "discriminator/real": softplus(-judge(image)).mean(),
      "discriminator/reconstructed": softplus(judge(decoded)).mean(),
      "discriminator/prior": softplus(judge(imagined)).mean(),
    }

  tree.identity_encoder.requires_grad_(False)
  moved = {
    "generator": {
      f"{part}.{name}": p for part in _MOVED for name, p in getattr(tree, part).named_parameters()
    },
    "discriminator": {f"discriminator.{name}": p for name, p in tree.discriminator.named_parameters()},
  }
  adam = {
    update: library.optim.Adam(own.values(), hparams["learning_rate"], fused=True)
    for update, own in moved.items()
  }
  run: dict[str, Callable[..., Any]] = {"generator": generator, "discriminator": discriminator}
  if compiled:
    library.compiler.reset()
    run = {name: library.compile(function) for name, function in run.items()}

  def amp():
    return library.autocast(peer.device, library.bfloat16, enabled=problem.dtype == "bfloat16")

  def descend(update, terms):
    own = moved[update]
    gradients = library.autograd.grad(sum(terms.values()), own.values())
    for parameter, gradient in zip(own.values(), gradients, strict=True):
      parameter.grad = gradient
    adam[update].step()
    return terms

  def once():
    with amp():
      terms, decoded, imagined = run["generator"](image, partner)
    found = descend("generator", terms)
    with amp():
      terms = run["discriminator"](image, decoded.detach(), imagined.detach())
    return found | descend("discriminator", terms)

  found = {name: peer.numpy(value) for name, value in once().items()}
  for own in moved.values():
    for name, parameter in own.items():
      path = name.replace(".", "/")
      found[path] = torch_nets.from_torch(path, peer.numpy(parameter.grad))

  def call():
    once()
    peer.wait()

  return harness.Program(call, lambda: found)


PEERS: dict[str, Callable[..., harness.Program | harness.JaxProgram]] = {
  "flax": flax,
  **elsewhere.peers(flax),
  "torch": torch,
  "torch_channels_last": functools.partial(torch, channels_last=True),
  "torch_compile": functools.partial(torch, channels_last=True, compiled=True),
}


def measure(session: harness.Session, problem: Problem, budget: float | None) -> None:
  """Measures one case: ours and the requested peers."""
  inputs = inputs_of(problem)
  exact = session.platform == "cpu" or session.arguments.precision == "highest"
  case = harness.Case(
    name=problem.name,
    settings=dataclasses.asdict(problem),
    work={"samples": problem.batch},
    tolerance=_TOLERANCE[problem.dtype if problem.dtype == "bfloat16" or exact else "tf32"],
    dtype=problem.dtype,
    budget=budget,
  )
  contenders = [harness.Contender("jaxfer", functools.partial(prepare, problem, inputs))]
  for name, make in PEERS.items():
    contenders += session.peer(name, functools.partial(make, problem, inputs, session))
  session.measure(
    case, contenders, functools.partial(reference, problem, inputs), "stock Flax, float32, highest"
  )


if __name__ == "__main__":
  harness.sweep("vae_step", __doc__, problems, measure, PEERS)
