"""Where in a picture a convolutional net finds a class: Grad-CAM++ (Chattopadhyay et al. 2018)."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

_LEAST = 1e-7  # A denominator of 2 + sum(A) g that is nearer to zero counts as zero.


def class_activations(
  logits_of: Callable[..., jax.Array],
  inputs: tuple[Any, ...],
  path: tuple[str, ...],
  classes: jax.Array | None = None,
  *,
  side: Literal["input", "output"] = "output",
) -> tuple[jax.Array, jax.Array]:
  """A submodule's activations, and the gradient of each example's class logit with respect to them.

  One backward pass over the sum of all examples' logits gives every example its own gradient where examples do not mix:
  evaluate with running statistics, and where a layer reads batch-mates (`layers.amend`) with an affinity that does not
  ("alone", "ema", "frozen"). May be compiled.

  What follows a submodule within its parent, such as a ReLU between convolutions, belongs to the *input* of the next
  one. For `systems.landmark_fusion`: layer4 of the RGB net is the output of ("rgb", "trunk"); the fifth convolution of
  the landmark net, which no pooling follows, is with its ReLU the input of ("landmark", "conv6"), and the sixth that
  of ("landmark", "arm").

  Args:
    logits_of: inputs -> logits [batch, K]; any function that applies a Linen model.
    inputs: what it takes.
    path: of the submodule from the root, such as ("rgb", "trunk"); the model calls it once.
    classes: [batch] of classes to explain, by index; None takes each example's predicted one.
    side: whether to look at what the submodule gives, or at the first thing it reads.

  Returns:
    Activations and gradients [batch, height, width, channels], float32.

  Raises:
    ValueError: the model calls no such submodule, or calls it more than once.
  """

  def run(change: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    seen: list[jax.Array] = []

    def add(x: jax.Array) -> jax.Array:
      seen.append(x)
      return x if change is None else x + change.astype(x.dtype)

    def tap(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
      # Other methods may be called on modules that are not bound, and then have no path.
      if context.method_name != "__call__" or context.module.path != path:
        return call(*args, **kwargs)
      if side == "input":
        return call(add(args[0]), *args[1:], **kwargs)
      return add(call(*args, **kwargs))

    with nn.intercept_methods(tap):
      logits = logits_of(*inputs).astype(jnp.float32)
    if len(seen) != 1:
      raise ValueError(f"the model calls {'.'.join(path)} {len(seen)} times, expected once")
    chosen = jax.lax.stop_gradient(logits).argmax(-1) if classes is None else classes
    return jnp.take_along_axis(logits, chosen[:, None], -1).sum(), seen[0]

  shape = jax.eval_shape(lambda: run(None)[1]).shape
  gradients, activations = jax.grad(run, has_aux=True)(jnp.zeros(shape))
  return activations.astype(jnp.float32), gradients


def layers_with_maps(logits_of: Callable[..., jax.Array], inputs: tuple[Any, ...]) -> list[str]:
  """Returns the submodules whose output is a map of more than one pixel for each channel, in the order they finish in.

  Only submodules that the model calls once are returned, because only they can be given to `class_activations`.

  Args:
    logits_of: see `class_activations`.
    inputs: its arguments.

  Returns:
    Paths from the root, such as "trunk/layer4/block1". A block finishes after the layers inside it.
  """
  shapes: list[tuple[tuple[str, ...], Any]] = []

  def look(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    output = call(*args, **kwargs)
    if context.method_name == "__call__":
      shapes.append((context.module.path, getattr(output, "shape", ())))
    return output

  with nn.intercept_methods(look):
    jax.eval_shape(lambda *given: logits_of(*given), *inputs)  # A new function is always traced.
  paths = [path for path, _ in shapes]
  return [
    "/".join(path)
    for path, shape in shapes
    if path and paths.count(path) == 1 and len(shape) == 4 and shape[1] * shape[2] > 1
  ]


def grad_cam_plus_plus(activations: jax.Array, gradients: jax.Array) -> jax.Array:
  """The maps L = ReLU(sum_k w_k A_k) with w_k = sum_ij alpha_kij ReLU(g_kij), where

      alpha = g^2 / (2 g^2 + (sum_ab A_ab) g^3) = 1 / (2 + (sum_ab A_ab) g),

  and alpha is 0 where g is 0, or where the last denominator is nearer to 0 than 1e-7. This limit does not depend on the
  scale of the gradients: a net with small gradients has a map too.

  A are the activations of channel k and g the gradients of the class logit S. The paper's derivatives are those of
  exp(S), taken as if the net between A and S were piecewise linear; its positive factor exp(S) is left out, as it
  cancels when a map is normalised.

  Args:
    activations: [batch, height, width, channels].
    gradients: as `activations`.

  Returns:
    [batch, height, width], at least 0; zeros where no gradient is positive.
  """
  denominator = 2 + activations.sum((1, 2), keepdims=True) * gradients
  zero = (gradients == 0) | (jnp.abs(denominator) < _LEAST)
  alpha = jnp.where(zero, 0, 1 / jnp.where(zero, 1, denominator))
  weights = (alpha * jax.nn.relu(gradients)).sum((1, 2), keepdims=True)
  return jax.nn.relu((weights * activations).sum(-1))


def over_picture(maps: jax.Array, height: int, width: int) -> jax.Array:
  """Maps as they are shown: each from 0 (its least) to 1 (its greatest), brought to the picture's size bilinearly.

  Args:
    maps: [batch, rows, columns].
    height: of the picture.
    width: of the picture.

  Returns:
    [batch, height, width] in [0, 1]; zeros for a map of one value.
  """
  low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
  flat = high <= low
  scaled = jnp.where(flat, 0, (maps - low) / jnp.where(flat, 1, high - low))
  return jax.image.resize(scaled, (len(maps), height, width), "linear")
