import dataclasses
import functools
import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxfer.kernels import conv as convolution
from jaxfer.kernels.conv import choices, formulations, ops
from jaxfer.kernels.conv.choices import Shape
from jaxfer.kernels.conv_recurrence import IMPLEMENTATIONS

# (batch, height, width, channels, features, kernel, strides, padding); None keeps the size.
SHAPES = {
  "3x3": (3, 7, 6, 2, 5, (3, 3), (1, 1), None),
  "1x1": (2, 5, 4, 3, 2, (1, 1), (1, 1), None),
  "even kernel, stride 2, uneven padding": (2, 8, 9, 3, 2, (4, 4), (2, 2), ((1, 2), (0, 1))),
  "stride skips the last column": (2, 9, 10, 3, 2, (3, 3), (2, 2), ((1, 1), (0, 0))),
  "7x7 stem, unequal strides": (1, 10, 8, 1, 2, (7, 7), (2, 3), ((3, 3), (3, 3))),
  "1x1 downsample": (2, 5, 5, 2, 3, (1, 1), (2, 2), ((0, 0), (0, 0))),
  "stride wider than the kernel": (1, 8, 9, 2, 2, (2, 3), (3, 3), ((0, 0), (1, 2))),
  "more padding than kernel": (1, 4, 5, 2, 3, (3, 3), (2, 2), ((4, 3), (3, 4))),
  "8x8 stride 4": (1, 18, 16, 1, 2, (8, 8), (4, 4), ((0, 0), (1, 1))),
  "non-square kernel": (2, 6, 7, 2, 3, (3, 5), (1, 1), None),
}
# (batch, height, width, channels, features, kernel, strides, padding, output padding) of transposed convolutions.
TRANSPOSED = {
  "kernel 4": (2, 4, 5, 3, 2, (4, 4), (2, 2), ((1, 1), (1, 1)), (0, 0)),
  "kernel 3, output padding": (2, 4, 5, 3, 2, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
  "kernel 3, no output padding": (2, 4, 3, 2, 3, (3, 3), (2, 2), ((1, 1), (1, 1)), (0, 0)),
  "stride 1": (2, 5, 4, 3, 2, (3, 3), (1, 1), ((1, 1), (1, 1)), (0, 0)),
  "unequal strides": (1, 3, 4, 2, 2, (5, 2), (3, 1), ((0, 2), (1, 0)), (2, 0)),
}
STRIDE_1 = ("xla", "patches", "shifts", "rows", "patches_of_dy")
STRIDED = ("xla", "patches", "phases", "folded")
FORMULATIONS = {*STRIDE_1, *STRIDED}
TOLERANCE = {jnp.float32: 1e-5, jnp.bfloat16: 2e-2}  # Relative to the largest value.


def close(got, want, tolerance=1e-5):
  got, want = np.asarray(got, np.float32), np.asarray(want, np.float32)
  chex.assert_equal_shape([got, want])
  np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def arrays(case, dtype=jnp.float32, members=()):
  batch, height, width, channels, features, kernel, strides, padding, *rest = (SHAPES | TRANSPOSED)[case]
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((*members, batch, height, width, channels)), dtype)
  w = jnp.asarray(rng.standard_normal((*members, *kernel, channels, features)), dtype)
  return x, w, strides, padding or convolution.same_padding(kernel), *rest


def force(monkeypatch, name):
  """Forces the formulation of this name in every operation that has it."""

  def choose(platform, operation, shape, among):
    return name if name in among else choices.DEFAULTS[operation]

  monkeypatch.setattr(choices, "platforms", lambda: ("cpu",))
  monkeypatch.setattr(choices, "choose", choose)


def value_and_pull(f, x, w):
  y, pull = jax.vjp(f, x, w)
  return y, *pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype))


