import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.models import create_model
from jaxfer.models.two_stream_conv_rnn import _pool

ENHANCED = {"temporal_gate": True, "temporal_skip": True, "spatial_skip": True}
# Specs 2.4: totals, and the layers of the RGB stream; the flow stream differs in its first layer.
COUNTS = {
  ("conv_gru", False): (1_858_839, (8_256, 41_568, 166_080, 663_936), 7_824),
  ("conv_gru", True): (2_598_359, (11_856, 59_072, 235_904, 942_848), 11_264),
  ("conv_lstm", False): (2_445_255, (11_008, 55_424, 221_440, 885_248), 10_432),
  ("conv_lstm", True): (3_184_775, (14_608, 72_928, 291_264, 1_164_160), 13_872),
}


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("cell", "enhanced"), COUNTS)
def test_parameter_counts_of_the_specification(cell, enhanced):
  model = create_model("two_stream_conv_rnn", cell=cell, **(ENHANCED if enhanced else {}))
  clip = [jnp.zeros((1, 2, 64, 64, channels)) for channels in (3, 2)]
  params = jax.eval_shape(model.init, jax.random.key(0), *clip)["params"]
  total, rgb, flow = COUNTS[cell, enhanced]
  assert count(params) == total
  assert tuple(count(params["rgb"][f"layer{k}"]) for k in (1, 2, 3, 4)) == rgb
  assert tuple(count(params["flow"][f"layer{k}"]) for k in (1, 2, 3, 4)) == (flow, *rgb[1:])
  assert [count(params[f"fc{k}"]) for k in (1, 2, 3)] == [65_792, 32_896, 903]


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_masked_clips_equal_shorter_clips(pool):
  model = create_model("two_stream_conv_rnn", features=(4, 4), dense=(8, 8), pool=pool)
  clip = [jax.random.normal(jax.random.key(k), (2, 4, 8, 8, channels)) for k, channels in enumerate((3, 2))]
  variables = jax.jit(model.init)(jax.random.key(0), *clip)
  mask = jnp.arange(4) < jnp.asarray([[4], [2]])
  masked = model.apply(variables, *clip, mask)
  np.testing.assert_allclose(masked[1], model.apply(variables, *(x[1:, :2] for x in clip))[0], atol=1e-5)
  np.testing.assert_allclose(masked[0], model.apply(variables, *clip)[0], atol=1e-5)


def test_pooling_takes_the_largest_of_four_and_drops_an_odd_edge():
  x = jnp.arange(15.0).reshape(3, 5, 1)
  np.testing.assert_array_equal(_pool(x)[:, :, 0], [[6, 8]])


def test_streams_that_do_not_fit_or_images_too_small_are_refused():
  model = create_model("two_stream_conv_rnn")
  with pytest.raises(UserError, match="differ in batch, time"):
    model.init(jax.random.key(0), jnp.zeros((1, 3, 64, 64, 3)), jnp.zeros((1, 2, 64, 64, 2)))
  with pytest.raises(UserError, match="too small to be pooled 3 times"):
    model.init(jax.random.key(0), jnp.zeros((1, 2, 4, 4, 3)), jnp.zeros((1, 2, 4, 4, 2)))
