import functools

import jax
import jax.numpy as jnp
import nets_cases
import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.systems.identity_expression_vae.baselines import VAE, ConditionalVAE
from jaxfer.systems.identity_expression_vae.model import (
  Decoder,
  Discriminator,
  Encoder,
  IdentityExpressionVAE,
  sample,
)
from tests import drawn

# Numbers of parameters by network and image size, from Tables 1 and 2 of paper 003: the total, and kernel and bias
# together for each layer.
ENCODER = (896, 9_248, 18_496, 36_928, 73_856, 147_584, 295_168, 590_080)
DECODER = (528_384, 524_416, 147_584, 131_136, 36_928, 18_464, 9_248, 4_624, 2_320)
COUNTS = {
  (Encoder, 64): (1_205_152, (*ENCODER, 16_448, 16_448)),
  (Encoder, 128): (2_385_312, (*ENCODER, 590_080, 590_080, 16_448, 16_448)),
  (Discriminator, 64): (1_172_513, (*ENCODER, 257)),
  (Discriminator, 128): (2_352_673, (*ENCODER, 590_080, 590_080, 257)),
  (Decoder, 64): (1_403_539, (*DECODER, 435)),
  (Decoder, 128): (1_405_067, (*DECODER, 1_160, 584, 219)),
}
QUARTER = 0.25


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes_of(net, size):
  """Returns an input of the network and the shapes of its variables."""
  x = jnp.zeros((2, 128)) if isinstance(net, Decoder) else jnp.zeros((2, size, size, 3))
  return x, jax.eval_shape(net.init, jax.random.key(0), x)


@pytest.mark.parametrize(("kind", "size"), COUNTS)
def test_parameter_counts_of_the_tables(kind, size):
  net = Decoder(image_size=size) if kind is Decoder else kind()
  x, variables = shapes_of(net, size)
  total, layers = COUNTS[kind, size]
  assert count(variables) == total
  assert sorted(count(layer) for layer in variables["params"].values()) == sorted(layers)
  out = jax.eval_shape(net.apply, variables, x)
  want = {Encoder: ((2, 64), (2, 64)), Discriminator: (2,), Decoder: (2, size, size, 3)}[kind]
  assert jax.tree.map(jnp.shape, out) == want


@pytest.mark.parametrize(("size", "total"), [(64, 4_986_356), (128, 8_528_364)])
def test_the_whole_model_has_four_submodules_with_their_counts(size, total):
  _, variables = shapes_of(IdentityExpressionVAE(image_size=size), size)
  assert count(variables) == total
  parts = {"identity_encoder": Encoder, "expression_encoder": Encoder, "decoder": Decoder}
  parts["discriminator"] = Discriminator
  assert {name: count(part) for name, part in variables["params"].items()} == {
    name: COUNTS[kind, size][0] for name, kind in parts.items()
  }


def test_the_baselines_have_codes_of_64_and_the_conditional_vae_takes_people():
  """The condition widens both layers after the pool, and fc1."""
  _, variables = shapes_of(VAE(), 64)
  plain = 1_205_152 + 1_403_539 - 64 * 4096
  assert count(variables) == plain
  images = jnp.zeros((2, 64, 64, 3))
  net = ConditionalVAE(subjects=7)
  variables = jax.eval_shape(net.init, jax.random.key(0), images, jnp.zeros((2, 7)))
  assert count(variables) == plain + 7 * (2 * 64 + 4096)


