import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.kernels import conv_recurrence as recurrence
from jaxfer.kernels.conv import choices, formulations
from jaxfer.kernels.conv_recurrence import Cell, reference

FULL = {"temporal_gate": True, "temporal_skip": True, "spatial_skip": True}


def every_cell():
  """Returns all cells with different recurrences; a third has the spatial skip, which is outside the loop."""
  names = ("temporal_gate", "temporal_skip", "gate_sees_x", "peephole")
  for kind, *values, merge in itertools.product(
    ("conv_lstm", "conv_gru"), *[(False, True)] * len(names), ("input", "output")
  ):
    on = [name for name, value in zip(names, values, strict=True) if value]
    gate, skip, seen, peephole = values
    if (peephole and kind == "conv_gru") or (seen and not gate) or (merge == "output" and not (gate or skip)):
      continue
    yield (
      " ".join((kind, *on, merge)),
      {"kind": kind, **dict(zip(names, values, strict=True)), "temporal_merge": merge},
    )


CELLS = {name: Cell(**fields, spatial_skip=k % 3 == 0) for k, (name, fields) in enumerate(every_cell())}


def params_of(cell, channels=3, features=4, size=(5, 3), dtype=jnp.float32, seed=0):
  rng = np.random.default_rng(seed)
  shapes = recurrence.parameter_shapes(cell, channels, features, (3, 3), size)
  return {name: jnp.asarray(0.4 * rng.standard_normal(shape), dtype) for name, shape in shapes.items()}


def clip(time=3, batch=2, size=(5, 3), channels=3, dtype=jnp.float32):
  return jnp.asarray(np.random.default_rng(1).standard_normal((batch, time, *size, channels)), dtype)


def everything(unroll, cell, params, x, state=None, mask=None):
  """Returns outputs, last state, and gradients of a scalar of both in parameters, input and initial state."""
  if state is None:
    state = recurrence.initial_state(
      cell, (x.shape[0], *x.shape[2:4], params["input_bias"].shape[0] // cell.gates)
    )
    state = jax.tree.map(lambda a: a + 0.1, state)

  results, pull = jax.vjp(lambda *args: unroll(cell, *args, mask), params, x, state)
  return results, pull(
    jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), results)
  )


def assert_close(got, want, tolerance=1e-5):
  for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
    g, w = np.asarray(g, np.float32), np.asarray(w, np.float32)
    np.testing.assert_allclose(g, w, rtol=0, atol=tolerance * max(np.abs(w).max(), 1e-3), err_msg=str(path))


def pairwise():
  """Returns all ConvGRU cells and half of the ConvLSTM cells, which still cover all values of any three switches."""
  for name, cell in CELLS.items():
    gate = cell.temporal_gate + (cell.temporal_gate and cell.gate_sees_x)
    if (
      cell.kind == "conv_gru"
      or (gate + cell.temporal_skip + cell.peephole + (cell.temporal_merge == "output")) % 2
    ):
      yield name


@pytest.mark.parametrize("name", list(pairwise()))
def test_values_and_gradients_equal_the_reference(name):
  cell = CELLS[name]
  params, x = params_of(cell), clip()
  mask = jnp.asarray([[True, True, False], [True, False, False]])
  got = jax.jit(lambda p, x: everything(recurrence.unroll, cell, p, x, mask=mask))(params, x)
  want = jax.jit(lambda p, x: everything(reference.unroll, cell, p, x, mask=mask))(params, x)
  assert_close(got, want)


@pytest.mark.parametrize(
  ("name", "several"),
  [
    (
      "conv_gru temporal_gate temporal_skip gate_sees_x input",
      [{"recompute": True}, {"checkpoint_every": 2}],
    ),
    (
      "conv_gru temporal_gate temporal_skip gate_sees_x output",
      [{"checkpoint_every": 9}],
    ),
    ("conv_lstm temporal_gate temporal_skip input", [{"checkpoint_every": 9}]),
    ("conv_lstm temporal_gate temporal_skip peephole output", [{"recompute": True}, {"checkpoint_every": 2}]),
  ],
)
def test_saving_memory_changes_nothing(name, several):
  """Each option is tested in both kinds of cell, and with both merges."""
  cell = CELLS[name]
  params, x = params_of(cell), clip(time=5)
  mask = jnp.asarray([[True] * 5, [True, True, True, False, False]])
  want = jax.jit(lambda p, x: everything(recurrence.unroll, cell, p, x, mask=mask))(params, x)
  for options in several:
    saving = functools.partial(recurrence.unroll, **options)
    got = jax.jit(lambda p, x, unroll=saving: everything(unroll, cell, p, x, mask=mask))(params, x)
    assert_close(got, want)


