import contextlib
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from jaxfer.errors import UserError
from jaxfer.kernels import conv_recurrence as recurrence
from jaxfer.kernels.conv import choices
from jaxfer.kernels.conv.choices import Shape
from jaxfer.kernels.conv_recurrence import Cell, cells, chip, packed, pallas, reference
from jaxfer.systems.two_stream_conv_rnn import model as two_stream_conv_rnn
from tests import drawn

CELLS = {
  "lstm gate skip input": Cell("conv_lstm", temporal_gate=True, temporal_skip=True, peephole=True),
  "lstm gate output": Cell("conv_lstm", temporal_gate=True, gate_sees_x=False, temporal_merge="output"),
  "lstm skip output": Cell(
    "conv_lstm", temporal_skip=True, spatial_skip=True, peephole=True, temporal_merge="output"
  ),
  "gru gate input": Cell("conv_gru", temporal_gate=True, gate_sees_x=False),
  "gru skip input": Cell("conv_gru", temporal_skip=True),
  "gru gate skip output": Cell(
    "conv_gru", temporal_gate=True, temporal_skip=True, spatial_skip=True, temporal_merge="output"
  ),
}
KERNELS = functools.partial(recurrence.unroll, implementation="pallas")


def problem(cell, *, batch=3, time=3, size=(5, 7), kernel=(3, 3), channels=3, features=4, dtype=jnp.float32):
  """Returns parameters, input, initial state and a mask with a gap."""
  rng = np.random.default_rng(0)
  shapes = recurrence.parameter_shapes(cell, channels, features, kernel, size)
  params = {name: jnp.asarray(0.4 * rng.standard_normal(shape), dtype) for name, shape in shapes.items()}
  x = jnp.asarray(rng.standard_normal((batch, time, *size, channels)), dtype)
  zeros = recurrence.initial_state(cell, (batch, *size, features), dtype)
  state = jax.tree.map(lambda a: jnp.asarray(0.5 * rng.standard_normal(a.shape), a.dtype), zeros)
  mask = jnp.asarray([[True] * 3, [True, False, False], [False, True, True]])
  return params, x, state, mask[:batch, :time]


def everything(unroll, cell, params, x, state, mask):
  """Returns outputs, last state, and gradients of a scalar of both in parameters, input and initial state."""

  def both(params, x, state):
    results, pull = jax.vjp(lambda *args: unroll(cell, *args, mask), params, x, state)
    waves = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=jnp.float32)).reshape(a.shape), results)
    return results, pull(jax.tree.map(lambda w, a: w.astype(a.dtype), waves, results))

  return jax.jit(both)(params, x, state)


def assert_close(got, want, tolerance):
  for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
    g, w = np.asarray(g, np.float32), np.asarray(w, np.float32)
    np.testing.assert_allclose(g, w, rtol=0, atol=tolerance * max(np.abs(w).max(), 1e-3), err_msg=str(path))


@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients_equal_the_reference(name):
  cell = CELLS[name]
  arguments = problem(cell)
  with jax.default_matmul_precision("highest"):
    got = everything(KERNELS, cell, *arguments)
    want = everything(reference.unroll, cell, *arguments)
  assert_close(got, want, 1e-5)


@pytest.mark.parametrize(
  "sizes",
  [
    {"batch": 1, "time": 1, "size": (1, 1)},
    {"size": (19, 6), "kernel": (5, 1), "time": 2},  # Two tiles, of which the last is partly empty.
    {
      "size": (2, 100),
      "kernel": (1, 3),
      "time": 2,
    },  # Three blocks: a row of one image nearly fills a vector.
    {
      "size": (3, 4),
      "kernel": (3, 7),
      "channels": 17,
      "features": 18,
      "time": 2,
    },  # A kernel wider than the image.
  ],
  ids=str,
)
def test_any_size_without_mask(sizes):
  cell = Cell("conv_lstm", temporal_gate=True)
  *arguments, _ = problem(cell, **sizes)
  with jax.default_matmul_precision("highest"):
    got = everything(KERNELS, cell, *arguments, None)
    want = everything(reference.unroll, cell, *arguments, None)
  assert_close(got, want, 1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_by_default_products_are_of_bfloat16_and_the_cell_state_is_float32(dtype):
  cell = Cell("conv_lstm", temporal_skip=True, spatial_skip=True, temporal_merge="output")
  arguments = problem(cell, dtype=dtype)
  got = everything(KERNELS, cell, *arguments)
  assert got[0][0].dtype == dtype
  assert got[0][1].c.dtype == jnp.float32
  wide = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.bfloat16 else a, arguments)
  want = everything(reference.unroll, cell, *wide)
  assert_close(got, want, 4e-2)
  with pytest.raises(AssertionError):  # Otherwise the products would be in float32.
    assert_close(got, want, 1e-4)


