"""Decides which members train at the same time, and on which devices.

Members run in groups. With `vmap`, a group holds as many members as fit into memory. With `sequential`, it holds one
member per row of the device mesh. Every member then runs the same program, which compiles once for all.
Devices that are left over share the batches. In both modes, member k draws what a single training with its seed and
plan draws, and its results are the same up to rounding.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from jaxfer import files
from jaxfer.config import Execution
from jaxfer.data.plan import chunks
from jaxfer.data.stream import Stream
from jaxfer.errors import UserError, unknown
from jaxfer.train import processes
from jaxfer.train.checkpoint import exists
from jaxfer.train.devices import divide, first_of_each, requested_devices
from jaxfer.train.group import Group, abstract_state
from jaxfer.train.identity import Identity, digest, identity_of
from jaxfer.train.members import Training, check, submodules
from jaxfer.train.memory import bytes_needed
from jaxfer.train.placement import NOTHING, Placement
from jaxfer.train.stage import Stage, Variables
from jaxfer.train.state import split

Mode = Literal["auto", "vmap", "sequential"]
# Fraction of a device's memory that a program may take. The rest is a reserve for memory that the allocator cannot use.
_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class Layout:
  """The division of a training into groups of members.

  Attributes:
    whole: all members as one group.
    groups: the member numbers of each group. The groups are trained one after another.
    placement: the placement of each group.
    identity: the identity of the training.
  """

  whole: Group
  groups: Sequence[Sequence[int]]
  placement: Placement
  identity: Identity

  def folder(self, workdir: pathlib.Path, number: int) -> pathlib.Path:
    """Returns the folder of a group: `workdir` itself if there is only one group, else a subfolder."""
    return workdir if len(self.groups) == 1 else workdir / f"group{number}"


def mode_of(mode: Mode, platform: str) -> Mode:
  """Resolves the mode "auto": "sequential" on CPU, where it is faster, and "vmap" on other platforms.

  Raises:
    UserError: `mode` is unknown.
  """
  if mode not in ("auto", "vmap", "sequential"):
    raise unknown("way to run members", mode, ("auto", "vmap", "sequential"))
  if mode != "auto":
    return mode
  return "sequential" if platform == "cpu" else "vmap"


def arrange(
  training: Training,
  groups: Sequence[Sequence[int]] | None,
  limit_bytes: int | None = None,
  log: Callable[[str], None] = print,
) -> Layout:
  """Divides the members of a training into groups and chooses their placement.

  Args:
    training: the training.
    groups: an earlier division to keep, as member numbers; None makes a new one.
    limit_bytes: bytes that a group may take on each device; None asks the device.
    log: called with a line if memory forces several groups.

  Raises:
    UserError: the members do not fit together, or the requested number of devices does not divide the batch size of a
      single training.
  """
  check(training)
  members, execution = training.members, training.execution
  devices, batch, count_of = requested_devices(execution.devices), _batch(training), processes.count()
  if len(members) == 1 and execution.devices is not None and batch % len(devices):
    raise UserError(_indivisible(execution.devices, len(devices), batch))
  shared, streamed = _shared(training), isinstance(training.data, Stream)
  alike = len({(m.seed, digest(m.plan)) for m in members}) == 1
  whole = _group(training, shared)

  def placed_at(count: int) -> Placement:
    """Returns the placement for `count` members at once."""
    rows, shards = divide(count, batch, len(devices), count_of)
    # JAX never releases the programs of pmap, and a study would keep those of all its variants. pmap also maps the
    # devices of one process only.
    backend = "jit" if members[0].name or count_of > 1 else execution.backend
    used = first_of_each(devices, rows * shards)
    return Placement(used, shards, count // rows, backend, streamed, shared, alike, alone=not members[0].name)

  if groups is None:
    mode = "sequential" if streamed else mode_of(execution.members, devices[0].platform)
    if mode == "vmap" and len(members) > 1:
      placement = _fitting(whole, placed_at, execution, limit_bytes or _memory(), log)
    else:
      placement = placed_at(divide(len(members), batch, len(devices), count_of)[0])
    count = -(-len(members) // placement.members)
    groups = [numbers.tolist() for numbers in np.array_split(np.arange(len(members)), count)]
  else:
    placement = placed_at(max(map(len, groups)))
  return Layout(whole, groups, placement, identity_of(training))


def _batch(training: Training) -> int:
  """Returns the greatest common divisor of the training and evaluation batch sizes, which the shards must divide."""
  own = training.members[0].plan.batch_size
  return own if training.evaluation is None else math.gcd(own, training.evaluation.batch_size)


def _shared(training: Training) -> Variables:
  """Returns the initial variables that all members share (the same object). They are stored once.

  The result is empty for a single training.
  """
  starts = [m.initial for m in training.members if m.initial is not None]
  template = jax.eval_shape(training.init, jax.random.key(0))
  replaced, _ = split(template, tuple(submodules(training.members[0])))  # Raises for unknown names.
  if len(training.members) == 1 or not starts or any(start is not starts[0] for start in starts):
    return NOTHING
  # If only part of a submodule is given, each member completes it with its own initial values.
  complete = len(jax.tree.leaves(starts[0]["params"])) == len(jax.tree.leaves(replaced["params"]))
  return starts[0] if complete else NOTHING


def _group(training: Training, shared: Variables) -> Group:
  """Returns all members as one group."""
  members = training.members
  names, alone = tuple(shared["params"]), not members[0].name
  return Group(
    training.stages,
    lambda key: split(training.init(key), names)[1],
    training.data,
    [m.seed for m in members],
    [m.plan for m in members],
    [m.hparams for m in members],
    max(m.plan.steps for m in members),
    starts=[] if names else [m.initial for m in members if m.initial is not None],
    names=None if alone else [m.name for m in members],
  )


def _indivisible(requested: int, every: int, batch: int) -> str:
  below, above = batch // every * every, -(-batch // every) * every
  nearest = f"{below} or {above}" if below else f"{above}"
  several = f" of each of {every // requested} processes" if every > requested else ""
  return (
    f"execution.devices={requested}{several} does not divide batch_size={batch}: take batch_size {nearest}, or leave "
    "execution.devices unset"
  )


def _fitting(
  whole: Group,
  placed_at: Callable[[int], Placement],
  execution: Execution,
  limit: int | None,
  log: Callable[[str], None],
) -> Placement:
  """Returns the placement with the most members at once that takes at most `limit` bytes on each device.

  Group sizes differ by at most one member. A single member is placed even if it exceeds the limit.
  """
  members, count, groups = len(whole.seeds), len(whole.seeds), 1
  fixed = sum(a.nbytes for a in whole.data.values())
  needs: list[int] = []
  while True:
    placement = placed_at(count)
    if limit is None:
      return placement
    needs.append(_needed(whole, placement, execution))
    if needs[-1] <= limit or count == 1:
      break
    # Apart from the data, the memory grows with the number of members.
    fitting = int(count * max(limit - fixed, 0) / max(needs[-1] - fixed, 1))
    groups = -(-members // min(max(fitting, 1), count - 1))
    count = -(-members // groups)
  if groups > 1:
    first, held, last = map(_size, (needs[0], limit, needs[-1]))
    log(
      f"{members} trainings at once would take {first} of {held} per device: {groups} groups of {last} each"
    )
  return placement


def _needed(whole: Group, placement: Placement, execution: Execution) -> int:
  """Returns the bytes taken on each device in the stage that takes the most."""
  data = placement.abstract_data(whole.data)
  (_, length), *_ = chunks(whole.steps, 0, execution.steps_per_call)
  needs: dict[Stage, int] = {}
  for number, stage in enumerate(whole.stages):
    if stage not in needs:
      state = abstract_state(whole, placement, number)
      batch, names = whole.plans[0].batch_size, tuple(whole.hparams[0])
      lowered = placement.lower(stage, execution.driver, state, data, names, batch, length)
      needs[stage] = bytes_needed(lowered.compile())
  return max(needs.values())


def _size(count: int) -> str:
  unit = min(max(count.bit_length() - 1, 10) // 10, 3)
  return f"{count / 2 ** (10 * unit):.3g} {' KMG'[unit]}iB"


def _memory() -> int | None:
  """Returns the bytes that a program may take on a device, or None if no device reports its memory."""
  limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
  return processes.smallest(None if limit is None else int(limit * _SHARE))


def read(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Returns what `Trainer.fit` recorded about the members in `workdir`, or None if there is no record.

  Raises:
    UserError: the record is damaged.
  """
  path = workdir / "members.json"
  if not path.is_file():
    return None
  fix = f"put it back from a copy, or remove {workdir} to train again"
  return files.read_json(path, fix, ["identity", "groups"])


