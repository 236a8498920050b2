import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances
from conv_rnn_cases import CASES, GOLDEN, LAYERS, from_golden, ours

from jaxfer.errors import UserError
from jaxfer.kernels import conv_recurrence
from jaxfer.layers.conv_rnn import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell
from tests import drawn

FULL = {"temporal_gate": True, "temporal_skip": True, "spatial_skip": True}


def clip(*shape):
  return np.random.default_rng(1).standard_normal(shape, np.float32)


# Interpreted kernels for one cell of each kind; `conv_recurrence_pallas_test` compares all with the reference.
BY_PALLAS = ["lstm_tg_ts_ss_masked", "gru_tg_ts_ss_output_masked"]


@pytest.mark.golden
@pytest.mark.parametrize(
  ("label", "implementation"), [(a, "scan") for a in CASES] + [(a, "pallas") for a in BY_PALLAS]
)
def test_values_and_gradients_equal_the_float64_loops(label, implementation):
  case = CASES[label]
  cell = case["cell"]
  layer = LAYERS[cell](4, **case["options"], implementation=implementation)
  x = jnp.asarray(GOLDEN["x"])
  mask = jnp.asarray(GOLDEN["mask"]) if case["masked"] else None
  names = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
  params = ours(cell, from_golden(f"{cell}/params/"), names)
  directions = ours(cell, from_golden(f"{cell}/direction/"), names)

  @jax.jit
  def run(params, x):
    outputs, pull = jax.vjp(lambda p, x: layer.apply({"params": p}, x, mask), params, x)
    return outputs, *pull(jnp.asarray(GOLDEN["cotangent"]))

  outputs, d_params, d_x = run(params, x)
  want, tolerance = GOLDEN[f"{label}/Y"], tolerances.of(outputs).layer
  np.testing.assert_allclose(outputs, want, rtol=0, atol=tolerance * np.abs(want).max())
  # The golden's slopes are along random directions. Ours are for stacked gates, so slopes add up.
  slopes = from_golden(f"{label}/slope/")
  got = sum(float((directions[name] * d_params[name]).sum()) for name in names)
  expected = sum(float(value) for name, value in slopes.items() if name != "x")
  scale = sum(abs(float(value)) for value in slopes.values())
  assert got == pytest.approx(expected, abs=tolerance * scale)
  assert float((GOLDEN["direction/x"] * np.asarray(d_x)).sum()) == pytest.approx(
    float(slopes["x"]), abs=tolerance * scale
  )


# Computed by hand: one pixel, one channel, X = 1, every convolution weight 0.5, biases 0, T = 3.
SCALAR = {
  (ConvLSTM, False): [0.174269718656, 0.309058930642, 0.407190655144],
  (ConvLSTM, True): [0.587134859328, 0.645072816910, 0.688264961672],
  (ConvGRU, False): [0.287649136645, 0.448490244595, 0.531927370837],
  (ConvGRU, True): [0.643824568322, 0.684944899236, 0.721998173957],
}


# The enhanced cells with temporal_merge="output".
SCALAR_OUTPUT = {
  ConvLSTM: [0.543567429664, 0.572536408455, 0.604888611702],
  ConvGRU: [0.571912284161, 0.592472449618, 0.621168070834],
}


@pytest.mark.parametrize("layer", SCALAR_OUTPUT)
def test_worked_scalar_table_of_the_output_merge(layer):
  x = jnp.ones((1, 3, 1, 1, 1))
  module = layer(1, (1, 1), **FULL, temporal_merge="output")
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  variables = jax.tree.map_with_path(
    lambda path, a: jnp.full(a.shape, 0.0 if "bias" in str(path[-1]) else 0.5), shapes
  )
  np.testing.assert_allclose(module.apply(variables, x).ravel(), SCALAR_OUTPUT[layer], rtol=1e-6)


@pytest.mark.parametrize(("layer", "enhanced"), SCALAR)
def test_worked_scalar_table(layer, enhanced):
  module = layer(1, (1, 1), **(FULL if enhanced else {}))
  x = jnp.ones((1, 3, 1, 1, 1))
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  variables = jax.tree.map_with_path(
    lambda path, a: jnp.full(a.shape, 0.0 if "bias" in str(path[-1]) else 0.5), shapes
  )
  np.testing.assert_allclose(module.apply(variables, x).ravel(), SCALAR[layer, enhanced], rtol=1e-6)


@pytest.mark.parametrize("merge", ["input", "output"])
@pytest.mark.parametrize("layer", [ConvLSTM, ConvGRU])
def test_identity_merges_reduce_the_enhanced_cell_to_the_plain_one(layer, merge):
  x = clip(2, 4, 5, 4, 3)
  enhanced = layer(4, **FULL, temporal_merge=merge)
  params = jax.jit(enhanced.init)(jax.random.key(0), x)["params"]
  for name in ("temporal_skip_kernel", "spatial_skip_kernel"):
    params[name] = jnp.eye(*params[name].shape)
  plain = {name: p for name, p in params.items() if not name.startswith(("gate", "temporal", "spatial"))}
  np.testing.assert_allclose(
    enhanced.apply({"params": params}, x), layer(4).apply({"params": plain}, x), rtol=1e-6, atol=1e-7
  )


