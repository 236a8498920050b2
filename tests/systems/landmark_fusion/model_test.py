import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import landmark_fusion_cases as cases
import nets_cases
import numpy as np
import optax
import pytest

from jaxfer.errors import UserError
from jaxfer.layers.conv import Conv
from jaxfer.layers.resnet import ResNetTrunk
from jaxfer.systems.landmark_fusion.model import ArmNet, LandmarkFusion, LandmarkNet

SMALL = {"width": 0.125, "block": 4, "kernel_sizes": (5, 3, 3, 3, 1, 2)}


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def images(size, batch=2):
  return jnp.zeros((batch, size, size, 3)), jnp.zeros((batch, size, size, 1)), jnp.float32(0.6)


def shapes(net, size=224, **options):
  x = images(size)
  variables = jax.eval_shape(lambda: net.init(jax.random.key(0), *x))
  return variables, jax.eval_shape(lambda v: net.apply(v, *x, **options), variables)


def test_parameters_and_sizes_of_the_paper():
  variables, outputs = shapes(LandmarkFusion(7))
  rgb, landmark, head = (variables["params"][name] for name in ("rgb", "landmark", "head"))
  assert count(rgb) == 11_178_395
  assert count(landmark) + count(head) == 5_766_912
  assert (count(rgb["arm"]), count(rgb["fc"]), count(head)) == (1_029, 854, 1_701)
  counts = [count(landmark[f"conv{k}"]) for k in range(1, 7)]
  assert counts == [832, 18_496, 73_856, 295_168, 1_180_160, 4_194_816]
  assert count(landmark) == sum(counts) + 1_029 + 854 == 5_765_211
  assert [leaf.shape for leaf in outputs] == [(2, 7), (2, 7), (2, 7), (2, 121), (2, 121)]
  assert {leaf.dtype for leaf in outputs} == {jnp.dtype("float32")}


def test_every_printed_size():
  seen = []

  def note(call, args, kwargs, context):
    y = call(*args, **kwargs)
    if isinstance(context.module, Conv | ResNetTrunk) and context.method_name == "__call__":
      seen.append(("/".join(context.module.path), y.shape[1:]))
    return y

  with nn.intercept_methods(note):
    shapes(LandmarkFusion(7))
  sizes = dict(seen)
  assert sizes["rgb/trunk"] == (7, 7, 512)
  assert sizes["rgb/trunk/conv1"] == (112, 112, 64)
  for k, (side, channels) in enumerate(((56, 64), (28, 128), (14, 256), (7, 512)), start=1):
    assert sizes[f"rgb/trunk/layer{k}/block1/conv2"] == (side, side, channels)
  for net in ("rgb", "landmark"):
    assert sizes[f"{net}/arm/de_albino"] == (11, 11, 1)
  table = ((220, 32), (108, 64), (52, 128), (24, 256), (10, 512), (7, 512))
  for k, (side, channels) in enumerate(table, start=1):
    assert sizes[f"landmark/conv{k}"] == (side, side, channels)


def test_the_small_size_and_modes():
  variables, outputs = shapes(LandmarkFusion(7, **SMALL), 112, modes=("batch", "ema", "frozen"))
  assert [leaf.shape for leaf in outputs] == [(3, 2, 7)] * 3 + [(3, 2, 25)] * 2
  assert variables["affinity"]["landmark"]["arm"]["ema"].shape == (5, 5)
  assert variables["params"]["head"]["kernel"].shape == (50, 7)


def test_bad_sizes_are_refused():
  net = LandmarkFusion(7, **{**SMALL, "kernel_sizes": (5, 3, 3, 3, 1, 1)})
  with pytest.raises(UserError, match="the RGB net ends in 4 x 4 and the landmark net in 5 x 5"):
    shapes(net, 112)
  with pytest.raises(
    UserError, match=r"heatmaps of 64 px are too small for kernel_sizes \(5, 3, 3, 3, 3, 4\)"
  ):
    shapes(LandmarkFusion(7), 64)
  with pytest.raises(UserError, match=r"kernel_sizes \(5, 3\): the landmark net has 6 convolutions"):
    shapes(LandmarkFusion(7, kernel_sizes=(5, 3)))
  with pytest.raises(UserError, match=r"width 0\.03: 32 \* width channels"):
    jax.eval_shape(lambda x: LandmarkNet(7, 0.03).init(jax.random.key(0), x, train=False), images(224)[1])
  with pytest.raises(UserError, match="unknown submodule to train 'landmarks': did you mean 'landmark'"):
    shapes(LandmarkFusion(7), train=("landmarks",))


