"""The only file that names devices: where arrays lie, and how the step is compiled over them.

One training on many devices: the batch is split, everything else is on each of them. `pmap` maps the step over the
devices with an axis name; `jit` compiles the same function for the whole batch and lets XLA divide it. Both take the
state without a device axis, so checkpoints know nothing of either.

Many trainings at once are in stacked.py. Both offer the loop the same methods, in which it speaks of a list of members:
here, of one.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxfer.data.stream import host_memory
from jaxfer.errors import UserError
from jaxfer.train.stage import Context, PyTree, Stage, Variables
from jaxfer.train.state import Moving, State, begin
from jaxfer.train.step import planned_step

_AXIS = "data"
# Of the free memory, for data that lie in it: the rest is for the training.
SHARE = 0.5

Driver = Literal["scan", "steps"]
Columns = Mapping[str, np.ndarray]
# (variables, hyper, data, plan, axis_name) -> [rows, ...], an output a planned row
Outputs = Callable[
  [Variables, Mapping[str, jax.Array], Mapping[str, jax.Array], Mapping[str, jax.Array], str | None],
  jax.Array,
]


def is_key(leaf: Any) -> bool:
  """Whether a leaf of a tree is a typed key."""
  return jnp.issubdtype(getattr(leaf, "dtype", jnp.float32), jax.dtypes.prng_key)


def initializer(init: Callable[..., Variables], **options: Any) -> Callable[..., Variables]:
  """jit of what draws initial variables, hardly optimised on CPU.

  It runs once, and LLVM takes ten times as long to optimise a small net's draws as to compile them.
  """
  if jax.default_backend() == "cpu":
    options["compiler_options"] = {"xla_backend_optimization_level": 0}
  return jax.jit(init, **options)


def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
  """On the device as a strongly typed array."""
  if not is_key(leaf):
    leaf = np.asarray(leaf) if not isinstance(leaf, jax.Array) else lax.convert_element_type(leaf, leaf.dtype)
  return jax.device_put(leaf, sharding)


@dataclasses.dataclass(frozen=True)
class Parallel:
  """Devices that share every batch, and the transform that spreads the step over them.

  Attributes:
    backend: "pmap" or "jit".
    devices: in the order of their parts of a batch.
    streamed: the data come in windows (feed.py). pmap gives each device the rows of its own part of a batch, jit gives
      all rows to every device.
  """

  backend: Literal["pmap", "jit"]
  devices: tuple[jax.Device, ...]
  streamed: bool = False

  @functools.cached_property
  def _mesh(self) -> Mesh:
    return Mesh(np.array(self.devices), (_AXIS,))

  def _sharding(self, *spec: str | None) -> NamedSharding:
    return NamedSharding(self._mesh, PartitionSpec(*spec))

  @property
  def platform(self) -> str:
    """Platform of the devices, such as "cpu"."""
    return self.devices[0].platform

  @property
  def arithmetic(self) -> dict[str, Any]:
    """What the order of floating-point operations depends on."""
    placement = "streamed" if self.streamed else "resident"
    return {
      "backend": self.backend,
      "devices": len(self.devices),
      "platform": self.platform,
      "placement": placement,
    }

  def place(self, tree: PyTree) -> PyTree:
    """Puts a tree on every device, as strongly typed arrays of the sharding that the step is compiled for."""
    return jax.tree.map(lambda leaf: put(leaf, self._sharding()), tree)

  @property
  def blocks(self) -> tuple[int, list[int]]:
    """Into how many parts a batch is divided whose rows lie apart, and the numbers of those this process holds."""
    if self.backend == "jit":
      return 1, [0]
    return len(self.devices), own_parts(self.devices, jax.process_index())

  def place_window(self, window: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts the rows [own blocks * m, ...] of a window where the step gathers from them."""
    if self.backend == "jit":
      return self.place(window)
    count, own = self.blocks

    def lay(array):
      parts = array.reshape(len(own), -1, *array.shape[1:])
      whole = (count, *parts.shape[1:])
      return jax.make_array_from_process_local_data(self._sharding(_AXIS), parts, whole)

    return {name: lay(array) for name, array in window.items()}

  def stack(self, trees: Sequence[PyTree]) -> PyTree:
    """Places what belongs to the only member."""
    (tree,) = trees
    return self.place(tree)

  def unstack(self, tree: PyTree, count: int) -> list[PyTree]:
    """The tree of the only member, on the host."""
    assert count == 1
    return [jax.device_get(tree)]

  def lay(self, columns: Columns, active: np.ndarray) -> tuple[Columns, np.ndarray]:
    """Planned columns [steps, 1, batch] and active [steps, 1] as `trainer` takes them."""
    return {name: array[:, 0] for name, array in columns.items()}, active[:, 0]

  def abstract(self, tree: PyTree, saved: Mapping[str, Any] | None = None) -> PyTree:
    """Shapes, dtypes and shardings of a tree of shapes once it is placed, whoever `saved` it."""
    del saved
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self._sharding()), tree)

  def begin(self, make_state: Callable[[PyTree], State], variables: PyTree) -> State:
    """Runs `make_state` compiled, so that its result owns every buffer once and can be donated."""
    return jax.jit(make_state, out_shardings=self._sharding())(variables)

  def adopt(self, state: State) -> State:
    """Copies a restored state, so that it can be donated."""
    return self.begin(lambda state: state, state)

  def init(self, init: Callable[[jax.Array], Variables], key: jax.Array) -> Variables:
    """Initial variables."""
    return initializer(init)(key)

  def joined(self, stage: Stage, variables: Variables) -> Variables:
    """The variables: a training alone shares none with others."""
    del stage
    return variables

  def start(self, stage: Stage, variables: Variables) -> State:
    """The state at the start of a stage, which owns every buffer."""
    return self.begin(functools.partial(begin, stage), variables)

  def _split_rows(self, array: np.ndarray) -> np.ndarray:
    """[..., rows] -> [devices, ..., rows / devices]."""
    array = array.reshape(*array.shape[:-1], len(self.devices), -1)
    return np.moveaxis(array, -2, 0)

  def _spread(self, fn: Callable, replicated: int, data: int, *, donate: bool) -> Callable:
    """Compiles fn(axis_name, *replicated arguments, *arguments split along their last axis) -> replicated results.

    Of the replicated arguments the one of number `data` is the data, of which each device may hold its own.
    """
    donated = (0,) if donate else ()
    if self.backend == "pmap":
      axes = (*(0 if k == data and self.streamed else None for k in range(replicated)), 0)
      mapped = jax.pmap(
        functools.partial(fn, _AXIS),
        _AXIS,
        in_axes=axes,
        out_axes=None,
        devices=self.devices,
        donate_argnums=donated,
      )
      return lambda *args: mapped(*args[:-1], jax.tree.map(self._split_rows, args[-1]))

    compiled = jax.jit(functools.partial(fn, None), out_shardings=self._sharding(), donate_argnums=donated)

    def put(array):
      return jax.device_put(array, self._sharding(*(None,) * (array.ndim - 1), _AXIS))

    def call(*args):
      return compiled(*args[:-1], jax.tree.map(put, args[-1]))

    return call

  def trainer(self, stage: Stage, driver: Driver) -> Callable[..., tuple[Moving, PyTree]]:
    """Compiles a chunk of a stage's steps.

    Returns:
      chunk(moving, still, data, stage_key, hyper, columns, active) -> (moving, (metrics, alive)), where columns are
      host arrays [steps, batch] and active [steps]; metrics and alive come back per step, on the device. `moving` is
      donated. With the driver "scan" the chunk is one program, with "steps" one program a step.
    """

    def one(axis_name, moving, still, data, stage_key, hyper, active, plan):
      context = Context(hyper, axis_name=axis_name)
      moving, metrics = planned_step(stage, State(moving, still), data, plan, active, stage_key, context)
      return moving, (metrics, moving.alive)

    def many(axis_name, moving, still, data, stage_key, hyper, active, plan):
      body = functools.partial(one, axis_name)
      return lax.scan(
        lambda moving, at: body(moving, still, data, stage_key, hyper, *at), moving, (active, plan)
      )

    compiled = self._spread(one if driver == "steps" else many, 6, 2, donate=True)

    def chunk(moving, still, data, stage_key, hyper, columns: Columns, active: np.ndarray):
      rows = columns["row"].shape
      plan = {**columns, "position": np.broadcast_to(np.arange(rows[1], dtype=np.int32), rows)}
      if driver == "scan":
        return compiled(moving, still, data, stage_key, hyper, active, plan)
      results = []
      for k in np.flatnonzero(active):
        at = {name: array[k] for name, array in plan.items()}
        moving, result = compiled(moving, still, data, stage_key, hyper, active[k], at)
        results.append(result)
      return moving, jax.tree.map(lambda *steps: list(steps), *results)

    return chunk

  def evaluator(self, outputs: Outputs) -> Callable[..., jax.Array]:
    """Compiles outputs(variables, hyper, data, plan, axis_name) -> [rows, ...], in the plan's order.

    The plan holds host arrays [rows], "row" among them; the devices must divide their length. Outputs that reduce over
    the rows of a batch do so over `axis_name` too.
    """

    def gathered(axis_name, variables, hyper, data, plan):
      result = outputs(variables, hyper, data, plan, axis_name)
      return result if axis_name is None else lax.all_gather(result, axis_name, tiled=True)

    return self._spread(gathered, 3, 2, donate=False)


