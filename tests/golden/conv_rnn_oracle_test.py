"""Tests the oracle with independent knowledge: convolutions by hand, a table of one-pixel cells, reductions."""

import functools
import json

import chex
import conv_rnn_oracle as oracle
import make_conv_rnn as make
import numpy as np
import pytest

TOLERANCE = 1e-11  # Absolute; the table gives 12 decimals.
FULL = {"temporal_gate": True, "temporal_skip": True, "spatial_skip": True}
LAYERS = {"lstm": oracle.conv_lstm, "gru": oracle.conv_gru}
# One pixel, one channel, X = 1, every weight 0.5, every bias 0, three steps.
TABLE = {
  ("lstm", False): [0.174269718656, 0.309058930642, 0.407190655144],
  ("lstm", True): [0.174269718656, 0.290145633819, 0.376529923344],
  ("gru", False): [0.287649136645, 0.448490244595, 0.531927370837],
  ("gru", True): [0.287649136645, 0.369889798472, 0.443996347915],
}
TABLE_Y = {
  "lstm": [0.587134859328, 0.645072816910, 0.688264961672],
  "gru": [0.643824568322, 0.684944899236, 0.721998173957],
}


# The same improved cells with the merge at the output, computed without the oracle with scalars and math.exp.
TABLE_OUTPUT = {
  "lstm": [0.087134859328, 0.145072816910, 0.209777223403],
  "gru": [0.143824568322, 0.184944899236, 0.242336141667],
}


@pytest.fixture(scope="module")
def arrays():
  return make.inputs()


def drawn(arrays, cell):
  """Returns x and the cell's parameters in float64."""
  return arrays["x"].astype(np.float64), make.drawn_parameters(cell, arrays)


def test_convolution_neither_flips_nor_wraps():
  image = np.arange(1.0, 7.0).reshape(1, 2, 3, 1)
  kernel = np.zeros((3, 3, 1, 1))
  kernel[1, 2] = 1  # Cross-correlation: out[y, x] = image[y, x + 1].
  np.testing.assert_array_equal(oracle.convolve(image, kernel)[0, :, :, 0], [[2, 3, 0], [5, 6, 0]])
  kernel = np.zeros((3, 3, 1, 1))
  kernel[0, 1] = 1  # out[y, x] = image[y - 1, x].
  np.testing.assert_array_equal(oracle.convolve(image, kernel)[0, :, :, 0], [[0, 0, 0], [1, 2, 3]])


def test_convolution_sums_channels_into_the_right_output():
  image = np.array([2.0, 3.0]).reshape(1, 1, 1, 2)
  kernel = np.array([[1.0, 10.0, 100.0], [1000.0, 0.0, 0.5]]).reshape(1, 1, 2, 3)
  np.testing.assert_array_equal(oracle.convolve(image, kernel)[0, 0, 0], [3002, 20, 201.5])
  with pytest.raises(ValueError, match="odd"):
    oracle.convolve(image, np.zeros((2, 2, 2, 3)))


