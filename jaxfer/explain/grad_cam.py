"""Grad-CAM++: maps of the regions by which a convolutional net recognises a class (Chattopadhyay et al. 2018)."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

_LEAST = 1e-7  # Denominators 2 + sum(A) g of smaller magnitude count as zero.


def class_activations(
  logits_of: Callable[..., jax.Array],
  inputs: tuple[Any, ...],
  path: tuple[str, ...],
  classes: jax.Array | None = None,
  *,
  side: Literal["input", "output"] = "output",
) -> tuple[jax.Array, jax.Array]:
  """Returns a submodule's activations, and the gradient of each example's class logit with respect to them.

  One backward pass over the sum of the logits gives the gradients of all examples, if the examples are independent of
  each other. Therefore, evaluate with running statistics, and use an affinity of `layers.amend` that does not depend on
  the batch ("alone", "ema" or "frozen"). The function can be compiled.

  An operation that the parent applies after a submodule, such as a ReLU between convolutions, is included in the
  *input* of the next submodule. In `systems.landmark_fusion`, the output of ("rgb", "trunk") is that of layer4 of the
  RGB net. The fifth convolution of the landmark net, which is not followed by pooling, is with its ReLU the input of
  ("landmark", "conv6"), and the sixth that of ("landmark", "arm").

  Args:
    logits_of: inputs -> logits [batch, K]; any function that applies a Linen model.
    inputs: arguments of `logits_of`.
    path: path of the submodule from the root, such as ("rgb", "trunk"). The model must call the submodule exactly once.
    classes: [batch] indices of the classes to explain; None takes the predicted class of each example.
    side: whether to return the output of the submodule or its first input.

  Returns:
    Activations and gradients [batch, height, width, channels], float32.

  Raises:
    ValueError: the model does not call the submodule, or calls it more than once.
  """

  def run(change: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    seen: list[jax.Array] = []

    def add(x: jax.Array) -> jax.Array:
      seen.append(x)
      return x if change is None else x + change.astype(x.dtype)

    def tap(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
      # Other methods may be called on unbound modules, which have no path.
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
  """Returns the maps L = ReLU(sum_k w_k A_k) with w_k = sum_ij alpha_kij ReLU(g_kij), where

      alpha = g^2 / (2 g^2 + (sum_ab A_ab) g^3) = 1 / (2 + (sum_ab A_ab) g),

  and alpha is 0 where g is 0 or the magnitude of the last denominator is below 1e-7. This limit does not depend on the
  scale of the gradients, so a net with small gradients has a map too.

  A_k are the activations of channel k, and g are the gradients of the class logit S. The paper's derivatives are those
  of exp(S), as if the net between A and S were piecewise linear. The positive factor exp(S) is left out, because it
  cancels when a map is normalised.

  Args:
    activations: [batch, height, width, channels].
    gradients: as `activations`.

  Returns:
    [batch, height, width], nonnegative; a map of zeros if no gradient is positive.
  """
  denominator = 2 + activations.sum((1, 2), keepdims=True) * gradients
  zero = (gradients == 0) | (jnp.abs(denominator) < _LEAST)
  alpha = jnp.where(zero, 0, 1 / jnp.where(zero, 1, denominator))
  weights = (alpha * jax.nn.relu(gradients)).sum((1, 2), keepdims=True)
  return jax.nn.relu((weights * activations).sum(-1))


def over_picture(maps: jax.Array, height: int, width: int) -> jax.Array:
  """Scales each map from its minimum (0) to its maximum (1), and resizes it bilinearly to the size of the picture.

  Args:
    maps: [batch, rows, columns].
    height: height of the picture.
    width: width of the picture.

  Returns:
    [batch, height, width] in [0, 1]; zeros for a constant map.
  """
  low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
  flat = high <= low
  scaled = jnp.where(flat, 0, (maps - low) / jnp.where(flat, 1, high - low))
  return jax.image.resize(scaled, (len(maps), height, width), "linear")
