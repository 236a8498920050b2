"""The cases of vae.npz: a small identity/expression VAE with all its losses, points to cluster, features to probe."""

import functools
import math
import pathlib

import exact
import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.systems.identity_expression_vae import losses as vae_losses
from jaxfer.systems.identity_expression_vae.model import IdentityExpressionVAE

PATH = pathlib.Path(__file__).with_name("vae.npz")
BATCH, LATENT = 5, 6
NET = IdentityExpressionVAE(
  image_size=32, width=0.125, latent=LATENT, uniform_4x4=True, norm="batch", leaky=True
)


@functools.cache
def drawn():
  """Returns {"variables", "images", "noise" of z_i, z_e and two priors, "directions" of the parameters}, float32."""
  draws = exact.Draws(0)
  images = draws.uniform(0, 1, (BATCH, 32, 32, 3)).astype(np.float32)
  shapes = jax.eval_shape(NET.init, jax.random.key(0), images)

  def draw(path, leaf):
    kind, shape = path[-1].key, leaf.shape
    if kind in ("scale", "var"):
      return draws.uniform(0.5, 1.5, shape).astype(np.float32)
    spread = math.sqrt(2 / math.prod(shape[:-1])) if kind == "kernel" else 0.1
    return (spread * draws.normal(shape)).astype(np.float32)

  variables = jax.tree_util.tree_map_with_path(draw, shapes)

  def normal(shape):
    return draws.normal(shape).astype(np.float32)

  directions = jax.tree.map(lambda leaf: normal(leaf.shape), variables["params"])
  return {
    "variables": variables,
    "images": images,
    "noise": normal((4, BATCH, LATENT)),
    "directions": directions,
  }


def losses(variables, images, noise, net=NET):
  """Returns all losses [batch] of one training pass by name; the partner of each person is the previous one."""

  def call(method, *x):
    return net.apply(variables, *x, train=True, method=method, mutable=["batch_stats"])[0]

  def judge(x):
    return net.apply(variables, x, method="discriminate")

  identity, expression = call("encode_identity", images), call("encode_expression", images)
  z_i, z_e = (
    mean + jnp.exp(log_variance / 2) * own
    for (mean, log_variance), own in zip((identity, expression), noise, strict=False)
  )
  partner = jnp.roll(expression[0], 1, 0)
  # One batch for each, which halves the compile time.
  codes = jnp.concatenate([z_i, noise[2], identity[0]]), jnp.concatenate([z_e, noise[3], partner])
  decoded, prior, swapped = jnp.split(call("decode", *codes), 3)
  logits = jnp.split(judge(jnp.concatenate([images, decoded, prior])), 3)
  again = call("encode_identity", swapped)[0], call("encode_expression", swapped)[0]
  found = {
    "kl_identity": vae_losses.kl(*identity),
    "kl_expression": vae_losses.kl(*expression),
    "error": vae_losses.squared_error(images, decoded),
    "switch": vae_losses.switch(identity[0], again[0], partner, again[1]),
  }
  sides = {"discriminator": vae_losses.discriminator_terms(*logits)}
  sides["generator"] = vae_losses.generator_terms(*logits[1:])
  sides["saturating"] = vae_losses.generator_terms(*logits[1:], saturating=True)
  return found | {f"{side}/{name}": x for side, terms in sides.items() for name, x in terms.items()}


def points():
  """Returns points [300, 8] to cluster, and initial centres [9, 8]."""
  draws = exact.Draws(1)
  points = (2 * draws.normal((9, 8)))[draws.integers(9, (300,))] + draws.normal((300, 8))
  chosen = np.argsort(draws.integers(2**31, (300,)))[:9]
  return points.astype(np.float32), points[chosen].astype(np.float32)


def features():
  """Returns features [120, 5] on very different scales, labels [120] of 4 classes, and test features [30, 5]."""
  draws = exact.Draws(2)
  labels = draws.integers(4, (120,))
  scale, centres = np.array([0.01, 0.1, 1.0, 10.0, 100.0]), draws.normal((4, 5))
  train = scale * (centres[labels] + 1.5 * draws.normal((120, 5)) + 3)
  return (
    train.astype(np.float32),
    labels,
    (scale * (1.5 * draws.normal((30, 5)) + 3)).astype(np.float32),
  )
