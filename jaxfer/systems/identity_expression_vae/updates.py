"""The updates of paper 003's stages as the engine takes them: what is decoded of a batch, and its losses (eqs. 1 to 5).

Terms carry their weights, by the numbers "kl_weight", "error_weight", "adversarial_weight" and "switch_weight"; "kl" in
nat, "error" summed over an image, and "switch" are the same without; "loss" is the sum of an update's terms.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.systems.identity_expression_vae import losses as vae_losses
from jaxfer.systems.identity_expression_vae.baselines import VAE, condition
from jaxfer.systems.identity_expression_vae.model import IdentityExpressionVAE, sample
from jaxfer.train.stage import Context, LossFn, LossOut, Variables
from jaxfer.train.state import merge


class _Nets:
  """A model's methods within a loss; submodules that move are in training mode.

  Running statistics are those of a submodule's first pass, which sees images as they are or reconstructs them: what is
  decoded from the prior or from swapped codes, and read again, has others.
  """

  def __init__(self, model: nn.Module, variables: Variables, moved: Sequence[str], context: Context):
    self._model, self._variables, self._moved, self._context = model, variables, moved, context
    self.collections: dict[str, Any] = {}
    self._passed: set[str] = set()

  def __call__(self, method: str, submodule: str, *args: Any) -> Any:
    result, changed = self._model.apply(
      self._variables,
      *args,
      method=method,
      train=submodule in self._moved,
      axis_name=self._context.axis_name,
      mutable=["batch_stats"],
    )
    if submodule in self._moved and submodule not in self._passed:
      self._passed.add(submodule)
      own = {name: {submodule: tree[submodule]} for name, tree in changed.items() if submodule in tree}
      self.collections = merge(self.collections, own)
    return result

  def identity(self, images):
    """Posterior of z_i."""
    return self("encode_identity", "identity_encoder", images)

  def expression(self, images):
    """Posterior of z_e."""
    return self("encode_expression", "expression_encoder", images)

  def decode(self, *codes):
    """Images."""
    return self("decode", "decoder", *codes)

  def discriminate(self, images):
    """Logits."""
    return self._model.apply(self._variables, images, method="discriminate")


def _own_keys(keys: jax.Array, number: int) -> jax.Array:
  """Keys [batch] of one of several draws of an example."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def _elbo(posterior, images, decoded, context: Context) -> tuple[dict[str, Any], dict[str, Any]]:
  """Weighted terms of eqs. 1 and 2, and the same unweighted: nat, and squared error summed over an image."""
  count = jnp.float32(len(images))
  kl, error = vae_losses.kl(*posterior).sum(), vae_losses.squared_error(images, decoded).sum()
  weighted = {
    "kl_term": (context.hyper["kl_weight"] * kl, count),
    "error_term": (context.hyper["error_weight"] * error, count),
  }
  return weighted, {"kl": (kl, count), "error": (error, count)}


def _out(terms: dict[str, Any], metrics: dict[str, Any], nets: _Nets, passed: Sequence[Any] = ()) -> LossOut:
  """The sum of the terms, each over as many examples, is a metric too."""
  (_, count), *_ = terms.values()
  total = sum(each for each, _ in terms.values()), count
  return LossOut(terms, {"loss": total, **metrics}, nets.collections, tuple(passed))


def plain(model: VAE) -> LossFn:
  """Of a VAE of one code; a conditional one is told the subject."""

  def loss(variables, batch, keys, context: Context) -> LossOut:
    nets = _Nets(model, variables, ("encoder", "decoder"), context)
    images = batch["image"]
    told = condition(model, len(images), batch["subject"])
    posterior = nets("encode", "encoder", images, told)
    decoded = nets("decode", "decoder", sample(posterior, _own_keys(keys, 0)), told)
    return _out(*_elbo(posterior, images, decoded, context), nets)

  return loss


def identity(model: IdentityExpressionVAE) -> LossFn:
  """Eq. 1: identity encoder and decoder, z_e = 0, against the batch's targets."""

  def loss(variables, batch, keys, context: Context) -> LossOut:
    nets = _Nets(model, variables, ("identity_encoder", "decoder"), context)
    posterior = nets.identity(batch["image"])
    code = sample(posterior, _own_keys(keys, 0))
    decoded = nets.decode(code, jnp.zeros_like(code))
    return _out(*_elbo(posterior, batch["target"], decoded, context), nets)

  return loss


def generator(
  model: IdentityExpressionVAE, *, adversarial: bool, switch: bool, saturating: bool, fixed_target: bool
) -> LossFn:
  """Eq. 5: expression encoder and decoder; passes the fakes on. Arguments as of `identity_expression_vae.recipe`."""

  def loss(variables, batch, keys, context: Context) -> LossOut:
    nets = _Nets(model, variables, ("expression_encoder", "decoder"), context)
    images, hyper = batch["image"], context.hyper
    identity, expression = nets.identity(images), nets.expression(images)
    decoded = nets.decode(sample(identity, _own_keys(keys, 0)), sample(expression, _own_keys(keys, 1)))
    terms, metrics = _elbo(expression, images, decoded, context)
    count = jnp.float32(len(images))
    passed: tuple[jax.Array, ...] = ()
    if adversarial:
      normal = jnp.zeros_like(identity[0]), jnp.zeros_like(identity[0])
      imagined = nets.decode(*(sample(normal, _own_keys(keys, number)) for number in (2, 3)))
      fooled = vae_losses.generator_terms(
        nets.discriminate(decoded), nets.discriminate(imagined), saturating=saturating
      )
      total = sum(each.sum() for each in fooled.values())
      terms["adversarial_term"] = hyper["adversarial_weight"] * total, count
      passed = decoded, imagined
    if switch:
      mean, other = identity[0], nets.expression(batch["partner"])[0]
      swapped = nets.decode(mean, other)
      again = nets.identity(swapped)[0], nets.expression(swapped)[0]
      each = vae_losses.switch(mean, again[0], other, again[1], stop_gradient=fixed_target).sum()
      terms["switch_term"] = hyper["switch_weight"] * each, count
      metrics["switch"] = each, count
    return _out(terms, metrics, nets, passed)

  return loss


def discriminator(model: IdentityExpressionVAE) -> LossFn:
  """Eq. 3, on the images and on the fakes that the generator passed on."""

  def loss(variables, batch, keys, context: Context) -> LossOut:
    del keys
    pictures = batch["image"], *context.passed
    logits: Any = [model.apply(variables, images, method="discriminate") for images in pictures]
    count = jnp.float32(len(logits[0]))
    terms = vae_losses.discriminator_terms(*logits)
    return LossOut({name: (each.sum(), count) for name, each in terms.items()})

  return loss
