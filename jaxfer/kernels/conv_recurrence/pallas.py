"""The recurrence as two Pallas TPU kernels, one for the forward and one for the backward pass.

Each kernel runs over blocks of images and, within a block, over time. The state and its gradient stay in VMEM from the
first step to the last; frames and outputs are transferred while the previous step is computed. The convolution of the
input is part of the kernel: state and input are multiplied in one product. From the forward pass, the backward kernel
reads only the state of every step (h in the input's dtype, c in float32), and recomputes the gates.

float32 inputs are multiplied in bfloat16, as XLA does on a TPU, unless `jax.default_matmul_precision` requests more.
Sums, gates and the cell state are float32. On other platforms the kernels are interpreted, which is slow and intended
for tests. The choice is made when the program is lowered.

The kernels can be differentiated once. Under several devices they need a program that is manual over all mesh axes
(`jax.shard_map` with `check_vma=False`, or `jax.pmap`), as Mosaic kernels cannot be partitioned automatically.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfer.errors import UserError
from jaxfer.kernels.conv_recurrence.chip import tpu_kinds
from jaxfer.kernels.conv_recurrence.errors import Unsuitable
from jaxfer.kernels.conv_recurrence.packed import Layout, choose, padded_channels
from jaxfer.kernels.conv_recurrence.pallas_backward import backward, vmem_bytes
from jaxfer.kernels.conv_recurrence.pallas_forward import forward
from jaxfer.kernels.conv_recurrence.pallas_tiles import SPATIAL_SKIP, Map, Plan

Arrays = Mapping[str, jax.Array]
# Bytes that the arrays of a kernel may take; the compiler adds others. A TPU v4 has 16 MiB in total.
VMEM = 44 * 2**20
SMALL_VMEM = 14 * 2**20


def _vmem() -> int:
  """Returns `SMALL_VMEM` for older TPUs, else `VMEM`."""
  return SMALL_VMEM if tpu_kinds() & {"TPU v2", "TPU v3", "TPU v4"} else VMEM


def _exact(dtype) -> bool:
  precision = jax.default_matmul_precision.value
  return dtype == jnp.float32 and precision not in (None, "default", "fastest", "bfloat16")


def _blocks(a: jax.Array, axis: int, features: int) -> jax.Array:
  """Pads every `features` entries of an axis as `padded_channels` does."""
  axis %= a.ndim
  a = a.reshape(*a.shape[:axis], -1, features, *a.shape[axis + 1 :])
  padding = [(0, 0)] * a.ndim
  padding[axis + 1] = (0, padded_channels(features) - features)
  a = jnp.pad(a, padding)
  return a.reshape(*a.shape[:axis], -1, *a.shape[axis + 2 :])


def _matrix(kernel: jax.Array, channels: int, features: int) -> jax.Array:
  """Reshapes [height, width, channels, maps features] to [maps padded features, height width padded channels]."""
  kernel = _blocks(_blocks(kernel, -1, features), -2, channels)
  return kernel.reshape(-1, kernel.shape[-1]).T


def _column(bias: jax.Array, features: int) -> jax.Array:
  return _blocks(bias, 0, features).astype(jnp.float32)[:, None]


def _calls(step: Callable, first: Any, kernels: Arrays, constants: Arrays) -> list[str]:
  """Returns the names of the affine maps in the order in which the step calls them."""
  names = []

  def affine(name, s):
    names.append(name)
    return jnp.zeros((kernels[name].shape[-1], *s.shape[1:]))

  features = kernels["state"].shape[2]
  state = jax.tree.map(lambda a: jnp.zeros((features, 1)), first)
  jax.eval_shape(
    lambda: step(state, affine, {k: jnp.zeros((len(a), features, 1)) for k, a in constants.items()})
  )
  return names


class Recurrence(NamedTuple):
  """A recurrence and its parameters.

  Attributes:
    step: (state, affine, constants) -> (state, output), with channels on axis -2.
    kernels: name -> [kernel_height, kernel_width, channels, features], kernels of the affine maps for the state.
    biases: name -> [features], biases of the maps that do not read the input.
    constants: name -> [n, height, width, features], further arrays that the step reads.
    input_kernels: name -> [kernel_height, kernel_width, channels of x, features], their kernels for the input.
    input_biases: name -> [features], biases of these maps.
    spatial_skip: (kernel [features + channels, features], bias [features]) that compute the output from h and x, or
      None.
  """

  step: Callable
  kernels: Arrays
  biases: Arrays
  constants: Arrays
  input_kernels: Arrays
  input_biases: Arrays
  spatial_skip: tuple[jax.Array, jax.Array] | None = None

  @property
  def sizes(self) -> tuple[int, int]:
    """Number of features of the state, and number of channels of the input."""
    return self.kernels["state"].shape[2], self.input_kernels["state"].shape[2]


def _pointwise(recurrence: Recurrence, name: str) -> bool:
  return recurrence.kernels[name].shape[:2] == (1, 1) and name not in recurrence.input_kernels


def _plan(recurrence: Recurrence, layout: Layout, dtype, first: Any) -> Plan:
  r = recurrence
  features, channels = r.sizes
  names = [n for n in _calls(r.step, first, r.kernels, r.constants) if not _pointwise(r, n)]
  blocks = {name: r.kernels[name].shape[-1] // features for name in names}
  return Plan(
    step=r.step,
    maps=tuple(Map(n, blocks[n] * padded_channels(features), n in r.input_kernels) for n in names),
    layout=layout,
    kernel_size=(r.kernels["state"].shape[0], r.kernels["state"].shape[1]),
    features=padded_channels(features),
    channels=padded_channels(channels),
    dtype=dtype,
    exact=_exact(dtype),
  )


def layout_for(
  recurrence: Recurrence, shape: tuple[int, int, int], dtype: Any, first: Any, given: Layout | None = None
) -> Layout:
  """Returns the layout in which `unroll` runs a recurrence.

  Args:
    recurrence: step and parameters.
    shape: (batch, height, width) of the images.
    dtype: dtype of the input.
    first: a state with the fields and dtypes of the recurrence.
    given: layout of the input, if it is packed. It is kept unless the kernels do not fit or another layout is smaller.

  Raises:
    Unsuitable: a single image is too large for VMEM.
  """

  def fits(layout):
    plan = _plan(recurrence, layout, dtype, first)
    return vmem_bytes(plan, first, recurrence.spatial_skip is not None) <= limit

  limit = _vmem()
  best = choose(*shape, fits)
  if best is None:
    raise Unsuitable(
      f'implementation="pallas" keeps an image in {limit >> 20} MiB of a TPU\'s memory, too little for images of '
      f'{shape[1:]} and {recurrence.sizes[0]} features: use implementation="scan"'
    )
  stays = given is not None and fits(given) and given.blocks * given.lanes <= best.blocks * best.lanes
  return given if given is not None and stays else best


def unroll(
  recurrence: Recurrence, layout: Layout, x: jax.Array, first: Any, mask: jax.Array | None
) -> tuple[jax.Array, Any]:
  """Runs a recurrence on packed arrays.

  Args:
    recurrence: step and parameters.
    layout: arrangement of the pixels.
    x: packed, [time, blocks, channels, lanes].
    first: the state before the first step, packed.
    mask: [time, blocks, 1, lanes], zero after the end of a sequence, or None. Masked steps keep the state; their
      outputs are arbitrary.

  Returns:
    The outputs of all steps [time, blocks, features, lanes], and the state after the last step, both packed.
  """
  r = recurrence
  features, channels = r.sizes
  plan = _plan(r, layout, x.dtype, first)
  weights, biases, points = {}, {}, {}
  for name, kernel in r.kernels.items():
    bias = _column(r.biases[name] if name in r.biases else r.input_biases[name], features)
    matrix = _matrix(kernel, features, features)
    if _pointwise(r, name):
      points[name] = matrix.astype(plan.product_dtype), bias
      continue
    if name in r.input_kernels:
      matrix = jnp.concatenate([matrix, _matrix(r.input_kernels[name], channels, features)], axis=1)
    weights[name], biases[name] = matrix.astype(plan.product_dtype), bias
  if r.spatial_skip is not None:
    kernel, bias = r.spatial_skip
    parts = (kernel[:features], features), (kernel[features:], channels)
    matrix = jnp.concatenate([_matrix(part[None, None], size, features) for part, size in parts], axis=1)
    points[SPATIAL_SKIP] = matrix.astype(plan.product_dtype), _column(bias, features)
  operands = {
    "weights": weights,
    "biases": biases,
    "points": points,
    "constants": {name: layout.pack_pixels(a).astype(jnp.float32) for name, a in r.constants.items()},
  }
  edges = jnp.asarray(layout.edges(plan.kernel_size[1]))
  return _recurrence(plan, operands, edges, x, first, mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_platform(run: Callable, *arguments):
  """Calls run(interpret, *arguments), compiled for a TPU and interpreted on other platforms."""
  return lax.platform_dependent(
    *arguments, tpu=functools.partial(run, False), default=functools.partial(run, True)
  )


def _second_derivative(*arguments):
  raise UserError(
    'the Pallas kernels (implementation="pallas", or "auto" on a TPU) can be differentiated once: use '
    'implementation="scan" for second derivatives'
  )


_by_platform.defvjp(_second_derivative, _second_derivative)


def _forward(plan: Plan, keep: dict[str, bool], operands, x, first, mask):
  def run(interpret, *arguments):
    return forward(plan, *arguments, keep=keep, interpret=interpret)

  return _by_platform(run, operands, first, x, mask)


def _kept(plan: Plan, operands, first, mask, every: bool) -> dict[str, bool]:
  """Returns the parts of the state that the forward kernel keeps, and whether it keeps them for `every` step."""
  keep = {name: every for name in first._fields if getattr(first, name) is not None}
  if SPATIAL_SKIP not in operands["points"]:
    keep.pop("h")  # It is the output anyway.
  if every and mask is None:
    keep.pop("h_previous", None)  # It equals h of the previous step.
  return keep


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(plan: Plan, operands, edges, x, first, mask):
  """Runs `unroll` on arrays in the form that the kernels read."""
  keep = _kept(plan, operands, first, mask, every=False)
  outputs, kept = _forward(plan, keep, operands | {"edges": edges}, x, first, mask)
  return outputs, first._replace(**({"h": outputs[-1]} | kept))


def _recurrence_forward(plan, operands, edges, x, first, mask):
  keep = _kept(plan, operands, first, mask, every=True)
  outputs, kept = _forward(plan, keep, operands | {"edges": edges}, x, first, mask)
  kept = {"h": outputs} | kept
  last = first._replace(**{name: a[-1] for name, a in kept.items()})
  if first.h_previous is not None and "h_previous" not in kept:
    last = last._replace(h_previous=kept["h"][-2] if len(x) > 1 else first.h)
  return (outputs, last), (operands, edges, x, first, mask, kept)


def _adjoint(plan: Plan, map_: Map, weights: jax.Array) -> jax.Array:
  """Rearranges [rows, height width channels of every source] to [width channels of every source, height rows]."""
  height, width = plan.kernel_size
  split = height * width * plan.features
  parts = [
    part.reshape(map_.rows, height, width, -1).transpose(2, 3, 1, 0).reshape(-1, height * map_.rows)
    for part in (weights[:, :split], weights[:, split:])
    if part.shape[1]
  ]
  return jnp.concatenate(parts)


def _recurrence_backward(plan, residuals, cotangents):
  operands, edges, x, first, mask, kept = residuals
  adjoints = {m.name: _adjoint(plan, m, operands["weights"][m.name]) for m in plan.maps}

  def run(interpret, *arguments):
    return backward(plan, *arguments, interpret=interpret)

  d_x, sums, d_first = _by_platform(
    run, operands | {"edges": edges}, adjoints, first, x, kept, mask, *cotangents
  )
  d_operands = jax.tree.map(lambda d, a: d.astype(a.dtype), sums, operands)
  return d_operands, None, d_x, d_first, None


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)
