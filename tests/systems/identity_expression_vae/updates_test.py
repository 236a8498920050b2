"""Terms and gradients of each update, compared with the formulas of paper 003 in `vae_cases` and with others here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vae_cases

from jaxfer.systems.identity_expression_vae import losses, updates
from jaxfer.systems.identity_expression_vae.baselines import VAE, ConditionalVAE
from jaxfer.systems.identity_expression_vae.model import IdentityExpressionVAE
from jaxfer.train.stage import Context
from tests import drawn, small_systems

BATCH, LATENT = 3, 4
SMALL = {"image_size": 32, "width": 1 / 32, "latent": LATENT}
MODEL = IdentityExpressionVAE(**SMALL)
# All differ, so that a test fails if one is used in place of another.
HPARAMS = {"kl_weight": 3.0, "error_weight": 0.07, "adversarial_weight": 0.5, "switch_weight": 11.0}
TRAINABLE = ("expression_encoder", "decoder")


def quick(function):
  """Returns the compiled function, with few optimizations, so that it compiles quickly."""
  return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def noise(keys, number):
  """Returns the noise [batch, LATENT] of `sample` in the draw `number` of an update, from one key per example."""
  draw_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
  return jax.vmap(lambda key: jax.random.normal(key, (LATENT,)))(draw_keys)


def means(pairs):
  return {name: total / count for name, (total, count) in pairs.items()}


@pytest.fixture(scope="module", autouse=True)
def _shallow():
  with small_systems.shallow():
    yield


@pytest.fixture(scope="module")
def inputs():
  """Variables, a batch in which each image is the partner of the next one, keys, and the noise of the generator."""
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.random((BATCH, 32, 32, 3), np.float32))
  batch = {"image": images, "partner": jnp.roll(images, 1, 0), "target": jnp.roll(images, -1, 0)}
  keys = jax.random.split(jax.random.key(5), BATCH)
  variables = jax.device_put(drawn.variables(MODEL.init, images))
  return variables, batch, keys, jnp.stack([noise(keys, number) for number in range(4)])


@pytest.mark.parametrize("saturating", [True, False])
def test_the_generator_minimises_eq_5_and_the_discriminator_eq_3(inputs, saturating):
  """Without `saturating` the target of the switch loss is fixed, so that two cases cover both options."""
  variables, batch, keys, drawn = inputs
  context, fixed = Context(HPARAMS), not saturating
  generator = updates.generator(
    MODEL, adversarial=True, switch=True, saturating=saturating, fixed_target=fixed
  )

  def ours(trained):
    merged = {"params": {**variables["params"], **trained}}
    out = generator(merged, batch, keys, context)
    terms = means(out.loss)
    return sum(terms.values()), (terms, means(out.metrics), out.aux)

  def printed(trained):
    merged = {"params": {**variables["params"], **trained}}
    found = vae_cases.losses(merged, batch["image"], drawn, MODEL)
    found = {name: loss.mean() for name, loss in found.items()}
    if fixed:  # The value is the same, but the gradient differs.
      found["switch"] = switch_with_fixed_target(merged, batch)
    side = "saturating" if saturating else "generator"
    terms = {
      "kl_term": 3 * found["kl_expression"],
      "error_term": 0.07 * found["error"],
      "adversarial_term": 0.5 * (found[f"{side}/reconstructed"] + found[f"{side}/prior"]),
      "switch_term": 11 * found["switch"],
    }
    return sum(terms.values()), (terms, found)

  initial = {name: variables["params"][name] for name in TRAINABLE}
  (total, (terms, metrics, aux)), gradients = quick(jax.value_and_grad(ours, has_aux=True))(initial)
  (want, (want_terms, found)), want_gradients = quick(jax.value_and_grad(printed, has_aux=True))(initial)
  assert set(terms) == set(want_terms)
  for name, value in want_terms.items():
    np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)
  for name, value in (("loss", want), ("kl", found["kl_expression"]), ("error", found["error"])):
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
  for (path, got), gradient in zip(
    jax.tree.leaves_with_path(gradients), jax.tree.leaves(want_gradients), strict=True
  ):
    assert np.abs(got - gradient).max() <= 1e-3 * np.abs(gradient).max(), path
  # The discriminator gets the decoded images.
  out = quick(functools.partial(updates.discriminator(MODEL), context=context.replace(aux=aux)))(
    variables, batch, keys
  )
  for name, value in means(out.loss).items():
    np.testing.assert_allclose(value, found[f"discriminator/{name}"], rtol=1e-4, err_msg=name)
  assert set(out.loss) == {"real", "reconstructed", "prior"}


def switch_with_fixed_target(variables, batch):
  call = functools.partial(MODEL.apply, variables)
  identity = call(batch["image"], method="encode_identity")[0]
  target = call(batch["partner"], method="encode_expression")[0]
  swapped = call(identity, target, method="decode")
  again = [call(swapped, method=f"encode_{what}")[0] for what in ("identity", "expression")]
  return losses.switch(identity, again[0], target, again[1], stop_gradient=True).mean()


def test_the_identity_stage_minimises_eq_1(inputs):
  variables, batch, keys, _ = inputs
  out = quick(functools.partial(updates.identity(MODEL), context=Context(HPARAMS)))(variables, batch, keys)
  mean, log_variance = MODEL.apply(variables, batch["image"], method="encode_identity")
  z = mean + jnp.exp(log_variance / 2) * noise(keys, 0)
  decoded = MODEL.apply(variables, z, jnp.zeros_like(z), method="decode")
  check_elbo(out, (mean, log_variance), decoded, batch["target"])


@pytest.mark.parametrize(
  "model",
  [
    VAE(**SMALL),
    ConditionalVAE(subjects=5, **SMALL),
    ConditionalVAE(subjects=5, condition_at="input", **SMALL),
  ],
)
def test_the_baselines_minimise_the_loss_of_a_vae(inputs, model):
  """The encoder and the decoder of the conditional one also get the one-hot vectors of the subjects."""
  _, batch, keys, _ = inputs
  batch = {**batch, "subject": jnp.asarray([4, 0, 2])}
  condition = (jax.nn.one_hot(batch["subject"], 5),) if isinstance(model, ConditionalVAE) else ()
  variables = jax.device_put(drawn.variables(model.init, batch["image"], *condition))
  assert set(updates.trained(model)) == set(variables["params"])
  out = quick(functools.partial(updates.plain(model), context=Context(HPARAMS)))(variables, batch, keys)
  mean, log_variance = model.apply(variables, batch["image"], *condition, method="encode")
  z = mean + jnp.exp(log_variance / 2) * noise(keys, 0)
  check_elbo(
    out, (mean, log_variance), model.apply(variables, z, *condition, method="decode"), batch["image"]
  )


def check_elbo(out, posterior, decoded, images):
  kl = losses.kl(*posterior).mean()
  error = losses.squared_error(images, decoded).mean()
  terms, metrics = means(out.loss), means(out.metrics)
  want = {"kl_term": 3 * kl, "error_term": 0.07 * error}
  for found, values in (
    (terms, want),
    (metrics, {"kl": kl, "error": error, "loss": sum(want.values())}),
  ):
    assert set(found) == set(values)
    for name, value in values.items():
      np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
