"""Tests properties that keep training fast by reading programs: nothing is timed, and nothing large runs.

Properties for every platform are read from programs lowered for it on this CPU; results of the compiler are read from
programs compiled for the CPU. Each reader is also tested with a program that breaks the rule.
`python -m tests.invariants_test` writes new bounds to `invariants.json`.
"""

import functools
import json
import math
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import config
from jaxfer.kernels import conv_recurrence
from jaxfer.kernels.conv import conv_reference
from jaxfer.kernels.conv_recurrence import Cell, reference
from jaxfer.study import run, trainings
from jaxfer.systems import SYSTEMS
from jaxfer.train import groups, placement, state
from tests.blank import blank_records
from tests.compiled import chunk_program, contractions
from tests.train import toy

ENHANCED = {"temporal_gate": True, "temporal_skip": True, "spatial_skip": True}
CELLS = {
  "conv_lstm": Cell("conv_lstm"),
  "conv_gru": Cell("conv_gru"),
  "enhanced_conv_lstm": Cell("conv_lstm", **ENHANCED),
  "enhanced_conv_gru": Cell("conv_gru", **ENHANCED),
  "enhanced_conv_lstm_output": Cell("conv_lstm", **ENHANCED, temporal_merge="output"),
  "enhanced_conv_gru_output": Cell("conv_gru", **ENHANCED, temporal_merge="output"),
}
# The kernels that act on the state. Each loop over time must apply them once per step, and nothing else.
STATE_KERNELS = ("state_kernel", "candidate_kernel", "gate_state_kernel", "temporal_skip_kernel")
PLATFORMS = ("cpu", "tpu", "cuda")

# (batch, time, height, width, channels, features). No kernel has a factor 5, 7, 11 or 13, so a sum over a multiple of
# one of them runs over time, batch or pixels: it is a gradient of weights.
SMALL = (7, 5, 11, 13, 3, 4)
# Wide and large enough for the formulations that real nets use on CPU.
REAL = (2, 8, 16, 16, 4, 32)

ROOT = pathlib.Path(__file__).parents[1]
# Without the configs for users' data: own_images trains a stock network, and own_video that of the quickstart.
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.py") if not path.stem.startswith("own_"))
QUICKSTART = ROOT / "configs/quickstart.py"
TINY = (
  "model.features=(8, 32)",
  "model.dense=(8, 8)",
  # The plain cell compiles faster; the enhanced ones have other tests.
  *(f"model.{switch}=false" for switch in ENHANCED),
  "data.num_frames=4",
  "data.image_size=32",
  "batch_size=4",
  "execution.backend=jit",
)
# Optimizations that tests/conftest.py turns off for fast compilation.
EMITTERS = "xla_cpu_use_fusion_emitters"
AS_USERS = {EMITTERS: True} if EMITTERS in os.environ.get("XLA_FLAGS", "") else None
BOUNDS = pathlib.Path(__file__).with_suffix("").with_name("invariants.json")


def shapes_of(cell, size):
  _, _, height, width, channels, features = size
  return conv_recurrence.parameter_shapes(cell, channels, features, (3, 3), (height, width))


def trace(unroll, cell, size, dtype=jnp.float32, differentiate=True):
  """Returns the lowered recurrence over a clip, or its gradient with respect to the parameters."""
  params = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes_of(cell, size).items()}
  x = jax.ShapeDtypeStruct(size[:5], dtype)

  def total(params, x):
    return unroll(cell, params, x)[0].astype(jnp.float32).sum()

  return jax.jit(jax.grad(total) if differentiate else total).trace(params, x)


def lower(traced, platform):
  return contractions(traced.lower(lowering_platforms=(platform,)))


def loops_over_time(found):
  """Returns the contractions in each loop over the frames of the clip, in the order of the program."""
  loops = {}
  for contraction in found:
    for around in contraction.loops:
      if around.steps == SMALL[1]:
        loops.setdefault(around, []).append(contraction)
  return list(loops.values())


def weight_gradients(found):
  return [c for c in found if any(c.summed % prime == 0 for prime in (5, 7, 11, 13))]


