"""Writes fixtures of tests/convert: `python tests/golden/make_face_checkpoints.py`.

It needs PyTorch. The nets are those of `published_faces` at 1/64 of their widths, with 112 px, depth 18 and random
weights.

adaface.ckpt      saved as by Lightning: with a head, callbacks by their class, and hyperparameters as objects
insightface.pth   a state dict
faces.npz         pictures, uint8 RGB; PyTorch's features of both nets, each with its own order of colours
"""

import argparse
import collections
import sys
import types

import make_convert
import numpy as np
import published_faces
import published_nets
import torch


def stand_in(module, name, base=object):
  """Returns a class that is pickled under the name of one of Lightning's, which need not be installed."""
  made = type(name, (base,), {"__module__": module})
  parts = module.split(".")
  for k in range(1, len(parts) + 1):
    sys.modules.setdefault(".".join(parts[:k]), types.ModuleType(parts[k - 1]))
  setattr(sys.modules[module], name, made)
  return made


def lightning(net):
  """Returns a checkpoint with the kinds of objects that Lightning stores beside the state dict."""
  callback = stand_in("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
  attributes = stand_in("pytorch_lightning.utilities.parsing", "AttributeDict", dict)
  state = collections.OrderedDict((f"model.{name}", tensor) for name, tensor in net.state_dict().items())
  kernel = torch.nn.functional.normalize(torch.randn(8, 5), dim=0)
  head = {
    "kernel": kernel,
    "t": torch.zeros(1),
    "batch_mean": torch.tensor([21.0]),
    "batch_std": torch.tensor([9.0]),
  }
  state |= {f"head.{name}": tensor for name, tensor in head.items()}
  options = argparse.Namespace(arch="ir_18", head="adaface", devices={0, 1}, score=np.float64(0.5))
  return {
    "epoch": 25, "global_step": 100, "pytorch-lightning_version": "1.4.4", "state_dict": state,
    "callbacks": {callback: {"best_model_score": torch.tensor(0.99), "monitor": "val_acc"}},
    "optimizer_states": [{"state": collections.defaultdict(dict), "param_groups": [{"lr": 0.1}]}],
    "lr_schedulers": [{"milestones": collections.Counter({12: 1, 20: 1})}],
    "hparams_name": "kwargs", "hyper_parameters": attributes(options=options, lr=0.1, device=torch.device("cpu")),
  }  # fmt: skip


def main():
  torch.manual_seed(0)
  pictures = np.random.default_rng(0).integers(0, 256, (2, 14, 14, 3), np.uint8).repeat(8, 1).repeat(8, 2)
  arrays = {"images": pictures}
  for family, name in (("adaface", "adaface.ckpt"), ("insightface", "insightface.pth")):
    net = published_nets.randomise(published_faces.NETS[family](18, 1 / 64))
    if family == "insightface":
      net.features.weight.fill_(1)
    make_convert.save(lightning(net) if family == "adaface" else net.state_dict(), name)
    x = torch.from_numpy(pictures[..., ::-1].copy() if family == "adaface" else pictures)
    with torch.no_grad():
      arrays[family] = net((x.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5).numpy()
  np.savez_compressed(make_convert.FOLDER / "faces.npz", **arrays)


if __name__ == "__main__":
  main()
