"""Compares PyTorch's logits with ours for published nets at full size with random weights.

Run it as `PYTHONPATH=. python tests/golden/check_convert.py`. It needs PyTorch and safetensors, and is not part of the
test suite (45 to 100 MB per checkpoint). It prints the largest difference of the logits for each importer and number of
pictures, and fails above 1e-4 of the largest logit. Every format must give the same variables bit for bit.
"""

import pathlib
import sys
import tempfile

import numpy as np
import published_nets
import safetensors.torch
import torch

import jaxfer
from jaxfer import cli

TOLERANCE = 1e-4
NETS = {
  "arm": published_nets.Arm,
  "torchvision_resnet18": lambda: published_nets.ResNet(18, 1000),
  "torchvision_resnet50": lambda: published_nets.ResNet(50, 1000),
}


def check(importer, net, counts, folder):
  """Converts by the command line in all formats; returns the largest relative difference."""
  state = net.state_dict()
  wrapped = {"iter": 1, "model_state_dict": state, "optimizer_state_dict": {}} if importer == "arm" else state
  torch.save(wrapped, folder / "zip.pth")
  torch.save(wrapped, folder / "legacy.pth", _use_new_zipfile_serialization=False)
  safetensors.torch.save_file(state, folder / "library.safetensors")
  pictures = np.random.default_rng(1).integers(0, 256, (max(counts), 10, 10, 3), np.uint8)
  pictures = pictures.repeat(10, 1).repeat(10, 2)
  wants = {count: published_nets.logits(net, pictures[:count], 224, 64) for count in counts}
  worst, first = 0.0, None
  for file in ("zip.pth", "legacy.pth", "library.safetensors"):
    out = folder / f"{importer}_{file}"
    assert cli.main(["convert", importer, str(folder / file), str(out)]) == 0
    loaded = jaxfer.load(out)
    if first is not None:  # The same variables, bit for bit, give the same logits.
      assert all(
        np.array_equal(a, b, equal_nan=True)
        for a, b in zip(*map(published_leaves, (first, loaded)), strict=True)
      )
      continue
    first = loaded
    for count, want in wants.items():
      got = loaded.outputs(pictures[:count])
      difference = np.abs(got - want).max()
      print(
        f"{importer} {count} pictures: differs by {difference:.2g}, largest logit {np.abs(want).max():.3g}"
      )
      worst = max(worst, difference / np.abs(want).max())
      if importer == "arm":
        shuffled = loaded.outputs(pictures[:count][::-1])[::-1]
        print(f"  in reverse order ours differ by {np.abs(shuffled - got).max():.2g}")
  return worst


def published_leaves(loaded):
  """Returns the variables in the order of their names."""
  import jax

  return jax.tree.leaves(loaded.variables)


def main():
  worst = 0.0
  for importer, build in NETS.items():
    torch.manual_seed(0)
    net = published_nets.randomise(build())
    with tempfile.TemporaryDirectory() as folder:
      worst = max(worst, check(importer, net, (5, 70) if importer == "arm" else (5,), pathlib.Path(folder)))
  print(f"largest relative difference {worst:.2g}")
  return int(worst > TOLERANCE)


if __name__ == "__main__":
  sys.exit(main())
