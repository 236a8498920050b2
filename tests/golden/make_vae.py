"""Writes vae.npz, the golden of paper 003's losses and metrics: `PYTHONPATH=. python tests/golden/make_vae.py`.

It needs PyTorch, in which nets and losses are computed in float64, and scikit-learn. Inputs and weights are not in the
file: `vae_cases` draws them from seeds. Arrays of the file:

  loss/NAME         [batch], of `vae_cases.losses`
  names, slopes     parameters by our names, and for each sum(direction * dL/dparameter), L = the sum over all losses
                    and the batch, float64
  kmeans/inertia, kmeans/labels   of scikit-learn's Lloyd from the given centres
  probe/probabilities             [30, 4], of scikit-learn's logistic regression on standardised features
"""

import jax
import numpy as np
import torch
import vae_cases
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from benchmarks import torch_nets


def layer(p, k, part, x, slope, up=False):
  """A convolution, strided in the first part, or a deconvolution of kernel 4; BatchNorm, if any; a leaky ReLU."""
  own = getattr(p, f"{'deconv' if up else 'conv'}{k}{part}")
  bias = own.bias if "bias" in own else None
  if up:
    x = functional.conv_transpose2d(x, own.kernel, bias, 2, 1)
  else:
    strided = part == "a"
    x = functional.conv2d(x, own.kernel, bias, 2 if strided else 1, 1)
  if f"bn{k}{part}" in p:  # The discriminator has biases instead of norms.
    norm = getattr(p, f"bn{k}{part}")
    x = functional.batch_norm(x, None, None, norm.scale, norm.bias, training=True, eps=1e-5)
  return functional.leaky_relu(x, slope)


def trunk(p, x, slope=0.0):
  for k in (1, 2, 3):
    x = layer(p, k, "b", layer(p, k, "a", x, slope), slope)
  return functional.avg_pool2d(x, 4).flatten(1)


def dense(p, x):
  return functional.linear(x, p.kernel, p.bias)


def encode(p, x):
  x = trunk(p, x)
  return Normal(dense(p.fc_mean, x), (dense(p.fc_log_variance, x) / 2).exp())


def decode(p, *z):
  x = functional.relu(dense(p.fc1, torch.cat(z, 1))).view(len(z[0]), -1, 4, 4)
  for k in (1, 2, 3):
    x = layer(p, k, "b", layer(p, k, "a", x, 0.0, up=True), 0.0)
  return torch.sigmoid(functional.conv2d(x, p.conv6.kernel, p.conv6.bias, 1, 1))


def losses(p, images, noise):
  """Computes `vae_cases.losses` with PyTorch's distributions and losses."""
  identity, expression = encode(p.identity_encoder, images), encode(p.expression_encoder, images)
  z_i, z_e = (q.mean + q.stddev * own for q, own in zip((identity, expression), noise, strict=False))
  partner = expression.mean.roll(1, 0)
  codes = torch.cat([z_i, noise[2], identity.mean]), torch.cat([z_e, noise[3], partner])
  decoded, prior, swapped = decode(p.decoder, *codes).chunk(3)
  logits = dense(p.discriminator.fc, trunk(p.discriminator, torch.cat([images, decoded, prior]), 0.2))
  real, fake, made = logits[:, 0].chunk(3)
  again = encode(p.identity_encoder, swapped).mean, encode(p.expression_encoder, swapped).mean
  standard = Normal(0.0, 1.0)

  def entropy(logits, target):
    whole = torch.full_like(logits, target)
    return functional.binary_cross_entropy_with_logits(logits, whole, reduction="none")

  return {
    "kl_identity": kl_divergence(identity, standard).sum(1),
    "kl_expression": kl_divergence(expression, standard).sum(1),
    "error": functional.mse_loss(decoded, images, reduction="none").sum((1, 2, 3)),
    "switch": functional.mse_loss(again[0], identity.mean, reduction="none").mean(1)
    + functional.mse_loss(again[1], partner, reduction="none").mean(1),
    "discriminator/real": entropy(real, 1.0),
    "discriminator/reconstructed": entropy(fake, 0.0),
    "discriminator/prior": entropy(made, 0.0),
    "generator/reconstructed": entropy(fake, 1.0),
    "generator/prior": entropy(made, 1.0),
    "saturating/reconstructed": torch.log(1 - torch.sigmoid(fake)),
    "saturating/prior": torch.log(1 - torch.sigmoid(made)),
  }


def main():
  own = vae_cases.drawn()
  net = torch_nets.Net(losses, own["variables"]).double()
  images = torch.from_numpy(own["images"]).double().permute(0, 3, 1, 2)
  found = net(images, torch.from_numpy(own["noise"]).double())
  sum(loss.sum() for loss in found.values()).backward()
  gradients = net.gradients()
  directions = {
    "/".join(part.key for part in path): leaf for path, leaf in jax.tree.leaves_with_path(own["directions"])
  }
  names = sorted(gradients)
  arrays = {f"loss/{name}": loss.detach().numpy() for name, loss in found.items()}
  arrays["names"] = np.array(names)
  arrays["slopes"] = np.array([(directions[name] * gradients[name]).sum() for name in names])

  points, start = (x.astype(np.float64) for x in vae_cases.points())
  clusters = KMeans(9, init=start, n_init=1, max_iter=300, tol=1e-4).fit(points)
  arrays |= {"kmeans/inertia": np.float64(clusters.inertia_), "kmeans/labels": clusters.labels_}

  train, labels, test = vae_cases.features()
  scaler = StandardScaler().fit(train.astype(np.float64))
  probe = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(scaler.transform(train), labels)
  arrays["probe/probabilities"] = probe.predict_proba(scaler.transform(test.astype(np.float64)))

  np.savez_compressed(vae_cases.PATH, **arrays)
  print(f"{vae_cases.PATH.name}: {len(arrays)} arrays, {vae_cases.PATH.stat().st_size} bytes")


if __name__ == "__main__":
  main()
