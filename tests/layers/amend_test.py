import functools
import hashlib

import jax
import jax.numpy as jnp
import landmark_fusion_cases as cases
import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.layers.amend import AFFINITIES, Amend, arrange, flagged, freeze, is_written

ARM = Amend(4)  # For maps [4, 4, 32]: two planes of 16 x 16, 5 x 5 windows.
MODES = ("batch", "alone", "ema", "frozen", "none")


@pytest.mark.golden
def test_arrangement_is_pytorchs_bit_for_bit():
  x = cases.features()
  y = np.asarray(arrange(jnp.asarray(x), 16))
  assert y.shape == (2, 112, 112, 2)
  assert y[1, 17, 33, 1] == x[1, 1, 2, 273]
  assert hashlib.sha256(y.tobytes()).hexdigest() == cases.golden()["arrangement"]


def test_coverage_of_pixels_by_windows():
  """The gradient of the sum of de-albino with a kernel of ones is the number of windows that contain a pixel."""
  kernel = jnp.ones((32, 32, 1, 1))
  net, x = Amend(16, "none"), jnp.zeros((1, 7, 7, 256))
  variables = net.init(jax.random.key(0), x, train=False)
  variables["params"]["de_albino"]["kernel"] = kernel
  gradient = jax.jit(jax.grad(lambda x: net.apply(variables, x, train=False).sum()))(x)
  one_axis = np.repeat([1, 2, 3, 4, 3, 2, 1], [8, 8, 8, 64, 8, 8, 8])
  want = np.outer(one_axis, one_axis) / np.sqrt(1 + 1e-5)
  np.testing.assert_allclose(arrange(gradient, 16)[0, ..., 0], want, rtol=1e-5)


def test_a_constant_map_gives_the_kernels_sum_everywhere():
  net, x = Amend(16, "none"), jnp.full((1, 7, 7, 512), 3.0)
  variables = net.init(jax.random.key(1), x, train=False)
  kernel = variables["params"]["de_albino"]["kernel"]
  assert kernel.shape == (32, 32, 1, 1)
  assert np.abs(kernel).max() <= 1 / 32
  want = np.full((1, 121), 3 * np.float64(kernel).sum() / np.sqrt(1 + 1e-5))
  np.testing.assert_allclose(net.apply(variables, x, train=False), want, rtol=1e-3, atol=1e-4)


