"""Each update's terms and gradients against the formulae that the golden of paper 003 holds, and others by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vae_cases

from jaxfer.systems.identity_expression_vae import losses as vae_losses
from jaxfer.systems.identity_expression_vae import updates
from jaxfer.systems.identity_expression_vae.baselines import VAE, ConditionalVAE
from jaxfer.systems.identity_expression_vae.model import IdentityExpressionVAE
from jaxfer.train.stage import Context

BATCH, LATENT = 3, 4
SMALL = {"image_size": 32, "width": 1 / 32, "latent": LATENT}
MODEL = IdentityExpressionVAE(**SMALL)
# No two alike, so that none can stand in another's place.
HYPER = {"kl_weight": 3.0, "error_weight": 0.07, "adversarial_weight": 0.5, "switch_weight": 11.0}
MOVED = ("expression_encoder", "decoder")


def quick(function):
  """Compiled, quick to compile rather than quick."""
  return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def noise(keys, number):
  """What `sample` draws: an update's draws are numbered, each example has a key of its own."""
  own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
  return jax.vmap(lambda key: jax.random.normal(key, (LATENT,)))(own)


def means(pairs):
  return {name: total / count for name, (total, count) in pairs.items()}


@pytest.fixture(scope="module")
def given():
  """Variables, a batch whose partners are the images before, keys, and the generator's noise."""
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.random((BATCH, 32, 32, 3), np.float32))
  batch = {"image": images, "partner": jnp.roll(images, 1, 0), "target": jnp.roll(images, -1, 0)}
  keys = jax.random.split(jax.random.key(5), BATCH)
  variables = jax.jit(MODEL.init)(jax.random.key(0), images)
  return variables, batch, keys, jnp.stack([noise(keys, number) for number in range(4)])


@pytest.mark.parametrize("saturating", [True, False])
def test_the_generator_descends_on_eq_5_and_the_discriminator_on_eq_3(given, saturating):
  """With the target of the switch loss fixed where the generator climbs: each option's gradient is met once."""
  variables, batch, keys, drawn = given
  context, fixed = Context(HYPER), not saturating
  generator = updates.generator(
    MODEL, adversarial=True, switch=True, saturating=saturating, fixed_target=fixed
  )

  def ours(moved):
    own = {"params": {**variables["params"], **moved}}
    out = generator(own, batch, keys, context)
    terms = means(out.loss)
    return sum(terms.values()), (terms, means(out.metrics), out.passed)

  def printed(moved):
    own = {"params": {**variables["params"], **moved}}
    found = vae_cases.losses(own, batch["image"], drawn, MODEL)
    found = {name: loss.mean() for name, loss in found.items()}
    if fixed:  # The value is the same, its gradient is not.
      found["switch"] = switch_to_a_still_target(own, batch)
    side = "saturating" if saturating else "generator"
    terms = {
      "kl_term": 3 * found["kl_expression"],
      "error_term": 0.07 * found["error"],
      "adversarial_term": 0.5 * (found[f"{side}/reconstructed"] + found[f"{side}/prior"]),
      "switch_term": 11 * found["switch"],
    }
    return sum(terms.values()), (terms, found)

  start = {name: variables["params"][name] for name in MOVED}
  (total, (terms, metrics, passed)), slopes = quick(jax.value_and_grad(ours, has_aux=True))(start)
  (want, (want_terms, found)), want_slopes = quick(jax.value_and_grad(printed, has_aux=True))(start)
  assert set(terms) == set(want_terms)
  for name, value in want_terms.items():
    np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)
  for name, value in (("loss", want), ("kl", found["kl_expression"]), ("error", found["error"])):
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
  for (path, got), slope in zip(jax.tree.leaves_with_path(slopes), jax.tree.leaves(want_slopes), strict=True):
    assert np.abs(got - slope).max() <= 1e-3 * np.abs(slope).max(), path
  # The fakes go on to the discriminator.
  out = quick(functools.partial(updates.discriminator(MODEL), context=context.replace(passed=passed)))(
    variables, batch, keys
  )
  for name, value in means(out.loss).items():
    np.testing.assert_allclose(value, found[f"discriminator/{name}"], rtol=1e-4, err_msg=name)
  assert set(out.loss) == {"real", "reconstructed", "prior"}


def switch_to_a_still_target(variables, batch):
  call = functools.partial(MODEL.apply, variables)
  identity = call(batch["image"], method="encode_identity")[0]
  target = call(batch["partner"], method="encode_expression")[0]
  swapped = call(identity, target, method="decode")
  again = [call(swapped, method=f"encode_{what}")[0] for what in ("identity", "expression")]
  return vae_losses.switch(identity, again[0], target, again[1], stop_gradient=True).mean()


def test_the_identity_stage_descends_on_eq_1(given):
  variables, batch, keys, _ = given
  out = quick(functools.partial(updates.identity(MODEL), context=Context(HYPER)))(variables, batch, keys)
  mean, log_variance = MODEL.apply(variables, batch["image"], method="encode_identity")
  z = mean + jnp.exp(log_variance / 2) * noise(keys, 0)
  decoded = MODEL.apply(variables, z, jnp.zeros_like(z), method="decode")
  check_elbo(out, (mean, log_variance), decoded, batch["target"])


@pytest.mark.parametrize("model", [VAE(**SMALL), ConditionalVAE(subjects=5, **SMALL)])
def test_the_baselines_descend_on_a_vae_s_bound(given, model):
  """Encoder and decoder of the conditional one read the subjects' one-hot vectors."""
  _, batch, keys, _ = given
  batch = {**batch, "subject": jnp.asarray([4, 0, 2])}
  told = (jax.nn.one_hot(batch["subject"], 5),) if isinstance(model, ConditionalVAE) else ()
  variables = jax.jit(model.init)(jax.random.key(1), batch["image"], *told)
  out = quick(functools.partial(updates.plain(model), context=Context(HYPER)))(variables, batch, keys)
  mean, log_variance = model.apply(variables, batch["image"], *told, method="encode")
  z = mean + jnp.exp(log_variance / 2) * noise(keys, 0)
  check_elbo(out, (mean, log_variance), model.apply(variables, z, *told, method="decode"), batch["image"])


def check_elbo(out, posterior, decoded, images):
  kl = vae_losses.kl(*posterior).mean()
  error = vae_losses.squared_error(images, decoded).mean()
  terms, metrics = means(out.loss), means(out.metrics)
  want = {"kl_term": 3 * kl, "error_term": 0.07 * error}
  for found, values in (
    (terms, want),
    (metrics, {"kl": kl, "error": error, "loss": sum(want.values())}),
  ):
    assert set(found) == set(values)
    for name, value in values.items():
      np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
