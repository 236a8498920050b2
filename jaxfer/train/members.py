"""Many small trainings of the same stages and shapes: seeds x folds x variants, some at once and the rest in turn.

Members run in groups. `vmap` puts as many into one as the memory holds, spread over the devices; `sequential` one a
device, through the step of a training alone, which compiles once for all of them. Either way member k draws what a
training alone with its seed and plan draws, and its numbers are the same up to rounding.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from jaxfer import files
from jaxfer.config import Execution
from jaxfer.data.plan import Plan, chunks
from jaxfer.data.plan import evaluation as evaluation_batches
from jaxfer.data.stream import Stream
from jaxfer.errors import UserError, unknown
from jaxfer.train import weights
from jaxfer.train.best import selects
from jaxfer.train.checkpoint import exists
from jaxfer.train.drive import Group, Identity, abstract_state, drive
from jaxfer.train.feed import feed, placed
from jaxfer.train.parallel import Outputs, no_such_devices
from jaxfer.train.stacked import Stacked
from jaxfer.train.stage import Stage, Variables
from jaxfer.train.state import split, variables_of

Mode = Literal["auto", "vmap", "sequential"]
# Share of a device's memory that a program may take: the rest is for what the allocator cannot use.
_SHARE = 0.9
_NOTHING = np.zeros(0, np.int32)


@dataclasses.dataclass(frozen=True)
class Member:
  """One training among others.

  Attributes:
    name: unique; in rows of metrics and messages.
    seed: of its parameters and every draw on the device.
    plan: the batches of the rows it may train on, in the order of its own seed.
    hyper: numbers that the stages read by name; the same names for all members.
    watched: rows judged after each epoch.
    tested: rows whose outputs are asked for at the end.
    start: submodules, or parts of them, that take the place of the initial ones, such as pre-trained ones; the same for
      all members, or None for all. What is one object for all members is held once for as long as no stage trains it.
    origin: where `start` is from, in words.
  """

  name: str
  seed: int
  plan: Plan
  hyper: Mapping[str, float]
  watched: np.ndarray = dataclasses.field(default_factory=lambda: _NOTHING)
  tested: np.ndarray = dataclasses.field(default_factory=lambda: _NOTHING)
  start: Variables | None = None
  origin: str = ""


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """How members are judged.

  Attributes:
    outputs: see `parallel.Outputs`; plan has "row" and "real", [rows] each, False in rows that only complete a batch.
    judge: (outputs, rows), both on the host -> numbers by name, for watched rows, and for tested ones at the end of
      stages that are to be judged.
    batch_size: rows of a call and member.
    shuffled: give the tested rows' outputs a second time, in batches of rows in a random order (the same for all).
  """

  outputs: Outputs
  judge: Callable[[np.ndarray, np.ndarray], Mapping[str, float]]
  batch_size: int
  shuffled: bool = False


@dataclasses.dataclass(frozen=True)
class Result:
  """A member at its end.

  Attributes:
    member: which.
    variables: on the host; of a failed member those before the step that was not finite.
    failed: where its loss or gradient was not finite, or None.
    history: its rows of metrics, as in metrics.jsonl.
    outputs: [tested rows, ...]; None where no evaluation was given.
    shuffled: the same from batches in a random order; None where that was not asked for.
  """

  member: Member
  variables: Variables
  failed: str | None
  history: list[dict[str, Any]]
  outputs: np.ndarray | None
  shuffled: np.ndarray | None = None


def mode_of(mode: Mode, platform: str) -> Mode:
  """What "auto" stands for on a platform: one after another on CPU, where that is faster."""
  if mode not in ("auto", "vmap", "sequential"):
    raise unknown("way to run members", mode, ("auto", "vmap", "sequential"))
  if mode != "auto":
    return mode
  return "sequential" if platform == "cpu" else "vmap"


def train(
  stages: tuple[Stage, ...],
  members: Sequence[Member],
  init: Callable[[jax.Array], Variables],
  data: Mapping[str, np.ndarray],
  workdir: pathlib.Path,
  *,
  execution: Execution | None = None,
  mode: Mode = "auto",
  evaluation: Evaluation | None = None,
  limit_bytes: int | None = None,
  record: Mapping[str, Any] | None = None,
  resume: bool = False,
  revision: str = "unknown",
  say: Callable[[str], None] = print,
) -> list[Result]:
  """Trains all members, or goes on with them, and returns how each ended, in their order.

  Writes to `workdir`: `members.json`, and a folder a group as `loop.run` writes it, its rows of metrics with a
  "member" each.

  Args:
    stages: the same for all, schedules included: those count a member's own steps.
    members: of equal batch size. Where all have the same seed and plan, a batch is drawn once for all of them.
    init: typed key -> variables.
    data: arrays, [n, ...] each, that are resident on the devices; or a `Stream`, for trainings one after another.
    workdir: of this call alone.
    execution: driver, steps a call, checkpoints; `devices` is how many to spread over (None: all at hand).
    mode: see the module.
    evaluation: for watched and tested rows.
    limit_bytes: memory that a group may take on a device; None asks the device, which a CPU does not tell.
    record: what else the trainings follow from, as JSON; resuming with another is refused.
    resume: go on with what `workdir` holds.
    revision: see `Identity`.
    say: prints a line.

  Raises:
    UserError: members that do not fit together; or as `loop.run`, but for losses that are not finite.
    Interrupted: see `loop.run`.
  """
  _check(members)
  selecting = any(map(selects, stages))
  if selecting and (blind := [m.name for m in members if not len(m.watched)]):
    raise UserError(
      f"member '{blind[0]}' has no rows held back to choose its best epoch by: give split.validation=0.1, or "
      "select=last"
    )
  execution = execution or Execution()
  devices = _devices(execution, len(members))
  mode = "sequential" if isinstance(data, Stream) else mode_of(mode, devices[0].platform)
  starts = [m.start for m in members if m.start is not None]
  alone: Variables = {"params": {}}
  template = jax.eval_shape(init, jax.random.key(0))
  replaced, _ = split(template, tuple(_submodules(members[0])))  # Refuses unknown ones.
  same = bool(starts) and all(start is starts[0] for start in starts)
  # A submodule that is given in part is completed by each member's own initial values.
  complete = same and len(jax.tree.leaves(starts[0]["params"])) == len(jax.tree.leaves(replaced["params"]))
  shared = starts[0] if complete else alone
  names = tuple(shared["params"])

  def own_init(key):
    return split(init(key), names)[1]

  alike = len({(m.seed, _digest(m.plan)) for m in members}) == 1
  spread = Stacked(devices, 1, shared, alike)
  whole = Group(
    stages,
    own_init,
    placed(spread, data),
    [m.seed for m in members],
    [m.plan for m in members],
    [m.hyper for m in members],
    max(m.plan.steps for m in members),
    starts=[] if shared is not alone else starts,
    names=[m.name for m in members],
  )
  identity = _identity(stages, members, record or {}, revision)
  before = _read(workdir, identity, resume)
  if before is not None:
    groups = before
    spread = dataclasses.replace(spread, slots=-(-max(map(len, groups)) // len(devices)))
  else:
    if mode == "vmap":
      spread = _fitting(whole, spread, execution, limit_bytes or _memory(devices[0]), say)
    count = -(-len(members) // (len(devices) * spread.slots))
    groups = [part.tolist() for part in np.array_split(np.arange(len(members)), count)]
    files.make_folder(workdir)
    record = {"identity": identity.record, "groups": groups}
    files.write_json(workdir / "members.json", record)
  how = f"{len(groups)} groups of up to {max(map(len, groups))}" if len(groups) > 1 else "all at once"
  several = (execution.devices or jax.device_count()) > 1
  whole_batches = "; each training's batches stay on one device" if several else ""
  say(f"{len(members)} trainings on {len(devices)} x {devices[0].device_kind}, {how}{whole_batches}")
  results, started = [], time.monotonic()
  for number, group in enumerate(groups):
    own, folder = [members[k] for k in group], workdir / f"group{number}"
    results += _train_group(own, _part(whole, group), spread, evaluation, folder, execution, identity)
    if number + 1 < len(groups):
      left = (time.monotonic() - started) / (number + 1) * (len(groups) - number - 1)
      say(f"{len(results)} of {len(members)} trainings done, {left:.0f} s left")
  return results


def _train_group(
  members: Sequence[Member],
  group: Group,
  spread: Stacked,
  evaluation: Evaluation | None,
  workdir: pathlib.Path,
  execution: Execution,
  identity: Identity,
) -> list[Result]:
  def judge(side, rows, variables, data):
    assert evaluation is not None
    outputs = _outputs(evaluation, spread, variables, hyper, data, rows)
    return [
      [{"split": side, **evaluation.judge(out, own)}] if len(own) else []
      for out, own in zip(outputs, rows, strict=True)
    ]

  hyper = spread.stack([{name: np.float32(value) for name, value in m.hyper.items()} for m in members])
  watched, tested = [m.watched for m in members], [m.tested for m in members]
  if evaluation is not None:
    group = dataclasses.replace(
      group,
      watch=functools.partial(judge, "validation", watched) if any(map(len, watched)) else None,
      judge=functools.partial(judge, "test", tested),
    )
  state, failed = drive(group, execution, spread, workdir, identity)
  own = variables_of(state)
  outputs: Sequence[np.ndarray | None] = [None] * len(members)
  shuffled: Sequence[np.ndarray | None] = [None] * len(members)
  if evaluation is not None:
    outputs = _outputs(evaluation, spread, own, hyper, group.data, tested)
    if evaluation.shuffled:
      orders = [np.random.default_rng(0).permutation(len(rows)) for rows in tested]
      drawn = [rows[order] for rows, order in zip(tested, orders, strict=True)]
      mixed = _outputs(evaluation, spread, own, hyper, group.data, drawn)
      shuffled = [out[np.argsort(order)] for out, order in zip(mixed, orders, strict=True)]
  rows, damage = files.read_rows(workdir / "metrics.jsonl")
  if damage:
    raise UserError(f"{workdir / 'metrics.jsonl'} {damage}: remove {workdir} to train again")
  return [
    Result(
      member,
      spread.whole(variables),
      failed.get(k),
      [row for row in rows if row["member"] == member.name],
      outputs[k],
      shuffled[k],
    )
    for k, (member, variables) in enumerate(zip(members, spread.unstack(own, len(members)), strict=True))
  ]


def _outputs(
  evaluation: Evaluation,
  spread: Stacked,
  variables: Variables,
  hyper: Mapping[str, jax.Array],
  data: Mapping[str, jax.Array],
  rows: Sequence[np.ndarray],
) -> list[np.ndarray]:
  """Outputs for each member's own rows, of which there may be different numbers."""
  count = -(-max(1, *map(len, rows)) // evaluation.batch_size)
  batches = [evaluation_batches(own, evaluation.batch_size, count) for own in rows]
  compiled = spread.evaluator(evaluation.outputs)
  plans = [
    {name: np.stack([batch[name] for batch in same]) for name in ("row", "real")}
    for same in zip(*batches, strict=True)
  ]
  parts = [compiled(variables, hyper, window, plan) for window, plan in feed(spread, data, plans)]
  flat = [part.reshape(-1, *part.shape[2:]) for part in jax.device_get(parts)]
  whole = np.concatenate(flat, axis=1)
  return [whole[k, : len(own)] for k, own in enumerate(rows)]


def _part(whole: Group, group: Sequence[int]) -> Group:
  def of(values):
    return [values[k] for k in group]

  return dataclasses.replace(
    whole,
    seeds=of(whole.seeds),
    plans=of(whole.plans),
    hypers=of(whole.hypers),
    starts=of(whole.starts) if whole.starts else (),
    names=of(whole.names),
  )


def _fitting(
  whole: Group, spread: Stacked, execution: Execution, limit: int | None, say: Callable[[str], None]
) -> Stacked:
  """The devices with the most slots, for groups of equal size, whose program stays within `limit` bytes on each."""
  members, devices, groups = len(whole.seeds), len(spread.devices), 1
  fixed = sum(a.nbytes for a in jax.tree.leaves(whole.data))
  needs: list[int] = []
  while True:
    spread = dataclasses.replace(spread, slots=-(-members // (devices * groups)))
    if limit is None:
      return spread
    needs.append(_needed(whole, spread, execution))
    if needs[-1] <= limit or spread.slots == 1:
      break
    # Beside the data, the need grows with the members.
    slots = int(spread.slots * max(limit - fixed, 0) / max(needs[-1] - fixed, 1))
    slots = min(max(slots, 1), spread.slots - 1)
    groups = -(-members // (devices * slots))
  if groups > 1:
    first, held, last = map(_size, (needs[0], limit, needs[-1]))
    say(f"{members} trainings at once would take {first} of {held} a device: {groups} groups of {last} each")
  return spread


def _needed(whole: Group, spread: Stacked, execution: Execution) -> int:
  """Bytes on a device in the stage that takes most."""
  (_, length), *_ = chunks(whole.steps, 0, execution.steps_per_call)
  needs: dict[Stage, int] = {}
  for number, stage in enumerate(whole.stages):
    if stage not in needs:
      state = abstract_state(whole, spread, number)
      batch, names = whole.plans[0].batch_size, tuple(whole.hypers[0])
      needs[stage] = spread.needed(stage, execution.driver, state, whole.data, names, batch, length)
  return max(needs.values())


def _size(count: int) -> str:
  unit = min(max(count.bit_length() - 1, 10) // 10, 3)
  return f"{count / 2 ** (10 * unit):.3g} {' KMG'[unit]}iB"


def _memory(device: jax.Device) -> int | None:
  """Bytes that a program may take on a device, where it tells."""
  limit = (device.memory_stats() or {}).get("bytes_limit")
  return None if limit is None else int(limit * _SHARE)


def _devices(execution: Execution, members: int) -> tuple[jax.Device, ...]:
  devices = jax.devices()
  if execution.devices is not None and not 1 <= execution.devices <= len(devices):
    raise no_such_devices(execution.devices, devices)
  return tuple(devices[: min(execution.devices or len(devices), members)])


def _check(members: Sequence[Member]) -> None:
  if not members:
    raise UserError("0 members: a study needs at least one training")
  names, first = [m.name for m in members], members[0]
  if repeated := [name for name in names if names.count(name) > 1]:
    raise UserError(f"two members are called '{repeated[0]}': give each a name of its own")
  for m in members:
    if m.plan.batch_size != first.plan.batch_size:
      raise UserError(
        f"member '{m.name}' has batch_size={m.plan.batch_size}, '{first.name}' {first.plan.batch_size}: "
        "another shape is another call"
      )
    if set(m.hyper) != set(first.hyper):
      raise UserError(
        f"member '{m.name}' sets {', '.join(sorted(m.hyper)) or 'nothing'}, '{first.name}' "
        f"{', '.join(sorted(first.hyper)) or 'nothing'}: give all the same hyper numbers"
      )
    if _submodules(m) != _submodules(first):
      raise UserError(
        f"member '{m.name}' starts from given {', '.join(_submodules(m)) or 'nothing'}, '{first.name}' from "
        f"{', '.join(_submodules(first)) or 'nothing'}: give all the same submodules"
      )


def _submodules(member: Member) -> list[str]:
  return sorted(member.start["params"]) if member.start is not None else []


def _digest(plan: Plan) -> str:
  rows = hashlib.sha256(np.ascontiguousarray(plan.rows, np.int64).tobytes()).hexdigest()
  return f"{rows[:16]} {plan.batch_size} {plan.remainder} {list(plan.seed)}"


def _identity(
  stages: Sequence[Stage], members: Sequence[Member], record: Mapping[str, Any], revision: str
) -> Identity:
  digests = {id(m.start): weights.digest(m.start) for m in members if m.start is not None}
  starts = {m.name: digests.get(id(m.start)) for m in members}
  now = {
    "record": json.loads(files.to_json(record)),
    "starts": starts,
    "stages": [[stage.name, stage.epochs] for stage in stages],
    **{
      f"member {m.name}": {"seed": m.seed, "plan": _digest(m.plan), "hyper": files.plain(m.hyper)}
      for m in members
    },
  }

  def differences(before):
    other = {m.origin for m in members if before.get("starts", {}).get(m.name) != starts[m.name]}
    keys = sorted({*before, *now} - {"starts"})
    return [f"the weights of {origin}" for origin in sorted(other)] + [
      key for key in keys if before.get(key) != now.get(key)
    ]

  return Identity(now, differences, revision)


def _read(workdir: pathlib.Path, identity: Identity, resume: bool) -> list[list[int]] | None:
  """How the members were grouped in what `workdir` holds, if it holds anything."""
  path = workdir / "members.json"
  if not path.is_file():
    return None
  if not resume and exists(workdir / "group0"):
    raise UserError(f"{workdir} already holds a run: go on with --resume, or choose another --workdir")
  before = files.read_json(
    path, f"put it back from a copy, or remove {workdir} to train again", ["identity", "groups"]
  )
  if keys := identity.differences(before["identity"]):
    if not exists(workdir / "group0"):
      return None
    raise UserError(
      f"{workdir} was begun with other trainings ({', '.join(keys[:3])} differ): go on with the same, "
      "or choose another --workdir"
    )
  return before["groups"]
