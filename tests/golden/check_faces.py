"""Compares stages and features of the four Face-ResNets at full size with PyTorch, with random weights.

Run it as `PYTHONPATH=. python tests/golden/check_faces.py`. It needs PyTorch, and is not part of the test suite (100 to
180 MB per checkpoint). It prints the largest difference of every stage, relative to its largest value, and fails above
1e-4. Weights are converted by `jaxfer convert`, and pictures are processed by `jaxfer.load(...).outputs`.
"""

import pathlib
import sys
import tempfile

import face_cases
import jax
import numpy as np
import published_faces
import published_nets
import torch

import jaxfer
from jaxfer import cli

TOLERANCE = 1e-4


def check(family, depth, folder):
  """Returns the largest relative difference of any stage."""
  net = published_nets.randomise(published_faces.NETS[family](depth))
  with torch.no_grad():
    for name, tensor in net.state_dict().items():
      if name.endswith(("bn3.weight", "res_layer.5.weight")):
        tensor.mul_(0.2)  # With random branches of full size, values would grow from block to block.
    if family == "insightface":
      net.features.weight.fill_(1)
  state = net.state_dict()
  if family == "adaface":
    state = {
      "epoch": 1,
      "state_dict": {f"model.{k}": v for k, v in state.items()} | {"head.t": torch.zeros(1)},
    }
  torch.save(state, folder / "net.ckpt")
  out = folder / f"{family}{depth}"
  assert cli.main(["convert", family, str(folder / "net.ckpt"), str(out)]) == 0
  loaded = jaxfer.load(out)
  images = np.random.default_rng(1).integers(0, 256, (3, 14, 14, 3), np.uint8).repeat(8, 1).repeat(8, 2)
  x = images[..., ::-1].astype(np.float32) if family == "adaface" else images.astype(np.float32)
  x, taps = (x / 255 - 0.5) / 0.5, {}
  for name, module in net.taps.items():
    module.register_forward_hook(lambda m, i, y, name=name: taps.update({name: y.numpy()}))
  with torch.no_grad():
    want = net(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()

  @jax.jit
  def stages(variables, x):
    def caught(module, method):
      return len(module.path) == 1 and module.name in face_cases.TAPS

    return loaded.model.apply(
      variables, x, train=False, capture_intermediates=caught, mutable=["intermediates"]
    )

  _, found = stages(loaded.variables, x)
  pairs = {"feature": (loaded.outputs(images), want)}
  for name in face_cases.TAPS:
    tap = taps[name].transpose(0, 2, 3, 1) if taps[name].ndim == 4 else taps[name]
    pairs[name] = found["intermediates"][name]["__call__"][0], tap
  differences = {name: float(np.abs(a - b).max() / np.abs(b).max()) for name, (a, b) in pairs.items()}
  print(family, depth, {name: f"{value:.1e}" for name, value in differences.items()})
  return max(differences.values())


def main():
  worst = 0.0
  for family in published_faces.NETS:
    for depth in published_faces.BLOCKS:
      torch.manual_seed(0)
      with tempfile.TemporaryDirectory() as folder:
        worst = max(worst, check(family, depth, pathlib.Path(folder)))
  print(f"largest relative difference {worst:.2g}")
  return int(worst > TOLERANCE)


if __name__ == "__main__":
  sys.exit(main())
