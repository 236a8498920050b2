"""Compares optimizers with steps by hand: AdaBelief's golden numbers, Adam with coupled decay, rates by epoch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfer.train import optim


def constant(count):
  return jnp.ones_like(count, dtype=float)


def path(optimizer, start, gradients, rate=1e-3):
  """Returns the parameter before and after each step in float64, from one gradient (number or tree) per step."""
  with jax.enable_x64(True):
    parameters = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), start)
    state, hparams = optimizer.init(parameters), {"rate": jnp.float64(rate)}
    after = [parameters]
    for gradient in gradients:
      gradient = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), gradient)
      updates, state = optimizer.update(gradient, state, parameters, hparams=hparams)
      parameters = optax.apply_updates(parameters, updates)
      after.append(parameters)
    return jax.tree.map(np.asarray, after)


def test_adabelief_follows_the_golden_path():
  found = path(optim.adabelief("rate", constant), 1.0, (1.0, -2.0, 0.5))
  golden = [1.0, 0.998878888888889, 0.999259961077138, 0.999394687542686]
  np.testing.assert_allclose(found, golden, rtol=0, atol=1e-12)


def test_adabelief_by_the_steps_of_its_package():
  """adabelief-pytorch 0.2.0: decay comes first, the residual uses the new mean, and eps accumulates."""
  rng = np.random.default_rng(0)
  gradients = rng.normal(0, 1, 12) * np.logspace(-9, 0, 12)
  p, m, s = 0.7, 0.0, 0.0
  expected = [p]
  for t, g in enumerate(gradients, start=1):
    p *= 1 - 1e-3 * 1e-2
    m = 0.9 * m + 0.1 * g
    s = 0.999 * s + 0.001 * (g - m) ** 2 + 1e-16
    p -= 1e-3 / (1 - 0.9**t) * m / (np.sqrt(s) / np.sqrt(1 - 0.999**t) + 1e-16)
    expected.append(p)
  found = path(optim.adabelief("rate", constant), 0.7, gradients)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gradient", [3.0, -0.5])
def test_adabeliefs_first_step_is_ten_ninths_of_the_rate(gradient):
  before, after = path(optim.adabelief("rate", constant, weight_decay=0.0), 0.0, (gradient,))
  assert after - before == pytest.approx(-np.sign(gradient) * 1e-3 * 10 / 9, rel=1e-9)


def test_adabelief_stays_where_there_is_no_gradient_but_for_decay():
  assert path(optim.adabelief("rate", constant, weight_decay=0.0), 2.0, (0.0, 0.0))[-1] == 2.0
  _, after = path(optim.adabelief("rate", constant), 2.0, (0.0,))
  assert after == pytest.approx(2 * (1 - 1e-5), rel=1e-15)


@pytest.mark.parametrize("make", [optim.adabelief, lambda *a: optim.adam(*a, weight_decay=1e-4)])
def test_every_parameter_decays(make):
  """This includes biases, norms and alpha: nothing is masked."""
  start = {"conv": {"kernel": 1.0, "bias": 2.0}, "bn": {"scale": 3.0}, "arm": {"alpha": 4.0}}
  _, after = path(make("rate", constant), start, (jax.tree.map(lambda leaf: 0.0, start),))
  for leaf, first in zip(jax.tree.leaves(after), jax.tree.leaves(start), strict=True):
    assert leaf < first


def test_adams_decay_is_part_of_the_gradient():
  """In PyTorch's Adam, the decay is part of the moments, so the step size is the rate for any decay."""
  p, m, v = 0.8, 0.0, 0.0
  expected = [p]
  gradients = (0.3, -0.2, 0.0)
  for t, g in enumerate(gradients, start=1):
    g = g + 1e-4 * p
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    p -= 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    expected.append(p)
  found = path(optim.adam("rate", constant, weight_decay=1e-4), 0.8, gradients)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
  _, alone = path(optim.adam("rate", constant, weight_decay=1e-4), 0.8, (0.0,))
  assert alone == pytest.approx(0.8 - 1e-3, abs=1e-6)


def test_an_exponential_rate_changes_once_an_epoch():
  factor = optim.exponential(0.9, 3)
  found = [float(factor(jnp.asarray(step))) for step in range(9)]
  np.testing.assert_allclose(found, np.repeat(0.9 ** np.arange(3), 3), rtol=1e-6)
  assert float(optim.exponential(0.9, 48)(jnp.asarray(48 * 70))) * 1e-3 == pytest.approx(6.27e-7, rel=1e-3)


def test_rates_follow_the_epochs_within_an_optimizer():
  """Without decay, steps for a constant gradient are ten ninths of the rate in epoch one, then nine tenths of that."""
  found = path(optim.adam("rate", optim.exponential(0.9, 2)), 0.0, (1.0,) * 4)
  np.testing.assert_allclose(-np.diff(np.ravel(found)), [1e-3, 1e-3, 0.9e-3, 0.9e-3], rtol=1e-6)


def test_sgd_spares_norms_from_decay_and_keeps_pytorchs_momentum():
  """The steps by hand are v = 0.9 v + (g + decay p), p -= rate v."""
  start = {"trunk": {"conv": {"kernel": 2.0}, "bn": {"scale": 3.0, "bias": 1.0}, "prelu": {"slope": 0.25}}}
  start |= {"head": {"kernel": 4.0, "bias": 5.0}, "last": {"bias": 6.0}}
  zeros = jax.tree.map(lambda leaf: 0.0, start)
  optimizer = optim.sgd("rate", constant, weight_decay=0.5)
  *_, end = path(optimizer, start, [zeros, zeros], rate=0.1)

  def decayed(p):
    first = 0.5 * p
    p -= 0.1 * first
    return p - 0.1 * (0.9 * first + 0.5 * p)

  want = jax.tree.map(decayed, start)
  want["trunk"]["bn"], want["last"] = start["trunk"]["bn"], start["last"]
  chex.assert_trees_all_close(end, want, rtol=1e-6)


def test_adamw_gives_a_submodule_a_rate_of_its_own():
  start, ones = {"trunk": {"w": 1.0}, "head": {"w": 1.0}}, {"trunk": {"w": 1.0}, "head": {"w": 1.0}}
  optimizer = optim.adamw("rate", constant, {"head": "other"}, weight_decay=0.01)
  updates, _ = optimizer.update(
    jax.tree.map(jnp.asarray, ones), optimizer.init(start), start, hparams={"rate": 0.1, "other": 0.3}
  )
  # Adam's first step is 1.
  assert float(updates["trunk"]["w"]) == pytest.approx(-0.1 * 1.01, rel=1e-5)
  assert float(updates["head"]["w"]) == pytest.approx(-0.3 * 1.01, rel=1e-5)


def test_milestones_are_epochs():
  factor = optim.multi_step((2, 3), 5)
  assert [round(float(factor(step)), 6) for step in (0, 9, 10, 14, 15, 99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
