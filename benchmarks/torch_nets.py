"""The convolutional nets in PyTorch, written from the papers' tables, with the same parameters and names as ours.

This module needs PyTorch; the peers of `benchmarks.convnets` and the generator of the goldens import it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.convnets_problem import ERROR_WEIGHT, KL_WEIGHT


def to_torch(path: str, array: np.ndarray) -> np.ndarray:
  """Converts our parameter "layer/kernel" to PyTorch: conv OIHW, transposed conv IOHW, dense [out, in]; not vectors."""
  if array.ndim == 4:
    return array.transpose((2, 3, 0, 1) if "deconv" in path else (3, 2, 0, 1))
  return array.T if array.ndim == 2 else array


def from_torch(path: str, array: np.ndarray) -> np.ndarray:
  """The reverse of `to_torch`."""
  if array.ndim == 4:
    return array.transpose((2, 3, 0, 1) if "deconv" in path else (2, 3, 1, 0))
  return array.T if array.ndim == 2 else array


class Tree(torch.nn.Module):
  """Nested parameters and running statistics, as attributes."""

  def __init__(self, params: Mapping[str, Any], statistics: Mapping[str, Any], path: str = ""):
    super().__init__()
    for name, value in params.items():
      if isinstance(value, Mapping):
        self.add_module(name, Tree(value, statistics.get(name, {}), f"{path}{name}/"))
      else:
        array = np.array(to_torch(path, np.asarray(value)), order="C")
        self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(array)))
    for name, value in statistics.items():
      if not isinstance(value, Mapping):
        self.register_buffer(name, torch.from_numpy(np.array(value)))
      elif name not in params:  # A norm without scale and bias.
        self.add_module(name, Tree({}, value))

  def __contains__(self, name: str) -> bool:
    return name in self._modules or name in self._parameters


def _conv(p: Any, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
  return functional.conv2d(x, p.kernel, p.bias if "bias" in p else None, stride, padding)


def _norm(p: Any, x: Tensor, train: bool) -> Tensor:
  """BatchNorm with PyTorch's momentum 0.1; statistics are updated in place, the variance by its unbiased estimate."""
  scale, bias = (getattr(p, name) if name in p else None for name in ("scale", "bias"))
  return functional.batch_norm(x, p.mean, p.var, scale, bias, train, 0.1, 1e-5)


def _dense(p: Any, x: Tensor) -> Tensor:
  return functional.linear(x, p.kernel, p.bias)


def _halving_trunk(p: Any, x: Tensor) -> Tensor:
  """Paper 003, Table 1, up to the average pool."""
  k = 1
  while f"conv{k}a" in p:
    x = functional.relu(_conv(getattr(p, f"conv{k}a"), x, 2, 1))
    x = functional.relu(_conv(getattr(p, f"conv{k}b"), x, 1, 1))
    k += 1
  return functional.avg_pool2d(x, 4).flatten(1)


def encoder(p: Any, x: Tensor) -> tuple[Tensor, Tensor]:
  """Paper 003, Table 1."""
  x = _halving_trunk(p, x)
  return _dense(p.fc_mean, x), _dense(p.fc_log_variance, x)


def discriminator(p: Any, x: Tensor) -> Tensor:
  """Paper 003: the encoder with one output."""
  return _dense(p.fc, _halving_trunk(p, x))[:, 0]


def decoder(p: Any, z: Tensor) -> Tensor:
  """Paper 003, Table 2: kernel 4 for the first two deconvolutions, then kernel 3 with output padding 1."""
  x = functional.relu(_dense(p.fc1, z))
  x = x.view(len(z), -1, 4, 4)
  k = 1
  while f"deconv{k}a" in p:
    up = getattr(p, f"deconv{k}a")
    extra = 0 if k <= 2 else 1
    x = functional.relu(functional.conv_transpose2d(x, up.kernel, up.bias, 2, 1, extra))
    x = functional.relu(_conv(getattr(p, f"conv{k}b"), x, 1, 1))
    k += 1
  return torch.sigmoid(_conv(p.conv6, x, 1, 1))


def autoencoder(p: Any, images: Tensor, noise: Tensor) -> Tensor:
  """Both encoders and the decoder; returns the loss of each image."""
  codes = encoder(p.identity_encoder, images), encoder(p.expression_encoder, images)
  mean, log_variance = (torch.cat(pair, -1).float() for pair in zip(*codes, strict=True))
  z = mean + torch.exp(log_variance / 2) * noise
  divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1)
  return KL_WEIGHT * divergence + ERROR_WEIGHT * (decoder(p.decoder, z) - images).square().sum((1, 2, 3))


def _block(p: Any, x: Tensor, stride: int, train: bool) -> Tensor:
  if "conv3" in p:
    y = functional.relu(_norm(p.bn1, _conv(p.conv1, x), train))
    y = functional.relu(_norm(p.bn2, _conv(p.conv2, y, stride, 1), train))
    y = _norm(p.bn3, _conv(p.conv3, y), train)
  else:
    y = functional.relu(_norm(p.bn1, _conv(p.conv1, x, stride, 1), train))
    y = _norm(p.bn2, _conv(p.conv2, y, 1, 1), train)
  if "downsample_conv" in p:
    x = _norm(p.downsample_bn, _conv(p.downsample_conv, x, stride), train)
  return functional.relu(x + y)