def own_parts(devices: Sequence[Any], process: int) -> list[int]:
  """Which parts of a batch a process reads, of several: those of its own devices."""
  return [k for k, device in enumerate(devices) if device.process_index == process]


def room(count: int | None = None) -> tuple[int | None, str]:
  """How much resident data may take on each of the first `count` devices (None: of all).

  Returns:
    Bytes, half of what is free where least is: of a device's memory where it tells, on CPU of the host's, divided among
    the devices; None where nothing could be measured. And what was measured, in words.
  """
  devices = jax.devices()[:count]
  if devices[0].platform == "cpu":
    host = host_memory()
    frees = [] if host is None else [host // len(devices)]
  else:
    stats = [device.memory_stats() or {} for device in devices]
    frees = [s["bytes_limit"] - s.get("bytes_in_use", 0) for s in stats if "bytes_limit" in s]
  if not frees:
    return None, "free memory unknown"
  return int(min(frees) * SHARE), f"limit {SHARE:.0%} of {min(frees) / 2**30:.3g} GiB free"


def no_such_devices(requested: int, devices: Sequence[jax.Device]) -> UserError:
  """Returns the error for a number of devices that is not among those at hand."""
  there = f"execution.devices={requested}: JAX sees {len(devices)} ({devices[0].device_kind}): take 1"
  there += f" to {len(devices)}" if len(devices) > 1 else ""
  if devices[0].platform != "cpu" or requested < 1:
    return UserError(there)
  return UserError(
    f"{there}, or set JAX_NUM_CPU_DEVICES={requested} in the environment for virtual CPU devices"
  )


def choose(
  backend: Literal["pmap", "jit"], batch_size: int, requested: int | None = None
) -> tuple[Parallel, str]:
  """Takes the devices for batches of `batch_size` rows, each the same number of rows.

  Args:
    backend: see `Parallel`.
    batch_size: rows of a batch, over all devices.
    requested: how many devices; None takes the largest number at hand that divides the batch.

  Returns:
    The devices, and one line that says what was taken.

  Raises:
    UserError: more devices requested than there are, or a number that does not divide the batch.
  """
  devices = jax.devices()
  if requested is not None:
    if not 1 <= requested <= len(devices):
      raise no_such_devices(requested, devices)
    if batch_size % requested:
      below, above = batch_size // requested * requested, -(-batch_size // requested) * requested
      nearest = f"{below} or {above}" if below else f"{above}"
      raise UserError(
        f"execution.devices={requested} does not divide batch_size={batch_size}: take batch_size {nearest}, "
        "or leave devices open"
      )
  count = requested or max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
  line = f"{count} x {devices[0].device_kind} by {backend}"
  if requested is None and count < len(devices):
    line += f" (batch_size={batch_size} does not divide over all {len(devices)})"
  return Parallel(backend, tuple(devices[:count])), line
