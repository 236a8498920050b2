"""A recurrence over time whose weight gradients are computed once, after the reverse scan.

A gated convolutional cell is a chain of *affine maps* of its state, `conv(s, kernel) + input + bias`, joined by
pointwise functions. The input enters only by addition, so its convolution runs once, before the scan, over all time
steps. The forward scan keeps the state and the values of the affine maps. From these the reverse scan replays only the
pointwise part, propagates the gradient of the state through the convolutions, and returns the input and cotangent of
each map. Every weight gradient is then one product over time and batch together. Stock reverse-mode differentiation
computes it step by step inside the loop, which XLA on CPU runs about a hundred times slower.

With `recompute` the values of the maps are not kept. The reverse scan then convolves the state again, and overwrites
the inputs, which it needs for that, with their cotangents.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfer.kernels.conv import inside_loop, looped
from jaxfer.kernels.conv_recurrence import folding

Carry = Any
Affine = Callable[[str, jax.Array], jax.Array]
# (carry, affine, constants) -> (carry, output); must be pure, and read the input only through `affine`.
Step = Callable[[Carry, Affine, Mapping[str, jax.Array]], tuple[Carry, jax.Array]]


def scan(
  step: Step,
  recompute: bool,
  kernels: Mapping[str, jax.Array],
  biases: Mapping[str, jax.Array],
  constants: Mapping[str, jax.Array],
  inputs: Mapping[str, jax.Array],
  carry: Carry,
  mask: jax.Array | None,
) -> tuple[jax.Array, Carry]:
  """Runs `step` over time.

  Args:
    step: one time step; `affine(name, s)` returns conv(s, kernels[name]) + inputs[name][t] + biases[name], where the
      last two are added only if they exist.
    recompute: whether the backward pass recomputes the affine maps instead of keeping their values.
    kernels: name -> [kernel_height, kernel_width, channels, features], odd sizes; zero padding keeps height and width.
      Folded kernels (`folding`) read arrays with as many channels as the state.
    biases: name -> [features].
    constants: further differentiable arrays that the step reads (peephole weights).
    inputs: name -> [time, batch, height, width, features].
    carry: the state before the first step, a pytree of [batch, ...] arrays.
    mask: [time, batch], True for the steps of a sequence and False after its end, or None. Masked steps do not change
      the state, and their outputs are zero.

  Returns:
    outputs [time, batch, ...] and the state after the last step.
  """
  return _scan(step, recompute, inside_loop(), kernels, biases, constants, inputs, carry, mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _scan(step, recompute, loop, kernels, biases, constants, inputs, carry, mask):
  """Runs `scan`. `loop` says whether the scan itself is inside a loop, where its weight gradients then run too."""
  del recompute, loop
  return _run(step, lambda carry, values: None, kernels, biases, constants, inputs, carry, mask)[:2]


def _affine_value(name, s, kernels, biases, inputs):
  value = folding.conv(s, kernels[name])
  for term in (inputs, biases):
    if name in term:
      value = value + term[name]
  return value


def _masked(step, carry, affine, constants, mask):
  new, output = step(carry, affine, constants)
  if mask is None:
    return new, output

  def keep(new, old):
    return jnp.where(mask.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

  return jax.tree.map(keep, new, carry), keep(output, jnp.zeros_like(output))


def _run(step, keep, kernels, biases, constants, inputs, carry, mask):
  """Returns (outputs, last state, keep(state before the step, values of its affine maps) for every step)."""

  def body(carry, at):
    inputs, mask = at
    values = {}

    def affine(name, s):
      values[name] = _affine_value(name, s, kernels, biases, inputs)
      return values[name]

    new, output = _masked(step, carry, affine, constants, mask)
    return new, (output, keep(carry, values))

  with jax.named_scope("recurrence"):
    last, (outputs, kept) = lax.scan(looped(body), carry, (inputs, mask))
  return outputs, last, kept


def _forward(step, recompute, loop, kernels, biases, constants, inputs, carry, mask):
  del loop

  def keep(carry, values):
    return carry, {} if recompute else values

  outputs, last, (carries, kept) = _run(step, keep, kernels, biases, constants, inputs, carry, mask)
  # The backward pass needs the names of the inputs, and their arrays only for `recompute`.
  inputs = inputs if recompute else {name: None for name in inputs}
  return (outputs, last), (kernels, biases, constants, inputs, kept, carries, mask)


@jax.custom_vjp
def _known(value, s, kernel):
  """An affine map whose value is known: it costs nothing in the forward pass, and passes the gradient back to s."""
  del s, kernel
  return value


def _known_forward(value, s, kernel):
  return value, (s.shape[1:3], kernel)


def _known_backward(residuals, d_value):
  size, kernel = residuals
  # The gradient of the kernel is computed later; nothing reads these zeros, and XLA removes them.
  return (
    d_value,
    folding.input_gradient(d_value, kernel, size, loop=True),
    jax.tree.map(jnp.zeros_like, kernel),
  )


_known.defvjp(_known_forward, _known_backward)


def _scan_in_place(body, state, buffers, xs, *, reverse=False):
  """`lax.scan` whose body(state, slices, x) -> (state, slices, y) also replaces each step of `buffers` [time, ...].

  A stacked result would be a second buffer of this size, first filled with zeros, which costs as much as a convolution.
  """

  def inner(carry, at):
    state, buffers = carry
    t, x = at
    slices = jax.tree.map(lambda b: lax.dynamic_index_in_dim(b, t, keepdims=False), buffers)
    state, slices, y = body(state, slices, x)
    buffers = jax.tree.map(lambda b, v: lax.dynamic_update_index_in_dim(b, v, t, 0), buffers, slices)
    return (state, buffers), y

  steps = jnp.arange(len(jax.tree.leaves(buffers)[0]))
  (state, buffers), ys = lax.scan(looped(inner), (state, buffers), (steps, xs), reverse=reverse)
  return state, buffers, ys


def _backward(step, recompute, loop, residuals, cotangents):
  kernels, biases, constants, inputs, kept, carries, mask = residuals
  d_outputs, d_last = cotangents
  if recompute:
    steps = jax.tree.leaves(carries)[0].shape[:-1]
    kept = {name: jnp.zeros((*steps, k.shape[-1]), k.dtype) for name, k in kernels.items()} | inputs

  # Computed outside of the loop, because XLA does not move them out of it.
  parts = {
    name: folding.parts(kernel, jax.tree.leaves(carries)[0].shape[-1]) for name, kernel in kernels.items()
  }
  unchanged: dict[str, int] = {}  # Maps that read a leaf of the carry unchanged, which is stored already.

  def body(state, kept, at):
    d_carry, d_constants = state
    d_output, carry, mask = at

    def replay(carry, kept, constants):
      read = {}
      leaves = [id(leaf) for leaf in jax.tree.leaves(carry)]

      def affine(name, s):
        if id(s) in leaves:
          unchanged[name] = leaves.index(id(s))
        else:
          read[name] = s
        value = kept[name]
        if recompute:
          value = value + lax.stop_gradient(_affine_value(name, s, kernels, biases, {}))
        return _known(value, s, parts[name])

      return _masked(step, carry, affine, constants, mask), read

    _, pull, read = jax.vjp(replay, carry, kept, constants, has_aux=True)
    d_carry, d_values, d_here = pull((d_carry, d_output))
    return (d_carry, jax.tree.map(jnp.add, d_constants, d_here)), d_values, read

  zeros = jax.tree.map(jnp.zeros_like, constants)
  with jax.named_scope("recurrence_gradient"):
    # The cotangents overwrite the values, or the inputs.
    (d_carry, d_constants), d_values, reads = _scan_in_place(
      body, (d_last, zeros), kept, (d_outputs, carries, mask), reverse=True
    )

  reads |= {name: jax.tree.leaves(carries)[k] for name, k in unchanged.items()}

  def over_time_and_batch(a):
    return a.reshape(-1, *a.shape[2:])

  d_kernels = {
    name: folding.weight_gradient(
      over_time_and_batch(reads[name]), over_time_and_batch(d_values[name]), kernel.shape, loop
    ).astype(kernel.dtype)
    for name, kernel in kernels.items()
  }
  d_biases = {
    name: d_values[name].sum(range(d_values[name].ndim - 1), dtype=jnp.float32).astype(bias.dtype)
    for name, bias in biases.items()
  }
  return d_kernels, d_biases, d_constants, {name: d_values[name] for name in inputs}, d_carry, None


_scan.defvjp(_forward, _backward)