def transposed_reference(x, kernel, strides, padding, output_padding):
  """Computes a convolution of the dilated x, with the padding of PyTorch's transposed convolution."""
  pads = [
    (k - 1 - lo, k - 1 - hi + more)
    for k, (lo, hi), more in zip(kernel.shape[:2], padding, output_padding, strict=True)
  ]
  return lax.conv_general_dilated(
    x, kernel[::-1, ::-1], (1, 1), pads, strides, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def each(cases):
  """Returns every case with every formulation that applies to it."""
  pairs = [
    (case, name)
    for case, settings in cases.items()
    for name in (STRIDE_1 if settings[6] == (1, 1) else STRIDED)
  ]
  return pytest.mark.parametrize(("case", "name"), pairs, ids=[" by ".join(pair) for pair in pairs])


@functools.cache
def wanted(case, dtype=jnp.float32):
  """Returns value and gradients of the reference."""
  x, w, *settings = arrays(case, dtype)
  plain = transposed_reference if case in TRANSPOSED else convolution.conv_reference
  return jax.jit(lambda x, w: value_and_pull(lambda x, w: plain(x, w, *settings), x, w))(x, w)


@each(SHAPES)
def test_values_and_gradients_equal_the_reference(case, name, monkeypatch):
  force(monkeypatch, name)
  x, w, strides, padding = arrays(case)
  got = jax.jit(lambda x, w: value_and_pull(lambda x, w: convolution.conv(x, w, strides, padding), x, w))(
    x, w
  )
  for g, v in zip(got, wanted(case), strict=True):
    close(g, v)


@each(TRANSPOSED)
def test_transposed_values_and_gradients_equal_the_reference(case, name, monkeypatch):
  force(monkeypatch, name)
  x, w, *settings = arrays(case)
  got = jax.jit(lambda x, w: value_and_pull(lambda x, w: convolution.conv_transpose(x, w, *settings), x, w))(
    x, w
  )
  for g, v in zip(got, wanted(case), strict=True):
    close(g, v)


def test_a_transposed_convolution_by_hand():
  """Computed by hand: x = [1, 2], w = [a, b, c], for PyTorch's kernel 3, stride 2, padding 1, output padding 1."""
  a, b, c = 3.0, 5.0, 7.0
  x = jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1)
  w = jnp.array([a, b, c]).reshape(1, 3, 1, 1)
  y = convolution.conv_transpose(x, w, (1, 2), ((0, 0), (1, 1)), (0, 1))
  np.testing.assert_array_equal(y.ravel(), [b, c + 2 * a, 2 * b, 2 * c])


@each(
  {
    case: (SHAPES | TRANSPOSED)[case]
    for case in ("3x3", "7x7 stem, unequal strides", "kernel 3, output padding")
  }
)
def test_bfloat16(case, name, monkeypatch):
  force(monkeypatch, name)
  x, w, *settings = arrays(case, jnp.bfloat16)
  ours = convolution.conv_transpose if case in TRANSPOSED else convolution.conv
  got = jax.jit(lambda x, w: value_and_pull(lambda x, w: ours(x, w, *settings), x, w))(x, w)
  for g, v in zip(got, wanted(case, jnp.bfloat16), strict=True):
    assert g.dtype == jnp.bfloat16
    close(g, v, TOLERANCE[jnp.bfloat16])


@pytest.mark.parametrize("case", SHAPES)
def test_patch_products_in_blocks_equal_the_reference(case, monkeypatch):
  for limit in ("_BLOCK", "_WEIGHT_BLOCK"):
    monkeypatch.setattr(formulations, limit, 1)  # One image at a time.
  x, w, strides, padding = arrays(case)

  @jax.jit
  def pairs(x, w):
    y, pull = jax.vjp(lambda x, w: convolution.conv_reference(x, w, strides, padding), x, w)
    _, gradient = pull(y)
    found = [
      (formulations.patch_conv(x, w, strides, padding), y),
      (formulations.weights_by_patches(x, y, w.shape[:2], strides, padding), gradient),
    ]
    if strides == (1, 1):
      found += [
        (formulations.shift_conv(x, w, padding), y),
        (formulations.row_conv(x, w, padding), y),
        (formulations.weights_by_rows(x, y, w.shape[:2], strides, padding), gradient),
      ]
    return found

  for got, want in pairs(x, w):
    close(got, want)


