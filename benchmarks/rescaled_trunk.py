"""Scales the kernels of a trunk back to their initial size: the same function, but fine-tuned differently.

  python -m benchmarks.rescaled_trunk runs/table/sources/cosface-resnet18/weights/<training> runs/rescaled
  jaxfer study configs/elderly_transfer/table_synthetic.py --workdir runs/rescaled_study "rows=('ResNet18, cosface',)" \
    sources.cosface-resnet18=runs/rescaled

The output of a normalised convolution does not depend on the size of its kernel if the running statistics of the norm
are scaled too. But the effect of a step of Adam does: all its steps have the same length, so the direction of a kernel
that grew tenfold in the pre-training changes a tenth as much. Differences between both fine-tunings are due to that,
and not to what the trunk has learned.
"""

import argparse
import pathlib
import re

import numpy as np
from flax import traverse_util

from jaxfer.errors import UserError
from jaxfer.train import weights
from jaxfer.train.stage import Variables


def rescaled(variables: Variables) -> tuple[Variables, dict[str, float]]:
  """Returns rescaled variables of a `FaceClassifier`, and the divisor of each of the trunk's kernels.

  Raises:
    UserError: there is no trunk of convolutions and norms.
  """
  flat = {
    path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(dict(variables), sep="/").items()
  }
  factors = {}
  for path in [path for path in flat if re.fullmatch(r"params/trunk/.*conv\d?/kernel", path)]:
    kernel, name = flat[path], path.removeprefix("params/").removesuffix("/kernel")
    norm = _norm_after(name, face="params/trunk/prelu/slope" in flat)
    mean, variance = f"batch_stats/{norm}/mean", f"batch_stats/{norm}/var"
    drawn = np.sqrt(2 / (kernel[..., 0, :].size))  # He's normal initialisation by fan-out, as in both nets.
    factor = np.sqrt(np.square(kernel).mean()) / drawn
    flat[path], flat[mean], flat[variance] = kernel / factor, flat[mean] / factor, flat[variance] / factor**2
    factors[name] = float(factor)
  if not factors:
    raise UserError("no trunk of convolutions and norms: give the weights of a training of elderly_transfer")
  return traverse_util.unflatten_dict(flat, sep="/"), factors


def _norm_after(conv: str, face: bool) -> str:
  """Returns the norm that follows a convolution; blocks of Face-ResNets also have one before it."""
  in_block = "/block" in conv
  norm = re.sub(r"conv(\d)$", lambda found: f"bn{int(found[1]) + (face and in_block)}", conv)
  return norm.replace("downsample_conv", "downsample_bn")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("weights", type=pathlib.Path, help="a folder of weights")
  parser.add_argument("out", type=pathlib.Path, help="the folder to write")
  arguments = parser.parse_args()
  variables, meta = weights.load_weights(arguments.weights)
  changed, factors = rescaled(variables)
  weights.save_weights(arguments.out, changed, meta)
  for name, factor in factors.items():
    print(f"{name}: {factor:.2f} times as large as drawn")


if __name__ == "__main__":
  main()
