"""Tests that Face-ResNets equal PyTorch's stage by stage, and have the published sizes."""

import face_cases
import flax.linen as nn
import jax
import jax.numpy as jnp
import nets_cases
import numpy as np
import pytest
import tolerances

from jaxfer.errors import UserError
from jaxfer.layers.face_resnet import FaceResNet, PReLU, unit


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(net, size=112, **arguments):
  x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  return jax.eval_shape(lambda x: net.init(jax.random.key(0), x, **{"train": False, **arguments}), x)


# Parameters of the stem, each stage, the output, and in total. IResNet's totals include the last norm's scale, always
# 1.
SIZES = {
  ("adaface", 18): (1_920, 148_352, 526_208, 2_100_992, 8_396_288, 12_846_592, 24_020_352),
  ("adaface", 50): (1_920, 222_528, 1_117_824, 16_278_272, 13_118_464, 12_846_592, 43_585_600),
  ("insightface", 18): (1_920, 152_576, 526_208, 2_100_992, 8_396_288, 12_847_104, 24_025_600 - 512),
  ("insightface", 50): (1_920, 226_752, 1_117_824, 16_278_272, 13_118_464, 12_847_104, 43_590_848 - 512),
}


@pytest.mark.parametrize(("family", "depth"), SIZES)
def test_published_sizes(family, depth):
  params = shapes(FaceResNet(depth, family))["params"]
  stem, *stages, output = (
    sum(count(params.get(name, {})) for name in names)
    for names in (
      ("conv1", "bn1", "prelu"), ("layer1",), ("layer2",), ("layer3",), ("layer4",), ("bn2", "fc", "features"),
    )
  )  # fmt: skip
  assert (stem, *stages, output, count(params)) == SIZES[family, depth]
  assert params["fc"]["kernel"].shape == (25_088, 512)


def run(label, axis_name=None):
  """Returns output, gradients and new variables of a training case in float64; with an axis, on two devices."""
  case, own = face_cases.CASES[label], face_cases.drawn(label)

  def scalar(params, x, statistics):
    def share(x):
      collections = {"params": params, "batch_stats": statistics}
      return case.net.apply(collections, x, train=True, axis_name=axis_name, mutable=["batch_stats"])

    if axis_name is None:
      y, new = share(x)
    else:
      y, new = jax.vmap(share, axis_name=axis_name)(x.reshape(2, -1, *x.shape[1:]))
      y, new = y.reshape(-1, y.shape[-1]), jax.tree.map(lambda leaf: leaf[1], new)
    return (y * own["cotangent"]).sum(), (y, new)

  gradient = jax.jit(
    jax.value_and_grad(scalar, (0, 1), has_aux=True),
    compiler_options={"xla_backend_optimization_level": 0},
  )
  variables = own["variables"]
  (_, (y, new)), (d_params, d_x) = nets_cases.precise(gradient)(
    variables["params"], own["x"], variables["batch_stats"]
  )
  return y, nets_cases.gradients_of(d_params, d_x), new


@pytest.mark.golden
@pytest.mark.parametrize("label", [label for label, case in face_cases.CASES.items() if not case.train])
def test_every_stage_equals_pytorch(label):
  case, own, want = face_cases.CASES[label], face_cases.drawn(label), face_cases.golden()

  def caught(module, method):
    return method == "__call__" and len(module.path) == 1 and module.name in face_cases.TAPS

  def apply(variables, x):
    return case.net.apply(variables, x, train=False, capture_intermediates=caught, mutable=["intermediates"])

  apply = jax.jit(apply, compiler_options={"xla_backend_optimization_level": 0})
  y, found = apply(own["variables"], own["x"])
  assert y.dtype == jnp.float32
  for name in face_cases.TAPS:
    tap = found["intermediates"][name]["__call__"][0]
    nets_cases.close(face_cases.thinned(np.asarray(tap)), want[f"{label}/taps/{name}"])
  nets_cases.close(y, want[f"{label}/output"])


@pytest.mark.golden
@pytest.mark.parametrize(("label", "axis"), [("adaface18_train", "data"), ("insightface18_train", None)])
def test_a_training_pass_equals_pytorch(label, axis):
  want, own = face_cases.golden(), face_cases.drawn(label)
  y, gradients, new = run(label, axis)
  nets_cases.close(y, want[f"{label}/output"])
  slopes = dict(zip(want[f"{label}/names"], want[f"{label}/slopes"], strict=True))
  assert set(gradients) == set(slopes)
  for name, slope in slopes.items():
    if abs(slope) < 1e-9:  # A shift that norms cancel on every path.
      assert name.endswith("bias")
      assert np.abs(gradients[name]).max() < tolerances.of(gradients[name]).net
    else:
      nets_cases.close_slope(own["directions"][name], gradients[name], slope, name)
  got = {nets_cases.name(path): leaf for path, leaf in jax.tree.leaves_with_path(new["batch_stats"])}
  prefix = f"{label}/statistics/"
  assert set(got) == {name.removeprefix(prefix) for name in want if name.startswith(prefix)}
  for name, value in got.items():
    nets_cases.close(value, want[prefix + name])


