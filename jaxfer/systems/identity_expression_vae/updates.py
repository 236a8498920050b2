"""The loss function of each update of paper 003's stages (README, section 2, eqs. 1 to 5).

The terms of the losses are weighted by the hyperparameters "kl_weight", "error_weight", "adversarial_weight" and
"switch_weight". The metrics "kl" (in nat), "error" (summed over an image) and "switch" have no weights. The metric
"loss" is the sum of the terms of an update. All are sums over the batch, with the number of examples as weight.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.systems.identity_expression_vae import losses
from jaxfer.systems.identity_expression_vae.baselines import VAE, ConditionalVAE, condition
from jaxfer.systems.identity_expression_vae.model import IdentityExpressionVAE, sample
from jaxfer.train.stage import Context, LossFn, LossOut, Variables
from jaxfer.train.state import merge


class _Bound:
  """A model with its variables, for use within a loss. Trainable submodules run in training mode.

  Only the first call of a submodule updates its running statistics. This call encodes images of the batch or decodes
  their codes. Later calls would distort the statistics, because their codes or images are swapped or drawn from the
  prior.

  Attributes:
    collections: the updated running statistics, by collection and submodule.
  """

  def __init__(self, model: nn.Module, variables: Variables, trainable: Sequence[str], context: Context):
    self._model, self._variables, self._trainable, self._context = model, variables, trainable, context
    self.collections: dict[str, Any] = {}
    self._called: set[str] = set()

  def __call__(self, method: str, submodule: str, *args: Any) -> Any:
    """Calls a method of the model that runs one submodule."""
    result, changed = self._model.apply(
      self._variables,
      *args,
      method=method,
      train=submodule in self._trainable,
      axis_name=self._context.axis_name,
      mutable=["batch_stats"],
    )
    if submodule in self._trainable and submodule not in self._called:
      self._called.add(submodule)
      own = {name: {submodule: tree[submodule]} for name, tree in changed.items() if submodule in tree}
      self.collections = merge(self.collections, own)
    return result

  def identity(self, images):
    """Returns the posterior of z_i for images [batch, S, S, 3]."""
    return self("encode_identity", "identity_encoder", images)

  def expression(self, images):
    """Returns the posterior of z_e for images [batch, S, S, 3]."""
    return self("encode_expression", "expression_encoder", images)

  def decode(self, *codes):
    """Returns the images [batch, S, S, 3], in [0, 1], of codes z_i and z_e, [batch, latent] each."""
    return self("decode", "decoder", *codes)

  def discriminate(self, images):
    """Returns logits [batch] of being real for images [batch, S, S, 3]."""
    return self._model.apply(self._variables, images, method="discriminate")


def _draw_keys(keys: jax.Array, number: int) -> jax.Array:
  """Returns the keys [batch] of a draw, from one key per example and the number of the draw within the update."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def _elbo(posterior, images, decoded, context: Context) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the terms of eqs. 1 and 2, and the metrics "kl" and "error", which are the same without weights."""
  count = jnp.float32(len(images))
  kl, error = losses.kl(*posterior).sum(), losses.squared_error(images, decoded).sum()
  terms = {
    "kl_term": (context.hparams["kl_weight"] * kl, count),
    "error_term": (context.hparams["error_weight"] * error, count),
  }
  return terms, {"kl": (kl, count), "error": (error, count)}


def _out(terms: dict[str, Any], metrics: dict[str, Any], bound: _Bound, aux: Sequence[Any] = ()) -> LossOut:
  """Returns the terms, and their sum as the metric "loss". All terms have the same number of examples."""
  (_, count), *_ = terms.values()
  total = sum(value for value, _ in terms.values()), count
  return LossOut(terms, {"loss": total, **metrics}, bound.collections, tuple(aux))


def trained(model: VAE) -> tuple[str, ...]:
  """Returns the names of the submodules that a baseline trains, which are all that it has."""
  planes = isinstance(model, ConditionalVAE) and model.condition_at == "input"
  return ("encoder", "decoder", *(("planes",) if planes else ()))