@pytest.mark.parametrize(
  ("name", "pixels", "kernel"),
  [
    ("conv_lstm temporal_skip peephole output", 4, (3, 3)),
    ("conv_gru temporal_gate temporal_skip gate_sees_x input", 2, (3, 3)),
    ("conv_lstm temporal_gate input", 2, (1, 7)),  # The kernel reaches over two blocks.
    ("conv_gru input", 8, (5, 1)),  # One block spans the width.
  ],
)
def test_folded_pixels_change_nothing(name, pixels, kernel):
  cell = dataclasses.replace(CELLS[name], spatial_skip=True)
  x, rng = clip(size=(5, 8)), np.random.default_rng(0)
  shapes = recurrence.parameter_shapes(cell, 3, 4, kernel, (5, 8))
  params = {n: jnp.asarray(0.4 * rng.standard_normal(shape), jnp.float32) for n, shape in shapes.items()}
  mask = jnp.asarray([[True, True, False], [True, False, False]])
  got, want = (
    jax.jit(lambda p, x, f=f: everything(f, cell, p, x, mask=mask))(params, x)
    for f in (functools.partial(recurrence.unroll, implementation=f"scan_folded{pixels}"), reference.unroll)
  )
  assert_close(got, want)


def test_a_width_that_cannot_be_folded_is_refused():
  cell = Cell("conv_lstm")
  with pytest.raises(
    UserError, match='"scan_folded2" needs a width that is a multiple of 2, not 3: use "scan"'
  ):
    recurrence.unroll(cell, params_of(cell), clip(), implementation="scan_folded2")


@pytest.mark.parametrize("options", [{"recompute": True}, {"checkpoint_every": 4}], ids=str)
def test_options_that_save_memory_do_so(options, monkeypatch):
  for block in ("_BLOCK", "_WEIGHT_BLOCK"):  # Scaled down with the sequence.
    monkeypatch.setattr(formulations, block, 2**12)
  cell, x = Cell("conv_lstm"), clip(time=32, size=(8, 8), channels=4)

  def temporary(**options):
    loss = lambda p, x: recurrence.unroll(cell, p, x, **options)[0].sum()  # noqa: E731
    compiled = jax.jit(jax.grad(loss)).lower(params_of(cell, channels=4), x).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(**options) < 0.8 * temporary()


@pytest.mark.parametrize("time", [1, 2])
@pytest.mark.parametrize(
  ("kind", "merge"), [("conv_lstm", "input"), ("conv_gru", "input"), ("conv_gru", "output")]
)
def test_short_sequences_and_batch_one(kind, merge, time):
  cell = Cell(kind, **FULL, temporal_merge=merge)
  params, x = params_of(cell), clip(time=time, batch=1)
  got, want = (
    jax.jit(lambda p, x, f=f: everything(f.unroll, cell, p, x))(params, x) for f in (recurrence, reference)
  )
  assert_close(got, want)


@pytest.mark.parametrize("options", [{}, {"temporal_merge": "output", "peephole": True}], ids=str)
def test_bfloat16_computes_in_bfloat16_and_keeps_the_cell_state_in_float32(options):
  cell = Cell("conv_lstm", **FULL, **options)
  params, x = params_of(cell), clip()
  cast = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, x))
  outputs, state = jax.jit(functools.partial(recurrence.unroll, cell))(*cast)
  assert outputs.dtype == state.h.dtype == jnp.bfloat16
  assert state.c.dtype == jnp.float32
  want, _ = jax.jit(functools.partial(reference.unroll, cell))(params, x)
  assert_close(outputs, want, tolerance=3e-2)


@pytest.mark.parametrize("merge", ["input", "output"])
def test_steps_one_by_one_equal_the_unrolled_sequence(merge):
  cell = Cell("conv_gru", **FULL, temporal_merge=merge)
  params, x = params_of(cell), clip()
  want, last = jax.jit(functools.partial(recurrence.unroll, cell))(params, x)
  state, step = (
    recurrence.initial_state(cell, last.h.shape),
    jax.jit(functools.partial(recurrence.step, cell)),
  )
  for t in range(x.shape[1]):
    state, y = step(params, state, x[:, t])
    np.testing.assert_allclose(y, want[:, t], rtol=0, atol=1e-6)
  assert_close(state, last, 1e-6)


@pytest.mark.parametrize("options", [{}, {"temporal_merge": "output", "peephole": True}], ids=str)
def test_members_run_as_they_do_alone(options):
  cell = Cell("conv_lstm", **FULL, **options)
  several = [params_of(cell, seed=seed) for seed in range(3)]
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *several)
  x = clip()
  run = jax.jit(lambda p: everything(recurrence.unroll, cell, p, x))
  together = jax.device_get(jax.jit(jax.vmap(run))(stacked))
  for k, params in enumerate(several):
    assert_close(jax.tree.map(lambda a, k=k: a[k], together), run(params))


def convolutions(jaxpr, in_loop=False):
  """Returns the convolutions inside loops as on an accelerator (the default branch of `platform_dependent`)."""
  count = 0
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    count += in_loop and name == "conv_general_dilated"
    inner = (
      [equation.params["branches"][-1]] if name == "cond" else jax.tree.leaves(list(equation.params.values()))
    )
    for sub in inner:
      sub = getattr(sub, "jaxpr", sub)
      if hasattr(sub, "eqns"):
        count += convolutions(sub, in_loop or name in ("scan", "while"))
  return count