@functools.cache
def variables():
  """Returns random variables, including those of the shared affinity."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: ARM.init(jax.random.key(0), jnp.zeros((1, 4, 4, 32)), train=False))
  return jax.tree.map(
    lambda leaf: (
      np.ones((), bool) if leaf.dtype == bool else rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    ),
    shapes,
  )


def maps(batch=6, seed=1):
  return np.random.default_rng(seed).standard_normal((batch, 4, 4, 32), np.float32)


@jax.jit
def evaluate(variables, x, mask):
  """Returns {affinity: features}."""
  features = ARM.apply(variables, x, train=False, mask=mask, modes=MODES)
  return dict(zip(MODES, features, strict=True))


def features(x, mask=None):
  return evaluate(variables(), x, np.ones(len(x), bool) if mask is None else mask)


def test_features_by_loops():
  """The reference computes de-albino, norm, mean and affinity in NumPy float64."""
  own, x = jax.tree.map(np.float64, variables()), maps(3)
  arm, planes = own["params"], np.float64(arrange(jnp.asarray(x), 4))
  xbar, kernel = np.zeros((3, 5, 5)), arm["de_albino"]["kernel"][..., 0, 0]
  for i in range(5):
    for j in range(5):
      y = np.einsum("nuvc,uv->nc", planes[:, 2 * i : 2 * i + 8, 2 * j : 2 * j + 8], kernel)
      statistics = own["batch_stats"]["bn"]
      y = (y - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * arm["bn"]["scale"] + arm["bn"][
        "bias"
      ]
      xbar[:, i, j] = y.mean(-1)
  got, alpha = evaluate(variables(), x, np.ones(3, bool)), arm["alpha"][0]
  generic = {
    "batch": xbar.mean(0), "alone": xbar, "ema": own["affinity"]["ema"], "frozen": own["affinity"]["frozen"], "none": 0,
  }  # fmt: skip
  for mode in AFFINITIES:
    want = (xbar + alpha * generic[mode]).reshape(3, 25)
    np.testing.assert_allclose(got[mode], want, atol=1e-5 * np.abs(want).max(), err_msg=mode)


def test_other_examples_of_a_batch_count_only_in_batch_mode():
  x = maps()
  got, order = features(x), np.array([3, 0, 5, 1, 4, 2])
  for mode, permuted in features(x[order]).items():
    np.testing.assert_allclose(permuted, got[mode][order], rtol=1e-4, atol=1e-5)
  alpha = variables()["params"]["alpha"]
  np.testing.assert_allclose(got["batch"].mean(0), (1 + alpha) * got["none"].mean(0), rtol=1e-4, atol=1e-5)
  other = features(np.concatenate([x[:1], maps(5, seed=2)]))
  for mode in MODES:
    assert np.allclose(other[mode][0], got[mode][0], rtol=1e-5, atol=1e-5) == (mode != "batch"), mode
  one = ARM.apply(variables(), x[:1], train=False)
  np.testing.assert_allclose(one, got["alone"][:1], rtol=1e-4, atol=1e-5)


def test_padded_rows_change_nothing():
  x = maps()
  x[4:] = np.nan  # The values of padding do not matter.
  got, want = features(x, np.arange(6) < 4), features(maps()[:4])
  for mode in MODES:
    np.testing.assert_allclose(got[mode][:4], want[mode], rtol=1e-4, atol=1e-5)


@pytest.mark.optimized
@pytest.mark.parametrize("train", [False, True])
def test_four_devices_equal_one(train):
  x, mask = maps(8), np.arange(8) < (8 if train else 5)  # All examples of the last device are padding.

  def run(x, mask, axis_name=None):
    return ARM.apply(
      variables(), x, train=train, mask=mask, axis_name=axis_name, mutable=["affinity", "batch_stats"]
    )

  want, moved = jax.jit(run)(x, mask)
  mapped = jax.pmap(functools.partial(run, axis_name="data"), "data", devices=jax.devices()[:4])
  got, each = mapped(x.reshape(4, 2, *x.shape[1:]), mask.reshape(4, 2))
  np.testing.assert_allclose(got.reshape(8, -1)[mask], want[mask], rtol=1e-4, atol=1e-5)
  for devices, one in zip(jax.tree.leaves(each), jax.tree.leaves(moved), strict=True):
    for device in range(4):
      np.testing.assert_allclose(devices[device], one, rtol=1e-4, atol=1e-5)


def test_the_moving_average_starts_from_the_first_batch_and_frozen_is_written():
  x = maps()
  fresh = jax.jit(lambda: ARM.init(jax.random.key(0), x, train=True))()
  assert not any(leaf.any() for leaf in jax.tree.leaves(fresh["affinity"]))
  step = jax.jit(lambda v, x: ARM.apply(v, x, train=True, mutable=["affinity", "batch_stats"], modes=MODES))
  generics, after = [], fresh
  for seed in (1, 2):
    y, new = step(after, maps(seed=seed))
    for other in y[1:]:
      np.testing.assert_array_equal(other, y[0])  # In training, every affinity is that of the batch.
    generics.append(y[0].mean(0).reshape(5, 5) / 2)  # The mean of F is (1 + alpha) G with alpha 1.
    after = {**after, **new}
  want = 0.9 * generics[0] + 0.1 * generics[1]
  np.testing.assert_allclose(after["affinity"]["ema"], want, rtol=1e-4, atol=1e-5)
  assert is_written(after["affinity"], "ema")
  assert not is_written(after["affinity"], "frozen")

  net = {name: {"landmark": {"arm": tree}} for name, tree in after.items()}
  written = freeze(net, {"landmark/arm": jnp.arange(25.0)})
  affinity = written["affinity"]["landmark"]["arm"]
  np.testing.assert_array_equal(affinity["frozen"], np.arange(25).reshape(5, 5))
  assert affinity["ema"] is net["affinity"]["landmark"]["arm"]["ema"]
  assert is_written(affinity, "frozen")
  assert not is_written(net["affinity"]["landmark"]["arm"], "frozen")
  with pytest.raises(UserError, match="'landmarks': did you mean 'landmark'"):
    freeze(net, {"landmarks/arm": jnp.zeros(25)})


def test_training_can_take_the_moving_average():
  """G is then the updated average, and gradients flow only through the batch's share of it."""
  x, given, rate = maps(4), variables(), 0.25
  alpha = float(given["params"]["alpha"][0])

  def features(x, alpha=alpha, train_affinity="ema"):
    net, params = Amend(4, train_affinity=train_affinity, ema_rate=rate), {**given["params"]}
    params["alpha"] = jnp.full(1, alpha)
    return net.apply({**given, "params": params}, x, train=True, mutable=["affinity", "batch_stats"])

  (averaged, after), (own, _) = features(x), features(x, 0.0)
  moved, held = (tree["affinity"]["ema"].reshape(-1) for tree in (after, given))
  np.testing.assert_allclose(moved, (1 - rate) * held + rate * own.mean(0), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(averaged, own + alpha * moved, rtol=1e-4, atol=1e-5)
  assert np.abs(averaged - features(x, train_affinity="batch")[0]).max() > 1e-3
  # The sum over the batch weighs each xbar by 1 + rate alpha, and by 1 + alpha with the batch's mean.
  weights = jnp.asarray(np.random.default_rng(0).normal(size=own.shape[1]), jnp.float32)
  slope, plain = (
    jax.grad(lambda x, kind=kind: (features(x, train_affinity=kind)[0] @ weights).sum())(x)
    for kind in ("ema", "batch")
  )
  np.testing.assert_allclose(slope / (1 + rate * alpha), plain / (1 + alpha), rtol=1e-3, atol=1e-5)
  with pytest.raises(UserError, match="unknown value of train_affinity 'alone'"):
    features(x, train_affinity="alone")


@pytest.mark.parametrize("mode", ["ema", "frozen"])
def test_a_mean_that_is_missing_does_not_pass_for_zero(mode):
  x = maps()
  fresh = {**variables(), "affinity": jax.tree.map(np.zeros_like, variables()["affinity"])}
  assert np.isnan(ARM.apply(fresh, x, train=False, modes=(mode,))).all()
  others = tuple(other for other in MODES if other not in ("ema", "frozen"))
  assert np.isfinite(ARM.apply(fresh, x, train=False, modes=others)).all()


def test_training_and_evaluation_make_no_nan():
  """There is none without a mean, nor in a batch that is only padding."""
  x = maps()
  with jax.debug_nans(True):
    fresh = ARM.init(jax.random.key(0), x, train=False)
    _, new = jax.jit(lambda v: ARM.apply(v, x, train=True, mutable=["affinity", "batch_stats"]))(fresh)
    after = {**fresh, **new}
    jax.jit(lambda v: ARM.apply(v, x, train=False, modes=("batch", "alone", "ema", "none")))(after)
    evaluate(variables(), x, np.zeros(len(x), bool))


def test_means_that_nan_marked_as_missing_get_flags():
  before = {
    "params": {},
    "affinity": {"rgb": {"arm": {"ema": np.ones((2, 2)), "frozen": np.full((2, 2), np.nan)}}},
  }
  arm = flagged(before)["affinity"]["rgb"]["arm"]
  assert is_written(arm, "ema")
  assert not is_written(arm, "frozen")
  np.testing.assert_array_equal(arm["ema"], np.ones((2, 2)))
  np.testing.assert_array_equal(arm["frozen"], np.zeros((2, 2)))
  again = flagged({"affinity": {"rgb": {"arm": arm}}})
  assert again == {"affinity": {"rgb": {"arm": arm}}}


@pytest.mark.parametrize(
  ("net", "shape", "message"),
  [
    (ARM, (1, 4, 4, 30), "30 channels are not a multiple of 4 x 4"),
    (ARM, (1, 4, 5, 32), "features of 4 x 5 pixels: ARM needs square features"),
    (ARM, (1, 1, 1, 32), "features of 1 x 1 pixels"),
    (Amend(3), (1, 4, 4, 9), "block 3: the stride of de-albino is half of it"),
    (Amend(4, "batches"), (1, 4, 4, 32), "unknown affinity 'batches': did you mean 'batch'"),
  ],
)
def test_what_does_not_fit_is_refused(net, shape, message):
  with pytest.raises(UserError, match=message):
    jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros(shape), train=False))
