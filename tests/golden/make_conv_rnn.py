"""Writes conv_rnn.npz, the golden of the conv-RNN layers: `python tests/golden/make_conv_rnn.py`.

Arrays of the file (all inputs and parameters are float32, all results float64; CELL is "lstm" or "gru"):

  x [2, 4, 5, 4, 3]              input, [batch, time, height, width, channels]
  mask [2, 4] bool               used by cases that are masked: lengths 4 and 2
  CELL/params/NAME               those of `conv_rnn_oracle`, one set per cell, for all options
  cases                          JSON: {case: {"cell": CELL, "masked": bool, "options": keyword arguments}}
  CASE/H, CASE/Y, (lstm) CASE/C  [2, 4, 5, 4, 4]
  CASE/H_last, CASE/H_previous, (lstm) CASE/C_last  [2, 5, 4, 4], the state after the last step
  cotangent [2, 4, 5, 4, 4]      the scalar of the derivatives is L = sum(cotangent * Y)
  direction/x, CELL/direction/NAME  a random direction v, shaped as x or as the parameter
  CASE/slope/x, CASE/slope/NAME  sum(v * dL/dx), sum(v * dL/dNAME) by complex step, to rounding, for each
                                 parameter that the case reads: the oracle of a hand-written backward pass
"""

import json
import pathlib

import conv_rnn_oracle
import exact
import numpy as np

PATH = pathlib.Path(__file__).with_name("conv_rnn.npz")
CELLS = {"lstm": conv_rnn_oracle.conv_lstm, "gru": conv_rnn_oracle.conv_gru}
BATCH, TIME, HEIGHT, WIDTH, C_IN, C_H, KERNEL = 2, 4, 5, 4, 3, 4, 3
GATES = {"lstm": "ifco", "gru": "zrh"}
SWITCHES = {"tg": "temporal_gate", "ts": "temporal_skip", "ss": "spatial_skip"}


def cases():
  """Returns {name: {"cell", "masked", "options"}}: every combination of switches, then each further option."""
  result = {}

  def add(cell, name, masked=False, **options):
    result[f"{cell}_{name}"] = {"cell": cell, "masked": masked, "options": options}

  full = dict.fromkeys(SWITCHES.values(), True)
  for cell in CELLS:
    for bits in range(8):
      on = [short for k, short in enumerate(SWITCHES) if bits >> k & 1]
      add(cell, "_".join(on) or "baseline", **{SWITCHES[short]: True for short in on})
    add(cell, "tg_ts_ss_gate_without_x", **full, gate_sees_x=False)
    add(cell, "baseline_masked", masked=True)
    add(cell, "tg_ts_ss_masked", masked=True, **full)
  add("lstm", "baseline_peephole", peephole=True)
  add("lstm", "tg_ts_ss_peephole", **full, peephole=True)
  output = {"temporal_merge": "output"}
  for cell in CELLS:
    for on in (["tg"], ["ts"], ["tg", "ts", "ss"]):
      add(cell, "_".join([*on, "output"]), **{SWITCHES[short]: True for short in on}, **output)
    add(cell, "tg_ts_ss_output_gate_without_x", **full, **output, gate_sees_x=False)
    add(cell, "tg_ts_ss_output_masked", masked=True, **full, **output)
  add("lstm", "tg_ts_ss_output_peephole", **full, **output, peephole=True)
  return result