@pytest.mark.parametrize("name", CELLS)
def test_loops_over_time_apply_the_kernels_of_the_state_and_move_its_gradient(name):
  shapes = shapes_of(CELLS[name], SMALL)
  kernels = [shapes[kernel] for kernel in STATE_KERNELS if kernel in shapes]
  least = math.prod(SMALL[i] for i in (0, 2, 3)) * sum(map(math.prod, kernels))
  traced = trace(conv_recurrence.unroll, CELLS[name], SMALL)
  for platform in PLATFORMS:
    found = lower(traced, platform)
    forward_and_reverse = loops_over_time(found)
    assert len(forward_and_reverse) == 2, platform
    for inside in forward_and_reverse:
      assert not weight_gradients(inside), platform
      # A formulation may also multiply zeros of the padding, which matters at this size.
      assert least <= sum(c.work for c in inside) <= 1.5 * least, platform
      if platform != "cpu":
        assert len(inside) == len(kernels), platform
      if platform == "tpu":
        assert {c.kind for c in inside} == {"convolution"}
    assert weight_gradients(found), platform


def test_the_counter_finds_the_convolutions_of_plain_recurrences():
  """There are three in the reverse loop: the gradients of the state and of two kernels; also in Flax's recurrence."""
  layer = nn.RNN(nn.ConvLSTMCell(SMALL[5], (3, 3)))
  x = jnp.zeros(SMALL[:5])
  variables = jax.eval_shape(layer.init, jax.random.key(0), x)
  stock = jax.jit(jax.grad(lambda v: layer.apply(v, x).sum())).trace(variables)
  for traced in (stock, trace(reference.unroll, CELLS["conv_lstm"], SMALL)):
    for platform in PLATFORMS:
      forward, reverse = loops_over_time(lower(traced, platform))
      assert (len(forward), len(reverse)) == (2, 3)
      assert (len(weight_gradients(forward)), len(weight_gradients(reverse))) == (0, 2)
      assert sum(c.over_leading for c in reverse) == 2


@pytest.mark.parametrize("name", CELLS)
def test_recurrences_convolve_in_bfloat16_alone(name):
  def upcast(cell, params, x):
    return conv_recurrence.unroll(cell, params, x.astype(jnp.float32))

  for differentiate in (False, True):
    traced = trace(conv_recurrence.unroll, CELLS[name], SMALL, jnp.bfloat16, differentiate)
    for platform in PLATFORMS:
      assert {c.dtypes for c in lower(traced, platform)} == {("bf16", "bf16")}
  if name == "conv_lstm":
    with pytest.raises(TypeError, match="same dtype"):
      trace(upcast, CELLS[name], SMALL, jnp.bfloat16)
    wide = trace(conv_recurrence.unroll, CELLS[name], SMALL)
    assert {c.dtypes for c in lower(wide, "tpu")} == {("f32", "f32")}


def run_config(path, source=None):
  """Returns the run of a config; for a study, the base of its rows, or one of its sources."""
  described = config.read(path)
  if source is not None:
    return config.sources_of(config.resolve(described, None, (), run.options_of)[0], run.options_of)[source]
  return described.base if isinstance(described, config.StudyConfig) else described


def prepared(path, *overrides, source=None):
  """Returns the run of a config on one device, which allows any batch size."""
  overrides = ("execution.devices=1", *overrides)
  configured = config.override(run_config(path, source), overrides, run.options_of)
  return trainings.prepare(configured, blank_records(configured.data))


def training_of(path, *overrides, source=None):
  """Returns the training of a config, and its devices."""
  training = prepared(path, *overrides, source=source).training
  return training, groups.arrange(training, None).placement


@functools.lru_cache(1)
def initial(init):
  """Returns the shapes of initial variables, which are traced once for all stages."""
  return jax.eval_shape(init, jax.random.key(0))