def begun_groups(training: Training, workdir: pathlib.Path, resume: bool) -> list[list[int]] | None:
  """Returns the groups of the training that `workdir` holds, as member numbers, or None if it holds none.

  Raises:
    UserError: `workdir` holds a training and `resume` is False, or it holds a different training.
  """
  before = processes.decided(lambda: _begun(workdir))
  if before is None:
    return None
  if not resume:
    raise UserError(f"{workdir} already holds a run: go on with --resume, or choose another --workdir")
  if keys := identity_of(training).differences(before["identity"]):
    raise UserError(
      f"{workdir} was begun with other trainings ({', '.join(keys[:3])} differ): go on with the same, "
      "or choose another --workdir"
    )
  groups: list[list[int]] = before["groups"]
  return groups


def _begun(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Returns the record of the training that `workdir` holds, or None if it holds none."""
  before = read(workdir)
  return before if exists(workdir) or exists(workdir / "group0") else None


def part_of(whole: Group, group: Sequence[int]) -> Group:
  """Returns the members with the numbers in `group` as a separate group."""

  def of(values):
    return [values[k] for k in group]

  return dataclasses.replace(
    whole,
    seeds=of(whole.seeds),
    plans=of(whole.plans),
    hparams=of(whole.hparams),
    starts=of(whole.starts) if whole.starts else (),
    names=None if whole.names is None else of(whole.names),
  )
