"""Convolution and transposed convolution whose values and gradients use the formulation that the choice table names.

Both consist of the three linear maps of `formulations`. The formulation is chosen when the program is lowered
(`lax.platform_dependent`), so one traced program can be exported for every platform. It also depends on whether the
convolution was traced inside a loop (`loops`); its gradients use the same choice. Under `vmap` (the members of a
study), shared arrays are not repeated: if members share the kernel, their images join the batch; if they share the
images, their kernels become features side by side. If both differ, the table has a separate choice for n convolutions.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfer.kernels.conv import choices, formulations
from jaxfer.kernels.conv.choices import Shape
from jaxfer.kernels.conv.formulations import Padding, Pair, output_size, same_padding
from jaxfer.kernels.conv.loops import inside_loop, looped

Map = Callable[[jax.Array, jax.Array], jax.Array]
Options = Callable[[bool], Mapping[str, Map]]  # Formulations by name, given whether they run inside a loop.


def by_platform(operation: str, shape: Shape, options: Mapping[str, Callable], *arrays: Any) -> Any:
  """Runs the option that the table chooses for the platform for which the program is lowered."""
  default = options[choices.DEFAULTS[operation]]
  chosen = {p: options[choices.choose(p, operation, shape, tuple(options))] for p in choices.platforms()}
  chosen = {platform: option for platform, option in chosen.items() if option is not default}
  return lax.platform_dependent(*arrays, default=default, **chosen) if chosen else default(*arrays)


def _join(a: jax.Array, axis: int) -> jax.Array:
  """Converts [n, ...] to an array with the members side by side in `axis` of one member's array."""
  a = jnp.moveaxis(a, 0, axis)
  return a.reshape(*a.shape[:axis], -1, *a.shape[axis + 2 :])


def _part(a: jax.Array, axis: int, n: int) -> jax.Array:
  """Undoes `_join`."""
  return jnp.moveaxis(a.reshape(*a.shape[:axis], n, -1, *a.shape[axis + 1 :]), axis, 0)


def member_ways(run: Map, options: Mapping[str, Map]) -> dict[str, Map]:
  """Returns the ways to run the maps of n members on two arrays [n, ...]: one after another, or all in one program.

  Args:
    run: the map of one member inside a loop.
    options: formulations of the map by name.
  """

  @looped
  def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    return run(*pair)

  return {
    "map": lambda a, b: lax.map(one, (a, b)),
    "grouped": jax.vmap(options["xla"]),
    "batched": jax.vmap(options["patches"]),
  }


def _with_members(operation: str, shape: Shape, options: Options, axes: tuple[Pair, Pair]) -> Map:
  """Returns an operation on two arrays, with a rule for `vmap`.

  Args:
    operation: name of the operation in the table of choices.
    shape: shape of the convolution.
    options: returns the formulations by name, given whether the operation runs inside a loop.
    axes: for each argument, a pair of axes for the case that only this argument differs between members: the axis of
      the argument in which members are put side by side, and the axis of the result in which they are then found.
  """
  here = options(shape.loop)

  @jax.custom_batching.custom_vmap
  def run(a, b):
    return by_platform(operation, shape, here, a, b)

  @run.def_vmap
  def members(n, differs, a, b):
    if all(differs):
      one = _with_members(operation, dataclasses.replace(shape, loop=True), options, axes)
      return by_platform(operation + "_members", shape, member_ways(one, here), a, b), True
    alone = differs.index(True)
    axis, result_axis = axes[alone]
    y = run(_join(a, axis), b) if alone == 0 else run(a, _join(b, axis))
    return _part(y, result_axis, n), True

  return run


def forward_options(strides: Pair, padding: Padding) -> dict[str, Map]:
  """Returns the formulations of (x, kernel) -> y."""
  settings: dict[str, Any] = {"strides": strides, "padding": padding}
  options: dict[str, Map] = {
    "xla": functools.partial(formulations.conv_reference, **settings),
    "patches": functools.partial(formulations.patch_conv, **settings),
  }
  if strides == (1, 1):
    options["shifts"] = functools.partial(formulations.shift_conv, padding=padding)
    options["rows"] = functools.partial(formulations.row_conv, padding=padding)
  return options


def transpose_options(size: Pair, strides: Pair, padding: Padding, loop: bool) -> dict[str, Map]:
  """Returns the formulations of (dy, kernel) -> x of `size`, if there is a stride.

  `loop` says whether the operation runs inside a loop.
  """
  settings: dict[str, Any] = {"size": size, "strides": strides, "padding": padding}
  forward = functools.partial(_forward, loop=loop)
  return {
    "xla": functools.partial(formulations.dilated_by_xla, **settings),
    "phases": functools.partial(formulations.phases, forward, **settings),
    "patches": functools.partial(formulations.phases, formulations.patch_conv, **settings),
    "folded": functools.partial(formulations.folded_transpose, forward, **settings),
  }


def weight_options(kernel_size: Pair, strides: Pair, padding: Padding, loop: bool) -> dict[str, Map]:
  """Returns the formulations of (x, dy) -> kernel. `loop` says whether the operation runs inside a loop."""
  settings: dict[str, Any] = {"kernel_size": kernel_size, "strides": strides, "padding": padding}
  options: dict[str, Map] = {
    "xla": functools.partial(formulations.weights_by_xla, **settings),
    "patches": functools.partial(formulations.weights_by_patches, **settings),
  }
  if strides == (1, 1):
    options["patches_of_dy"] = functools.partial(formulations.weights_by_patches_of_dy, **settings)
    options["rows"] = functools.partial(formulations.weights_by_rows, **settings)
  else:
    options["folded"] = functools.partial(
      formulations.folded_weights, functools.partial(weight_gradient, loop=loop), **settings
    )
  return options


