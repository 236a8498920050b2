"""Writes the fixtures of tests/convert: `python tests/golden/make_convert.py`. Needs PyTorch and Pillow.

arm.pth          the RGB net of paper 002 at 1/64 of its widths, as the authors save it, in the zip format
arm_legacy.pth   the same behind DataParallel, in the format before PyTorch 1.6
arm.npz          pictures, uint8; logits of them as one batch, and as batches of 2 and 1
views.pth, views_legacy.pth   tensors of all types, transposed, shared, sliced and empty
"""

import pathlib
import tempfile

import numpy as np
import published_nets
import torch

FOLDER = pathlib.Path(__file__).parents[1] / "convert/fixtures"


def views():
  """Names say what each one is; `convert_test` builds the same in NumPy."""
  base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
  made = {
    "base": base,
    "transposed": base.t(),
    "row": base[2],
    "every_other": base[1::2, ::3],
    "empty": torch.zeros(0, 3),
    "scalar": torch.tensor(7),
    "parameter": torch.nn.Parameter(base[:2]),
    "bool": torch.tensor([True, False]),
  }
  types = ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")
  return made | {name: torch.arange(3).to(getattr(torch, name)) for name in types}


def save(value, name, **how):
  """The archive's folder is named after the file: a fixed one."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "weights"
    torch.save(value, path, **how)
    (FOLDER / name).write_bytes(path.read_bytes())


def main():
  torch.manual_seed(0)
  FOLDER.mkdir(exist_ok=True)
  net = published_nets.randomise(published_nets.Arm(width=1 / 64, block=2, size=96))
  optimizer = torch.optim.Adam(net.parameters(), weight_decay=1e-4)
  checkpoint = {
    "iter": 3, "model_state_dict": net.state_dict(), "optimizer_state_dict": optimizer.state_dict(),
  }  # fmt: skip
  save(checkpoint, "arm.pth")
  parallel = torch.nn.DataParallel(net).state_dict()
  save({**checkpoint, "model_state_dict": parallel}, "arm_legacy.pth", _use_new_zipfile_serialization=False)
  images = np.random.default_rng(0).integers(0, 256, (3, 10, 12, 3), np.uint8)
  images = images.repeat(4, 1).repeat(4, 2)
  np.savez_compressed(
    FOLDER / "arm.npz",
    images=images,
    one_batch=published_nets.logits(net, images, 96, 3),
    batches_of_two=published_nets.logits(net, images, 96, 2),
  )
  save(views(), "views.pth")
  save(views(), "views_legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
  main()
