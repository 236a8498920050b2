"""ConvLSTM and ConvGRU with temporal gate, temporal skip and spatial skip: plain NumPy, float64, loops.

It was written only from the equations of paper 001 and its baselines, without reading another implementation, so that
agreement with it is evidence. It is slow on purpose: nothing is hoisted, fused or stacked; every gate is a separate
convolution.

`*` is a cross-correlation with zero "same" padding, odd kernel, stride 1; `.` is element by element; s is the
logistic function; H_0 = H_{-1} = C_0 = 0.

  temporal gate  g_t = s(W_xg*X_t + W_gg*H_{t-2} + b_g),  S_t = g_t . H_{t-2}   (off: S_t = H_{t-2};
                 `gate_sees_x=False` drops the term W_xg*X_t)
  temporal skip  M(A) = [A ; S_t] P_T + b_T
                 (off: M(A) = A + S_t where the gate is on, else M(A) = A)
  cell           the baseline, with every H_{t-1} read as h and its result called H'_t
  where S joins  `temporal_merge="input"`: h = M(H_{t-1}), H_t = H'_t
                 `temporal_merge="output"`: h = H_{t-1}, H_t = M(H'_t); C_t stays the baseline's
  spatial skip   Y_t = [H_t ; X_t] P_S + b_S  (off: Y_t = H_t); the recurrence goes on with H_t

Parameters are a dict of arrays. Kernels are [k, k, channels_in, channels_out], biases [C_h]:

  ConvLSTM       W_xi W_hi b_i  W_xf W_hf b_f  W_xc W_hc b_c  W_xo W_ho b_o
  peephole       W_ci W_cf W_co [height, width, C_h]
  ConvGRU        W_xz W_hz b_z  W_xr W_hr b_r  W_xh W_hh b_h
  temporal gate  W_xg W_gg b_g
  temporal skip  P_T [2 C_h, C_h] (rows: first A, then S_t), b_T
  spatial skip   P_S [C_h + C_in, C_h] (rows: first H_t, then X_t), b_S

Only parameters that the options require are read. Everything is analytic, so complex parameters or inputs
are accepted too: f(x + 1e-30j v).imag / 1e-30 is the derivative along v to rounding (complex step).
"""

import numpy as np


def sigmoid(x):
  return 1.0 / (1.0 + np.exp(-x))


def convolve(image, kernel):
  """Returns `image * kernel`; [batch, height, width, in], [k, k, in, out] -> [batch, height, width, out]."""
  batch, height, width, _ = image.shape
  size, _, _, channels = kernel.shape
  if size % 2 == 0 or kernel.shape[1] != size:
    raise ValueError(f"kernel must be square and odd, got {kernel.shape[:2]}")
  out = np.zeros((batch, height, width, channels), np.result_type(image, kernel))
  for y in range(height):
    for x in range(width):
      for c in range(channels):
        for i in range(size):
          for j in range(size):
            row, column = y + i - size // 2, x + j - size // 2
            if 0 <= row < height and 0 <= column < width:  # Outside is zero.
              out[:, y, x, c] += (image[:, row, column, :] * kernel[i, j, :, c]).sum(-1)
  return out


def conv_lstm(
  x,
  params,
  temporal_gate=False,
  temporal_skip=False,
  spatial_skip=False,
  gate_sees_x=True,
  peephole=False,
  mask=None,
  temporal_merge="input",
):
  """Runs a ConvLSTM layer (Shi et al. 2015), improved as the options say.

  i = s(W_xi*X + W_hi*h [+ W_ci.C_{t-1}] + b_i)     f = s(W_xf*X + W_hf*h [+ W_cf.C_{t-1}] + b_f)
  C = f.C_{t-1} + i.tanh(W_xc*X + W_hc*h + b_c)     o = s(W_xo*X + W_ho*h [+ W_co.C] + b_o)     H = o.tanh(C)

  Args:
    x: [batch, time, height, width, C_in].
    params: dict of arrays, named as in the module's docstring.
    temporal_gate: gate H_{t-2}.
    temporal_skip: merge with (gated) H_{t-2} by P_T.
    spatial_skip: merge H_t with X_t by P_S.
    gate_sees_x: the gate also reads X_t, not only H_{t-2}.
    peephole: the bracketed terms.
    mask: bool [batch, time] or None; where False, the state (H_{t-1}, H_{t-2}, C_{t-1}) does not change and
      the outputs of that step are zero.
    temporal_merge: the (gated) H_{t-2} is merged with H_{t-1} before the cell reads it ("input"), or with the H that
      the cell computes ("output").

  Returns:
    dict of float64 arrays: H, C, Y [batch, time, height, width, C_h], and the state after the last step,
    H_last (H_T), H_previous (H_{T-1}) and C_last [batch, height, width, C_h].
  """

  def cell(x_t, h, c):
    def gate(name, peep):
      seen = convolve(x_t, params[f"W_x{name}"]) + convolve(h, params[f"W_h{name}"])
      return seen + params[f"b_{name}"] + peep

    i = sigmoid(gate("i", params["W_ci"] * c if peephole else 0))
    f = sigmoid(gate("f", params["W_cf"] * c if peephole else 0))
    c = f * c + i * np.tanh(gate("c", 0))
    o = sigmoid(gate("o", params["W_co"] * c if peephole else 0))
    return o * np.tanh(c), c

  channels = params["b_i"].shape[0]
  switches = temporal_gate, temporal_skip, spatial_skip, gate_sees_x
  return _run(cell, channels, x, params, *switches, mask, temporal_merge)


