"""The nets of published checkpoints as PyTorch modules, with the names and layouts of their state dicts.

They were written from the layer tables (He et al. 2016 as listed by torchvision; the released code of ARM, paper 002),
not copied. Only the writers of goldens import this module, which needs PyTorch.
"""

import numpy as np
import torch
from PIL import Image
from torch import nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
  """A basic block (expansion 1) or a bottleneck (4)."""

  def __init__(self, inputs, features, stride, expansion):
    super().__init__()
    sizes = [(3, stride), (3, 1)] if expansion == 1 else [(1, 1), (3, stride), (1, 1)]
    wide = [features] * (len(sizes) - 1) + [features * expansion]
    channels = inputs
    for k, ((size, s), out) in enumerate(zip(sizes, wide, strict=True), 1):
      setattr(self, f"conv{k}", nn.Conv2d(channels, out, size, s, size // 2, bias=False))
      setattr(self, f"bn{k}", nn.BatchNorm2d(out))
      channels = out
    self.count = len(sizes)
    self.downsample = None
    if stride != 1 or inputs != channels:
      self.downsample = nn.Sequential(
        nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
      )

  def forward(self, x):
    y = x
    for k in range(1, self.count + 1):
      y = getattr(self, f"bn{k}")(getattr(self, f"conv{k}")(y))
      y = torch.relu(y) if k < self.count else y
    return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
  """ResNet18 or 50; `width` scales its channels."""

  def __init__(self, depth, num_classes, width=1.0):
    super().__init__()
    expansion = 1 if depth == 18 else 4
    channels = features = int(64 * width)
    self.conv1 = nn.Conv2d(3, features, 7, 2, 3, bias=False)
    self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(features), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    for k, count in enumerate({18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]):
      blocks = []
      for b in range(count):
        blocks.append(Block(channels, features << k, 2 if k and not b else 1, expansion))
        channels = (features << k) * expansion
      setattr(self, f"layer{k + 1}", nn.Sequential(*blocks))
    self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, num_classes)

  def forward(self, x):
    for layer in list(self.children())[:-1]:
      x = layer(x)
    return self.fc(x.flatten(1))


class Amend(nn.Module):
  """Affinity over the batch, as released."""

  def __init__(self, channels, block):
    super().__init__()
    self.arrangement = nn.PixelShuffle(block)
    self.de_albino = nn.Conv2d(1, 1, 2 * block, block // 2, bias=False)
    self.bn = nn.BatchNorm2d(channels // block**2)
    self.alpha = nn.Parameter(torch.ones(1))

  def forward(self, x):
    planes = self.arrangement(x)
    n, c, height, width = planes.shape
    y = self.de_albino(planes.reshape(n * c, 1, height, width))
    own = self.bn(y.reshape(n, c, *y.shape[2:])).mean(1, keepdim=True)
    return own + self.alpha * own.mean(0, keepdim=True)


class Arm(nn.Module):
  """The RGB net of paper 002 for pictures of `size` pixels."""

  def __init__(self, num_classes=7, width=1.0, block=16, size=224):
    super().__init__()
    trunk = ResNet(18, 1, width)
    self.features = nn.Sequential(*list(trunk.children())[:-2])
    self.arm = Amend(int(512 * width), block)
    self.fc = nn.Linear((2 * (size // 32) - 3) ** 2, num_classes)

  def forward(self, x):
    return self.fc(self.arm(self.features(x)).flatten(1))


def randomise(net, seed=0):
  """Draws norms and alpha away from 1 and 0, so that each of them matters; sets evaluation mode."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, tensor in net.state_dict().items():
      if name.endswith(("running_mean", "bn.bias")) or (".bias" in name and tensor.ndim == 1):
        tensor.normal_(0, 0.1, generator=generator)
      elif name.endswith("num_batches_tracked"):
        tensor.fill_(123)
      elif tensor.ndim == 1:
        tensor.uniform_(0.5, 1.5, generator=generator)
      else:
        bound = (3 / tensor[0].numel()) ** 0.5
        tensor.uniform_(-bound, bound, generator=generator)
  return net.eval()


def prepared(images, size):
  """Converts uint8 [n, height, width, 3] to the recipe's tensors [n, 3, size, size]."""
  resized = [np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BILINEAR)) for i in images]
  x = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255
  return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def logits(net, images, size, batch):
  """Computes logits in consecutive batches; the last one may be smaller."""
  x = prepared(images, size)
  with torch.no_grad():
    return torch.cat([net(x[k : k + batch]) for k in range(0, len(x), batch)]).numpy()
