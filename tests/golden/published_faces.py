"""The face networks and margin heads of published code as PyTorch modules, with the names of their state dicts.

They were written from a description of the released code of AdaFace and InsightFace; that code was neither copied nor
run. Only the writers of goldens import this module, which needs PyTorch.
"""

import math

import torch
from torch import nn

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 14, 3)}


def conv(inputs, outputs, size, stride=1):
  return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class AdaFaceBlock(nn.Module):
  """A block of IR, with `shortcut_layer` and `res_layer`."""

  def __init__(self, inputs, features, stride):
    super().__init__()
    if inputs == features:
      self.shortcut_layer = nn.MaxPool2d(1, stride)
    else:
      self.shortcut_layer = nn.Sequential(conv(inputs, features, 1, stride), nn.BatchNorm2d(features))
    self.res_layer = nn.Sequential(
      nn.BatchNorm2d(inputs), conv(inputs, features, 3), nn.BatchNorm2d(features), nn.PReLU(features),
      conv(features, features, 3, stride), nn.BatchNorm2d(features),
    )  # fmt: skip

  def forward(self, x):
    return self.shortcut_layer(x) + self.res_layer(x)


class AdaFaceNet(nn.Module):
  """IR-18 or IR-50; returns the feature, which the authors then split into direction and length."""

  def __init__(self, depth, width=1.0, size=112, dropout=0.4):
    super().__init__()
    first = channels = int(64 * width)
    self.input_layer = nn.Sequential(conv(3, first, 3), nn.BatchNorm2d(first), nn.PReLU(first))
    body = []
    for k, count in enumerate(BLOCKS[depth]):
      for b in range(count):
        body.append(AdaFaceBlock(channels, first << k, 1 if b else 2))
        channels = first << k
    self.body = nn.Sequential(*body)
    self.output_layer = nn.Sequential(
      nn.BatchNorm2d(channels), nn.Dropout(dropout), nn.Flatten(),
      nn.Linear(channels * (size // 16) ** 2, channels), nn.BatchNorm1d(channels, affine=False),
    )  # fmt: skip
    ends = torch.tensor(BLOCKS[depth]).cumsum(0).tolist()
    self.taps = {"prelu": self.input_layer, "bn2": self.output_layer[0], "fc": self.output_layer[3]}
    self.taps |= {f"layer{k + 1}": self.body[end - 1] for k, end in enumerate(ends)}

  def forward(self, x):
    return self.output_layer(self.body(self.input_layer(x)))


class InsightFaceBlock(nn.Module):
  """A block of IResNet: `bn1`, `conv1`, `bn2`, `prelu`, `conv2`, `bn3`, `downsample`."""

  def __init__(self, inputs, features, stride):
    super().__init__()
    self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, features, 3)
    self.bn2, self.prelu = nn.BatchNorm2d(features), nn.PReLU(features)
    self.conv2, self.bn3 = conv(features, features, 3, stride), nn.BatchNorm2d(features)
    self.downsample = None
    if stride != 1 or inputs != features:
      self.downsample = nn.Sequential(conv(inputs, features, 1, stride), nn.BatchNorm2d(features))

  def forward(self, x):
    y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
    return y + (x if self.downsample is None else self.downsample(x))


class InsightFaceNet(nn.Module):
  """IResNet18 or 50."""

  def __init__(self, depth, width=1.0, size=112, dropout=0.0):
    super().__init__()
    first = channels = int(64 * width)
    self.conv1, self.bn1, self.prelu = conv(3, first, 3), nn.BatchNorm2d(first), nn.PReLU(first)
    for k, count in enumerate(BLOCKS[depth]):
      blocks = []
      for b in range(count):
        blocks.append(InsightFaceBlock(channels, first << k, 1 if b else 2))
        channels = first << k
      setattr(self, f"layer{k + 1}", nn.Sequential(*blocks))
    self.bn2, self.dropout = nn.BatchNorm2d(channels), nn.Dropout(dropout)
    self.fc = nn.Linear(channels * (size // 16) ** 2, channels)
    self.features = nn.BatchNorm1d(channels)
    nn.init.ones_(self.features.weight)
    self.features.weight.requires_grad = False
    self.taps = {name: getattr(self, name) for name in ("prelu", "bn2", "fc")}
    self.taps |= {f"layer{k}": getattr(self, f"layer{k}") for k in (1, 2, 3, 4)}

  def forward(self, x):
    x = self.prelu(self.bn1(self.conv1(x)))
    x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
    return self.features(self.fc(self.dropout(torch.flatten(self.bn2(x), 1))))


NETS = {"adaface": AdaFaceNet, "insightface": InsightFaceNet}


class Head(nn.Module):
  """Margins on the cosine of the target; AdaFace's buffers."""

  def __init__(self, kernel, name, margin, eps, h=0.333, t_alpha=0.01):
    super().__init__()
    self.kernel, self.name, self.margin, self.eps = nn.Parameter(kernel), name, margin, eps
    self.h, self.t_alpha = h, t_alpha
    if name == "adaface":
      self.register_buffer("t", torch.zeros(1))
      self.register_buffer("batch_mean", torch.ones(1) * 20)
      self.register_buffer("batch_std", torch.ones(1) * 100)

  def forward(self, unit, norm, label):
    cosine = (unit @ (self.kernel / self.kernel.norm(dim=0))).clamp(-1 + self.eps, 1 - self.eps)
    angular = torch.zeros_like(cosine)
    additive = torch.zeros_like(cosine)
    rows = torch.arange(len(label))
    if self.name == "cosface":
      additive[rows, label] = self.margin
    elif self.name == "arcface":
      angular[rows, label] = self.margin
    else:
      safe = norm.detach().clip(0.001, 100)
      with torch.no_grad():
        self.batch_mean = self.t_alpha * safe.mean() + (1 - self.t_alpha) * self.batch_mean
        self.batch_std = self.t_alpha * safe.std() + (1 - self.t_alpha) * self.batch_std
      z = (self.h * (safe - self.batch_mean) / (self.batch_std + self.eps)).clip(-1, 1)
      angular[rows, label] = -self.margin * z
      additive[rows, label] = self.margin + self.margin * z
    angle = (cosine.acos() + angular).clip(self.eps, math.pi - self.eps)
    return 64 * (angle.cos() - additive)
