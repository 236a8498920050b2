import functools

import jax
import jax.numpy as jnp
import nets_cases
import numpy as np
import pytest
import tolerances
import vae_cases

from jaxfer.systems.identity_expression_vae import losses


def test_divergences_by_hand_and_by_sampling():
  """By hand, each dimension has 0.5 for mean 1, and 0.931853 for mean 0.5 and variance 4."""
  mean = jnp.array([[1.0] * 3, [0.5] * 3, [0.0] * 3])
  log_variance = jnp.log(jnp.array([[1.0] * 3, [4.0] * 3, [1.0] * 3]))
  np.testing.assert_allclose(losses.kl(mean, log_variance), [1.5, 3 * 0.931853, 0], rtol=1e-6)
  rng = np.random.default_rng(0)
  noise = rng.standard_normal(400_000)
  z = 0.5 + 2 * noise
  sampled = (-np.log(2) - noise**2 / 2 + z**2 / 2).mean()
  np.testing.assert_allclose(losses.kl(mean[1, :1], log_variance[1, :1]), sampled, rtol=0.01)


def test_the_divergence_near_the_prior_is_precise():
  small = jnp.array([[1e-3]])
  np.testing.assert_allclose(losses.kl(jnp.zeros((1, 1)), small), [2.5e-7 * (1 + 1e-3 / 3)], rtol=1e-3)


def test_errors_are_summed_over_an_image():
  images = jnp.zeros((2, 4, 5, 3))
  np.testing.assert_allclose(losses.squared_error(images, images.at[1].set(0.5)), [0, 0.25 * 60])


def test_values_of_an_undecided_discriminator():
  """By hand: 3 ln 2, 2 ln 2 and -2 ln 2."""
  undecided = jnp.zeros(2)
  total = {
    "discriminator": sum(losses.discriminator_terms(undecided, undecided, undecided).values()),
    "generator": sum(losses.generator_terms(undecided, undecided).values()),
    "saturating": sum(losses.generator_terms(undecided, undecided, saturating=True).values()),
  }
  for name, want in (("discriminator", 2.079442), ("generator", 1.386294), ("saturating", -1.386294)):
    np.testing.assert_allclose(total[name], [want] * 2, rtol=1e-6, err_msg=name)


def test_only_the_saturating_generator_loses_its_gradient_and_huge_logits_stay_finite():
  def gradient(saturating):
    return jax.grad(lambda x: sum(losses.generator_terms(x, x, saturating=saturating).values()))(-20.0)

  assert gradient(False) == pytest.approx(-2)
  assert -1e-7 < gradient(True) < 0
  for terms in (
    losses.discriminator_terms(jnp.array(-1e4), jnp.array(1e4), jnp.array(1e4)),
    losses.generator_terms(jnp.array(-1e4), jnp.array(-1e4)),
    losses.generator_terms(jnp.array(1e4), jnp.array(1e4), saturating=True),
  ):
    assert all(abs(x) == 1e4 for x in terms.values())


def test_the_switch_loss_is_zero_for_equal_codes_and_its_target_may_be_fixed():
  z_i, z_e = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, -1.0]])
  assert losses.switch(z_i, z_i, z_e, z_e) == 0
  np.testing.assert_allclose(losses.switch(z_i, z_i + 1, z_e, z_e - 2), [1 + 4])

  def gradient(stop):
    return jax.grad(lambda z: losses.switch(z_i, z_i, z, z_e - 2, stop_gradient=stop).sum())(z_e)

  np.testing.assert_array_equal(gradient(True), [[0, 0]])
  np.testing.assert_allclose(gradient(False), [[2, 2]])


@pytest.mark.golden
def test_losses_and_gradients_of_the_whole_model_equal_pytorch():
  """In float64 but for the losses, which are float32. The discriminator has LeakyReLU, all other nets BatchNorm."""
  with np.load(vae_cases.PATH) as file:
    want = dict(file)
  inputs = vae_cases.drawn()

  # The program runs once, so it should compile quickly.
  @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
  def program(params, statistics, images, noise):
    def total(params):
      found = vae_cases.losses({"params": params, "batch_stats": statistics}, images, noise)
      return sum(loss.sum() for loss in found.values()), found

    return jax.grad(total, has_aux=True)(params)

  gradients, found = nets_cases.precise(program)(
    inputs["variables"]["params"], inputs["variables"]["batch_stats"], inputs["images"], inputs["noise"]
  )
  tolerance = tolerances.here("highest").net
  for name, loss in found.items():
    nets_cases.close(loss, want[f"loss/{name}"], name, tolerance)
  slopes = dict(zip(want["names"], want["slopes"], strict=True))
  directions = jax.tree.leaves(inputs["directions"])
  for (path, gradient), direction in zip(jax.tree.leaves_with_path(gradients), directions, strict=True):
    name = nets_cases.name(path)
    nets_cases.close_slope(direction, gradient, slopes.pop(name), name, tolerance)
  assert not slopes
