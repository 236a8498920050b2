"""The same conv-RNNs in stock Flax, Keras 3 on JAX, and PyTorch: same parameters, inputs and results.

PyTorch has no convolutional recurrence. Ours for PyTorch is written to be fast: the convolution of the input runs once
over all steps, gates of one input are one convolution, and cuDNN may choose its algorithms by trial. It is compared in
NCHW, in channels-last and, on request, through `torch.compile`; bfloat16 uses autocast with float32 parameters.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import harness, torch_peer
from benchmarks.conv_rnn_problem import SGD, Problem, named, operate, pooled
from jaxfer.kernels.conv_recurrence import Cell

Inputs = Mapping[str, Any]


def _jax_peer(
  problem: Problem, inputs: Inputs, params: Any, apply: Callable, ours: Callable
) -> harness.JaxProgram:
  """Returns a peer that is a JAX function; `ours` converts its gradients to ours, layer -> name -> array."""
  x, weights = inputs["x"], inputs["weights"]

  def ours_named(result):
    return named({**result, **({"params": ours(result["params"])} if "params" in result else {})})

  if problem.operation != "train_step":
    run = functools.partial(operate, problem.operation, apply)
    x = x.astype(jnp.dtype(problem.dtype))
    return harness.JaxProgram(run, params, x, weights, named=ours_named)
  optimizer = optax.sgd(**SGD)

  def train(state, x, targets):
    params, optimizer_state = state
    out = operate("train_step", apply, params, x, targets)
    changes, optimizer_state = optimizer.update(out["params"], optimizer_state, params)
    return (optax.apply_updates(params, changes), optimizer_state), out["loss"]

  def result(out):
    (_, optimizer_state), loss = out
    return ours_named({"params": optimizer_state[0].trace, "loss": loss})

  return harness.JaxProgram(train, (params, optimizer.init(params)), x, weights, named=result, stepping=True)


def _plain_lstm_only(problem: Problem, library: str) -> None:
  if problem.kind != "conv_lstm" or problem.enhanced:
    raise harness.Missing(
      f"{library} has no such cell: its only convolutional recurrence is the plain ConvLSTM"
    )


def _stream(problem: Problem, layer: Callable[[int, jax.Array], jax.Array], x: jax.Array) -> jax.Array:
  """Applies layers: a single one as it is; several with max pooling between them and the mean over space and time."""
  for k in range(len(problem.features)):
    if k:
      x = nn.max_pool(x.reshape(-1, *x.shape[2:]), (2, 2), (2, 2)).reshape(*x.shape[:2], *pooled(x))
    x = layer(k, x)
  return x if len(problem.features) == 1 else x.astype(jnp.float32).mean((1, 2, 3))


def flax(
  problem: Problem, inputs: Inputs, session: harness.Session | None, *, unroll: int = 1
) -> harness.JaxProgram:
  """Prepares `nn.RNN(nn.ConvLSTMCell)`, whose loop takes `unroll` steps at a time."""
  del session
  _plain_lstm_only(problem, "Flax")
  dtype = jnp.dtype(problem.dtype)

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      def layer(k, x):
        cell = nn.ConvLSTMCell(problem.features[k], (3, 3), dtype=dtype, name=f"layer{k + 1}")
        return nn.RNN(cell, unroll=unroll)(x)

      return _stream(problem, layer, x)

  net = Net()
  # Flax orders its gates i g f o, ours are i f g o. Flax adds 1 to the forget gate, which ours has in its bias.
  theirs, back = [0, 2, 1, 3], [0, 2, 1, 3]

  def reorder(a, order):
    return np.concatenate([np.split(np.asarray(a, np.float32), 4, -1)[k] for k in order], -1)

  params = {}
  for name, p in inputs["params"].items():
    bias = reorder(p["input_bias"], theirs)
    features = len(bias) // 4
    bias[2 * features : 3 * features] -= 1
    params[name] = {
      "ih": {"kernel": reorder(p["input_kernel"], theirs), "bias": bias},
      "hh": {"kernel": reorder(p["state_kernel"], theirs), "bias": np.zeros_like(bias)},
    }

  def ours(gradients):
    return {
      name: {
        "input_kernel": reorder(g["ih"]["kernel"], back),
        "input_bias": reorder(g["ih"]["bias"], back),
        "state_kernel": reorder(g["hh"]["kernel"], back),
      }
      for name, g in gradients.items()
    }

  return _jax_peer(problem, inputs, params, lambda params, x: net.apply({"params": params}, x), ours)


def keras(problem: Problem, inputs: Inputs, session: harness.Session) -> harness.JaxProgram:
  """Prepares `ConvLSTM2D` of Keras 3 on its JAX backend, called as a pure function."""
  del session
  _plain_lstm_only(problem, "Keras")
  try:
    import keras as library
  except ImportError as error:
    raise harness.Missing(f"keras is not installed ({error})") from error
  if library.backend.backend() != "jax":
    raise harness.Missing(f"keras runs on {library.backend.backend()}: set KERAS_BACKEND=jax")
  policy = "mixed_bfloat16" if problem.dtype == "bfloat16" else "float32"
  layers, params, channels, size = [], {}, problem.channels, problem.size
  for k, features in enumerate(problem.features):
    layer = library.layers.ConvLSTM2D(features, 3, padding="same", return_sequences=True, dtype=policy)
    layer.build((problem.batch, problem.time, size, size, channels))
    names = [v.path.split("/")[-1] for v in layer.trainable_variables]
    expected = {"kernel": "input_kernel", "recurrent_kernel": "state_kernel", "bias": "input_bias"}
    p = inputs["params"][f"layer{k + 1}"]
    params[f"layer{k + 1}"] = [p[expected[name]] for name in names]  # Keras orders its gates as we do.
    layers.append((layer, [expected[name] for name in names]))
    channels, size = features, size // 2

  def apply(params, x):
    def run(k, x):
      layer = layers[k][0]
      return layer.stateless_call(
        params[f"layer{k + 1}"], [v.value for v in layer.non_trainable_variables], x
      )[0]

    return _stream(problem, run, x)

  def ours(gradients):
    return {name: dict(zip(layers[k][1], g, strict=True)) for k, (name, g) in enumerate(gradients.items())}

  return _jax_peer(problem, inputs, params, apply, ours)


@functools.cache
def _torch_layer() -> type:
  import torch
  from torch.nn import functional

  class Layer(torch.nn.Module):
    """One conv-RNN layer on [batch, time, channels, height, width]; equations as in kernels.conv_recurrence."""

    def __init__(self, cell: Cell, params: Mapping[str, np.ndarray]):
      super().__init__()
      self.cell = cell
      for name, array in params.items():
        self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(_to_torch(array).copy())))

    def conv(self, x, kernel, bias=None):
      return functional.conv2d(x, kernel, bias, padding="same" if kernel.shape[-1] == 1 else 1)

    def forward(self, x):
      cell, batch = self.cell, x.shape[0]
      features = self.input_bias.shape[0] // cell.gates
      kernel, bias = self.input_kernel, self.input_bias
      if cell.temporal_gate:
        kernel = torch.cat([kernel, self.gate_input_kernel])
        bias = torch.cat([bias, self.gate_bias])
      flat = x.flatten(0, 1)
      maps = self.conv(flat, kernel, bias).unflatten(0, (batch, -1))
      h = torch.zeros_like(maps[:, 0, :features])
      previous, c, outputs = h, h.float(), []
      for t in range(x.shape[1]):
        before, h_in, now = h, h, maps[:, t]
        if cell.temporal_gate:
          gate = torch.sigmoid(now[:, -features:] + self.conv(previous, self.gate_state_kernel))
          merged = torch.cat([h, gate * previous], 1)
          h_in = self.conv(merged, self.temporal_skip_kernel, self.temporal_skip_bias)
          now = now[:, :-features]
        if cell.kind == "conv_lstm":
          i, f, g, o = (now + self.conv(h_in, self.state_kernel)).chunk(4, 1)
          c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
          h = torch.sigmoid(o) * torch.tanh(c)
        else:
          z, r = torch.sigmoid(now[:, : 2 * features] + self.conv(h_in, self.state_kernel)).chunk(2, 1)
          n = torch.tanh(now[:, 2 * features :] + self.conv(r * h_in, self.candidate_kernel))
          h = (1 - z) * h_in + z * n
        h = h.to(maps.dtype)
        previous = before
        outputs.append(h)
      y = torch.stack(outputs, 1)
      if cell.spatial_skip:
        both = torch.cat([y.flatten(0, 1), flat.to(y.dtype)], 1)
        y = self.conv(both, self.spatial_skip_kernel, self.spatial_skip_bias).unflatten(0, (batch, -1))
      return y

  return Layer


def _to_torch(array: np.ndarray) -> np.ndarray:
  """Converts an HWIO or [in, out] kernel to OIHW; a bias stays unchanged."""
  if array.ndim == 2:
    array = array[None, None]
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def _from_torch(array: np.ndarray, like: np.ndarray) -> np.ndarray:
  return (array.transpose(2, 3, 1, 0) if array.ndim == 4 else array).reshape(like.shape)


def torch(
  problem: Problem,
  inputs: Inputs,
  session: harness.Session,
  *,
  channels_last: bool = False,
  compiled: bool = False,
) -> harness.Program:
  """Prepares PyTorch on the same kind of device, with as many threads as XLA."""
  torch_ = torch_peer.begin(session, channels_last=channels_last, compiled=compiled)
  library = torch_.library
  nets = [
    _torch_layer()(problem.cell, inputs["params"][f"layer{k + 1}"]) for k in range(len(problem.features))
  ]
  pool = library.nn.functional.max_pool2d

  base: Any = library.nn.Module

  class Net(base):
    def __init__(self):
      super().__init__()
      self.layers = library.nn.ModuleList(nets)

    def forward(self, x):
      for k, layer in enumerate(self.layers):
        if k:
          x = pool(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
        x = layer(x)
      return x if len(self.layers) == 1 else x.float().mean((1, 3, 4))

  net = torch_.place(Net())

  def clip(array):
    """Converts [batch, time, height, width, channels] to [batch, time, channels, height, width]."""
    return torch_.images(array.reshape(-1, *array.shape[2:])).unflatten(0, array.shape[:2])

  x = clip(inputs["x"]).requires_grad_(problem.operation == "gradient")
  weights = inputs["weights"]
  weights = clip(weights) if weights.ndim == 5 else library.from_numpy(weights).to(torch_.device)

  def scalar(y):
    if problem.operation == "gradient":
      return (y.float() * weights).sum()
    return (y.float() - weights).square().mean()

  def named_(first):
    if problem.operation == "forward":
      return {"output": torch_.numpy(first.permute(0, 1, 3, 4, 2) if first.ndim == 5 else first)}
    found: dict[str, Any] = {}
    for k, layer in enumerate(net.layers):
      for name, parameter in layer.named_parameters():
        like = inputs["params"][f"layer{k + 1}"][name]
        found[f"layer{k + 1}/{name}"] = _from_torch(torch_.numpy(parameter.grad), like)
    if problem.operation == "gradient":
      return found | {"x": torch_.numpy(x.grad.permute(0, 1, 3, 4, 2))}
    return found | {"loss": torch_.numpy(first)}

  return torch_peer.program(
    torch_, net, (x,), operation=problem.operation, dtype=problem.dtype, scalar=scalar, sgd=SGD, named=named_
  )


def flax_unrolled(problem: Problem, inputs: Inputs, session: harness.Session | None) -> harness.JaxProgram:
  """Like `flax`, but without a loop, its best setting on CPU, where XLA's weight gradients are slow inside loops."""
  return flax(problem, inputs, session, unroll=problem.time)


PEERS: dict[str, Callable[..., harness.Program | harness.JaxProgram]] = {
  "flax": flax,
  "flax_unrolled": flax_unrolled,
  "torch": torch,
  "torch_channels_last": functools.partial(torch, channels_last=True),
  "torch_compile": functools.partial(torch, channels_last=True, compiled=True),
  "keras": keras,
}