# Weighting with two features; the head returns those of the landmark net.


def fused(rgb, landmark, weight=0.6, **options):
  """Returns the mean weight with which the head reads four landmark features of value 1."""
  net = LandmarkFusion(2, **options)
  kernel = jnp.concatenate([jnp.zeros((4, 2)), jnp.full((4, 2), 0.25)])
  variables = {"params": {"head": {"kernel": kernel, "bias": jnp.zeros(2)}}}
  rgb, landmark = jnp.asarray([rgb], jnp.float32), jnp.asarray([landmark], jnp.float32)
  features = jnp.ones((1, 4))
  return net.apply(variables, rgb, features, landmark, features, weight, method="fuse")[0, 0]


def test_confidence_and_agreement_weigh_the_landmark_features():
  even = (0.0, 0.0)  # p = 0.5; with equal logits, the first one counts as the largest.
  np.testing.assert_allclose(fused((0.0, 1.0), even), 0.3, rtol=1e-6)
  np.testing.assert_allclose(fused((1.0, 0.0), even), 0.5, rtol=1e-6)
  np.testing.assert_allclose(fused((0.0, 1.0), even, weight=0.0), 0.0)
  np.testing.assert_allclose(fused((0.0, 1.0), even, confidence=False), 0.6, rtol=1e-6)
  np.testing.assert_allclose(fused((0.0, 1.0), even, agreement=False), 0.5, rtol=1e-6)
  np.testing.assert_allclose(fused((0.0, 1.0), even, agreement=False, confidence=False), 1.0)
  sure = (0.0, 3.0)
  np.testing.assert_allclose(fused((0.0, 1.0), sure), 1 / (1 + np.exp(-3.0)), rtol=1e-6)


def test_a_sweep_of_weights_is_one_program():
  sweep = jax.vmap(lambda weight: fused((0.0, 1.0), (0.0, 0.0), weight))(jnp.linspace(0, 1, 11))
  np.testing.assert_allclose(sweep, np.linspace(0, 0.5, 11), atol=1e-6)


def test_p_is_at_least_one_in_seven():
  logits = jax.random.normal(jax.random.key(0), (64, 7)) * jnp.logspace(-3, 1, 64)[:, None]
  net, features = LandmarkFusion(7, agreement=False), jnp.ones((64, 4))
  kernel = jnp.concatenate([jnp.zeros((4, 7)), jnp.full((4, 7), 0.25)])
  variables = {"params": {"head": {"kernel": kernel, "bias": jnp.zeros(7)}}}
  p = net.apply(variables, logits, features, logits, features, 0.6, method="fuse")[:, 0]
  assert (p >= 1 / 7).all()
  assert (p <= 1).all()


def test_gradients_flow_through_p_unless_stopped_and_never_through_w():
  def slope(**options):
    return jax.grad(lambda logit: fused((1.0, 0.0), (logit, 0.0), **options))(0.5)

  p = 1 / (1 + np.exp(-0.5))
  np.testing.assert_allclose(slope(), p * (1 - p), rtol=1e-5)
  assert slope(stop_gradient_p=True) == 0
  assert slope(confidence=False) == 0
  assert jax.grad(lambda logit: fused((logit, 0.0), (0.5, 0.0)))(0.5) == 0


# Parity with PyTorch, see tests/golden/README.md.


def close(key, got):
  nets_cases.close(got, cases.golden()[key])


def compare_statistics(label, got, old, values):
  """PyTorch's variance contains n / (n - 1) times the variance of a batch, with n values per channel in each norm."""
  names = {nets_cases.name(path): leaf for path, leaf in jax.tree.leaves_with_path(got)}
  before = {nets_cases.name(path): leaf for path, leaf in jax.tree.leaves_with_path(old)}
  for name, leaf in names.items():
    norm, _, kind = name.rpartition("/")
    want = cases.golden()[f"{label}/statistics/{name}"]
    if kind == "var":
      kept = np.float32(0.9**cases.STEPS) * before[name]
      want = kept + (want - kept) * (values[norm] - 1) / values[norm]
    nets_cases.close(leaf, want)


def norms(call):
  """Returns the number of values per channel that each norm reads: path -> n."""
  found = {}

  def note(call, args, kwargs, context):
    if isinstance(context.module, nn.BatchNorm):
      found["/".join(context.module.path)] = args[0][..., 0].size
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    jax.eval_shape(call)
  return found