def test_the_person_may_enter_the_encoder_beside_the_image():
  """The person is then three more channels of the image, which are zero for nobody."""
  net = ConditionalVAE(subjects=7, image_size=32, width=1 / 32, latent=4, condition_at="input")
  images = jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3), np.float32))
  people = jax.nn.one_hot(jnp.asarray([1, 5]), 7)
  variables = jax.device_put(drawn.variables(net.init, images, people))
  shapes = jax.tree.map(jnp.shape, variables["params"])
  assert shapes["planes"] == {"kernel": (7, 32 * 32 * 3)}
  assert shapes["encoder"]["conv1a"]["kernel"][2] == 6
  assert shapes["encoder"]["fc_mean"]["kernel"][0] == 4  # The features alone.
  encode = jax.jit(lambda *inputs: net.apply(variables, *inputs, method="encode")[0])
  told, exchanged, nobody = (encode(images, each) for each in (people, people[::-1], 0 * people))
  assert (jnp.abs(told - exchanged) > 0).any(-1).all()
  encoder = Encoder(latent=4, width=1 / 32)
  own = {"params": variables["params"]["encoder"]}
  np.testing.assert_allclose(
    nobody, encoder.apply(own, images, planes=jnp.zeros_like(images))[0], rtol=1e-5, atol=1e-6
  )
  planes = variables["params"]["planes"]["kernel"][jnp.asarray([1, 5])].reshape(images.shape)
  np.testing.assert_allclose(told, encoder.apply(own, images, planes=planes)[0], rtol=1e-4, atol=1e-5)


def test_images_of_32_pixels_have_one_stage_less_than_those_of_64():
  _, variables = shapes_of(IdentityExpressionVAE(image_size=32), 32)
  without = sum(ENCODER[-2:])
  less = (256 - 128) * 64 * 2  # The last layers have 128 input features.
  assert count(variables["params"]["identity_encoder"]) == 1_205_152 - without - less
  assert {name for name in variables["params"]["decoder"] if "4" in name} == set()


def test_only_layers_without_a_following_batch_norm_have_biases():
  _, variables = shapes_of(IdentityExpressionVAE(image_size=32, norm="batch"), 32)
  biased = {
    part: {name for name, layer in layers.items() if "bias" in layer and "scale" not in layer}
    for part, layers in variables["params"].items()
  }
  last = {"fc_mean", "fc_log_variance"}
  assert biased == {
    "identity_encoder": last,
    "expression_encoder": last,
    "decoder": {"fc1", "conv6"},
    "discriminator": {"fc", *(f"conv{k}{part}" for k in (1, 2, 3) for part in "ab")},
  }


def test_uniform_kernels_and_a_quarter_of_the_widths():
  _, variables = shapes_of(Decoder(image_size=128, uniform_4x4=True), 128)
  assert [count(variables["params"][f"deconv{k}a"]) for k in (3, 4, 5)] == [32_800, 8_208, 2_056]
  _, variables = shapes_of(Encoder(width=QUARTER), 64)
  assert variables["params"]["conv1a"]["kernel"].shape == (3, 3, 3, 8)
  assert variables["params"]["fc_mean"]["kernel"].shape == (64, 64)


@pytest.fixture(scope="module")
def decoder():
  """The compiled `apply` of a decoder with a quarter of the widths, and random variables as large as He initialises."""
  net = Decoder(width=QUARTER)
  rng = np.random.default_rng(0)
  _, shapes = shapes_of(net, 64)

  def draw(leaf):
    scale = (2 / np.prod(leaf.shape[:-1])) ** 0.5 if len(leaf.shape) > 1 else 0.1
    return jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32)

  return jax.jit(net.apply), jax.tree.map(draw, shapes)