def test_a_closed_gate_blocks_and_an_open_gate_passes_the_older_state():
  x = clip(1, 4, 5, 4, 3)
  gated, raw = ConvLSTM(4, temporal_gate=True, temporal_skip=True), ConvLSTM(4, temporal_skip=True)
  params = jax.jit(gated.init)(jax.random.key(0), x)["params"]
  rest = {name: p for name, p in params.items() if not name.startswith("gate")}
  opened = gated.apply({"params": params | {"gate_bias": jnp.full(4, 50.0)}}, x)
  np.testing.assert_allclose(opened, raw.apply({"params": rest}, x), rtol=1e-6, atol=1e-7)
  half = rest["temporal_skip_kernel"].at[4:].set(0)
  closed = gated.apply({"params": params | {"gate_bias": jnp.full(4, -50.0)}}, x)
  without = raw.apply({"params": rest | {"temporal_skip_kernel": half}}, x)
  np.testing.assert_allclose(closed, without, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("merge", ["input", "output"])
@pytest.mark.parametrize(("layer", "cell"), [(ConvLSTM, ConvLSTMCell), (ConvGRU, ConvGRUCell)])
def test_the_cell_in_flaxs_own_loop_equals_the_layer(layer, cell, merge):
  options = FULL | {"temporal_merge": merge}
  x = clip(2, 3, 5, 4, 3)
  variables = drawn.variables(layer(4, **options).init, x)
  loop = nn.RNN(cell(4, **options, name="cell"))
  np.testing.assert_allclose(
    jax.jit(loop.apply)({"params": {"cell": variables["params"]}}, x),
    jax.jit(layer(4, **options).apply)(variables, x),
    atol=1e-6,
  )


def test_initial_parameters():
  params = jax.jit(ConvLSTM(8, **FULL).init)(jax.random.key(0), jnp.zeros((1, 1, 4, 4, 3)))["params"]
  np.testing.assert_array_equal(params["input_bias"], np.repeat([0, 1, 0, 0], 8))
  limit = np.sqrt(6 / (9 * (3 + 8)))  # Glorot uniform of one gate.
  assert 0.9 * limit < np.abs(params["input_kernel"]).max() <= limit
  merge = params["temporal_skip_kernel"] - np.eye(16, 8)
  assert 0.005 < np.asarray(merge).std() < 0.02


@pytest.mark.parametrize("layer", [ConvLSTM, ConvGRU])
def test_merges_start_as_their_name_says(layer):
  clip = jnp.zeros((1, 1, 4, 4, 3))
  found = {
    name: jax.jit(layer(8, **FULL, merge_init=name).init)(jax.random.key(0), clip)["params"]
    for name in ("identity", "sum", "glorot")
  }
  assert layer(8).merge_init == "identity"
  eye = np.eye(8)
  # The spatial skip reads 8 features of the state and 3 of the input.
  for kernel, second in (("temporal_skip_kernel", eye), ("spatial_skip_kernel", eye[:3])):
    for name, mean in (
      ("identity", np.concatenate([eye, 0 * second])),
      ("sum", np.concatenate([eye, second])),
    ):
      noise = np.asarray(found[name][kernel]) - mean
      assert 0.005 < noise.std() < 0.02
      assert np.abs(noise).max() < 0.06
    limit = np.sqrt(6 / sum(found["glorot"][kernel].shape))
    assert 0.9 * limit < np.abs(found["glorot"][kernel]).max() <= 1.001 * limit
  for params in found.values():
    np.testing.assert_allclose(params["input_kernel"], found["identity"]["input_kernel"], rtol=1e-5)
    np.testing.assert_array_equal(params["temporal_skip_bias"], 0)


def test_the_sum_of_more_channels_than_features_adds_the_first_of_them():
  init = jax.jit(ConvLSTM(2, spatial_skip=True, merge_init="sum").init)
  kernel = init(jax.random.key(0), jnp.zeros((1, 1, 4, 4, 5)))["params"]["spatial_skip_kernel"]
  want = np.concatenate([np.eye(2), np.eye(2), np.zeros((3, 2))])
  np.testing.assert_allclose(kernel, want, rtol=0, atol=0.06)


# The place of the merge with the state of two steps ago, and its initialisation; None is the plain cell.
REACHES = {
  "plain": None,
  "input": ("input", "identity"),
  "input, sum": ("input", "sum"),
  "output": ("output", "identity"),
  "output, sum": ("output", "sum"),
  "output, glorot": ("output", "glorot"),
}


def gradient_norms(layer, merge, times, **switches):
  """Returns initial Frobenius norms of dH[T] / dH[1] for each T, averaged over five seeds; see layers.conv_rnn."""
  features = 32
  options = {"temporal_gate": True, "temporal_skip": True} | switches
  if merge is None:
    options = {}
  else:
    options |= {"temporal_merge": merge[0], "merge_init": merge[1]}
  module = layer(features, **options)
  cell = conv_recurrence.Cell(module.kind, **{k: v for k, v in options.items() if k != "merge_init"})

  def norms(key):
    x = jax.random.normal(jax.random.fold_in(key, 1), (1, max(times), 1, 1, 3))
    params = module.init(key, x)["params"]
    _, state = conv_recurrence.unroll(cell, params, x[:, :1])

    def reached(h):  # Without a spatial skip, the outputs are the states.
      outputs, _ = conv_recurrence.unroll(cell, params, x[:, 1:], state._replace(h=h))
      return jnp.stack([outputs[0, t - 2] for t in times])

    slopes = jax.jacrev(reached)(state.h).reshape(len(times), features, features)
    return jnp.linalg.norm(slopes, axis=(1, 2))

  return np.mean(jax.jit(jax.vmap(norms))(jax.random.split(jax.random.key(0), 5)), 0)


def test_the_output_merge_carries_the_gradient_over_time():
  """The expected norms are from another program (NumPy, complex step, other draws), so the bands are wide."""
  found = {name: gradient_norms(ConvLSTM, merge, (10, 16)) for name, merge in REACHES.items()}
  expected = {
    "plain": (0.053, 0.013),
    "input": (0.054, 0.013),
    "input, sum": (0.117, 0.042),
    "output": (0.053, 0.013),
    "output, sum": (0.55, 0.30),
    "output, glorot": (0.075, 0.025),
  }
  for name, want in expected.items():
    np.testing.assert_array_less(np.abs(np.log(np.divide(found[name], want))), np.log(2), err_msg=name)
  for near in ("input", "output"):  # With [I; 0] they start like the plain cell.
    np.testing.assert_allclose(found[near], found["plain"], rtol=0.2)
  for k, least in ((0, 5), (1, 10)):
    assert found["output, sum"][k] > least * found["plain"][k]
    assert found["output, sum"][k] > 2.5 * found["input, sum"][k] > 2.5 * 1.5 * found["plain"][k]


def test_the_output_merge_of_a_conv_gru_does_so_too():
  found = {
    name: gradient_norms(ConvGRU, REACHES[name], (10,))[0] for name in ("plain", "input", "output, sum")
  }
  assert found["input"] < 2 * found["plain"]
  assert found["output, sum"] > 20 * found["input"]


@pytest.mark.parametrize("layer", [ConvLSTM, ConvGRU])
def test_bfloat16_computes_close_to_float32_with_every_option(layer):
  options = FULL | {"temporal_merge": "output", "merge_init": "sum"}
  if layer is ConvLSTM:
    options["peephole"] = True
  x = clip(2, 4, 5, 4, 3)
  mask = jnp.asarray([[True] * 4, [True, True, False, False]])
  variables = drawn.variables(layer(4, **options).init, x)
  chex.assert_type(jax.tree.leaves(variables), jnp.float32)

  def results(dtype):
    def total(variables):
      y = layer(4, **options, dtype=dtype).apply(variables, x, mask)
      return y.astype(jnp.float32).sum(), y

    return jax.jit(jax.grad(total, has_aux=True))(variables)

  (low_slopes, low), (slopes, want) = results(jnp.bfloat16), results(None)
  assert low.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.asarray(low[1, 2:], np.float32), 0)
  np.testing.assert_allclose(np.asarray(low, np.float32), want, rtol=0, atol=0.03 * np.abs(want).max())
  for (path, got), slope in zip(jax.tree.leaves_with_path(low_slopes), jax.tree.leaves(slopes), strict=True):
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, slope, rtol=0, atol=0.05 * np.abs(slope).max(), err_msg=str(path))


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    (
      "temporal_merge",
      "out",
      "unknown temporal_merge of a conv-RNN 'out': did you mean 'output'.* input, output",
    ),
    ("merge_init", "eye", "unknown merge_init of a conv-RNN 'eye': .*valid are glorot, identity, sum"),
  ],
)
def test_values_that_do_not_exist_are_refused(option, value, message):
  with pytest.raises(UserError, match=message):
    ConvLSTM(4, **FULL, **{option: value}).init(jax.random.key(0), jnp.zeros((1, 1, 4, 4, 3)))


@pytest.mark.parametrize("merge", ["input", "output"])
def test_padding_after_the_end_changes_nothing(merge):
  layer = ConvLSTM(4, **FULL, temporal_merge=merge)
  x = clip(2, 5, 5, 4, 3)
  variables, apply = drawn.variables(layer.init, x), jax.jit(layer.apply)
  padded = np.asarray(apply(variables, x, np.arange(5) < np.asarray([[5], [3]])))
  np.testing.assert_allclose(padded[1, :3], np.asarray(apply(variables, x[1:, :3]))[0], atol=1e-6)
  np.testing.assert_array_equal(padded[1, 3:], 0)


def test_an_even_kernel_or_an_empty_sequence_is_refused():
  with pytest.raises(UserError, match=r"kernel_size \(2, 3\).*odd"):
    ConvLSTM(4, (2, 3)).init(jax.random.key(0), jnp.zeros((1, 1, 4, 4, 3)))
  with pytest.raises(UserError, match="time >= 1"):
    ConvGRU(4).init(jax.random.key(0), jnp.zeros((1, 0, 4, 4, 3)))