MOVED = ("landmark", "head")


def gradient_of(variables, images, heatmaps, labels):
  """Returns (gradient of both nets' losses for the trained parts, (outputs, new collections))."""
  net = cases.NETS["fusion"]

  def names(module, method):
    return method == "__call__" and module.name in ("trunk", "de_albino", "conv6")

  def loss(moved):
    params = {**variables["params"], **moved}
    outputs, new = net.apply(
      {**variables, "params": params}, images, heatmaps, cases.WEIGHT, train=MOVED,
      capture_intermediates=names, mutable=["batch_stats", "affinity", "intermediates"],
    )  # fmt: skip
    losses = [
      optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
      for logits in (outputs.landmark, outputs.fused)
    ]
    return sum(losses), (outputs, new)

  return jax.grad(loss, has_aux=True)({name: variables["params"][name] for name in MOVED})


@functools.cache
def trained():
  """Runs the three steps of the golden at the paper's size: (results of the first step, variables before, after)."""
  variables = cases.variables("fusion")

  @jax.jit
  def step(variables, *batch):
    gradient, (outputs, new) = gradient_of(variables, *batch)
    moved = {name: variables["params"][name] for name in MOVED}
    moved = jax.tree.map(lambda p, g: p - cases.RATE * g, moved, gradient)
    seen = new.pop("intermediates")
    return {**variables, **new, "params": {**variables["params"], **moved}}, (outputs, seen)

  first, after = None, variables
  for batch in cases.batches("fusion"):
    after, results = step(after, *batch)
    first = first or results
  return first, variables, after


@pytest.mark.golden
def test_features_and_logits_equal_pytorch():
  (outputs, seen), _, _ = trained()
  close("fusion/rgb/maps", seen["rgb"]["trunk"]["__call__"][0][..., :: cases.KEPT])
  close("fusion/landmark/maps", nn.relu(seen["landmark"]["conv6"]["__call__"][0])[..., :: cases.KEPT])
  for net in ("rgb", "landmark"):
    planes = seen[net]["arm"]["de_albino"]["__call__"][0].reshape(-1, 2, 11, 11).transpose(0, 2, 3, 1)
    close(f"fusion/{net}/de_albino", planes)
  for name, leaf in outputs._asdict().items():
    close(f"fusion/{name}", leaf)


@pytest.mark.golden
def test_gradients_equal_pytorch():
  # Convolutions of float64 are plain loops, which take about twice as long without LLVM's optimizations.
  options = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
  program = jax.jit(lambda *args: gradient_of(*args)[0], compiler_options=options)
  gradient = nets_cases.precise(program)(cases.variables("fusion"), *cases.batches("fusion")[0])
  want = cases.golden()
  slopes = dict(zip(want["fusion/names"], want["fusion/slopes"], strict=True))
  got = {nets_cases.name(path): leaf for path, leaf in jax.tree.leaves_with_path(gradient)}
  assert set(got) == set(slopes)
  for name, slope in slopes.items():
    nets_cases.close_slope(cases.directions()[name], got[name], slope, name)


@pytest.mark.golden
def test_statistics_after_three_steps_equal_pytorch_and_the_rgb_net_stands_still():
  _, before, after = trained()
  statistics = ({"landmark": variables["batch_stats"]["landmark"]} for variables in (after, before))
  compare_statistics("fusion", *statistics, {"landmark/arm/bn": 3 * 121})
  close("fusion/ema", after["affinity"]["landmark"]["arm"]["ema"])
  for collection in ("params", "batch_stats", "affinity"):
    for old, new in zip(*(jax.tree.leaves(v[collection]["rgb"]) for v in (before, after)), strict=True):
      np.testing.assert_array_equal(new, old)


@pytest.mark.golden
def test_statistics_of_the_rgb_net_after_three_training_passes_equal_pytorch():
  net, variables = cases.NETS["rgb"], cases.variables("rgb")
  assert isinstance(net, ArmNet)

  @jax.jit
  def run(variables, images):
    _, new = net.apply(variables, images, train=True, mutable=["batch_stats", "affinity"])
    return {**variables, **new}

  images = cases.batches("rgb")[0][0]
  values, after = norms(lambda: run.__wrapped__(variables, images)), variables
  for images, _, _ in cases.batches("rgb"):
    after = run(after, images)
  compare_statistics("rgb", after["batch_stats"], variables["batch_stats"], values)