def test_the_decoder_reshapes_to_channels_height_width(decoder):
  """If all weights are equal, output 16 c + 4 h + w of fc1 brightens the image around cell (h, w) of 4 x 4."""
  apply, variables = decoder
  equal = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.02), variables)
  z = jnp.zeros((1, 128))
  before = apply(equal, z)[0]
  fc1, height, width = equal["params"]["fc1"], 2, 1
  fc1["bias"] = fc1["bias"].at[7 * 16 + height * 4 + width].add(1.0)
  difference = np.asarray(apply(equal, z)[0] - before).sum(-1)
  total = difference.sum()
  centre = [(difference.sum(axis) * np.arange(64)).sum() / total // 16 for axis in (1, 0)]
  assert centre == [height, width]


def test_images_are_in_0_to_1_and_bfloat16_gives_nearly_the_same(decoder):
  apply, variables = decoder
  z = jnp.asarray(np.random.default_rng(1).standard_normal((1, 128)), jnp.float32)
  image = apply(variables, z)
  low = jax.jit(Decoder(width=QUARTER, dtype=jnp.bfloat16).apply)(variables, z)
  assert 0 < image.min() < image.max() < 1
  assert low.dtype == jnp.float32
  assert 0 < np.abs(low - image).max() < 0.02


def test_impossible_sizes_widths_norms_and_conditions_are_refused():
  key = jax.random.key(0)
  with pytest.raises(UserError, match="images of 96 pixels: the networks of paper 003 take 32, 64 or 128"):
    Encoder().init(key, jnp.zeros((1, 96, 96, 3)))
  with pytest.raises(UserError, match="images of 48 pixels"):
    Decoder(image_size=48).init(key, jnp.zeros((1, 128)))
  with pytest.raises(UserError, match=r"images \(1, 64, 64, 1\): encoders and discriminator take"):
    Discriminator().init(key, jnp.zeros((1, 64, 64, 1)))
  with pytest.raises(UserError, match=r"width 0\.3: 32 channels times the width must be a whole number"):
    Encoder(width=0.3).init(key, jnp.zeros((1, 64, 64, 3)))
  with pytest.raises(UserError, match="norm 'layer': the networks of paper 003 take 'none' or 'batch'"):
    Encoder(norm="layer").init(key, jnp.zeros((1, 64, 64, 3)))
  images = jnp.zeros((1, 64, 64, 3))
  with pytest.raises(UserError, match=r"images \(1, 64, 64, 3\): the model takes \[batch, 128, 128, 3\]"):
    IdentityExpressionVAE(image_size=128).init(key, images)
  with pytest.raises(UserError, match=r"condition \(1, 3\): a plain VAE takes none"):
    VAE().init(key, images, jnp.zeros((1, 3)))
  for condition, named in ((None, "none"), (jnp.zeros((1, 3)), r"\(1, 3\)")):
    with pytest.raises(
      UserError, match=rf"condition {named}: give the subjects' one-hot vectors \[batch, 4\]"
    ):
      ConditionalVAE(subjects=4).init(key, images, condition)


@pytest.mark.golden
@pytest.mark.parametrize("label", ["encoder", "decoder"])
def test_values_and_gradients_equal_pytorch(label):
  y, gradients, _ = nets_cases.run(label)
  nets_cases.compare(label, y, gradients)


def test_samples_have_the_mean_and_deviation_of_the_posterior_and_differ():
  mean, log_variance = jnp.array([[1.0, -2.0]]), jnp.log(jnp.array([[4.0, 0.25]]))
  keys = jax.random.split(jax.random.key(0), 20_000)
  many = [jnp.broadcast_to(x, (20_000, 2)) for x in (mean, log_variance)]
  z = np.asarray(jax.jit(sample)(many, keys))
  np.testing.assert_allclose(z.mean(0), [1, -2], atol=0.05)
  np.testing.assert_allclose(z.std(0), [2, 0.5], rtol=0.03)
  assert len(set(z[:, 0].tolist())) > 19_000


def test_batch_norm_updates_its_statistics_only_in_training_and_reduces_over_the_mapped_axis():
  """`losses_test` compares values and gradients in training with PyTorch."""
  net = Encoder(width=1 / 32, norm="batch", latent=2)
  rng = np.random.default_rng(2)
  x, shapes = shapes_of(net, 32)
  variables = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.1, 1, leaf.shape), jnp.float32), shapes)
  x = jnp.asarray(rng.uniform(0, 1, (4, 32, 32, 3)), jnp.float32)

  @functools.partial(jax.jit, static_argnames="axis_name")
  def train(x, axis_name=None):
    run = functools.partial(net.apply, variables, train=True, mutable=["batch_stats"], axis_name=axis_name)
    return jax.vmap(run, axis_name=axis_name, out_axes=(0, None))(x) if axis_name else run(x)

  (mean, _), new = train(x)
  (split, _), together = train(x.reshape(2, 2, 32, 32, 3), axis_name="devices")
  np.testing.assert_allclose(split.reshape(4, 2), mean, rtol=1e-3, atol=1e-4)
  for got, want in zip(jax.tree.leaves(together), jax.tree.leaves(new), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
  inference, kept = jax.jit(functools.partial(net.apply, mutable=["batch_stats"]))(variables, x)
  assert np.abs(inference[0] - mean).max() > 0.1
  jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], variables["batch_stats"])
