"""Writes landmark_fusion.npz, paper 002: `PYTHONPATH=. python tests/golden/make_landmark_fusion.py`.

It needs PyTorch, in which the nets are implemented here again, in float64, with the layout and the key names of the
authors' released checkpoint. Weights and batches are not in the file: `landmark_fusion_cases` draws
them from seeds. Arrays:

  arrangement                SHA-256 of the arranged features, float32, channels last
  fusion/rgb/maps            [3, 7, 7, 32] every 16th channel of the RGB trunk, the net in evaluation
  fusion/landmark/maps       the same of conv6 after its ReLU, the net in training; so are the following
  fusion/{rgb,landmark}/de_albino  [3, 11, 11, 2]
  fusion/{rgb,landmark,fused,rgb_features,landmark_features}  as `Outputs`
  fusion/names, fusion/slopes  of the parameters of landmark net and head, sum(direction * dL/dparameter), for
                             L = cross-entropy of the landmark net + cross-entropy of the head, means over the batch
  LABEL/statistics/NAME      running mean and variance after three steps; of "fusion" by gradient descent, of "rgb"
                             with weights that stay; PyTorch's variance is unbiased
  fusion/ema                 [11, 11] moving average of the landmark net's G after the three steps
"""

import hashlib

import landmark_fusion_cases as cases
import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Amend(nn.Module):
  """`arm`, which stores intermediate results."""

  def __init__(self, channels, block):
    super().__init__()
    self.block, self.planes = block, channels // block**2
    self.de_albino = nn.Conv2d(1, 1, 2 * block, block // 2, bias=False)
    self.bn = nn.BatchNorm2d(self.planes)
    self.alpha = nn.Parameter(torch.ones(1))

  def forward(self, x):
    arranged = functional.pixel_shuffle(x, self.block)
    self.seen = torch.cat([self.de_albino(arranged[:, c, None]) for c in range(self.planes)], 1)
    own = self.bn(self.seen)
    self.generic = own.mean((0, 1))
    return (own.mean(1) + self.alpha * self.generic).flatten(1)


class Block(nn.Module):
  """Torchvision's basic block."""

  def __init__(self, inputs, outputs, stride):
    super().__init__()
    self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(outputs)
    self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(outputs)
    if stride > 1:
      convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
      self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

  def forward(self, x):
    y = functional.relu(self.bn1(self.conv1(x)))
    y = self.bn2(self.conv2(y))
    return functional.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class Rgb(nn.Module):
  """The authors' net: `features` (all but the last two children of ResNet18), `arm`, `fc`."""

  def __init__(self, width, block, units):
    super().__init__()
    n = [int(width * features) for features in (64, 64, 128, 256, 512)]
    stem = [nn.Conv2d(3, n[0], 7, 2, 3, bias=False), nn.BatchNorm2d(n[0]), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    layers = [
      nn.Sequential(Block(n[k], n[k + 1], 2 if k else 1), Block(n[k + 1], n[k + 1], 1)) for k in range(4)
    ]
    self.features = nn.Sequential(*stem, *layers)
    self.arm = Amend(n[4], block)
    self.fc = nn.Linear(units, 7)

  def forward(self, x):
    self.maps = self.features(x)
    self.vector = self.arm(self.maps)
    return self.fc(self.vector)


class Landmark(nn.Module):
  """The landmark net (Table 1)."""

  def __init__(self):
    super().__init__()
    sizes = [(1, 32, 5), (32, 64, 3), (64, 128, 3), (128, 256, 3), (256, 512, 3), (512, 512, 4)]
    for k, (inputs, outputs, kernel) in enumerate(sizes, start=1):
      self.add_module(f"conv{k}", nn.Conv2d(inputs, outputs, kernel))
    self.arm = Amend(512, 16)
    self.fc = nn.Linear(121, 7)

  def forward(self, x):
    for k in range(1, 7):
      x = functional.relu(getattr(self, f"conv{k}")(x))
      x = functional.max_pool2d(x, 2) if k <= 4 else x
    self.maps = x
    self.vector = self.arm(x)
    return self.fc(self.vector)


class Fusion(nn.Module):
  """Both nets, and the head over their features."""

  def __init__(self):
    super().__init__()
    self.rgb, self.landmark, self.head = Rgb(1, 16, 121), Landmark(), nn.Linear(242, 7)

  def forward(self, images, heatmaps):
    rgb, landmark = self.rgb(images), self.landmark(heatmaps)
    self.agree = agree = landmark.argmax(1) == rgb.argmax(1)
    w = torch.where(agree, 1.0, float(cases.WEIGHT))
    p = landmark.softmax(1).max(1).values
    fused = self.head(torch.cat([self.rgb.vector, (p * w)[:, None] * self.landmark.vector], 1))
    return rgb, landmark, fused


LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def key(name):
  """Converts our path of a leaf to the checkpoint's key, such as "rgb/trunk/layer2/block0/downsample_bn/var"."""
  parts = name.split("/")
  names = {"downsample_conv": ["downsample", "0"], "downsample_bn": ["downsample", "1"]}
  found = []
  for part in parts[:-1]:
    if part == "trunk":
      found.append("features")
    elif "trunk" in parts and part.startswith("layer"):
      found.append(str(int(part[5:]) + 3))
    elif "trunk" in parts and part.startswith("block"):
      found.append(part[5:])
    elif found[-1:] == ["features"]:
      found.append({"conv1": "0", "bn1": "1"}[part])
    else:
      found += names.get(part, [part])
  return ".".join([*found, LEAVES.get(parts[-1], parts[-1])])


def theirs(array):
  """Converts kernels to PyTorch's order of axes."""
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T if array.ndim == 2 else array


def load(net, label):
  """Sets all weights and statistics; returns {our name: the checkpoint's key}."""
  own = cases.variables(label)
  leaves = jax_leaves({**own["params"]}) | jax_leaves(own["batch_stats"])
  state = {key(name): torch.from_numpy(np.array(theirs(array))) for name, array in leaves.items()}
  missing, unexpected = net.load_state_dict(state, strict=False)
  assert not unexpected
  assert all(name.endswith("num_batches_tracked") for name in missing)
  return {name: key(name) for name in leaves}


def jax_leaves(tree, path=""):
  """Flattens nested dicts to {"a/b/kernel": array}."""
  found = {}
  for name, value in tree.items():
    found |= jax_leaves(value, f"{path}{name}/") if isinstance(value, dict) else {f"{path}{name}": value}
  return found


def channels_first(x):
  return torch.from_numpy(x).double().permute(0, 3, 1, 2)


def channels_last(x):
  return x.detach().permute(0, 2, 3, 1).numpy().astype(np.float32)


def fusion():
  net = Fusion().double()
  keys, arrays = load(net, "fusion"), {}
  net.rgb.eval().requires_grad_(False)
  ema = np.float64(cases.variables("fusion")["affinity"]["landmark"]["arm"]["ema"])
  parameters = dict(net.named_parameters())
  for step, (images, heatmaps, labels) in enumerate(cases.batches("fusion")):
    net.zero_grad()
    rgb, landmark, fused = net(channels_first(images), channels_first(heatmaps))
    labels = torch.from_numpy(labels)
    (functional.cross_entropy(landmark, labels) + functional.cross_entropy(fused, labels)).backward()
    ema = (1 - cases.EMA_RATE) * ema + cases.EMA_RATE * net.landmark.arm.generic.detach().numpy()
    if step == 0:
      assert net.agree.tolist() == [False, True, False]  # Both values of w occur.
      for name, part in (("rgb", net.rgb), ("landmark", net.landmark)):
        arrays[f"{name}/maps"] = channels_last(part.maps)[..., :: cases.KEPT]
        arrays[f"{name}/de_albino"] = channels_last(part.arm.seen)
        arrays[f"{name}_features"] = part.vector.detach().numpy()
      logits = {"rgb": rgb, "landmark": landmark, "fused": fused}
      arrays |= {name: tensor.detach().numpy() for name, tensor in logits.items()}
      directions = cases.directions()
      arrays["names"] = np.array(sorted(directions))
      slopes = [
        (theirs(directions[name]) * parameters[keys[name]].grad.numpy()).sum() for name in arrays["names"]
      ]
      arrays["slopes"] = np.array(slopes)
    with torch.no_grad():
      for parameter in parameters.values():
        if parameter.grad is not None:
          parameter -= cases.RATE * parameter.grad
  return arrays | statistics(net, keys) | {"ema": ema}


def rgb():
  net = Rgb(0.125, 4, 25).double()
  keys = load(net, "rgb")
  with torch.no_grad():
    for images, _, _ in cases.batches("rgb"):
      net(channels_first(images))
  return statistics(net, keys)


def statistics(net, keys):
  buffers = dict(net.named_buffers())
  return {
    f"statistics/{name}": buffers[k].numpy().astype(np.float32) for name, k in keys.items() if k in buffers
  }


def main():
  torch.manual_seed(0)
  arranged = functional.pixel_shuffle(torch.from_numpy(cases.features()).permute(0, 3, 1, 2), 16)
  arrays = {"arrangement": np.array(hashlib.sha256(channels_last(arranged).tobytes()).hexdigest())}
  for label, compute in (("fusion", fusion), ("rgb", rgb)):
    arrays |= {f"{label}/{name}": array for name, array in compute().items()}
  np.savez_compressed(cases.PATH, **arrays)
  print(f"{cases.PATH.name}: {len(arrays)} arrays, {cases.PATH.stat().st_size} bytes")


if __name__ == "__main__":
  main()