def abstract_chunk(training, spread, stage, driver):
  """Returns the function of a chunk of two steps, the shapes of its arguments, and the bytes of `trainable`."""
  begun = jax.eval_shape(lambda variables: state.begin(stage, variables), initial(training.init))
  begun, data = spread.abstract(begun), spread.abstract_data(training.data)
  key = spread.abstract(jax.eval_shape(lambda: jax.random.key(0)))
  hparams = spread.abstract(
    {name: jax.ShapeDtypeStruct((), jnp.float32) for name in training.members[0].hparams}
  )
  columns = {
    name: column[:2, None] for name, column in training.members[0].plan.columns(0, 0, stage.columns).items()
  }
  planned = spread.lay(columns, np.ones((2, 1), bool))
  program = chunk_program(spread, stage, driver, begun.trainable, begun.frozen, data, key, hparams, *planned)
  size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(begun.trainable))
  return *program, size


# The classifier has no network; a test trains the config in its README.
PUBLISHED = sorted({*SYSTEMS} - {"classifier"})


def test_every_system_has_a_config():
  assert {run_config(path).recipe.name for path in CONFIGS} == set(PUBLISHED)


# Configs whose programs equal those of another config except for constants and the values of the data.
TWINS = {
  "identity_expression_vae/literal_synthetic": "identity_expression_vae/table3_synthetic",
  "landmark_fusion/choices_synthetic": "landmark_fusion/ablation_synthetic",
  "two_stream_conv_rnn/table1": "two_stream_conv_rnn/conv_lstm",
  "two_stream_conv_rnn/table1_synthetic": "two_stream_conv_rnn/ablation_synthetic",
  "two_stream_conv_rnn/time_course_synthetic": "two_stream_conv_rnn/ablation_synthetic",
}
TWINS = {ROOT / f"configs/{name}.py": ROOT / f"configs/{other}.py" for name, other in TWINS.items()}


def outline(path):
  """Returns what a program depends on except constants: non-numeric options, the model, and shapes of the data."""
  made = prepared(path)
  task, training = next(iter(made.tasks.values())), made.training
  recipe = task.config.recipe
  switches = {name: value for name, value in recipe.options.items() if type(value) not in (int, float)}
  shapes = {name: (array.shape[1:], array.dtype) for name, array in training.data.items()}
  columns = [stage.columns for stage in training.stages]
  return recipe.name, switches, task.model, task.config.batch_size, task.config.dtype, shapes, set(columns)


@pytest.mark.parametrize("path", TWINS, ids=lambda path: path.stem)
def test_configs_whose_programs_are_not_read_are_like_those_that_are(path):
  assert outline(path) == outline(TWINS[path])
  other = ROOT / "configs/quickstart.py"
  assert outline(path) != outline(other)


# A Face-ResNet and a margin head, which no base has.
FACES = pytest.param(
  ROOT / "configs/elderly_transfer/table_synthetic.py", "adaface-face_resnet18", id="adaface-face_resnet18"
)


@pytest.mark.parametrize(
  ("path", "source"),
  [*(pytest.param(path, None, id=path.stem) for path in CONFIGS if path not in TWINS), FACES],
)
def test_every_config_exports_for_accelerators_and_keeps_weight_gradients_of_its_loop_fast_on_cpu(
  path, source
):
  """Chunks of the driver `scan` are exported; on CPU, their loop must have no weight gradient by XLA's convolution."""
  made = prepared(path, "execution.backend=jit", source=source)
  (name, task), *_ = made.tasks.items()
  training, split, subjects = made.training, made.splits[name], task.records.subjects
  if not isinstance(config.read(path), config.StudyConfig):
    assert not set(subjects[split.train]) & set(subjects[split.test])
  placed = groups.arrange(training, None).placement
  for stage in dict.fromkeys(training.stages):
    function, arguments, _ = abstract_chunk(training, placed, stage, "scan")
    exported = jax.export.export(function, platforms=("tpu", "cuda"))(*arguments)
    assert exported.platforms == ("tpu", "cuda")
    traced = function.trace(*arguments)
    trainable, (metrics, _) = traced.out_info
    assert set(trainable.variables["params"]) == set(stage.trainable)
    assert metrics
    found = lower(traced, "cpu")
    assert any(c.loops for c in found)
    assert not [c for c in found if c.loops and c.over_leading]


