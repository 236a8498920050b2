"""Tests that a trunk with rescaled kernels computes the same."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from benchmarks import rescaled_trunk
from jaxfer.systems.elderly_transfer.model import FaceClassifier


@pytest.mark.parametrize("net", ["resnet18", "face_resnet18"])
def test_the_net_is_the_same(net):
  model = FaceClassifier(9, net=net, width=0.125, image_size=32)
  images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
  variables = jax.jit(model.init)(jax.random.key(1), images)
  flat = traverse_util.flatten_dict(variables, sep="/")
  for k, path in enumerate(sorted(flat)):
    leaf = flat[path]
    if path.endswith("kernel") and leaf.ndim == 4:
      flat[path] = (2 + k % 3) * leaf
    elif "batch_stats" in path:
      flat[path] = leaf + jax.random.uniform(jax.random.key(k), leaf.shape)
  grown = traverse_util.unflatten_dict(flat, sep="/")
  changed, factors = rescaled_trunk.rescaled(grown)
  assert all(1.5 < factor < 5 for factor in factors.values())
  assert len(factors) == sum(leaf.ndim == 4 for leaf in flat.values())
  run = jax.jit(model.apply)
  # The epsilon of a norm is a larger share of a smaller variance.
  before, after = run(grown, images), run(changed, images)
  np.testing.assert_allclose(after, before, rtol=0, atol=0.01 * np.abs(before).max())