def _forward(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, loop: bool) -> jax.Array:
  """Convolves [batch, height, width, channels] to [batch, out_height, out_width, features], without a gradient rule."""
  kernel_height, kernel_width, channels, features = kernel.shape
  size = output_size(x.shape[1:3], kernel.shape[:2], strides, padding)
  shape = Shape((kernel_height, kernel_width), strides, channels, features, math.prod(size), loop)

  def options(loop: bool) -> dict[str, Map]:
    del loop  # No forward formulation calls another convolution.
    return forward_options(strides, padding)

  return _with_members("forward", shape, options, ((0, 0), (3, 3)))(x, kernel)


def input_gradient(
  dy: jax.Array, kernel: jax.Array, size: Pair, strides: Pair, padding: Padding, loop: bool
) -> jax.Array:
  """The adjoint of a convolution in x: [batch, out_height, out_width, features] -> [batch, *size, channels].

  `loop` says whether it runs inside a loop.
  """
  if strides == (1, 1):
    pads = formulations.spread_padding(dy, kernel, size, strides, padding)
    return _forward(dy, formulations.flipped(kernel), strides, pads, loop)
  kernel_height, kernel_width, channels, features = kernel.shape
  shape = Shape((kernel_height, kernel_width), strides, channels, features, math.prod(dy.shape[1:3]), loop)
  options = functools.partial(transpose_options, size, strides, padding)
  return _with_members("transpose", shape, options, ((0, 0), (2, 3)))(dy, kernel)


def weight_gradient(
  x: jax.Array, dy: jax.Array, kernel_size: Pair, strides: Pair, padding: Padding, loop: bool
) -> jax.Array:
  """The adjoint of a convolution in the kernel: [*kernel_size, channels, features], float32 for all dtypes.

  `loop` says whether it runs inside a loop.
  """
  shape = Shape(kernel_size, strides, x.shape[3], dy.shape[3], math.prod(dy.shape[1:3]), loop)
  options = functools.partial(weight_options, kernel_size, strides, padding)
  with jax.named_scope("weight_gradient"):
    return _with_members("weight_gradient", shape, options, ((3, 2), (3, 3)))(x, dy)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, loop: bool) -> jax.Array:
  return _forward(x, kernel, strides, padding, loop)


def _conv_fwd(x, kernel, strides, padding, loop):
  return _forward(x, kernel, strides, padding, loop), (x, kernel)


def _conv_bwd(strides, padding, loop, residuals, dy):
  x, kernel = residuals
  return (
    input_gradient(dy, kernel, x.shape[1:3], strides, padding, loop),
    weight_gradient(x, dy, kernel.shape[:2], strides, padding, loop).astype(kernel.dtype),
  )


_conv.defvjp(_conv_fwd, _conv_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _conv_transpose(x, kernel, size, strides, padding, loop):
  return input_gradient(x, kernel, size, strides, padding, loop)


def _conv_transpose_fwd(x, kernel, size, strides, padding, loop):
  return input_gradient(x, kernel, size, strides, padding, loop), (x, kernel)


def _conv_transpose_bwd(size, strides, padding, loop, residuals, dy):
  x, kernel = residuals
  return (
    _forward(dy, kernel, strides, padding, loop),
    weight_gradient(dy, x, kernel.shape[:2], strides, padding, loop).astype(kernel.dtype),
  )


_conv_transpose.defvjp(_conv_transpose_fwd, _conv_transpose_bwd)


def conv(
  x: jax.Array, kernel: jax.Array, strides: Pair = (1, 1), padding: Padding | None = None
) -> jax.Array:
  """Convolution (cross-correlation, as in every deep-learning library) with fast gradients.

  Args:
    x: [batch, height, width, channels].
    kernel: [kernel_height, kernel_width, channels, features], of x's dtype.
    strides: step in height and width.
    padding: number of zeros (before, after) in height and width; None keeps the size at stride 1.

  Returns:
    [batch, (height + pads - kernel_height) // stride + 1, ..., features], of x's dtype.
  """
  with jax.named_scope("conv"):
    return _conv(x, kernel, tuple(strides), padding or same_padding(kernel.shape[:2]), inside_loop())


def conv_transpose(
  x: jax.Array,
  kernel: jax.Array,
  strides: Pair = (2, 2),
  padding: Padding = ((1, 1), (1, 1)),
  output_padding: Pair = (0, 0),
) -> jax.Array:
  """Transposed convolution, as PyTorch's `ConvTranspose2d` defines it, with fast values and gradients.

  y[i stride + u - padding] sums x[i] times kernel[u], so the kernel is not flipped: PyTorch's weight (channels,
  features, height, width) is transposed by (2, 3, 0, 1). The padding is explicit because 'SAME' in JAX and Flax gives
  another result for kernel 3, stride 2.

  Args:
    x: [batch, height, width, channels].
    kernel: [kernel_height, kernel_width, channels, features], of x's dtype.
    strides: distances between the pixels of x in the output.
    padding: numbers of rows and columns (before, after) that are removed from the output.
    output_padding: numbers of rows and columns that are added at the far end; less than the stride.

  Returns:
    [batch, (height - 1) stride - pads + kernel_height + output_padding, ..., features], of x's dtype.
  """
  size = tuple(
    (n - 1) * s - sum(pads) + k + extra
    for n, s, pads, k, extra in zip(
      x.shape[1:3], strides, padding, kernel.shape, output_padding, strict=False
    )
  )
  # `_conv` with this padding returns the size of x, so its maps are the adjoints.
  with jax.named_scope("conv_transpose"):
    return _conv_transpose(x, kernel.swapaxes(2, 3), size, tuple(strides), padding, inside_loop())