# A system sees only the name of an axis, with `pmap` and with `jit`; one system without norms and one with norms.
@pytest.mark.parametrize("system", ["stacked_autoencoder", "elderly_transfer"])
def test_a_step_mapped_by_pmap_exports_too(system):
  paths = [path for path in CONFIGS if run_config(path).recipe.name == system]
  # Synthetic configs are small.
  path = next((path for path in paths if path.stem.endswith("_synthetic")), paths[0])
  training, spread = training_of(path, "execution.backend=pmap")
  function, arguments, _ = abstract_chunk(training, spread, training.stages[0], "scan")
  assert jax.export.export(jax.jit(function), platforms=("tpu", "cuda"))(*arguments).nr_devices == 1


def test_what_cannot_be_exported_and_slow_weight_gradients_are_found():
  with pytest.raises(NotImplementedError, match="tpu"):
    jax.export.export(jax.jit(jnp.linalg.eig), platforms=("tpu", "cuda"))(jnp.zeros((3, 3)))

  def stock(kernel, xs):
    def body(kernel, x):
      gradient = jax.grad(lambda k: conv_reference(x, k, (1, 1), ((1, 1), (1, 1))).sum())(kernel)
      return kernel - gradient, None

    return jax.lax.scan(body, kernel, xs)[0]

  found = lower(jax.jit(stock).trace(jnp.zeros((3, 3, 4, 8)), jnp.zeros((2, 5, 8, 8, 4))), "cpu")
  assert [(c.over_leading, len(c.loops)) for c in found] == [(True, 1)]


def test_the_train_step_convolves_in_bfloat16_alone():
  training, spread = training_of(QUICKSTART, *TINY, "dtype=bfloat16")
  function, arguments, _ = abstract_chunk(training, spread, training.stages[0], "steps")
  traced = function.trace(*arguments)
  for platform in PLATFORMS:
    found = lower(traced, platform)
    wide = [c for c in found if "f32" in c.dtypes]
    assert not [c for c in wide if c.kind == "convolution"]
    # The remaining products move pixels: the matrices of the augmentation.
    assert sum(c.work for c in wide) < 0.005 * sum(c.work for c in found)
  names = traced.lower().as_text(debug_info=True)
  for scope in ("net", "rgb", "layer1", "recurrence", "recurrence_gradient", "conv", "weight_gradient"):
    assert f"{scope}/" in names or f"({scope})" in names, scope


class Watch:
  """Watches a training: what each call of a chunk compiles, and where the new state is placed."""

  def __init__(self):
    self.calls: list[
      tuple[str, int, bool]
    ] = []  # Stage, number of compiled programs, whether all buffers were reused.
    self._compiled = 0

  def _count(self, event, duration, **details):
    del duration, details
    self._compiled += event == "/jax/core/compile/backend_compile_duration"

  def __enter__(self):
    jax.monitoring.register_event_duration_secs_listener(self._count)
    return self

  def __exit__(self, *error):
    jax.monitoring.unregister_event_duration_listener(self._count)

  def trainer(self, original, *args, **kwargs):
    """Replaces `Placement.trainer`."""
    chunk = original(*args, **kwargs)
    stage = args[1]

    def watched(trainable, *rest):
      jax.block_until_ready(trainable)
      old, before = addresses(trainable), self._compiled
      leaves = jax.tree.leaves(trainable)
      result = chunk(trainable, *rest)
      reused = all(leaf.is_deleted() for leaf in leaves) and old <= addresses(result[0])
      self.calls.append((stage.name, self._compiled - before, reused))
      return result

    return watched


def addresses(tree):
  return {
    shard.data.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards
  }


@pytest.fixture
def watch(monkeypatch):
  with Watch() as watch:
    original = placement.Placement.trainer
    monkeypatch.setattr(
      placement.Placement, "trainer", lambda self, *a, **k: watch.trainer(original, self, *a, **k)
    )
    yield watch


@pytest.mark.parametrize(("backend", "driver"), [("pmap", "steps"), ("jit", "scan")])
def test_a_training_compiles_each_stage_once_and_donates_its_state(tmp_path, watch, backend, driver):
  """There are two stages of two epochs with three chunks, twice, on two devices."""
  settings = {"driver": driver, "steps_per_call": 2, "checkpoint_seconds": 1e9}
  toy.run(tmp_path, toy.training(rounds=2), backend=backend, **{"devices": 2, **settings})
  assert len(watch.calls) == 2 * 2 * 2 * 3
  for name in ("both", "head"):
    assert [compiled for stage, compiled, _ in watch.calls if stage == name] == [1] + [0] * 11
  assert all(reused for _, _, reused in watch.calls)