def test_members_run_as_they_do_alone():
  cell = Cell("conv_lstm", peephole=True)
  params, x, state, mask = problem(cell, time=2)
  members = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), params)
  run = functools.partial(everything, KERNELS, cell)
  together = jax.vmap(lambda p: run(p, x, state, mask))(members)
  for k in range(2):
    alone = run(jax.tree.map(lambda a, k=k: a[k], members), x, state, mask)
    assert_close(jax.tree.map(lambda a, k=k: a[k], together), alone, 1e-5)


def lowered(platform, function, *arguments):
  """Returns the program lowered for a platform; no device of this platform is needed."""
  return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


for_tpu = functools.partial(lowered, "tpu")


def test_the_kernels_are_in_the_program_of_a_tpu_alone_under_shard_map_and_for_members():
  cell = Cell("conv_gru", temporal_gate=True)
  params, x, *_ = problem(cell)
  gradient = jax.grad(lambda p, x, **options: KERNELS(cell, p, x, **options)[0].sum())
  mesh = jax.make_mesh((1, 1), ("member", "data"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  several = jax.tree.map(lambda a: a[None], params)
  sharded = jax.shard_map(
    lambda p, x: jax.lax.psum(jax.vmap(gradient, (0, None))(p, x), "data"),
    mesh=mesh,
    in_specs=(PartitionSpec("member"), PartitionSpec("data")),
    out_specs=PartitionSpec("member"),
    check_vma=False,
  )
  for program in (for_tpu(gradient, params, x), for_tpu(sharded, several, x)):
    assert program.count("tpu_custom_call") == 2
    assert "stablehlo.convolution" not in program
    assert "stablehlo.while" not in program
  scan = for_tpu(functools.partial(gradient, implementation="scan"), params, x)
  assert "tpu_custom_call" not in scan


@pytest.fixture
def tpu_table(monkeypatch):
  """Replaces the entries of the choice table for recurrences on a TPU: {(features, pixels): implementation}.

  The programs are for a TPU, which the machine need not have.
  """
  for module in (cells, two_stream_conv_rnn):
    monkeypatch.setattr(module, "tpu_kinds", lambda: frozenset({"TPU v5 lite"}))

  def put(table):
    rows = tuple((Shape((3, 3), (1, 1), f, f, pixels), name) for (f, pixels), name in table.items())
    known = choices._rows
    monkeypatch.setattr(
      choices, "_rows", lambda p, op: rows if (p, op) == ("tpu", "recurrence") else known(p, op)
    )
    choices.choose.cache_clear()

  yield put
  monkeypatch.undo()
  choices.choose.cache_clear()


def test_auto_is_the_tables_choice_on_a_tpu_and_scan_elsewhere(tpu_table):
  cell = Cell("conv_lstm")
  params, x, state, mask = problem(cell, time=2)
  auto = lambda p, x: recurrence.unroll(cell, p, x, state, mask)[0].sum()  # noqa: E731
  calls = {}
  for name, table in {
    "none": {},
    "pallas": {(4, 35): "pallas", (128, 64): "scan"},
    "scan": {(4, 35): "scan"},
  }.items():
    tpu_table(table)
    calls[name] = for_tpu(jax.grad(auto), params, x).count("tpu_custom_call")
    for other in ("cpu", "cuda") if name == "pallas" else ():
      assert "pallas" not in lowered(other, jax.grad(auto), params, x)
  assert calls == {"none": 0, "pallas": 2, "scan": 0}


def test_without_a_tpu_auto_traces_the_scan_alone(tpu_table, monkeypatch):
  tpu_table({(4, 35): "pallas"})
  cell = Cell("conv_lstm")
  params, x, *_ = problem(cell, time=2)
  auto = lambda p, x: recurrence.unroll(cell, p, x)[0]  # noqa: E731
  assert "pallas_call" in str(jax.make_jaxpr(auto)(params, x))
  monkeypatch.setattr(cells, "tpu_kinds", frozenset)
  assert "pallas_call" not in str(jax.make_jaxpr(lambda *a: auto(*a))(params, x))


def test_the_mesh_in_context_names_the_chip(monkeypatch):
  monkeypatch.setattr(chip, "_machine", lambda: frozenset({"TPU v5 lite"}))
  assert chip.tpu_kinds() == {"TPU v5 lite"}
  mesh = jax.make_mesh(
    (1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices("cpu")[:1]
  )
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    assert chip.tpu_kinds() == frozenset()
  of_v4 = types.SimpleNamespace(abstract_device=types.SimpleNamespace(device_kind="TPU v4"))
  monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda: of_v4)
  assert chip.tpu_kinds() == {"TPU v4"}
  assert pallas._vmem() == pallas.SMALL_VMEM


def test_auto_computes_on_cpu_what_scan_does(tpu_table):
  cell = Cell("conv_gru", temporal_gate=True, spatial_skip=True)
  arguments = problem(cell, time=2)
  tpu_table({(4, 35): "pallas"})
  scan = functools.partial(recurrence.unroll, implementation="scan")
  got, want = (everything(unroll, cell, *arguments) for unroll in (recurrence.unroll, scan))
  assert_close(got, want, 1e-6)


def test_auto_is_scan_where_an_image_is_too_large_for_the_kernels(tpu_table):
  tpu_table({(32, 512 * 512): "pallas"})
  cell = Cell("conv_lstm")
  shapes = recurrence.parameter_shapes(cell, 3, 32, (3, 3), (512, 512))
  params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
  x = jax.ShapeDtypeStruct((1, 1, 512, 512, 3), jnp.float32)
  assert "tpu_custom_call" not in for_tpu(lambda p, x: recurrence.unroll(cell, p, x)[0], params, x)


def test_a_stream_on_auto_hands_packed_arrays_on_where_the_table_chooses_the_kernels(tpu_table):
  x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 8, 8, 3)), jnp.float32)

  def stream(implementation):
    return two_stream_conv_rnn.Stream("conv_lstm", (4, 5), {"implementation": implementation})

  variables = drawn.variables(stream("scan").init, x, None)

  def gradient(implementation):
    return jax.grad(lambda v: (stream(implementation).apply(v, x, None) ** 2).sum())

  def unpacked(program):  # Copies to the layout swap channels and pixels; a stream packs only its input.
    return program.count("stablehlo.transpose")

  tpu_table({(4, 64): "pallas"})
  found, pallas_alone = for_tpu(gradient("auto"), variables), for_tpu(gradient("pallas"), variables)
  assert found.count("tpu_custom_call") == pallas_alone.count("tpu_custom_call") == 4
  assert unpacked(found) == unpacked(pallas_alone)
  assert_close(jax.jit(gradient("auto"))(variables), jax.jit(gradient("scan"))(variables), 1e-6)
  tpu_table({(4, 64): "pallas", (5, 16): "scan"})  # Each layer has its own choice.
  assert for_tpu(gradient("auto"), variables).count("tpu_custom_call") == 2


