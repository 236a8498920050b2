"""The cases of conv_rnn.npz under the names of our layers, for the tests."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np

from jaxfer.layers.conv_rnn import ConvGRU, ConvLSTM

GOLDEN = np.load(pathlib.Path(__file__).with_name("conv_rnn.npz"))
CASES = json.loads(str(GOLDEN["cases"]))
LAYERS = {"lstm": ConvLSTM, "gru": ConvGRU}
GATES = {"lstm": "ifco", "gru": "zrh"}


def ours(cell, oracle, names):
  """Returns the oracle's parameters under our names; `names` are those that the layer declares."""

  def beside(*keys):
    return np.concatenate([oracle[key] for key in keys], axis=-1)

  gates = GATES[cell]
  table = {
    "input_kernel": lambda: beside(*(f"W_x{g}" for g in gates)),
    "input_bias": lambda: beside(*(f"b_{g}" for g in gates)),
    "state_kernel": lambda: beside(*(f"W_h{g}" for g in ("ifco" if cell == "lstm" else "zr"))),
    "candidate_kernel": lambda: oracle["W_hh"],
    "gate_input_kernel": lambda: oracle["W_xg"],
    "gate_state_kernel": lambda: oracle["W_gg"],
    "gate_bias": lambda: oracle["b_g"],
    "temporal_skip_kernel": lambda: oracle["P_T"],
    "temporal_skip_bias": lambda: oracle["b_T"],
    "spatial_skip_kernel": lambda: oracle["P_S"],
    "spatial_skip_bias": lambda: oracle["b_S"],
    "peephole": lambda: np.stack([oracle["W_ci"], oracle["W_cf"], oracle["W_co"]]),
  }
  return {name: jnp.asarray(table[name](), jnp.float32) for name in names}


def from_golden(prefix):
  return {key[len(prefix) :]: GOLDEN[key] for key in GOLDEN.files if key.startswith(prefix)}
