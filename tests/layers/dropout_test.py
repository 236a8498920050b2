import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.layers.dropout import Dropout


def test_keeps_the_mean_and_gives_each_example_its_own_mask():
  keys = jax.random.split(jax.random.key(0), 4)
  y = Dropout(0.25, name="d").apply({}, jnp.ones((4, 10_000)), keys, train=True)
  np.testing.assert_allclose(np.unique(y), [0, 1 / 0.75], rtol=1e-6)
  np.testing.assert_allclose(y.mean(1), 1, atol=4 * np.sqrt(0.25 / 0.75 / 10_000))
  assert (y[0] != y[1]).any()


def test_an_examples_mask_does_not_depend_on_its_batch():
  keys = jax.random.split(jax.random.key(0), 4)
  together = Dropout(0.5).apply({}, jnp.ones((4, 50)), keys, train=True)
  alone = Dropout(0.5).apply({}, jnp.ones((1, 50)), keys[2:3], train=True)
  np.testing.assert_array_equal(together[2], alone[0])


def test_is_the_identity_outside_training():
  x = jnp.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(Dropout(0.5).apply({}, x, None, train=False), x)


def test_needs_keys_in_training():
  with pytest.raises(ValueError, match="needs keys"):
    Dropout(0.5).apply({}, jnp.ones((2, 3)), None, train=True)