@pytest.mark.parametrize("twice", [lambda f: jax.grad(lambda x: jax.grad(f)(x).sum()), jax.hessian])
def test_second_derivatives_are_refused(twice):
  cell = Cell("conv_lstm")
  params, x, *_ = problem(cell, time=1)
  with pytest.raises(UserError, match='use implementation="scan" for second derivatives'):
    jax.eval_shape(twice(lambda x: KERNELS(cell, params, x)[0].sum()), x)


def test_an_unknown_implementation_is_refused():
  cell = Cell("conv_lstm")
  params, x, *_ = problem(cell)
  with pytest.raises(UserError, match="'palas': did you mean 'pallas'"):
    recurrence.unroll(cell, params, x, implementation="palas")


def test_packed_sequences_without_the_kernels_are_refused():
  cell = Cell("conv_lstm")
  params, x, *_ = problem(cell)
  with pytest.raises(UserError, match='packed sequence needs implementation="pallas", not "auto"'):
    recurrence.unroll(cell, params, x, packed=True)


RACE = "RACE DETECTED"  # JAX 0.10 prints it, and newer JAX raises an error with it.


def test_memory_is_neither_read_before_it_is_written_nor_raced_for(monkeypatch, capsys):
  """The interpreter simulates the TPU's memory: scratch is initially NaN, and every access is recorded."""
  cell = Cell("conv_gru", temporal_skip=True)
  arguments = problem(cell, time=2)
  plain = everything(KERNELS, cell, *arguments)
  params = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
  monkeypatch.setattr(pallas, "_by_platform", lambda run, *arguments: run(params, *arguments))
  assert_close(everything(KERNELS, cell, *arguments), plain, 1e-5)
  assert RACE not in capsys.readouterr().out