def test_the_loops_hold_the_convolution_of_the_state_alone():
  """A ConvLSTM has one convolution in the forward loop and one in the reverse loop; a plain version has two and four.

  Temporal gate and temporal skip add one each to either loop, with both merges.
  """

  def count(unroll, cell):
    gradient = jax.grad(lambda p, x: unroll(cell, p, x)[0].sum(), (0, 1))
    return convolutions(jax.make_jaxpr(gradient)(params_of(cell), clip()).jaxpr)

  assert count(recurrence.unroll, Cell("conv_lstm")) == 2
  assert count(reference.unroll, Cell("conv_lstm")) == 6
  for merge in ("input", "output"):
    assert count(recurrence.unroll, Cell("conv_lstm", **FULL, temporal_merge=merge)) == 6


@pytest.mark.parametrize("checkpoint_every", [None, 2])
def test_weight_gradients_are_inside_a_loop_only_with_checkpoints(checkpoint_every, monkeypatch):
  loops = set()

  def choose(platform, operation, shape, among):
    if operation == "weight_gradient":
      loops.add(shape.loop)
    return choices.DEFAULTS[operation]

  monkeypatch.setattr(choices, "choose", choose)
  cell, x = Cell("conv_lstm", **FULL), clip(time=4)

  def loss(params):
    return recurrence.unroll(cell, params, x, checkpoint_every=checkpoint_every)[0].sum()

  jax.eval_shape(jax.grad(loss), params_of(cell))
  assert loops == {checkpoint_every is not None}


def test_future_frames_do_not_reach_the_past():
  cell = Cell("conv_lstm", **FULL)
  params, x = params_of(cell), clip(time=4)
  run = jax.jit(lambda x: recurrence.unroll(cell, params, x)[0])
  before, after = jax.device_get((run(x), run(x.at[:, 2].add(1.0))))
  np.testing.assert_array_equal(before[:, :2], after[:, :2])
  assert (before[:, 2:] != after[:, 2:]).any((0, 2, 3, 4)).all()


@pytest.mark.parametrize("kind", ["conv_lstm", "conv_gru"])
def test_the_output_merge_is_a_linear_path_past_the_gates(kind):
  """If every kernel of the cell is zero, H is only P_T applied to H[t-2], plus the bias."""
  cell = Cell(kind, temporal_skip=True, temporal_merge="output")
  params = {name: 0 * p for name, p in params_of(cell).items()}
  if kind == "conv_gru":
    params["input_bias"] = params["input_bias"].at[:4].set(50.0)  # z = 1: H" is N, which is 0.
  drawn = params_of(cell)
  params |= {name: drawn[name] for name in ("temporal_skip_kernel", "temporal_skip_bias")}
  x = clip(time=5)
  start = recurrence.initial_state(cell, (*x.shape[:1], *x.shape[2:4], 4))
  start = start._replace(h=start.h + 1.0, h_previous=start.h + 2.0)
  _, last = recurrence.unroll(cell, params, x, start)
  older, bias = params["temporal_skip_kernel"][4:], params["temporal_skip_bias"]
  want = jnp.full(4, 2.0)  # H[5] comes from H[3], H[1] and H[-1].
  for _ in range(3):
    want = want @ older + bias
  np.testing.assert_allclose(last.h, jnp.broadcast_to(want, last.h.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"kind": "lstm"}, "unknown kind of a conv-RNN 'lstm': did you mean 'conv_lstm'"),
    ({"temporal_merge": "outputs"}, "'outputs': did you mean 'output'.*valid are input, output"),
    ({"temporal_merge": True}, "'True': valid are input, output"),
    ({"kind": "conv_gru", "peephole": True}, "peephole=True: a ConvGRU"),
  ],
)
def test_cells_that_do_not_exist_are_refused(wrong, message):
  with pytest.raises(UserError, match=message):
    Cell(**{"kind": "conv_lstm"} | wrong)


def test_the_temporal_skip_carries_more_gradient_back():
  """With small recurrent weights, the last state depends more on the first input with the skip than without."""
  norms = []
  for skip in (False, True):
    cell = Cell("conv_gru", temporal_skip=skip)
    params = {name: 0.1 * p for name, p in params_of(cell).items()}
    if skip:
      half = 0.5 * jnp.eye(4)
      params["temporal_skip_kernel"] = jnp.concatenate([half, half])
    x = clip(time=8)
    grad = jax.jit(jax.grad(lambda x: recurrence.unroll(cell, params, x)[1].h.sum()))(x)  # noqa: B023
    norms.append(np.linalg.norm(np.asarray(grad)[:, 0]))
  assert norms[1] > norms[0]


def test_a_mask_is_of_every_sequence_and_step():
  cell = Cell("conv_lstm")
  with pytest.raises(AssertionError, match=r"\(1, 3\)"):
    recurrence.unroll(cell, params_of(cell), clip(), mask=jnp.ones((1, 3), bool))
