"""Many trainings at once: each device has members of its own, and nothing is summed over devices.

`Stacked` offers the loop the methods of `parallel.Parallel`. pmap gives every device its members, vmap trains those of
a device side by side; with one a device, `vmap` is left out and each is trained by the step of a training alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxfer.train.parallel import Columns, Driver, Outputs, initializer, is_key, put
from jaxfer.train.stage import Context, PyTree, Stage, Variables
from jaxfer.train.state import Moving, State, begin, merge
from jaxfer.train.step import draw, gated_step, planned_step

_AXIS = "members"


@dataclasses.dataclass(frozen=True)
class Stacked:
  """Devices that each train members of their own, `slots` at a time by `vmap`; nothing is averaged.

  What differs between members has two leading axes, [devices, slots]. A slot without a member repeats the first one
  and is gated off. One slot is the plain step, without `vmap`.

  Attributes:
    devices: as many programs run side by side.
    slots: members of a device.
    shared: variables that all members have in common, one copy a device. A state holds only those that a stage up to
      its own trains, so nets that stay frozen are neither stacked nor saved.
    same_batches: all members have one key and one plan, so that a device draws a batch once for all of its members.
  """

  devices: tuple[jax.Device, ...]
  slots: int
  shared: Variables = dataclasses.field(default_factory=lambda: {"params": {}})
  same_batches: bool = False
  # `shared` on the devices. It is placed here and not on first use, since that may be inside a trace, which would leave
  # a tracer of that trace in this object.
  _placed: Variables = dataclasses.field(init=False, repr=False, compare=False)
  _programs: dict[Any, Callable] = dataclasses.field(default_factory=dict, init=False, repr=False)

  def __post_init__(self):
    object.__setattr__(self, "_placed", self.place(self.shared))

  @functools.cached_property
  def _sharding(self) -> NamedSharding:
    return NamedSharding(Mesh(np.array(self.devices), (_AXIS,)), PartitionSpec(_AXIS))

  @functools.cached_property
  def _everywhere(self) -> NamedSharding:
    return NamedSharding(self._sharding.mesh, PartitionSpec())

  @property
  def platform(self) -> str:
    """Platform of the devices, such as "cpu"."""
    return self.devices[0].platform

  @property
  def arithmetic(self) -> dict[str, Any]:
    """What the order of floating-point operations depends on."""
    return {"devices": len(self.devices), "slots": self.slots, "platform": self.platform}

  def place(self, tree: PyTree) -> PyTree:
    """Puts what all members share on every device."""
    return jax.tree.map(lambda leaf: put(leaf, self._everywhere), tree)

  @property
  def blocks(self) -> tuple[int, list[int]]:
    """A batch is not divided: every device gets all rows of a window."""
    return 1, [0]

  def place_window(self, window: Mapping[str, np.ndarray]) -> PyTree:
    """Puts the rows of a window on every device."""
    return self.place(window)

  def _grid(self, array: Any) -> Any:
    """[members, ...] -> [devices, slots, ...]; those beyond the slots were idle ones."""
    indices = np.arange(len(self.devices) * self.slots)
    indices[indices >= len(array)] = 0
    return array[indices].reshape(len(self.devices), self.slots, *array.shape[1:])

  def stack(self, trees: Sequence[PyTree]) -> PyTree:
    """Puts one tree a member on its device."""

    def lay(*leaves):
      return put(self._grid((jnp if is_key(leaves[0]) else np).stack(leaves)), self._sharding)

    return jax.tree.map(lay, *trees)

  def unstack(self, tree: PyTree, count: int) -> list[PyTree]:
    """The trees of the first `count` members, on the host."""
    flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), jax.device_get(tree))
    return [jax.tree.map(lambda a, k=k: a[k], flat) for k in range(count)]

  def lay(self, columns: Columns, active: np.ndarray) -> tuple[Columns, np.ndarray]:
    """Planned columns [steps, members, batch] and active [steps, members] as `trainer` takes them."""

    def grid(array):
      return np.moveaxis(self._grid(np.moveaxis(array, 1, 0)), 2, 1)  # [devices, steps, slots, ...]

    gates = np.zeros((len(active), len(self.devices) * self.slots), bool)
    gates[:, : active.shape[1]] = active
    laid = {name: grid(array) for name, array in columns.items()}
    return {name: a[:, :, 0] for name, a in laid.items()} if self.same_batches else laid, grid(gates)

  def abstract(self, tree: PyTree, saved: Mapping[str, Any] | None = None) -> PyTree:
    """Shapes, dtypes and shardings of a member's tree of shapes once it is stacked, here or by those who `saved` it."""
    grid = len(self.devices), self.slots
    saved_grid = grid if saved is None else (saved["devices"], saved["slots"])
    sharding = self._sharding if saved_grid[0] == grid[0] else self._everywhere
    return jax.tree.map(
      lambda a: jax.ShapeDtypeStruct((*saved_grid, *a.shape), a.dtype, sharding=sharding), tree
    )

  def adopt(self, state: State) -> State:
    """Copies a restored state, so that it can be donated, onto these devices and slots, whatever they were."""

    def regrid(leaf):
      return self._grid(leaf.reshape(-1, *leaf.shape[2:]))

    return jax.jit(functools.partial(jax.tree.map, regrid), out_shardings=self._sharding)(state)

  def _compiled(self, name: Any, fn: Callable, axes: tuple[int | None, ...], **options: Any) -> Callable:
    """pmap of what a device does, to be called with the first argument and a tuple of the others.

    Made once for each name, so that it compiles once. Flat arguments would be misread: JAX 0.10 takes `in_axes` leaf by
    leaf where there happen to be as many leaves as arguments.
    """
    if name not in self._programs:
      self._programs[name] = jax.pmap(
        lambda first, rest: fn(first, *rest),
        _AXIS,
        in_axes=(axes[0], axes[1:]),
        devices=self.devices,
        **options,
      )
    return self._programs[name]

  def _each(self, fn: Callable, axes: tuple[int | None, ...]) -> Callable:
    """fn for every slot of a device."""
    if self.slots > 1:
      return jax.vmap(fn, axes)

    def alone(*args):
      firsts = [
        arg if axis is None else jax.tree.map(lambda a: a[0], arg)
        for arg, axis in zip(args, axes, strict=True)
      ]
      return jax.tree.map(lambda a: a[None], fn(*firsts))

    return alone

  def init(self, init: Callable[[jax.Array], Variables], keys: jax.Array) -> Variables:
    """Initial variables from the members' keys."""
    name = "init", init
    if name not in self._programs:
      every = jax.vmap(jax.vmap(init))  # Over devices and slots.
      self._programs[name] = initializer(every, out_shardings=self._sharding)
    return self._programs[name](keys)

  def _shared(self, keep: Callable[[str], bool]) -> Variables:
    return {c: {name: t for name, t in tree.items() if keep(name)} for c, tree in self._placed.items()}

  def joined(self, stage: Stage, variables: Variables) -> Variables:
    """A member's own variables, and those shared ones that the stage trains: from then on they are its own."""
    own = variables["params"]
    return merge(self._shared(lambda name: name in stage.trainable and name not in own), variables)

  def start(self, stage: Stage, variables: Variables) -> State:
    """The stacked state at the start of a stage, which owns every buffer."""
    own = variables["params"]
    taken = self._shared(lambda name: name in stage.trainable and name not in own)
    make = self._each(lambda variables, taken: begin(stage, merge(taken, variables)), (0, None))
    return self._compiled(("start", stage), make, (0, None))(variables, (taken,))

  def whole(self, variables: Variables) -> Variables:
    """One member's own variables with the shared ones it lacks."""
    return merge(self.shared, variables)

  def _program(self, stage: Stage, driver: Driver) -> Any:
    """What `trainer` calls, pmap of (moving, (still, shared, data, stage_key, hyper, active, plan))."""

    def one(moving, still, shared, data, stage_key, hyper, active, plan):
      state, plan = State(moving, merge(shared, still)), _with_positions(plan)
      moving, metrics = planned_step(stage, state, data, plan, active, stage_key, Context(hyper))
      return moving, (metrics, moving.alive)

    def all_alike(moving, still, shared, data, stage_key, hyper, active, plan):
      # Members that are still trained agree in their step; the others are behind.
      batch, keys = draw(stage, data, _with_positions(plan), stage_key[0], moving.step.max())

      def one(moving, still, hyper, active):
        state = State(moving, merge(shared, still))
        moving, metrics = gated_step(stage, state, batch, keys, Context(hyper), active)
        return moving, (metrics, moving.alive)

      return self._each(one, (0, 0, 0, 0))(moving, still, hyper, active)

    each = all_alike if self.same_batches else self._each(one, (0, 0, None, None, 0, 0, 0, 0))

    def many(moving, still, shared, data, stage_key, hyper, active, plan):
      return lax.scan(
        lambda moving, at: each(moving, still, shared, data, stage_key, hyper, *at), moving, (active, plan)
      )

    axes = (0, 0, None, None, 0, 0, 0, 0)
    out_axes = (0, 1 if driver == "scan" else 0)
    fn = each if driver == "steps" else many
    return self._compiled((stage, driver), fn, axes, out_axes=out_axes, donate_argnums=(0,))

  def _arguments(
    self, moving: Moving, still: Variables, data: PyTree, stage_key: Any, hyper: PyTree
  ) -> tuple:
    """Of `program`, in order: still, shared, data, stage_key, hyper; active and plan are to follow."""
    held = {*moving.variables["params"], *still["params"]}
    return still, self._shared(lambda name: name not in held), data, stage_key, hyper

  def needed(
    self,
    stage: Stage,
    driver: Driver,
    state: State,
    data: PyTree,
    names: Sequence[str],
    batch: int,
    length: int,
  ) -> int:
    """Bytes that a chunk takes on a device, arguments included, as the compiler says.

    The program stays in JAX's cache, where the first call of `trainer` finds it: it is not compiled a second time.

    Args:
      stage: what is trained.
      driver: as in `trainer`.
      state: stacked, as shapes.
      data: placed.
      names: of the hyper numbers.
      batch: rows of a member's batch.
      length: steps of a chunk.
    """
    key = self.abstract(jax.eval_shape(lambda: jax.random.key(0)))
    hyper = self.abstract({name: jax.ShapeDtypeStruct((), np.float32) for name in names})
    rows = np.zeros((length, 1, batch), np.int32)
    plan, active = self.lay(dict.fromkeys(stage.columns, rows), np.zeros((length, 1), bool))
    if driver == "steps":
      plan, active = {name: column[:, 0] for name, column in plan.items()}, active[:, 0]
    arguments = self._arguments(state.moving, state.still, data, key, hyper)
    memory = (
      self._program(stage, driver).lower(state.moving, (*arguments, active, plan)).compile().memory_analysis()
    )
    sizes = memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes
    return sum(sizes) - memory.alias_size_in_bytes

  def trainer(self, stage: Stage, driver: Driver) -> Callable[..., tuple[Moving, PyTree]]:
    """Compiles a chunk of a stage's steps, as `Parallel.trainer`; metrics and alive [devices, slots] per step."""
    compiled = self._program(stage, driver)

    def chunk(moving, still, data, stage_key, hyper, columns: Columns, active: np.ndarray):
      arguments = self._arguments(moving, still, data, stage_key, hyper)
      if driver == "scan":
        return compiled(moving, (*arguments, active, columns))
      results = []
      for k in np.flatnonzero(active.any((0, 2))):
        at = {name: array[:, k] for name, array in columns.items()}
        moving, result = compiled(moving, (*arguments, active[:, k], at))
        results.append(result)
      return moving, jax.tree.map(lambda *steps: list(steps), *results)

    return chunk

  def evaluator(self, outputs: Outputs) -> Callable[..., jax.Array]:
    """Compiles outputs(variables, hyper, data, plan, None) -> [rows, ...] for all members.

    Returns:
      fn(their own variables, their hyper numbers, data, plan), where plan's columns are host arrays [members, rows],
      giving [devices, slots, rows, ...].
    """
    each = self._each(
      lambda own, hyper, shared, data, plan: outputs(merge(shared, own), hyper, data, plan, None),
      (0, 0, None, None, 0),
    )
    compiled = self._compiled(("evaluate", outputs), each, (0, 0, None, None, 0))

    def evaluate(own, hyper, data, plan):
      held = own["params"]
      shared = self._shared(lambda name: name not in held)
      return compiled(own, (hyper, shared, data, jax.tree.map(self._grid, plan)))

    return evaluate


def _with_positions(plan: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  return {**plan, "position": jnp.arange(plan["row"].shape[-1], dtype=jnp.int32)}