def parameters(cell, draws):
  """Returns one set of parameters, of a size that leaves the gates unsaturated."""

  def draw(*shape, scale):
    return (scale * draws.normal(shape)).astype(np.float32)

  params = {}
  for gate in (*GATES[cell], "g"):
    hidden = "gg" if gate == "g" else f"h{gate}"
    params[f"W_x{gate}"] = draw(KERNEL, KERNEL, C_IN, C_H, scale=0.3)
    params[f"W_{hidden}"] = draw(KERNEL, KERNEL, C_H, C_H, scale=0.3)
    params[f"b_{gate}"] = draw(C_H, scale=0.5)
  if cell == "lstm":
    for gate in "ifo":
      params[f"W_c{gate}"] = draw(HEIGHT, WIDTH, C_H, scale=0.5)
  params |= {"P_T": draw(2 * C_H, C_H, scale=0.5), "b_T": draw(C_H, scale=0.5)}
  params |= {"P_S": draw(C_H + C_IN, C_H, scale=0.5), "b_S": draw(C_H, scale=0.5)}
  return params


def inputs():
  """Returns the arrays of the file that are drawn."""
  draws = exact.Draws(0)
  arrays = {
    "x": draws.normal((BATCH, TIME, HEIGHT, WIDTH, C_IN)).astype(np.float32),
    "mask": np.arange(TIME) < np.array([[TIME], [2]]),
    "cotangent": draws.normal((BATCH, TIME, HEIGHT, WIDTH, C_H)).astype(np.float32),
  }
  arrays["direction/x"] = draws.normal(arrays["x"].shape).astype(np.float32)
  for seed, cell in enumerate(CELLS, start=1):
    draws = exact.Draws(seed)
    for name, value in parameters(cell, draws).items():
      arrays[f"{cell}/params/{name}"] = value
      arrays[f"{cell}/direction/{name}"] = draws.normal(value.shape).astype(np.float32)
  return arrays


def drawn_parameters(cell, arrays):
  """Returns the cell's parameters in float64, by the oracle's names."""
  prefix = f"{cell}/params/"
  return {name[len(prefix) :]: a.astype(np.float64) for name, a in arrays.items() if name.startswith(prefix)}


def case_inputs(case, arrays):
  """Returns (layer as a function of one dict with "x" and the parameters, that dict in float64)."""
  cell, mask = case["cell"], arrays["mask"] if case["masked"] else None
  values = {"x": arrays["x"].astype(np.float64)} | drawn_parameters(cell, arrays)

  def layer(values):
    params = {name: value for name, value in values.items() if name != "x"}
    return CELLS[cell](values["x"], params, mask=mask, **case["options"])

  return layer, values


def outputs(case, arrays):
  """Returns {"H": ..., "Y": ..., ...} of one case."""
  layer, values = case_inputs(case, arrays)
  return layer(values)


def slope(case, arrays, name):
  """Returns sum(v * dL/dname) of one case by complex step, for name "x" or a parameter's."""
  layer, values = case_inputs(case, arrays)
  direction = arrays["direction/x"] if name == "x" else arrays[f"{case['cell']}/direction/{name}"]
  step = 1e-30
  moved = values | {name: values[name] + 1j * step * direction}
  return float((arrays["cotangent"] * layer(moved)["Y"]).sum().imag / step)


def reads(case, name):
  """Returns whether the options of the case read the parameter."""
  options = case["options"]
  gate, skip = options.get("temporal_gate", False), options.get("temporal_skip", False)
  groups = {
    ("W_gg", "b_g"): gate,
    ("W_xg",): gate and options.get("gate_sees_x", True),
    ("P_T", "b_T"): skip,
    ("P_S", "b_S"): options.get("spatial_skip", False),
    ("W_ci", "W_cf", "W_co"): options.get("peephole", False),
  }
  return next((on for names, on in groups.items() if name in names), True)


def main():
  arrays = inputs()
  results = {"cases": np.array(json.dumps(cases()))}
  for label, case in cases().items():
    results |= {f"{label}/{name}": value for name, value in outputs(case, arrays).items()}
    for name in case_inputs(case, arrays)[1]:
      if reads(case, name):
        results[f"{label}/slope/{name}"] = np.float64(slope(case, arrays, name))
  np.savez_compressed(PATH, **arrays, **results)
  print(f"{PATH.name}: {len(arrays) + len(results)} arrays, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
  main()
