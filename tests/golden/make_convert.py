"""Writes the fixtures of tests/convert: `python tests/golden/make_convert.py`. It needs PyTorch and Pillow.

arm.pth          the RGB net of paper 002 at 1/64 of its widths, as the authors save it, in the zip format
arm_legacy.pth   the same with DataParallel's prefix, in the format before PyTorch 1.6
arm.npz          pictures, uint8; logits of them as one batch, and as batches of 2 and 1
views.pth, views_legacy.pth   tensors of all types, transposed, shared, sliced and empty
kinds.pth, kinds_legacy.pth   the types without a storage class, tensors with attributes, and kinds that are not read
"""

import pathlib
import tempfile
import warnings

import numpy as np
import published_nets
import torch

FOLDER = pathlib.Path(__file__).parents[1] / "convert/fixtures"


def views():
  """Returns tensors, described by their names; the tests build the same in NumPy."""
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


def kinds():
  """Returns tensors, described by their names; `torch_file_test` tests which ones are read."""
  values = torch.tensor([1.0, 2.0, 4.0])
  types = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "uint16", "uint32",
           "uint64", "complex32", "complex64", "complex128")  # fmt: skip
  made = {name: values.to(getattr(torch, name)) for name in types}
  made["float4_e2m1fn_x2"] = torch.zeros(3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
  made["buffer"] = torch.nn.Buffer(values)
  for name, tensor in (("attribute", values.clone()), ("parameter", torch.nn.Parameter(values))):
    tensor.note = "an attribute"
    made[name] = tensor
  return made | {
    "quantised": torch.quantize_per_tensor(values, 0.1, 0, torch.qint8),
    "sparse": torch.eye(3).to_sparse(),
    "sparse_rows": torch.eye(3).to_sparse_csr(),
    "nested": torch.nested.nested_tensor([values, values[:1]]),
    "meta": torch.ones(3, device="meta"),
    "negative": torch._neg_view(values),
    "shared": values,
    "shared_transposed": values[None].t(),
  }


def save(value, name, **how):
  """Saves a value through a file with a fixed name, because the folder in the archive is named after the file."""
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
  warnings.simplefilter("ignore")  # Warnings about experimental or deprecated types.
  save(kinds(), "kinds.pth")
  save(kinds(), "kinds_legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
  main()