def test_the_interpreter_finds_a_race(capfd, caplog):
  """Two cores write one block. JAX prints that, or logs it as an error if the machine has a single core."""

  def write(x, y):
    y[...] = x[...] + pl.program_id(0)

  block = pl.BlockSpec((8, 128), lambda _: (0, 0))
  racing = pl.pallas_call(
    write,
    out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
    grid=(2,),
    in_specs=[block],
    out_specs=block,
    interpret=pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2),
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
  )
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    jax.block_until_ready(racing(jnp.zeros((8, 128))))
  pltpu.reset_tpu_interpret_mode_state()
  printed = capfd.readouterr()
  assert RACE in printed.out + printed.err + caplog.text


@pytest.mark.parametrize(("batch", "block"), [(3, 2), (2, 2), (1, 1), (5, 3)])
def test_unpack_undoes_pack_and_padding_is_zero(batch, block):
  layout = packed.Layout(batch, 5, 50, block)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((batch, 2, 5, 50, 3)), jnp.float32)
  a = layout.pack(x)
  assert a.shape == (2, layout.blocks, 16, layout.lanes)
  np.testing.assert_array_equal(layout.unpack(a, 3), x)
  np.testing.assert_allclose(jnp.abs(a).sum(), jnp.abs(x).sum(), rtol=1e-5)


def test_the_layout_wastes_few_lanes_and_keeps_blocks_in_memory():
  layout = packed.choose(16, 32, 32, lambda layout: layout.block <= 8)
  assert (layout.block, layout.blocks, layout.lanes, layout.padded) == (8, 2, 8192, False)


def test_images_that_do_not_fit_into_memory_are_refused():
  cell = Cell("conv_lstm")
  shapes = recurrence.parameter_shapes(cell, 3, 32, (3, 3), (512, 512))
  params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
  x = jax.ShapeDtypeStruct((1, 1, 512, 512, 3), jnp.float32)
  with pytest.raises(UserError, match=r"images of \(512, 512\) and 32 features: use implementation=\"scan\""):
    jax.eval_shape(lambda p, x: KERNELS(cell, p, x), params, x)


@pytest.mark.parametrize(("batch", "block", "size"), [(3, 2, (9, 10)), (16, 4, (16, 16)), (5, 3, (7, 6))])
def test_packed_images_are_pooled_and_moved_exactly(batch, block, size):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((batch, 2, *size, 3)), jnp.float32)

  def pack(x):
    layout = packed.Layout(batch, *size, block)
    return packed.Packed(layout.pack(x), layout, 3)

  @jax.jit
  def pairs(x):
    pools = (lambda x: pack(x).pool().unpack(), two_stream_conv_rnn._pool)
    found = [tuple(pool(x) for pool in pools)]
    for other in (2 * block, block + 1, 1):
      layout = packed.Layout(batch, *size, other)
      found.append((pack(x).to(layout).data, layout.pack(x)))
    return [*found, tuple(jax.grad(lambda x, pool=pool: (pool(x) ** 2).sum())(x) for pool in pools)]

  for got, want in pairs(x):
    np.testing.assert_array_equal(got, want)


def test_a_stream_hands_packed_arrays_from_layer_to_layer():
  x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 8, 8, 3)), jnp.float32)
  mask = jnp.asarray([[True, True], [True, False]])

  def stream(implementation):
    settings = {"spatial_skip": True, "implementation": implementation}
    return two_stream_conv_rnn.Stream("conv_lstm", (4, 5), settings)

  variables = drawn.variables(stream("scan").init, x, mask)

  def result(implementation):
    loss = lambda v: (stream(implementation).apply(v, x, mask) ** 2).sum()  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(variables)

  with jax.default_matmul_precision("highest"):
    assert_close(result("pallas"), result("scan"), 1e-5)