@pytest.mark.parametrize("way", ["map", "grouped", "batched"])
@pytest.mark.parametrize("differs", [(0, 0), (0, None), (None, 0)], ids=["both", "images", "kernels"])
@pytest.mark.parametrize(
  "case", ["non-square kernel", "stride skips the last column", "kernel 3, output padding"]
)
def test_members_equal_one_after_another(case, differs, way, monkeypatch):
  force(monkeypatch, way)
  n = 3
  x, w, *settings = arrays(case, members=(n,))
  f = convolution.conv_transpose if case in TRANSPOSED else convolution.conv
  x, w = (a if axis == 0 else a[0] for a, axis in zip((x, w), differs, strict=True))

  @jax.jit
  def one(x, w):
    return value_and_pull(lambda x, w: f(x, w, *settings), x, w)

  got = jax.jit(jax.vmap(one, differs))(x, w)
  for k in range(n):
    want = one(*(a[k] if axis == 0 else a for a, axis in zip((x, w), differs, strict=True)))
    for g, v in zip(got, want, strict=True):
      close(g[k], v)


def test_members_of_members_equal_one_after_another():
  x, w, *settings = arrays("3x3", members=(2, 3))
  one = lambda x, w: value_and_pull(lambda x, w: convolution.conv(x, w, *settings), x, w)  # noqa: E731
  got = jax.jit(jax.vmap(jax.vmap(one, (0, 0)), (0, None)))(x, w[0])
  want = one(x[1, 2], w[0, 2])
  for g, v in zip(got, want, strict=True):
    close(g[1, 2], v)


def test_what_members_share_is_not_repeated():
  """Images of all members with one shared kernel are one convolution; so are kernels of all members on one image."""
  x, w, *settings = arrays("3x3", members=(3,))
  f = lambda x, w: convolution.conv(x, w, *settings)  # noqa: E731
  for axes, args in [((0, None), (x, w[0])), ((None, 0), (x[0], w))]:
    module = jax.export.export(jax.jit(jax.vmap(f, axes)), platforms=["tpu"])(*args).mlir_module()
    assert module.count("stablehlo.convolution") == 1
    assert "feature_group_count = 1" in module


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("case", SHAPES)
def test_other_platforms_take_real_convolutions(case, platform, monkeypatch):
  monkeypatch.setattr(choices, "platforms", tuple)  # No platform was measured.
  x, w, strides, padding = arrays(case)

  def gradient(x, w):
    return jax.grad(lambda x, w: convolution.conv(x, w, strides, padding).sum(), (0, 1))(x, w)

  module = jax.export.export(jax.jit(gradient), platforms=[platform])(x, w).mlir_module()
  # Weight gradient, and input gradient: one convolution per phase of the stride that meets the kernel.
  meets = math.prod(min(s, k) for s, k in zip(strides, w.shape[:2], strict=True))
  assert module.count("stablehlo.convolution") == 1 + meets
  assert "dot_general" not in module


@pytest.fixture
def asked(monkeypatch):
  """Returns a list that collects, for each choice, the operation and whether the shape is inside a loop."""
  found = []

  def choose(platform, operation, shape, among):
    found.append((operation, shape.loop))
    return "map" if "map" in among else choices.DEFAULTS[operation]

  monkeypatch.setattr(choices, "platforms", lambda: ("cpu",))
  monkeypatch.setattr(choices, "choose", choose)
  return found


def loss(x, w):
  return convolution.conv(x, w, (2, 2), ((1, 1), (1, 1))).sum()


def in_loop(body, x, n=2):
  return lax.map(convolution.looped(body), jnp.broadcast_to(x, (n, *x.shape)))


OPERATIONS = {"forward", "transpose", "weight_gradient"}


@pytest.mark.parametrize("inside", [True, False])
def test_a_choice_depends_on_the_loop(inside, asked):
  x, w, *_ = arrays("stride skips the last column")
  gradient = lambda x: jax.grad(loss, (0, 1))(x, w)  # noqa: E731
  jax.eval_shape(functools.partial(in_loop, gradient) if inside else gradient, x)
  assert {operation for operation, _ in asked} == OPERATIONS
  assert {loop for _, loop in asked} == {inside}