def conv_gru(
  x,
  params,
  temporal_gate=False,
  temporal_skip=False,
  spatial_skip=False,
  gate_sees_x=True,
  mask=None,
  temporal_merge="input",
):
  """Runs a ConvGRU layer (Ballas et al. 2016), improved as the options say.

  z = s(W_xz*X + W_hz*h + b_z)                  r = s(W_xr*X + W_hr*h + b_r)
  n = tanh(W_xh*X + W_hh*(r.h) + b_h)           H = (1 - z).h + z.n

  Arguments and result as for `conv_lstm`, without `peephole`, `C` and `C_last`.
  """

  def cell(x_t, h, c):
    z = sigmoid(convolve(x_t, params["W_xz"]) + convolve(h, params["W_hz"]) + params["b_z"])
    r = sigmoid(convolve(x_t, params["W_xr"]) + convolve(h, params["W_hr"]) + params["b_r"])
    n = np.tanh(convolve(x_t, params["W_xh"]) + convolve(r * h, params["W_hh"]) + params["b_h"])
    return (1 - z) * h + z * n, c

  channels = params["b_z"].shape[0]
  switches = temporal_gate, temporal_skip, spatial_skip, gate_sees_x
  out = _run(cell, channels, x, params, *switches, mask, temporal_merge)
  return {name: value for name, value in out.items() if not name.startswith("C")}


def _run(
  cell, channels, x, params, temporal_gate, temporal_skip, spatial_skip, gate_sees_x, mask, temporal_merge
):
  """Steps `cell(X_t, h, C_{t-1}) -> (H'_t, C_t)` through time with gate, skips and mask."""
  if temporal_merge not in ("input", "output"):
    raise ValueError(f"temporal_merge must be input or output, got {temporal_merge}")
  x = np.asarray(x, np.result_type(x, np.float64))
  batch, time, height, width, _ = x.shape
  dtype = np.result_type(x, *params.values())
  h1 = h2 = c = np.zeros((batch, height, width, channels), dtype)  # H_{t-1}, H_{t-2}, C_{t-1}
  steps = {"H": [], "C": [], "Y": []}
  for t in range(time):
    x_t = x[:, t]

    s = h2
    if temporal_gate:
      pre = convolve(h2, params["W_gg"]) + params["b_g"]
      if gate_sees_x:
        pre = pre + convolve(x_t, params["W_xg"])
      s = sigmoid(pre) * h2

    def merge(a, s=s):
      if temporal_skip:
        return np.concatenate([a, s], axis=-1) @ params["P_T"] + params["b_T"]
      return a + s if temporal_gate else a

    if temporal_merge == "input":
      h_t, c_t = cell(x_t, merge(h1), c)
    else:
      h_t, c_t = cell(x_t, h1, c)
      h_t = merge(h_t)

    y_t = h_t
    if spatial_skip:
      y_t = np.concatenate([h_t, x_t], axis=-1) @ params["P_S"] + params["b_S"]

    keep = np.ones(batch, bool) if mask is None else np.asarray(mask, bool)[:, t]
    keep = keep[:, None, None, None]
    for name, value in (("H", h_t), ("C", c_t), ("Y", y_t)):
      steps[name].append(np.where(keep, value, 0))
    h1, h2, c = np.where(keep, h_t, h1), np.where(keep, h1, h2), np.where(keep, c_t, c)
  outputs = {name: np.stack(values, axis=1) for name, values in steps.items()}
  return outputs | {"H_last": h1, "H_previous": h2, "C_last": c}