def test_the_watch_sees_a_second_compilation_and_a_held_buffer(watch):
  """A state that was not placed compiles another program, and a NumPy view of a state prevents its donation."""
  training, spread = toy.training(), toy.placed("jit", 2)
  stage = training.stages[1]
  chunk = spread.trainer(stage, "steps")
  data, key = spread.place(training.data), spread.stack([jax.random.key(0)])
  hparams = spread.stack([{name: np.float32(value) for name, value in training.members[0].hparams.items()}])
  begun = jax.jit(jax.vmap(lambda key: state.begin(stage, training.init(key))))(jax.random.key(0)[None])
  trainable, rows = begun.trainable, training.members[0].plan.epoch(0, 0)
  held = None
  for _ in range(3):
    planned = spread.lay({"row": rows[:1, None]}, np.ones((1, 1), bool))
    trainable, _ = chunk(trainable, begun.frozen, data, key, hparams, *planned)
    held = held or [np.asarray(leaf.addressable_shards[0].data) for leaf in jax.tree.leaves(trainable)]
  assert [compiled for _, compiled, _ in watch.calls] == [1, 1, 0]
  assert [reused for _, _, reused in watch.calls[1:]] == [False, True]


@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_the_compiled_step_writes_its_state_in_place(backend):
  training, spread = toy.training(), toy.placed(backend, 2)
  function, arguments, size = abstract_chunk(training, spread, training.stages[0], "scan")
  assert function.lower(*arguments).compile(AS_USERS).memory_analysis().alias_size_in_bytes >= size
  if backend == "jit":
    kept = jax.jit(lambda *a: function(*a)).lower(*arguments).compile(AS_USERS)
    assert kept.memory_analysis().alias_size_in_bytes == 0


# The bound on memory is tight. The others depend on the formulations in the choice table, because XLA counts the body
# of a loop only once. Here the arithmetic of all iterations is counted, and XLA's count must stay below that.
HEADROOM = {"temporary_bytes": 1.1, "multiply_adds": 1.2, "flops": 2.4, "bytes_accessed": 1.5}


def measure(name):
  """Measures a recurrence's gradient or the two-stream net's training step; "flops" and bytes are counted by XLA."""
  if name in CELLS:
    lowered = trace(conv_recurrence.unroll, CELLS[name], REAL).lower()
  else:
    training, spread = training_of(QUICKSTART, *TINY)
    function, arguments, _ = abstract_chunk(training, spread, training.stages[0], "scan")
    lowered = function.lower(*arguments)
  work = sum(c.work * math.prod(around.steps for around in c.loops) for c in contractions(lowered))
  compiled = lowered.compile(AS_USERS)
  cost = compiled.cost_analysis()
  return {
    "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    "multiply_adds": work,
    "flops": int(cost["flops"]),
    "bytes_accessed": int(cost["bytes accessed"]),
  }


@functools.cache
def bounds():
  return json.loads(BOUNDS.read_text())


@pytest.mark.parametrize("name", [*CELLS, "two_stream_conv_rnn"])
def test_memory_and_cost_stay_within_their_bounds(name):
  """A cell that merges at the output may not need more than one that merges at the input."""
  for what, value in measure(name).items():
    assert value <= bounds()[name.removesuffix("_output")][what], (
      f"{what} of {name}: `python -m tests.invariants_test` if this is wanted"
    )


def write_bounds():
  """Writes the bounds for this version of JAX."""
  bounds = {}
  for name in (*CELLS, "two_stream_conv_rnn"):
    if name.endswith("_output"):
      continue
    measured = measure(name)
    measured["flops"] = measured["multiply_adds"]
    bounds[name] = {what: int(HEADROOM[what] * value) for what, value in measured.items()}
  BOUNDS.write_text(json.dumps(bounds, indent=2) + "\n")


if __name__ == "__main__":
  write_bounds()
