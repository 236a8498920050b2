"""Writes faces.npz, the golden of face networks and margin heads: `PYTHONPATH=. python tests/golden/make_faces.py`.

It needs PyTorch, in which `published_faces` computes in float64. Inputs, weights and directions are not in the file:
`face_cases` draws them from seeds. Arrays of the file, for each LABEL of `face_cases.CASES`:

  LABEL/output         features, float32
  LABEL/taps/NAME      (evaluation) outputs of the stages, channels last, thinned out
  LABEL/names, LABEL/slopes   (training) parameters by our names, and "x"; for each of them
                       sum(direction * dL/dparameter), L = sum(cotangent * output), float64
  LABEL/statistics/NAME  (training) running mean and variance after one step; the batch's part of the variance is ours,
                       (n - 1) / n of PyTorch's

and for each head of `face_cases.HEADS` and each of its two batches, where the averages continue:

  HEAD/BATCH/logits, HEAD/BATCH/loss, HEAD/BATCH/kernel, HEAD/BATCH/features   the latter two gradients of the mean loss
  adaface/BATCH/averages   mean and standard deviation
"""

import face_cases
import numpy as np
import published_faces
import torch
from flax import traverse_util
from torch.nn import functional

from jaxfer.convert import importers


def torch_state(case, variables):
  """{our path: PyTorch's name}, the state dict; the frozen scale of InsightFace's last norm is 1."""
  attributes = {"depth": case.depth, "family": case.family}
  flat = traverse_util.flatten_dict(variables, sep="/")
  names = {path: importers.torch_name(importers.IMPORTERS[case.family], path, attributes) for path in flat}
  state = {names[path]: torch.from_numpy(to_torch(leaf)) for path, leaf in flat.items()}
  if case.family == "insightface":
    state["features.weight"] = torch.ones(state["features.bias"].shape)
  return names, state


def to_torch(array):
  axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
  return np.ascontiguousarray(array if axes is None else array.transpose(axes))


def to_ours(array):
  axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
  return array if axes is None else array.transpose(axes)


def compute(label, case):
  """Returns the case's arrays."""
  own = face_cases.drawn(label)
  names, state = torch_state(case, own["variables"])
  net = published_faces.NETS[case.family](case.depth, 1 / 16, 32, *([0.0] if case.train else []))
  counted = {key: torch.tensor(0) for key in net.state_dict() if key.endswith("num_batches_tracked")}
  net.load_state_dict({**state, **counted}, strict=True)
  net = net.double().train(case.train)
  taps, counts = {}, {}
  for name, module in net.taps.items():
    module.register_forward_hook(lambda m, i, y, name=name: taps.update({name: y.detach()}))
  for name, module in net.named_modules():
    if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
      module.register_forward_hook(lambda m, i, y, name=name: counts.update({name: y.numel() // y.shape[1]}))
  x = torch.from_numpy(own["x"]).double().permute(0, 3, 1, 2).requires_grad_()
  y = net(x)
  arrays = {"output": y.detach().numpy().astype(np.float32)}
  if not case.train:
    for name, tap in taps.items():
      tap = tap.permute(0, 2, 3, 1) if tap.ndim == 4 else tap
      arrays[f"taps/{name}"] = face_cases.thinned(tap.numpy()).astype(np.float32)
    return {f"{label}/{name}": array for name, array in arrays.items()}
  (y * torch.from_numpy(own["cotangent"])).sum().backward()
  parameters = dict(net.named_parameters())
  gradients = {
    path.removeprefix("params/"): to_ours(parameters[key].grad.numpy())
    for path, key in names.items()
    if path.startswith("params/")
  }
  gradients["x"] = x.grad.permute(0, 2, 3, 1).numpy()
  arrays["names"] = np.array(sorted(gradients))
  arrays["slopes"] = np.array([(own["directions"][k] * gradients[k]).sum() for k in sorted(gradients)])
  after = net.state_dict()
  for path, key in names.items():
    if path.startswith("batch_stats/"):
      value = after[key].numpy()
      if path.endswith("var"):
        n, kept = counts[key.removesuffix(".running_var")], 0.9 * state[key].numpy().astype(np.float64)
        value = kept + (value - kept) * (n - 1) / n
      arrays[f"statistics/{path.removeprefix('batch_stats/')}"] = value.astype(np.float32)
  return {f"{label}/{name}": array for name, array in arrays.items()}


def heads():
  """Computes two batches with each head."""
  own = face_cases.drawn_head()
  arrays = {}
  for name in face_cases.HEADS:
    margin, eps = {"cosface": (0.4, 1e-4), "arcface": (0.5, 1e-4), "adaface": (0.4, 1e-3)}[name]
    head = published_faces.Head(torch.from_numpy(own["kernel"]).double(), name, margin, eps).double()
    if name == "adaface":
      head.batch_mean, head.batch_std = (a.reshape(1) for a in torch.from_numpy(own["averages"]).double())
    for batch in (0, 1):
      feature = torch.from_numpy(own["features"][batch]).double().requires_grad_()
      labels = torch.from_numpy(own["labels"][batch])
      norm = feature.norm(dim=1, keepdim=True)
      head.zero_grad()
      logits = head(feature / norm, norm[:, 0], labels)
      loss = functional.cross_entropy(logits, labels)
      loss.backward()
      found = {"logits": logits, "loss": loss, "kernel": head.kernel.grad, "features": feature.grad}
      if name == "adaface":
        found["averages"] = torch.cat([head.batch_mean, head.batch_std])
      arrays |= {f"{name}/{batch}/{key}": value.detach().numpy() for key, value in found.items()}
  return arrays


def main():
  arrays = heads()
  for label, case in face_cases.CASES.items():
    arrays |= compute(label, case)
  np.savez_compressed(face_cases.PATH, **arrays)
  print(f"{face_cases.PATH.name}: {len(arrays)} arrays, {face_cases.PATH.stat().st_size} bytes")


if __name__ == "__main__":
  main()
