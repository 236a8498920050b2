"""Where a training runs. Only this module names devices and compiles the step for them.

A `Placement` arranges the devices in a mesh with two axes. The axis "member" separates different trainings, and the
axis "data" separates the shards of one training's batch. Each device trains `slots` members at once with `vmap`, each
on one shard of that member's batch. Gradients, statistics and metrics are summed over "data" only.

Every array that belongs to the members has a leading axis [members], which is sharded along "member". The step is a
function of the arrays on a single device. `jit` of `shard_map` runs it on all devices; for a single training, `pmap`
can run it too.
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

from jaxfer.kernels.conv import looped
from jaxfer.train.arrays import initializer, is_key, put
from jaxfer.train.mapping import DATA, MEMBER, Pmapped, each
from jaxfer.train.stage import Context, PyTree, Stage, Variables
from jaxfer.train.state import State, Trainable, begin, merge
from jaxfer.train.step import draw, planned_step, step

Backend = Literal["pmap", "jit"]
Driver = Literal["scan", "steps"]
Columns = Mapping[str, np.ndarray]
# (variables, hparams, data, plan, axis_name) -> outputs [batch, ...], one for each planned example.
Outputs = Callable[
  [Variables, Mapping[str, jax.Array], Mapping[str, jax.Array], Mapping[str, jax.Array], str | None],
  jax.Array,
]
_Spec = PartitionSpec
NOTHING: Variables = {"params": {}}


@dataclasses.dataclass(frozen=True)
class Placement:
  """A mesh of devices, ("member", "data"), and the transform that runs the step on it.

  Attributes:
    devices: the devices of the mesh, row by row. The devices in a row share the batches of the row's members.
    shards: number of parts that a batch is divided into, which is the size of the axis "data".
    slots: number of members that a device trains at once. A slot without a member holds an inactive copy of the first
      member.
    backend: "jit" compiles `shard_map` over both axes. "pmap" has only the axis "data" and runs a single training.
    streamed: whether the data come in windows (prefetch.py), of which each device receives only its own examples.
    shared: variables that all members share, stored once per device. A state contains only those that its own stage
      or an earlier one trains, so frozen models are neither stacked nor saved.
    same_batches: whether all members have the same key and the same plan. If so, a device draws each batch once for
      all of its members.
    alone: whether it runs a training without a name, which ends with an error at the first step that is not finite.
      The step then need not be rejected (`step.step`).
  """

  devices: tuple[jax.Device, ...]
  shards: int = 1
  slots: int = 1
  backend: Backend = "jit"
  streamed: bool = False
  shared: Variables = dataclasses.field(default_factory=lambda: NOTHING)
  same_batches: bool = False
  alone: bool = False
  # `shared` on the devices. It is placed in `__post_init__` and not on first use, because the first use may be inside a
  # trace, whose tracer would then stay in this object.
  _placed: Variables = dataclasses.field(init=False, repr=False, compare=False)
  _programs: dict[Any, Callable] = dataclasses.field(
    default_factory=dict, init=False, repr=False, compare=False
  )

  def __post_init__(self):
    if len(self.devices) % self.shards:
      raise ValueError(f"{len(self.devices)} devices do not make rows of {self.shards}")
    if self.backend == "pmap" and self.members > 1:
      raise ValueError("pmap maps one axis, the shards of a single training: use the backend jit")
    if self.backend == "pmap" and self.processes > 1:
      raise ValueError("pmap maps the devices of one process: use the backend jit")
    object.__setattr__(self, "_placed", self.place(self.shared))

  @property
  def rows(self) -> int:
    """Size of the mesh axis "member"."""
    return len(self.devices) // self.shards

  @property
  def members(self) -> int:
    """Number of members that train at once."""
    return self.rows * self.slots

  @functools.cached_property
  def processes(self) -> int:
    """Number of processes that have devices of the mesh. With several, every process makes the same calls."""
    return len({device.process_index for device in self.devices})

  @functools.cached_property
  def mesh(self) -> Mesh:
    """The mesh of the devices, [rows, shards].

    For pmap it is [shards], which is where pmap leaves its results; with any other mesh a step would compile twice.
    """
    devices = np.array(self.devices)
    if self.backend == "pmap":
      return Mesh(devices, (DATA,))
    return Mesh(devices.reshape(self.rows, self.shards), (MEMBER, DATA))

  def _sharding(self, *spec: str) -> NamedSharding:
    return NamedSharding(self.mesh, _Spec(*(axis for axis in spec if axis in self.mesh.axis_names)))

  @property
  def platform(self) -> str:
    """The platform of the devices, such as "cpu"."""
    return self.devices[0].platform

  @property
  def arithmetic(self) -> dict[str, Any]:
    """The properties that the order of floating-point operations depends on."""
    return {
      "backend": self.backend,
      "devices": len(self.devices),
      "processes": self.processes,
      "shards": self.shards,
      "slots": self.slots,
      "platform": self.platform,
      "placement": "streamed" if self.streamed else "resident",
    }

  @property
  def description(self) -> str:
    """A description of the placement for the log."""
    kind = f"{len(self.devices)} x {self.devices[0].device_kind}"
    parts = [f"{self.processes} processes"] * (self.processes > 1)
    parts += [f"{self.rows} members side by side"] * (self.rows > 1)
    parts += [f"{self.slots} members on each device"] * (self.slots > 1)
    parts += [f"each batch divided among {self.shards}"] * (self.shards > 1 and self.members > 1)
    return f"{kind} by {self.backend}" + (f", {', '.join(parts)}" if parts else "")

  # Arrays

  def place(self, tree: PyTree) -> PyTree:
    """Puts a tree on every device, as strongly typed arrays."""
    return jax.tree.map(lambda leaf: put(leaf, self._sharding()), tree)

  def slotted(self, columns: Columns) -> Columns:
    """Extends planned columns [..., given members, batch] to [..., members, batch], as `lay` does."""
    return {name: np.moveaxis(self._slotted(np.moveaxis(a, -2, 0)), 0, -2) for name, a in columns.items()}

  def fetch(self, tree: PyTree) -> PyTree:
    """Returns a tree of arrays on the host, including what the devices of other processes hold."""
    return jax.device_get(self._everywhere(tree))

  def _everywhere(self, tree: PyTree) -> PyTree:
    """Returns members' arrays as every process can fetch them. It does not wait for them."""
    if self.processes == 1 or self.rows == 1:
      return tree
    if "everywhere" not in self._programs:
      self._programs["everywhere"] = jax.jit(lambda tree: tree, out_shardings=self._sharding())
    return self._programs["everywhere"](tree)

  def _given(self, tree: PyTree, spec: PartitionSpec) -> PyTree:
    """Returns arrays of the host as arguments of a program; with several processes, each places its own parts."""
    if self.processes == 1:
      return tree
    return jax.tree.map(lambda array: put(array, NamedSharding(self.mesh, spec)), tree)

  def _abstract_given(self, tree: PyTree, spec: PartitionSpec) -> PyTree:
    """Returns what stands for the result of `_given` when a program is lowered."""
    if self.processes == 1:
      return tree
    sharding = NamedSharding(self.mesh, spec)
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding), tree)

  def _slotted(self, array: Any) -> Any:
    """Extends [given members, ...] to [members, ...]; slots without a member get a copy of the first member."""
    indices = np.arange(self.members)
    indices[indices >= len(array)] = 0
    return array[indices]

  def stack(self, trees: Sequence[PyTree]) -> PyTree:
    """Stacks and places one tree per member."""

    def lay(*leaves):
      stacked = (jnp if is_key(leaves[0]) else np).stack(leaves)
      return put(self._slotted(stacked), self._sharding(MEMBER))

    return jax.tree.map(lay, *trees)

  def stack_hparams(self, hparams: Sequence[Mapping[str, float]]) -> dict[str, jax.Array]:
    """Stacks and places one mapping of hyperparameters per member, as float32."""
    return self.stack([{name: np.float32(value) for name, value in own.items()} for own in hparams])

  def unstack(self, tree: PyTree, count: int) -> list[PyTree]:
    """Returns the trees of the first `count` members, on the host."""
    host = self.fetch(tree)
    return [jax.tree.map(lambda a, k=k: a[k], host) for k in range(count)]

  def lay(self, columns: Columns, active: np.ndarray) -> tuple[Columns, np.ndarray]:
    """Prepares planned columns and `active` for `trainer`.

    Args:
      columns: column name -> array [steps, given members, batch].
      active: bools [steps, given members].

    Returns:
      (columns [steps, members, batch], with "position" added, and active [steps, members]). With `same_batches` the
      columns are [steps, 1, batch].
    """
    gates = np.zeros((len(active), self.members), bool)
    gates[:, : active.shape[1]] = active
    laid = dict(self.slotted(columns))
    steps, members, batch = laid["row"].shape
    laid["position"] = np.broadcast_to(np.arange(batch, dtype=np.int32), (steps, members, batch))
    return {name: a[:, :1] for name, a in laid.items()} if self.same_batches else laid, gates

  def abstract(self, tree: PyTree, saved: Mapping[str, Any] | None = None) -> PyTree:
    """Returns the shapes, dtypes and shardings that a member's tree has once it is stacked.

    Args:
      tree: arrays or shapes of one member.
      saved: `arithmetic` of the placement that saved the stacked tree; None for this placement.
    """
    members = self.members
    if saved is not None:
      members = saved["devices"] // saved["shards"] * saved["slots"]
    sharding = self._sharding(MEMBER) if members % self.rows == 0 else self._sharding()
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((members, *a.shape), a.dtype, sharding=sharding), tree)

  def abstract_data(self, data: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes, dtypes and shardings that resident data have once they are placed."""
    return {
      name: jax.ShapeDtypeStruct(
        array.shape, jax.dtypes.canonicalize_dtype(array.dtype), sharding=self._sharding()
      )
      for name, array in data.items()
    }

  def adopt(self, state: State) -> State:
    """Copies a restored state into the slots of this placement, whatever placement saved it.

    The copy owns its buffers, so it can be donated.
    """
    regrid = functools.partial(jax.tree.map, self._slotted)
    return jax.jit(regrid, out_shardings=self._sharding(MEMBER))(state)

  # The start of a stage

  def init(self, init: Callable[[jax.Array], Variables], keys: jax.Array) -> Variables:
    """Returns the members' initial variables, drawn from their keys."""
    name = "init", init
    if name not in self._programs:
      every = each(init, (0,), self.members)
      self._programs[name] = initializer(every, out_shardings=self._sharding(MEMBER))
    return self._programs[name](keys)

  def _lacking(self, held: Sequence[str], keep: Sequence[str] | None = None) -> Variables:
    """Returns the placed shared variables of the submodules outside `held`; with `keep`, only those it names."""
    return {
      collection: {name: t for name, t in tree.items() if name not in held and (keep is None or name in keep)}
      for collection, tree in self._placed.items()
    }

  def joined(self, stage: Stage, variables: Variables) -> Variables:
    """Adds the shared variables that the stage trains to a member's own ones; they stay its own in later stages."""
    return merge(self._lacking([*variables["params"]], stage.trainable), variables)

  def start(self, stage: Stage, variables: Variables) -> State:
    """Returns the stacked state at the start of a stage. It owns all its buffers, so it can be donated."""
    name = "start", stage
    if name not in self._programs:
      every = each(lambda own, taken: begin(stage, merge(taken, own)), (0, None), self.members)
      self._programs[name] = jax.jit(every, out_shardings=self._sharding(MEMBER))
    return self._programs[name](variables, self._lacking([*variables["params"]], stage.trainable))

  def whole(self, variables: Variables) -> Variables:
    """Returns one member's variables, completed with the shared ones that it lacks."""
    return merge(self.shared, variables)

  # Programs

  @property
  def _axis_name(self) -> str | None:
    return DATA if self.shards > 1 or self.backend == "pmap" else None

  def _mapped(self, name: Any, fn: Callable, specs: tuple, out: Any, *, donate: bool = False) -> Callable:
    """Compiles a function of one device's arrays for all devices. Each name is compiled only once.

    Args:
      name: name of the program.
      fn: function of one device's arrays. Its results must be equal on all shards of a batch.
      specs: one `PartitionSpec` per argument. pmap only uses the position of "data" in it.
      out: the `PartitionSpec`s of the results.
      donate: whether to donate the buffers of the first argument.
    """
    if name in self._programs:
      return self._programs[name]
    donated = (0,) if donate else ()
    if self.backend == "jit":
      mapped = jax.shard_map(fn, mesh=self.mesh, in_specs=specs, out_specs=out, check_vma=False)
      program: Any = jax.jit(mapped, donate_argnums=donated)
    else:
      program = Pmapped(fn, specs, self.devices, donated)
    self._programs[name] = program
    return program

  def data_spec(self, same: bool = False) -> PartitionSpec:
    """Returns the spec of the data; `same` says whether all members gather the same examples from a window."""
    if not self.streamed:
      return _Spec()
    return _Spec(DATA) if self.backend == "pmap" else _Spec(None if same else MEMBER, DATA)

  def _held(self, data: PyTree) -> PyTree:
    """Returns the data that a device's step gathers from; drops the leading axes of a device's part of a window."""
    if self.streamed and self.backend == "jit":
      return jax.tree.map(lambda a: a[0, 0], data)
    return data

  def _plan_specs(self, driver: Driver) -> tuple[PartitionSpec, PartitionSpec]:
    """Returns the specs of the gates and of the planned columns."""
    steps = () if driver == "steps" else (None,)
    return _Spec(*steps, MEMBER), _Spec(*steps, None if self.same_batches else MEMBER, DATA)

  def _program(self, stage: Stage, driver: Driver) -> Any:
    """Returns the compiled training program.

    Its arguments are (trainable, frozen, shared, data, stage_keys, hparams, active, plan), for all devices.
    """
    axis_name = self._axis_name

    def one(trainable, frozen, shared, data, stage_key, hparams, active, plan):
      state, context = State(trainable, merge(shared, frozen)), Context(hparams, axis_name=axis_name)
      trainable, metrics = planned_step(
        stage, state, data, plan, active, stage_key, context, reject=not self.alone
      )
      return trainable, (metrics, trainable.finite)

    def all_alike(trainable, frozen, shared, data, stage_keys, hparams, active, plan):
      # Members that still train are all at the same step. The others have stopped at an earlier one.
      plan = {name: column[0] for name, column in plan.items()}
      batch, keys = draw(stage, data, plan, stage_keys[0], trainable.step.max())

      def one(trainable, frozen, hparams, active):
        state, context = State(trainable, merge(shared, frozen)), Context(hparams, axis_name=axis_name)
        trainable, metrics = step(stage, state, batch, keys, context, active, reject=not self.alone)
        return trainable, (metrics, trainable.finite)

      return each(one, (0, 0, 0, 0), self.slots)(trainable, frozen, hparams, active)

    every = all_alike if self.same_batches else each(one, (0, 0, None, None, 0, 0, 0, 0), self.slots)

    def once(trainable, frozen, shared, data, *rest):
      return every(trainable, frozen, shared, self._held(data), *rest)

    def many(trainable, frozen, shared, data, stage_keys, hparams, active, plan):
      held = self._held(data)

      def body(trainable, at):
        return every(trainable, frozen, shared, held, stage_keys, hparams, *at)

      return lax.scan(looped(body), trainable, (active, plan))

    gates, planned = self._plan_specs(driver)
    own = _Spec(MEMBER)
    specs = own, own, _Spec(), self.data_spec(self.same_batches), own, own, gates, planned
    fn = once if driver == "steps" else many
    return self._mapped(("train", stage, driver), fn, specs, (own, gates), donate=True)

  def _arguments(
    self, trainable: Trainable, frozen: Variables, data: PyTree, stage_keys: Any, hparams: PyTree
  ) -> tuple:
    """Returns the first arguments of `_program`; `active` and `plan` follow them."""
    held = [*trainable.variables["params"], *frozen["params"]]
    return trainable, frozen, self._lacking(held), data, stage_keys, hparams

  def trainer(self, stage: Stage, driver: Driver) -> Callable[..., tuple[Trainable, PyTree]]:
    """Returns a function that runs a chunk of a stage's steps.

    Args:
      stage: the stage to train.
      driver: "scan" runs a chunk as one program, "steps" calls one program per step.

    Returns:
      chunk(trainable, frozen, data, stage_keys, hparams, columns, active) -> (trainable, (metrics, finite)). `columns`
      and `active` are the results of `lay`. `metrics` and `finite` [members] are returned for each step, on the
      devices. The buffers of the argument `trainable` are donated.
    """
    compiled = self._program(stage, driver)

    def run(active, columns, *given):
      gates, planned = self._plan_specs(driver)
      return compiled(*self._arguments(*given), self._given(active, gates), self._given(columns, planned))

    def chunk(trainable, frozen, data, stage_keys, hparams, columns: Columns, active: np.ndarray):
      if driver == "scan":
        trainable, result = run(active, columns, trainable, frozen, data, stage_keys, hparams)
        return trainable, self._everywhere(result)
      results = []
      for k in np.flatnonzero(active.any(1)):
        at = {name: array[k] for name, array in columns.items()}
        trainable, result = run(active[k], at, trainable, frozen, data, stage_keys, hparams)
        results.append(result)
      return trainable, self._everywhere(jax.tree.map(lambda *steps: list(steps), *results))

    return chunk

  def lower(
    self,
    stage: Stage,
    driver: Driver,
    state: State,
    data: PyTree,
    names: Sequence[str],
    batch: int,
    length: int,
  ) -> jax.stages.Lowered:
    """Lowers the program of a chunk from shapes only.

    Once the result is compiled, it stays in JAX's cache, where the first call of `trainer` finds it.

    Args:
      stage: the stage to train.
      driver: see `trainer`.
      state: shapes of the stacked state.
      data: the placed data, or their shapes.
      names: names of the hyperparameters.
      batch: number of examples in a member's batch.
      length: number of steps in a chunk.
    """
    keys = self.abstract(jax.eval_shape(lambda: jax.random.key(0)))
    hparams = self.abstract({name: jax.ShapeDtypeStruct((), np.float32) for name in names})
    columns = dict.fromkeys(("row", *stage.columns), np.zeros((length, 1, batch), np.int32))
    plan, active = self.lay(columns, np.zeros((length, 1), bool))
    if driver == "steps":
      plan, active = {name: column[0] for name, column in plan.items()}, active[0]
    gates, planned = self._plan_specs(driver)
    arguments = self._arguments(state.trainable, state.frozen, data, keys, hparams)
    plans = self._abstract_given(active, gates), self._abstract_given(plan, planned)
    lowered: jax.stages.Lowered = self._program(stage, driver).lower(*arguments, *plans)
    return lowered

  def evaluator(self, outputs: Outputs) -> Callable[..., jax.Array]:
    """Compiles a function that computes outputs for all members.

    Args:
      outputs: function of (variables, hparams, data, plan, axis_name) that returns one member's outputs [batch, ...].
        If it reduces over the examples of a batch, it must reduce over `axis_name` too.

    Returns:
      fn(variables, hparams, data, plan) -> outputs [members, batch, ...], in the order of the plan. `variables` are the
      members' own, without the shared ones. The columns of `plan` are host arrays [given members, batch], and the
      number of shards must divide the batch.
    """
    axis_name = self._axis_name

    def one(own, hparams, shared, data, plan):
      result = outputs(merge(shared, own), hparams, data, plan, axis_name)
      return result if axis_name is None else lax.all_gather(result, axis_name, tiled=True)

    mapped = each(one, (0, 0, None, None, 0), self.slots)

    def every(own, hparams, shared, data, plan):
      return mapped(own, hparams, shared, self._held(data), plan)

    own, planned = _Spec(MEMBER), _Spec(MEMBER, DATA)
    specs = own, own, _Spec(), self.data_spec(), planned
    compiled = self._mapped(("evaluate", outputs), every, specs, own)

    def evaluate(own, hparams, data, plan):
      shared = self._lacking([*own["params"]])
      return compiled(own, hparams, shared, data, self._given(self.slotted(plan), planned))

    return evaluate