def halves(cell, kernel_size):
  """Returns parameters for one channel: every weight 0.5, every bias 0."""
  params = {}
  for gate in (*make.GATES[cell], "g"):
    for name in (f"W_x{gate}", "W_gg" if gate == "g" else f"W_h{gate}"):
      params[name] = np.full((kernel_size, kernel_size, 1, 1), 0.5)
    params[f"b_{gate}"] = np.zeros(1)
  return (
    params | dict.fromkeys(("P_T", "P_S"), np.full((2, 1), 0.5)) | dict.fromkeys(("b_T", "b_S"), np.zeros(1))
  )


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize(("cell", "improved"), TABLE)
def test_scalar_table(cell, improved, kernel_size):
  params = halves(cell, kernel_size)
  out = LAYERS[cell](np.ones((1, 3, 1, 1, 1)), params, **(FULL if improved else {}))
  np.testing.assert_allclose(out["H"].ravel(), TABLE[cell, improved], rtol=0, atol=TOLERANCE)
  want = TABLE_Y[cell] if improved else TABLE[cell, improved]
  np.testing.assert_allclose(out["Y"].ravel(), want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("cell", LAYERS)
def test_scalar_table_of_the_output_merge(cell):
  out = LAYERS[cell](np.ones((1, 3, 1, 1, 1)), halves(cell, 1), **FULL, temporal_merge="output")
  np.testing.assert_allclose(out["H"].ravel(), TABLE_OUTPUT[cell], rtol=0, atol=TOLERANCE)
  np.testing.assert_allclose(out["Y"].ravel(), 0.5 * out["H"].ravel() + 0.5, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("merge", ["input", "output"])
@pytest.mark.parametrize("cell", LAYERS)
def test_identity_merges_reduce_to_the_baseline(cell, merge, arrays):
  x, params = drawn(arrays, cell)
  eye = np.eye(make.C_H)
  params["P_T"] = np.concatenate([eye, 0 * eye])
  params["P_S"] = np.concatenate([eye, np.zeros((make.C_IN, make.C_H))])
  params |= {"b_T": 0 * params["b_T"], "b_S": 0 * params["b_S"]}
  baseline = LAYERS[cell](x, params)
  merged = LAYERS[cell](x, params, **FULL, temporal_merge=merge)
  chex.assert_trees_all_close(merged, baseline, rtol=0, atol=1e-14)


@pytest.mark.parametrize("merge", ["input", "output"])
@pytest.mark.parametrize("cell", LAYERS)
def test_closed_gate_forgets_and_open_gate_passes(cell, merge, arrays):
  x, params = drawn(arrays, cell)
  layer, channels = functools.partial(LAYERS[cell], temporal_merge=merge), params["b_g"].shape
  closed = params | {"b_g": np.full(channels, -50.0)}
  np.testing.assert_allclose(
    layer(x, closed, temporal_gate=True)["Y"], layer(x, params)["Y"], rtol=0, atol=TOLERANCE
  )
  opened = params | {"b_g": np.full(channels, 50.0)}
  np.testing.assert_allclose(
    layer(x, opened, temporal_gate=True, temporal_skip=True)["Y"],
    layer(x, params, temporal_skip=True)["Y"],
    rtol=0,
    atol=TOLERANCE,
  )


@pytest.mark.parametrize("cell", LAYERS)
def test_skip_to_two_steps_back_alone(cell, arrays):
  """With P_T = [0 ; I] the odd and the even steps are two separate baselines."""
  x, params = drawn(arrays, cell)
  eye = np.eye(make.C_H)
  params |= {"P_T": np.concatenate([0 * eye, eye]), "b_T": 0 * params["b_T"]}
  if cell == "lstm":  # C still passes through every step, so f must be closed.
    params["b_f"] = np.full(make.C_H, -300.0)
  out = LAYERS[cell](x, params, temporal_skip=True)
  for start in (0, 1):
    alone = LAYERS[cell](x[:, start::2], params)
    np.testing.assert_allclose(out["H"][:, start::2], alone["H"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("cell", LAYERS)
def test_the_output_merge_with_two_steps_back_alone_makes_multiples_of_the_bias(cell, arrays):
  """With P_T = [0 ; I] at the output H_t = H_{t-2} + b_T, whatever the cell computes: b, b, 2b, 2b, ..."""
  x, params = drawn(arrays, cell)
  eye = np.eye(make.C_H)
  params |= {"P_T": np.concatenate([0 * eye, eye])}
  out = LAYERS[cell](x, params, temporal_skip=True, temporal_merge="output")["H"]
  want = np.array([1, 1, 2, 2])[None, :, None, None, None] * params["b_T"]
  np.testing.assert_allclose(out, np.broadcast_to(want, out.shape), rtol=0, atol=1e-14)


@pytest.mark.parametrize("cell", LAYERS)
def test_the_first_two_steps_of_the_output_merge_add_nothing(cell, arrays):
  """S_1 = S_2 = 0: with P_T = [I ; I] they are the baseline's, and step 3 is the baseline's plus H_1."""
  x, params = drawn(arrays, cell)
  eye = np.eye(make.C_H)
  params |= {"P_T": np.concatenate([eye, eye]), "b_T": 0 * params["b_T"]}
  plain = LAYERS[cell](x, params)["H"]
  merged = LAYERS[cell](x, params, temporal_skip=True, temporal_merge="output")["H"]
  np.testing.assert_allclose(merged[:, :2], plain[:, :2], rtol=0, atol=1e-14)
  np.testing.assert_allclose(merged[:, 2], plain[:, 2] + plain[:, 0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("merge", ["input", "output"])
@pytest.mark.parametrize("cell", LAYERS)
def test_mask_equals_the_shorter_sequence(cell, merge, arrays):
  x, params = drawn(arrays, cell)
  layer = functools.partial(LAYERS[cell], params=params, **FULL, temporal_merge=merge)
  masked = layer(x, mask=arrays["mask"])
  whole, short = layer(x[:1]), layer(x[1:, :2])
  for name in masked:
    if name.endswith(("_last", "_previous")):
      np.testing.assert_array_equal(masked[name], np.concatenate([whole[name], short[name]]))
    else:
      np.testing.assert_array_equal(masked[name][:1], whole[name])
      np.testing.assert_array_equal(masked[name][1:, :2], short[name])
      np.testing.assert_array_equal(masked[name][1:, 2:], 0)


def test_a_constant_peephole_on_a_constant_state_is_a_bias():
  """With a closed forget gate, C_t = i tanh(b_c), and the peephole of o adds W_co C_t, by hand for one pixel."""
  zero = np.zeros((1, 1, 1, 1))
  params = {f"W_{side}{gate}": zero for side in "xh" for gate in "ifco"}
  params |= {
    "b_i": np.array([0.0]),
    "b_f": np.array([-300.0]),
    "b_c": np.array([1.0]),
    "b_o": np.array([0.25]),
  }
  params |= {"W_ci": np.full((1, 1, 1), 2.0), "W_cf": np.zeros((1, 1, 1)), "W_co": np.full((1, 1, 1), 3.0)}
  out = oracle.conv_lstm(np.zeros((1, 2, 1, 1, 1)), params, peephole=True)
  c1 = 0.5 * np.tanh(1.0)
  c2 = np.tanh(1.0) / (1 + np.exp(-2 * c1))
  np.testing.assert_allclose(out["C"].ravel(), [c1, c2], rtol=0, atol=1e-14)
  want = [np.tanh(c) / (1 + np.exp(-(0.25 + 3 * c))) for c in (c1, c2)]
  np.testing.assert_allclose(out["H"].ravel(), want, rtol=0, atol=1e-14)


@pytest.fixture(scope="module")
def golden():
  with np.load(make.PATH) as file:
    return dict(file)


@pytest.mark.parametrize("label", make.cases())
def test_golden_is_what_the_generator_writes(label, golden, arrays):
  assert json.loads(str(golden["cases"])) == make.cases()
  for name, value in arrays.items():
    np.testing.assert_array_equal(golden[name], value)
  for name, value in make.outputs(make.cases()[label], arrays).items():
    np.testing.assert_allclose(golden[f"{label}/{name}"], value, rtol=0, atol=TOLERANCE)


def test_every_case_differs_from_every_other(golden):
  labels = list(make.cases())
  for k, label in enumerate(labels):
    for other in labels[:k]:
      assert np.abs(golden[f"{label}/Y"] - golden[f"{other}/Y"]).max() > 1e-3, (label, other)


@pytest.mark.parametrize(
  "label",
  [
    "lstm_tg_ts_ss_peephole",
    "gru_tg_ts_ss_masked",
    "lstm_tg_ts_ss_output_masked",
    "gru_tg_ts_ss_output_masked",
  ],
)
@pytest.mark.parametrize("name", ["x", "W_gg", "P_T"])
def test_slopes_are_central_differences(label, name, golden, arrays):
  case, step = make.cases()[label], 1e-5
  layer, values = make.case_inputs(case, arrays)
  direction = golden["direction/x" if name == "x" else f"{case['cell']}/direction/{name}"]
  up, down = (layer(values | {name: values[name] + sign * step * direction})["Y"] for sign in (1, -1))
  difference = (golden["cotangent"] * (up - down)).sum() / (2 * step)
  np.testing.assert_allclose(golden[f"{label}/slope/{name}"], difference, rtol=1e-5)