@pytest.mark.parametrize("f", [convolution.conv, convolution.conv_transpose])
def test_the_gradients_of_a_loop_count_as_inside_too(f, asked):
  x, w, *_ = arrays("stride skips the last column")

  def total(x, w):
    return in_loop(lambda x: f(x, w, (2, 2), ((1, 1), (1, 1))).sum(), x).sum()

  jax.eval_shape(jax.grad(total, (0, 1)), x, w)
  assert {operation for operation, _ in asked} == OPERATIONS
  assert {loop for _, loop in asked} == {True}


def test_a_jitted_function_is_traced_again_inside_a_loop(asked):
  x, w, *_ = arrays("stride skips the last column")
  jitted = jax.jit(functools.partial(loss, w=w))
  jax.eval_shape(jitted, x)
  jax.eval_shape(functools.partial(in_loop, jitted), x)
  assert [loop for operation, loop in asked if operation == "forward"] == [False, True]


def test_members_one_after_another_are_inside_a_loop(asked):
  x, w, *_ = arrays("3x3", members=(3,))
  jax.eval_shape(jax.vmap(convolution.conv), x, w)
  assert set(asked) == {("forward", False), ("forward_members", False), ("forward", True)}


def test_blocks_divide_the_batch():
  assert formulations._blocks(12, 10, 40) == 3
  assert formulations._blocks(7, 10, 40) == 7
  assert formulations._blocks(5, 100, 40) == 5
  assert formulations._blocks(5, 1, 40) == 1


def test_a_choice_is_that_of_the_nearest_measured_shape(monkeypatch):
  small, large = Shape((3, 3), (1, 1), 8, 8, 64), Shape((3, 3), (1, 1), 128, 128, 64)
  rows = ((small, "xla"), (large, "patches"))
  choices.reload()
  monkeypatch.setattr(choices, "_rows", lambda platform, operation: rows)
  among = ("xla", "patches")
  assert choices.choose("cpu", "forward", Shape((3, 3), (1, 1), 16, 16, 32), among) == "xla"
  assert choices.choose("cpu", "forward", Shape((3, 3), (1, 1), 64, 100, 128), among) == "patches"
  # Nothing strided was measured, and impossible formulations are not chosen.
  assert choices.choose("cpu", "forward", Shape((3, 3), (2, 2), 128, 128, 64), among) == "xla"
  assert choices.choose("cpu", "forward", large, ("xla",)) == "xla"
  # Nothing was measured inside a loop, until the last row.
  inside = dataclasses.replace(large, loop=True)
  assert choices.choose("cpu", "forward", inside, among) == "patches"
  rows += ((dataclasses.replace(small, loop=True), "xla"),)
  choices.choose.cache_clear()
  assert choices.choose("cpu", "forward", inside, among) == "xla"
  assert choices.choose("cpu", "forward", large, among) == "patches"
  monkeypatch.undo()
  choices.reload()


def test_the_committed_table_names_formulations_that_exist():
  table = json.loads(choices.TABLE.read_text())
  assert table["schema"] == 1
  x, w, strides, padding = arrays("3x3")
  for platform, entry in table["platforms"].items():
    assert platform in ("cpu", "cuda", "tpu", "rocm")
    assert entry["source"].endswith(".jsonl")
    assert set(entry["choices"]) <= set(choices.DEFAULTS)
    for operation, rows in entry["choices"].items():
      names = {"map", "grouped", "batched"} if operation.endswith("_members") else FORMULATIONS
      if operation.endswith(
        "recurrence"
      ):  # An estimate of the compiler never selects the Pallas kernels for users.
        names = {*IMPLEMENTATIONS} - ({"pallas"} if "estimate" in entry else set())
      assert {row["formulation"] for row in rows} <= set(names)
  assert ops.conv(x, w, strides, padding).shape == (3, 7, 6, 5)