def without_stages(features, function):
  """Compiles a function without arguments, with `features` in place of the outputs of the four stages."""

  def cut(call, args, kwargs, context):
    module = context.module
    if len(module.path) == 1 and module.name.startswith("layer") and context.method_name == "__call__":
      return features
    return call(*args, **kwargs)

  with nn.intercept_methods(cut):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})()


def ones_of(net, size):
  """Returns variables of the identity: scales and variances are 1, the rest is 0."""

  def value(path, leaf):
    return np.full(leaf.shape, path[-1].key in ("scale", "var"), leaf.dtype)

  return jax.tree_util.tree_map_with_path(value, shapes(net, size))


def test_flattening_is_by_channel_row_column():
  """A pixel of a channel is multiplied with row c 49 + h 7 + w of the dense kernel."""
  net = FaceResNet(18, width=1 / 64)
  channel, row, column = 5, 2, 6
  variables = ones_of(net, 112)
  variables["params"]["fc"]["kernel"][channel * 49 + row * 7 + column] = 1
  one = jnp.zeros((2, 7, 7, 8)).at[:, row, column, channel].set(1)
  y = without_stages(one, lambda: net.apply(variables, jnp.zeros((2, 112, 112, 3)), train=False))
  np.testing.assert_allclose(y, np.ones((2, 8)), rtol=1e-4)


def test_dropout_is_by_example_and_needs_keys():
  net, x, keys = (
    FaceResNet(18, width=1 / 64, image_size=32),
    jnp.ones((4, 32, 32, 3)),
    jax.random.split(jax.random.key(1), 4),
  )
  variables = ones_of(net, 32)
  variables["params"]["bn2"]["bias"] += 1  # Otherwise the norm would reduce equal pictures to zero.

  def dropped():
    def feature(keys):
      _, found = net.apply(
        variables,
        x,
        train=True,
        keys=keys,
        mutable=True,
        capture_intermediates=lambda m, _: m.name == "dropout",
      )
      return found["intermediates"]["dropout"]["__call__"][0]

    return feature(keys), feature(keys[::-1])

  features = jnp.ones((4, 2, 2, 8))
  y, reverse = without_stages(features, dropped)
  np.testing.assert_allclose(np.unique(y), [0, 1 / 0.6], rtol=1e-4)
  assert (y[0] != y[1]).any()
  np.testing.assert_array_equal(reverse[::-1], y)
  with pytest.raises(ValueError, match="needs keys"):
    without_stages(features, lambda: net.apply(variables, x, train=True, mutable=True))
  assert shapes(FaceResNet(18, "insightface", 1 / 64), train=True)["params"]


@pytest.mark.parametrize("family", ["adaface", "insightface"])
def test_initial_weights(family):
  net = FaceResNet(18, family, width=0.125, image_size=32)

  @jax.jit
  def chosen():
    params = net.init(jax.random.key(0), jnp.zeros((2, 32, 32, 3)), train=False)["params"]
    block = params["layer4"]["block1"]
    return block["conv1"]["kernel"], params["fc"], block["prelu"]["slope"]

  kernel, fc, slope = chosen()
  adaface = family == "adaface"
  np.testing.assert_allclose(kernel.std(), (2 / (9 * 64)) ** 0.5 if adaface else 0.1, rtol=0.02)
  np.testing.assert_allclose(fc["kernel"].std(), (2 / 64) ** 0.5 if adaface else (3 * 256) ** -0.5, rtol=0.03)
  assert fc["bias"].any() != adaface
  np.testing.assert_array_equal(slope, np.full(64, 0.25))


def test_prelu():
  x = jnp.array([[2.0, -2.0, 0.0, -4.0]])
  y = PReLU().apply({"params": {"slope": jnp.array([0.5, 0.5, 0.5, -1.0])}}, x)
  np.testing.assert_array_equal(y, [[2, -1, 0, 4]])


def test_direction_and_length():
  features = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-13, 0.0], [jnp.nan, 1.0]])
  directions, lengths = jax.jit(unit)(features)
  assert np.isnan(directions[3]).all()
  assert np.isnan(lengths[3])
  features, directions, lengths = features[:3], directions[:3], lengths[:3]
  np.testing.assert_allclose(directions, [[0.6, 0.8], [0, 0], [0, 0]], rtol=1e-6)
  np.testing.assert_allclose(lengths, [5, 0, 0], rtol=1e-6)
  gradient = jax.jit(jax.grad(lambda f: sum(part.sum() for part in unit(f))))(features)
  np.testing.assert_allclose(gradient[1:], 0)
  assert np.isfinite(gradient).all()


def test_shapes_that_do_not_match():
  for net, size, match in (
    (FaceResNet(34), 112, "depth 34: choose 18 or 50"),
    (FaceResNet(18, "arcface"), 112, "unknown family of Face-ResNet 'arcface': did you mean 'adaface'"),
    (FaceResNet(18, width=0.3), 112, r"width 0\.3: 64 \* width"),
    (FaceResNet(18), 224, "images of 224 x 224 x 3: this model reads 112 x 112 x 3"),
  ):
    with pytest.raises(UserError, match=match):
      shapes(net, size)
  with pytest.raises(UserError, match="a training batch of 1"):
    FaceResNet(image_size=16).init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=True)