def resnet_trunk(p: Any, x: Tensor, train: bool) -> Tensor:
  """Torchvision's ResNet up to layer4; basic or bottleneck blocks, depending on the parameters."""
  x = functional.relu(_norm(p.bn1, _conv(p.conv1, x, 2, 3), train))
  x = functional.max_pool2d(x, 3, 2, 1)
  for k in (1, 2, 3, 4):
    layer = getattr(p, f"layer{k}")
    for b in range(len(layer._modules)):
      x = _block(getattr(layer, f"block{b}"), x, 2 if k > 1 and b == 0 else 1, train)
  return x


def resnet(p: Any, x: Tensor, train: bool) -> Tensor:
  """Torchvision's ResNet."""
  return _dense(p.fc, resnet_trunk(p.trunk, x, train).mean((2, 3)))


def face_resnet(p: Any, x: Tensor, train: bool) -> Tensor:
  """AdaFace's IR without dropout, and a classifier of its feature."""
  t = p.trunk
  x = functional.prelu(_norm(t.bn1, _conv(t.conv1, x, 1, 1), train), t.prelu.slope)
  for k in (1, 2, 3, 4):
    layer = getattr(t, f"layer{k}")
    for b in range(len(layer._modules)):
      block, stride = getattr(layer, f"block{b}"), 1 if b else 2
      y = _norm(block.bn2, _conv(block.conv1, _norm(block.bn1, x, train), 1, 1), train)
      y = _norm(block.bn3, _conv(block.conv2, functional.prelu(y, block.prelu.slope), stride, 1), train)
      if "downsample_conv" in block:
        x = y + _norm(block.downsample_bn, _conv(block.downsample_conv, x, stride), train)
      else:
        x = y + x[:, :, ::stride, ::stride]
  x = _dense(t.fc, _norm(t.bn2, x, train).flatten(1))
  return _dense(p.fc, _norm(t.features, x.float(), train))


def _arm(p: Any, x: Tensor, train: bool) -> Tensor:
  """Paper 002: arrangement, de-albino, norm, and the mean over planes shared with the batch."""
  block = p.de_albino.kernel.shape[-1] // 2
  y = functional.pixel_shuffle(x, block)
  batch, planes, side, _ = y.shape
  y = _conv(p.de_albino, y.reshape(batch * planes, 1, side, side), block // 2)
  own = _norm(p.bn, y.reshape(batch, planes, *y.shape[2:]), train).float().mean(1)
  return (own + p.alpha * own.mean(0)).flatten(1)


def landmark_fusion(p: Any, images: Tensor, heatmaps: Tensor, train: bool) -> Tensor:
  """Paper 002 with the RGB net in evaluation mode; returns logits of landmark net and head [batch, 2, classes]."""
  rgb = _arm(p.rgb.arm, resnet_trunk(p.rgb.trunk, images, False), False)
  x = heatmaps
  for k in range(1, 7):
    x = functional.relu(_conv(getattr(p.landmark, f"conv{k}"), x))
    x = functional.max_pool2d(x, 2) if k <= 4 else x
  own = _arm(p.landmark.arm, x, train)
  logits = _dense(p.landmark.fc, own)
  agree = logits.argmax(-1) == _dense(p.rgb.fc, rgb).argmax(-1)
  scale = torch.where(agree, 1.0, 0.6) * logits.float().softmax(-1).max(-1).values
  return torch.stack([logits, _dense(p.head, torch.cat([rgb, scale[:, None] * own], -1))], 1)


class AdaBelief:
  """Updates each parameter as soon as its gradient is computed (PyTorch has no such optimizer)."""

  def __init__(self, net: torch.nn.Module, rate: float, decay: float):
    self.rate, self.decay = rate, decay
    self.states = {
      p: [torch.zeros_like(p), torch.zeros_like(p), 0] for p in net.parameters() if p.requires_grad
    }
    for parameter in self.states:
      parameter.register_post_accumulate_grad_hook(self.step)

  @torch.no_grad()
  def step(self, p: Any) -> None:
    """Updates `p` by its gradient."""
    m, s, count = self.states[p]
    self.states[p][2] = count = count + 1
    p.mul_(1 - self.rate * self.decay)
    m.lerp_(p.grad, 0.1)
    residual = p.grad - m
    s.mul_(0.999).addcmul_(residual, residual, value=0.001).add_(1e-16)
    spread = s.sqrt().div_((1 - 0.999**count) ** 0.5).add_(1e-16)
    p.addcdiv_(m, spread, value=-self.rate / (1 - 0.9**count))


class Net(torch.nn.Module):
  """One of the functions above with its parameters; `arguments` follow the inputs."""

  def __init__(self, function: Any, variables: Mapping[str, Any], *arguments: Any):
    super().__init__()
    self.function, self.arguments = function, arguments
    self.tree = Tree(variables["params"], variables.get("batch_stats", {}))

  def forward(self, *x: Tensor) -> Any:
    """Applies the function to images [batch, channels, height, width] or codes [batch, latent]."""
    return self.function(self.tree, *x, *self.arguments)

  def gradients(self) -> dict[str, np.ndarray]:
    """Returns the gradients of the last backward pass, by our names and in our layout."""
    found = {}
    for name, parameter in self.tree.named_parameters():
      if parameter.grad is None:
        continue
      path = name.replace(".", "/")
      found[path] = from_torch(path, parameter.grad.detach().cpu().numpy())
    return found

  def statistics(self) -> dict[str, np.ndarray]:
    """Returns the running statistics, by our names."""
    return {name.replace(".", "/"): buffer.cpu().numpy() for name, buffer in self.tree.named_buffers()}