def plain(model: VAE) -> LossFn:
  """Returns the loss of a baseline: the divergence and the reconstruction error of its single code.

  The batch holds "image" and "subject". The subject is the condition of a conditional VAE.
  """

  def loss(variables, batch, keys, context: Context) -> LossOut:
    bound = _Bound(model, variables, trained(model), context)
    images = batch["image"]
    one_hot = condition(model, len(images), batch["subject"])
    posterior = bound("encode", "encoder", images, one_hot)
    decoded = bound("decode", "decoder", sample(posterior, _draw_keys(keys, 0)), one_hot)
    return _out(*_elbo(posterior, images, decoded, context), bound)

  return loss


def identity(model: IdentityExpressionVAE) -> LossFn:
  """Returns the loss of eq. 1: the targets are reconstructed from z_i of the images and z_e = 0.

  It trains the identity encoder and the decoder. The batch holds "image" and "target".
  """

  def loss(variables, batch, keys, context: Context) -> LossOut:
    bound = _Bound(model, variables, ("identity_encoder", "decoder"), context)
    posterior = bound.identity(batch["image"])
    code = sample(posterior, _draw_keys(keys, 0))
    decoded = bound.decode(code, jnp.zeros_like(code))
    return _out(*_elbo(posterior, batch["target"], decoded, context), bound)

  return loss


def generator(
  model: IdentityExpressionVAE, *, adversarial: bool, switch: bool, saturating: bool, fixed_target: bool
) -> LossFn:
  """Returns the loss of eq. 5, which trains the expression encoder and the decoder.

  The batch holds "image", and "partner" with `switch`. The decoded images are passed on to the discriminator's update.

  Args:
    model: the model.
    adversarial: whether to use L_gan (eq. 3).
    switch: whether to use L_switch (eq. 4).
    saturating: see `losses.generator_terms`.
    fixed_target: see `stop_gradient` of `losses.switch`.
  """

  def loss(variables, batch, keys, context: Context) -> LossOut:
    bound = _Bound(model, variables, ("expression_encoder", "decoder"), context)
    images, hparams = batch["image"], context.hparams
    identity, expression = bound.identity(images), bound.expression(images)
    decoded = bound.decode(sample(identity, _draw_keys(keys, 0)), sample(expression, _draw_keys(keys, 1)))
    terms, metrics = _elbo(expression, images, decoded, context)
    count = jnp.float32(len(images))
    aux: tuple[jax.Array, ...] = ()
    if adversarial:
      prior = jnp.zeros_like(identity[0]), jnp.zeros_like(identity[0])
      from_prior = bound.decode(*(sample(prior, _draw_keys(keys, number)) for number in (2, 3)))
      adversarial_terms = losses.generator_terms(
        bound.discriminate(decoded), bound.discriminate(from_prior), saturating=saturating
      )
      total = sum(value.sum() for value in adversarial_terms.values())
      terms["adversarial_term"] = hparams["adversarial_weight"] * total, count
      aux = decoded, from_prior
    if switch:
      z_i, z_e = identity[0], bound.expression(batch["partner"])[0]
      swapped = bound.decode(z_i, z_e)
      z_i_again, z_e_again = bound.identity(swapped)[0], bound.expression(swapped)[0]
      total = losses.switch(z_i, z_i_again, z_e, z_e_again, stop_gradient=fixed_target).sum()
      terms["switch_term"] = hparams["switch_weight"] * total, count
      metrics["switch"] = total, count
    return _out(terms, metrics, bound, aux)

  return loss


def discriminator(model: IdentityExpressionVAE) -> LossFn:
  """Returns the loss of eq. 3, on the images of the batch and on the images that the generator's update passed on."""

  def loss(variables, batch, keys, context: Context) -> LossOut:
    del keys
    inputs = batch["image"], *context.aux
    logits: Any = [model.apply(variables, images, method="discriminate") for images in inputs]
    count = jnp.float32(len(logits[0]))
    terms = losses.discriminator_terms(*logits)
    return LossOut({name: (values.sum(), count) for name, values in terms.items()})

  return loss
