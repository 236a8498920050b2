"""Compares gate maps with the equations in plain NumPy (tests/golden/conv_rnn_oracle.py)."""

import functools

import conv_rnn_oracle as oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.explain import gates
from jaxfer.systems import create_model

ENHANCED = {"temporal_gate": True, "temporal_skip": True, "spatial_skip": True}
LAYERS = {"conv_lstm": "ifco", "conv_gru": "zrh"}


@functools.cache
def small(cell, dtype=None, **switches):
  """Returns a net of two layers, variables that are large enough to bring gates far from 0.5, and two clips."""
  model = create_model(
    "two_stream_conv_rnn", cell=cell, features=(2, 3), dense=(4, 4), **ENHANCED | switches, dtype=dtype
  )
  rng = np.random.default_rng(0)
  clip = [jnp.asarray(rng.uniform(-1, 1, (2, 4, 4, 4, c)), jnp.float32) for c in (3, 2)]
  shapes = jax.eval_shape(model.init, jax.random.key(0), *clip)
  variables = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.5, a.shape), jnp.float32), shapes)
  return model, variables, clip


@functools.cache
def compiled(model, **names):
  return jax.jit(functools.partial(gates.gate_maps, model, **names))


def gate_maps(model, variables, frames, flow, **names):
  return compiled(model, **names)(variables, frames, flow)


def oracle_params(cell, own):
  """Returns our parameters of a layer under the oracle's names."""
  names, params = LAYERS[cell], {}
  for name, kernel, bias in zip(
    names,
    np.split(own["input_kernel"], len(names), -1),
    np.split(own["input_bias"], len(names)),
    strict=True,
  ):
    params |= {f"W_x{name}": kernel, f"b_{name}": bias}
  state = names if cell == "conv_lstm" else names[:2]
  params |= {
    f"W_h{name}": kernel
    for name, kernel in zip(state, np.split(own["state_kernel"], len(state), -1), strict=True)
  }
  if cell == "conv_gru":
    params["W_hh"] = own["candidate_kernel"]
  renamed = {
    "W_xg": "gate_input_kernel",
    "W_gg": "gate_state_kernel",
    "b_g": "gate_bias",
    "P_T": "temporal_skip_kernel",
    "b_T": "temporal_skip_bias",
    "P_S": "spatial_skip_kernel",
    "b_S": "spatial_skip_bias",
  }
  if "peephole" in own:
    params |= dict(zip(("W_ci", "W_cf", "W_co"), own["peephole"], strict=True))
  return params | {ours: own[name] for ours, name in renamed.items() if name in own}


def expected(cell, x, own, **switches):
  """Returns maps [batch, time, height, width] and outputs Y of a layer, computed step by step."""
  own = {name: np.asarray(p, np.float64) for name, p in own.items()}
  params = oracle_params(cell, own)
  run = getattr(oracle, cell)(np.asarray(x), params, **ENHANCED | switches)
  maps = []
  for t in range(x.shape[1]):
    two_ago = run["H"][:, t - 2] if t >= 2 else np.zeros_like(run["H"][:, 0])
    gate = oracle.convolve(two_ago, params["W_gg"]) + params["b_g"]
    if switches.get("gate_sees_x", True):
      gate = gate + oracle.convolve(np.asarray(x[:, t], np.float64), params["W_xg"])
    maps.append(oracle.sigmoid(gate).mean(-1))
  return np.stack(maps, 1), run["Y"]


@pytest.mark.parametrize(
  ("cell", "switches"),
  [
    ("conv_lstm", {}),
    ("conv_gru", {"gate_sees_x": False, "temporal_skip": False, "spatial_skip": False}),
    ("conv_lstm", {"temporal_merge": "output", "peephole": True}),
  ],
)
def test_maps_follow_the_equations_in_each_layer(cell, switches):
  model, variables, clip = small(cell, **switches)
  layers = variables["params"]["rgb"]
  first, outputs = expected(cell, clip[0], layers["layer1"], **switches)
  pooled = outputs.reshape(2, 4, 2, 2, 2, 2, 2).max((3, 5))
  second, _ = expected(cell, pooled, layers["layer2"], **switches)
  for layer, maps in (("layer1", first), ("layer2", second)):
    found = gate_maps(model, variables, *clip, layer=layer)
    assert found.shape == maps.shape
    np.testing.assert_allclose(found, maps, atol=1e-5)
    assert np.ptp(maps[:, 2:]) > 0.1


def test_the_flow_stream_reads_flow_with_its_gain():
  model, variables, clip = small("conv_lstm", flow_gain=3.0)
  maps, _ = expected("conv_lstm", 3 * clip[1], variables["params"]["flow"]["layer1"])
  np.testing.assert_allclose(gate_maps(model, variables, *clip, stream="flow"), maps, atol=1e-5)


@pytest.mark.parametrize(("bias", "value"), [(50.0, 1.0), (-50.0, 0.0)])
def test_a_bias_opens_and_shuts_the_gate(bias, value):
  model, variables, clip = small("conv_lstm")
  params = variables["params"]
  layer = params["rgb"]["layer1"] | {"gate_bias": jnp.full(2, bias)}
  variables = {"params": params | {"rgb": params["rgb"] | {"layer1": layer}}}
  np.testing.assert_allclose(gate_maps(model, variables, *clip), value, atol=1e-6)


def test_the_first_two_steps_look_back_on_nothing():
  model, variables, clip = small("conv_gru", gate_sees_x=False, temporal_skip=False, spatial_skip=False)
  maps = gate_maps(model, variables, *clip)
  bias = variables["params"]["rgb"]["layer1"]["gate_bias"]
  np.testing.assert_allclose(maps[:, :2], jax.nn.sigmoid(bias).mean(), atol=1e-6)
  assert np.ptp(maps[:, 2]) > 0.01


def test_a_model_of_bfloat16_is_explained_in_float32():
  model, variables, clip = small("conv_lstm", dtype="bfloat16")
  maps = gate_maps(model, variables, *clip, layer="layer2")
  same = gate_maps(small("conv_lstm")[0], variables, *clip, layer="layer2")
  assert maps.dtype == jnp.float32
  np.testing.assert_array_equal(maps, same)


def test_what_has_no_gate_and_unknown_names_are_refused():
  model, variables, clip = small("conv_lstm")
  with pytest.raises(UserError, match=r"no temporal gate to show: train with model.temporal_gate=true"):
    gates.gate_maps(model.clone(temporal_gate=False), variables, *clip)
  with pytest.raises(UserError, match=r"unknown stream 'rbg': did you mean 'rgb'\?"):
    gates.gate_maps(model, variables, *clip, stream="rbg")
  with pytest.raises(UserError, match="unknown layer of the rgb stream 'layer3'"):
    gates.gate_maps(model, variables, *clip, layer="layer3")
