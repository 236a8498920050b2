"""Writes nets.npz, the golden of convolutional layers and nets: `PYTHONPATH=. python tests/golden/make_nets.py`.

It needs PyTorch, in which the nets are computed in float64 (`benchmarks/torch_nets.py`). Inputs, weights and directions
are not in the file: `nets_cases.drawn` draws them from seeds. Arrays of the file, for each LABEL of `nets_cases.CASES`:

  LABEL/output         float32, channels last
  LABEL/taps/NAME      (residual nets in evaluation) the stem's norm and all stages but the last, float32, at equally
                       spaced pixels, see `face_cases.thinned`
  LABEL/names          parameters by our names, and "x"
  LABEL/slopes         for each of them sum(direction * dL/dparameter), L = sum(cotangent * output), float64
  LABEL/statistics/NAME  (training) running mean and variance after one step, float32; PyTorch's variance is unbiased
"""

from unittest import mock

import face_cases
import nets_cases
import numpy as np
import torch
from torch.nn import functional

from benchmarks import torch_nets


def layers(p, x):
  """Computes `nets_cases.Layers` by PyTorch's definitions."""

  def conv(name, stride, padding):
    layer = getattr(p, name)
    return functional.conv2d(x, layer.kernel, layer.bias if "bias" in layer else None, stride, padding)

  def deconv(name, stride, padding, output_padding):
    layer = getattr(p, name)
    return functional.conv_transpose2d(x, layer.kernel, layer.bias, stride, padding, output_padding)

  outputs = [
    conv("conv3", 2, 1),
    conv("conv7", 2, 3),
    conv("conv1", 2, 0),
    conv("conv_uneven", (1, 2), (0, 1)),
    deconv("deconv4", 2, 1, 0),
    deconv("deconv3", 2, 1, 1),
  ]
  return torch.cat([y.permute(0, 2, 3, 1).flatten(1) for y in outputs], -1)


def net_of(label, case):
  """Returns a function of (parameters, input) in PyTorch."""
  if label.startswith("resnet"):
    return lambda p, x: torch_nets.resnet_trunk(p, x, case.arguments["train"])
  if label == "encoder":
    return lambda p, x: torch.cat(torch_nets.encoder(p, x), -1)
  return {"layers": layers, "decoder": torch_nets.decoder}[label]


def tapped(net, x):
  """Returns the output, and the outputs of the tapped submodules of a residual net by name, channels last."""
  taps, names = {}, {}
  for name in nets_cases.TAPS:
    tree = getattr(net.tree, name)
    last = list(tree.children())[-1:]  # The last block of a stage.
    names[last[0] if last else tree] = name

  def noting(function):
    def call(p, *arguments):
      y = function(p, *arguments)
      if p in names:
        taps[names[p]] = face_cases.thinned(y.detach().permute(0, 2, 3, 1).numpy().astype(np.float32))
      return y

    return call

  patches = {name: noting(getattr(torch_nets, name)) for name in ("_norm", "_block")}
  with mock.patch.multiple(torch_nets, **patches):
    y = net(x)
  assert set(taps) == set(nets_cases.TAPS)
  return y, taps


def compute(label, case):
  """Returns the case's arrays."""
  own = nets_cases.drawn(label)
  net = torch_nets.Net(net_of(label, case), own["variables"]).double()
  images = len(case.shape) == 4
  x = torch.from_numpy(own["x"]).double()
  x = (x.permute(0, 3, 1, 2) if images else x).requires_grad_()
  y, taps = tapped(net, x) if case.tapped else (net(x), {})
  y = y.permute(0, 2, 3, 1) if y.ndim == 4 else y
  (y * torch.from_numpy(own["cotangent"])).sum().backward()
  gradients = {**net.gradients(), "x": (x.grad.permute(0, 2, 3, 1) if images else x.grad).numpy()}
  names = sorted(gradients)
  arrays = {
    "output": y.detach().numpy().astype(np.float32),
    "names": np.array(names),
    "slopes": np.array([(own["directions"][name] * gradients[name]).sum() for name in names]),
  }
  arrays |= {f"taps/{name}": tap for name, tap in taps.items()}
  if case.arguments.get("train"):
    arrays |= {f"statistics/{name}": a.astype(np.float32) for name, a in net.statistics().items()}
  return {f"{label}/{name}": array for name, array in arrays.items()}


def main():
  arrays = {}
  for label, case in nets_cases.CASES.items():
    arrays |= compute(label, case)
  np.savez_compressed(nets_cases.PATH, **arrays)
  print(f"{nets_cases.PATH.name}: {len(arrays)} arrays, {nets_cases.PATH.stat().st_size} bytes")


if __name__ == "__main__":
  main()
