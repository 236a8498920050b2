"""Measures which formulation of each convolution is fastest.

With `--write` the result is written to jaxfer/kernels/conv/choices.json; with `--from RESULTS.jsonl` it is computed
from existing measurements. Each of the three maps of a convolution (`forward`, `transpose`, `weight_gradient`) is timed
in every formulation, on the shapes of the five systems: once inside a loop of two (`lax.map`), because the maps run in
loops over time steps, over the steps of an epoch, or over members, and once outside of a loop. `..._members` are the
same maps for four members at once. The default of an operation is kept unless it takes at least 5 % longer than another
formulation, or 20 % on CPU. The implementation of a conv-RNN layer (scan, folded scan or Pallas kernels) is chosen from
the records of `benchmarks.conv_rnn` in the same file.
"""

import dataclasses
import functools
import itertools
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import harness, records
from jaxfer.kernels import conv_recurrence
from jaxfer.kernels.conv import choices, ops
from jaxfer.kernels.conv.choices import Shape
from jaxfer.kernels.conv.formulations import Padding, same_padding

_LOOP, _MEMBERS, _BUDGET = 2, 4, 0.5
# The default is replaced if its cost is more than this multiple of another formulation's. On CPU, formulations other
# than XLA's convolution take longer to compile.
_GAIN, _GAIN_ON_CPU = 1.05, 1.2
_SCAN = choices.DEFAULTS["recurrence"]
_OPERATIONS = ("forward", "transpose", "weight_gradient")


def shape_of(
  kernel: int, stride: int, channels: int, features: int, size: int, *, loop: bool = False
) -> Shape:
  """Returns the shape of a convolution with square kernels, strides and images; `size` is the height of its output."""
  return Shape((kernel, kernel), (stride, stride), channels, features, size * size, loop)


# kernel, stride, channels, features, height of the output.
SHAPES = [
  shape_of(*numbers)
  for numbers in [
    # Conv-RNN: inputs, states, their gradients.
    (3, 1, 3, 64, 64), (3, 1, 16, 64, 64), (3, 1, 64, 16, 64), (3, 1, 8, 32, 24), (3, 1, 32, 8, 24),
    (3, 1, 32, 32, 32), (3, 1, 32, 128, 32), (3, 1, 128, 32, 32), (3, 1, 64, 256, 16), (3, 1, 256, 64, 16),
    (3, 1, 128, 512, 8), (3, 1, 512, 128, 8), (1, 1, 64, 32, 32), (1, 1, 32, 64, 32), (1, 1, 16, 8, 24),
    # Paper 003's nets, and at a quarter of their widths.
    (3, 1, 16, 16, 64), (3, 1, 16, 3, 64), (3, 1, 3, 16, 64), (3, 1, 64, 64, 16), (3, 1, 128, 128, 8),
    (3, 1, 256, 256, 4), (3, 1, 8, 8, 32), (3, 1, 16, 16, 16), (3, 1, 32, 32, 8),
    (2, 1, 256, 128, 4), (2, 1, 128, 64, 8), (2, 1, 64, 32, 16), (2, 1, 32, 16, 32),
    (3, 2, 3, 32, 32), (3, 2, 32, 64, 16), (3, 2, 64, 128, 8), (3, 2, 128, 256, 4), (3, 2, 16, 32, 32),
    (3, 2, 8, 16, 16), (4, 2, 128, 256, 4), (4, 2, 64, 128, 8), (4, 2, 16, 32, 8),
    # ResNets, the landmark net, ARM.
    (7, 2, 3, 64, 56), (3, 1, 64, 64, 28), (3, 1, 128, 128, 14), (3, 1, 512, 512, 4), (3, 1, 64, 64, 56),
    (3, 2, 64, 128, 28), (1, 2, 64, 128, 28), (1, 2, 256, 512, 7), (1, 1, 64, 256, 28), (1, 1, 256, 64, 28),
    (5, 1, 1, 32, 110), (3, 1, 32, 64, 54), (4, 1, 128, 128, 7), (32, 8, 1, 1, 11),
  ]
]  # fmt: skip
MEMBER_SHAPES = [
  shape_of(*numbers)
  for numbers in [
    (3, 1, 8, 32, 24), (3, 1, 32, 128, 32), (3, 1, 128, 128, 8), (3, 2, 32, 64, 16), (4, 2, 64, 128, 8),
    (1, 1, 64, 32, 32),
  ]
]  # fmt: skip
QUICK = [shape_of(3, 1, 4, 8, 6), shape_of(4, 2, 3, 2, 4), shape_of(1, 1, 4, 2, 5)]


@dataclasses.dataclass(frozen=True)
class Problem:
  """An operation on a batch of one shape for `members` members; 0 means that there is no member axis."""

  operation: str
  shape: Shape
  batch: int
  dtype: str
  members: int = 0

  @property
  def name(self) -> str:
    """Unique name in the benchmark."""
    s = self.shape
    return (
      f"{self.full_operation}/k{s.kernel_size[0]}-s{s.strides[0]}-c{s.channels}-f{s.features}-p{s.pixels}/"
      f"{self.dtype}{'' if s.loop else '/outside_loop'}"
    )

  @property
  def full_operation(self) -> str:
    """Name of the operation in the table."""
    return self.operation + ("_members" if self.members else "")

  @property
  def padding(self) -> Padding:
    """Same padding; no padding for a kernel as large as ARM's."""
    return ((0, 0), (0, 0)) if self.shape.kernel_size[0] > 7 else same_padding(self.shape.kernel_size)

  @property
  def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of the convolution's input and output."""
    side = math.isqrt(self.shape.pixels)
    k, s, pads = self.shape.kernel_size[0], self.shape.strides[0], sum(self.padding[0])
    # The largest even input with that output, as in the networks.
    n = (side - 1) * s + k - pads + (s - 1)
    n -= n % 2 if s > 1 else 0
    return (n, n), (side, side)

  @property
  def flops(self) -> float:
    """FLOP: two per multiplication, where padding counts as work."""
    s = self.shape
    per_image = 2.0 * s.pixels * math.prod(s.kernel_size) * s.channels * s.features
    return math.prod(self.lead) * self.batch * per_image

  @property
  def lead(self) -> tuple[int, ...]:
    """Leading axes of the arguments: the iterations of the loop, and the members."""
    return (_LOOP,) * self.shape.loop + (self.members,) * (self.members > 0)


def arguments_of(problem: Problem) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
  """Returns the shapes of the operation's two arguments, for all iterations if there is a loop."""
  s = problem.shape
  before, after = problem.sizes
  x = (problem.batch, *before, s.channels)
  y = (problem.batch, *after, s.features)
  kernel = (*s.kernel_size, s.channels, s.features)
  pair = {"forward": (x, kernel), "transpose": (y, kernel), "weight_gradient": (x, y)}[problem.operation]
  first, second = (jax.ShapeDtypeStruct((*problem.lead, *shape), problem.dtype) for shape in pair)
  return first, second


def arrays_of(problem: Problem) -> tuple[jax.Array, jax.Array]:
  """Returns random arrays for the operation's two arguments."""
  rng = np.random.default_rng(0)
  first, second = (
    jnp.asarray(rng.standard_normal(a.shape, np.float32), a.dtype) for a in arguments_of(problem)
  )
  return first, second


def settings_of(problem: Problem) -> dict[str, Any]:
  """Returns the settings for the problem's records."""
  return {
    **dataclasses.asdict(problem.shape),
    "operation": problem.full_operation,
    "batch": problem.batch,
    "members": problem.members,
  }


def options_of(problem: Problem) -> dict[str, Callable]:
  """Returns the formulations of the problem's operation."""
  s = problem.shape
  settings: dict[str, Any] = {"strides": s.strides, "padding": problem.padding}
  if problem.operation == "forward":
    options = ops.forward_options(**settings)
  elif problem.operation == "transpose":
    options = ops.transpose_options(problem.sizes[0], loop=s.loop, **settings)
  else:
    options = ops.weight_options(s.kernel_size, loop=s.loop, **settings)
  if max(s.kernel_size) > 7:  # A thousand slices take minutes to compile; `folded` does the same with fewer.
    options.pop("patches")
    options.pop("shifts", None)
  if problem.members:
    inside = dataclasses.replace(problem, members=0, shape=dataclasses.replace(s, loop=True))
    run = functools.partial(ops.by_platform, problem.operation, inside.shape, options_of(inside))
    return ops.member_ways(run, options)
  return options


def prepare(problem: Problem, option: Callable, arguments: tuple[Any, Any]) -> harness.JaxProgram:
  """Prepares the operation, in a loop if the problem has one."""

  def run(a, b):
    return lax.map(lambda at: option(*at), (a, b)) if problem.shape.loop else option(a, b)

  return harness.JaxProgram(run, *arguments, named=lambda y: {"result": y})


def reference(problem: Problem, arguments: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
  """Computes the results with XLA's operations, one after another, in float32."""
  plain = options_of(dataclasses.replace(problem, members=0))["xla"]
  with jax.default_matmul_precision("highest"):
    run = jax.jit(plain)
    flat = [a.astype(jnp.float32).reshape(-1, *a.shape[-4:]) for a in arguments]
    results = jnp.stack([run(a, b) for a, b in zip(*flat, strict=True)])
  return {"result": results.reshape(*arguments[0].shape[:-4], *results.shape[1:])}


def problems(operation: str, platform: str, quick: bool) -> list[Problem]:
  """Returns the problems of an operation; shapes without a stride have no separate transpose."""
  dtype = "float32" if platform == "cpu" else "bfloat16"
  if quick:
    shapes, members, batch, count = QUICK, QUICK, 2, 2
  else:
    shapes, members, batch, count = SHAPES, MEMBER_SHAPES, 16 if platform == "cpu" else 64, _MEMBERS
  strided = operation == "transpose"
  return [
    Problem(operation, dataclasses.replace(shape, loop=loop), batch, dtype, n)
    for loop in (True, False)
    for n, some in ((0, shapes), (count, members))
    for shape in some
    if not (strided and max(shape.strides) == 1)
  ]


def _counts(record: records.Record) -> tuple[float, ...] | None:
  """Returns the costs for a choice: milliseconds, or a compiled program's kilocycles by XLA and by its schedule."""
  if record["status"] == "ok":
    return (1e3 * record["seconds"]["median"],)
  if record["status"] == "compiled":
    return record["compiled"]["cycles"] / 1e3, record["compiled"]["schedule_cycles"] / 1e3
  return None


def _best(costs: Mapping[str, tuple[float, ...]], default: str, gain: float = _GAIN) -> str:
  """Returns the option with the smallest product of costs among those that beat the default in each, or the default."""
  better = {
    name: cost
    for name, cost in costs.items()
    if default not in costs or all(d > gain * c for d, c in zip(costs[default], cost, strict=True))
  }
  return min(better, key=lambda name: math.prod(better[name])) if better else default


def table_of(rows: Iterable[records.Record], gain: float = _GAIN) -> dict[str, list[dict[str, Any]]]:
  """Returns, for each operation, the shapes with the choice and the costs behind it, from `choose` records.

  The default is replaced if it costs more than `gain` times as much.
  """
  cases: dict[str, tuple[Mapping[str, Any], dict[str, tuple[float, ...]]]] = {}
  for record in rows:
    if record["benchmark"] != "choose" or record["quick"]:
      continue
    if (cost := _counts(record)) is not None:
      _, costs = cases.setdefault(record["case"], (record["settings"], {}))
      costs[record["implementation"].removeprefix("jaxfer_")] = cost
  found: dict[str, list[dict[str, Any]]] = {}
  for settings, costs in cases.values():
    operation = settings["operation"]
    ordered = sorted(costs.items(), key=lambda at: at[1])
    rounded = {name: [float(f"{c:.3g}") for c in cost] for name, cost in ordered}
    found.setdefault(operation, []).append({
      **{field.name: settings[field.name] for field in dataclasses.fields(Shape)},
      "loop": bool(settings["loop"]),  # In older records, it is the number of iterations.
      "formulation": _best(costs, choices.DEFAULTS[operation], gain),
      **({"thousand_cycles": rounded} if len(ordered[0][1]) > 1
         else {"milliseconds": {name: cost for name, (cost,) in rounded.items()}}),
    })  # fmt: skip
  return found


def recurrences_of(rows: Iterable[records.Record]) -> dict[str, list[dict[str, Any]]]:
  """Returns, for each operation, the shapes of conv-RNN layers with the choice and the costs behind it.

  An implementation replaces the default if every gradient and training step of the operation and the shape is cheaper
  with it. If nothing was timed, compiled programs are compared instead; they never choose the Pallas
  kernels, because no TPU has run those.

  Args:
    rows: records of `benchmarks.conv_rnn`, or of the same cases in `benchmarks.tpu`.
  """
  cases: dict[str, dict[str, records.Record]] = {}
  rows = [record for record in rows if _is_training_layer(record) and _counts(record) is not None]
  timed = any(record["status"] == "ok" for record in rows)
  for record in rows:
    if timed == (record["status"] == "ok"):
      cases.setdefault(record["case"], {})[record["implementation"].removeprefix("jaxfer_")] = record
  shapes: dict[str, dict[Shape, list[dict[str, records.Record]]]] = {}
  for found in cases.values():
    if len(found) > 1 and _SCAN in found:
      s = found[_SCAN]["settings"]
      shape = shape_of(3, 1, s["channels"], s["features"][0], s["size"])
      operation = "enhanced_recurrence" if s["enhanced"] else "recurrence"
      shapes.setdefault(operation, {}).setdefault(shape, []).append(found)
  return {
    operation: [_recurrence(shape, of_shape) for shape, of_shape in found.items()]
    for operation, found in shapes.items()
  }


def _is_training_layer(record: records.Record) -> bool:
  """Whether a record is of a gradient or training step of one conv-RNN layer in one of our implementations."""
  settings, name = record["settings"], record["implementation"].removeprefix("jaxfer_")
  return (
    record["benchmark"] in ("conv_rnn", "tpu")
    and not record["quick"]
    and name in conv_recurrence.IMPLEMENTATIONS
    and len(settings.get("features", ())) == 1
    and settings["operation"] != "forward"
  )


def _recurrence(shape: Shape, cases: Sequence[Mapping[str, records.Record]]) -> dict[str, Any]:
  """Returns the row of a shape from its cases, each by implementation."""
  costs: dict[str, tuple[float, ...]] = {
    name: tuple(itertools.chain.from_iterable(_counts(case[name]) or () for case in cases))
    for name in conv_recurrence.IMPLEMENTATIONS
    if all(name in case for case in cases)
  }
  estimate = cases[0][_SCAN]["status"] == "compiled"
  allowed = {name: cost for name, cost in costs.items() if not (estimate and name == "pallas")}
  properties = dataclasses.asdict(shape)
  del properties["loop"]  # Layers are looked up without it.
  return {
    **properties,
    "formulation": _best(allowed, _SCAN),
    "thousand_cycles" if estimate else "milliseconds": {
      name: [float(f"{c:.3g}") for c in cost] for name, cost in costs.items()
    },
  }


def write(paths: Sequence[pathlib.Path]) -> None:
  """Replaces a platform's entry in the table by the choices from its results files.

  Args:
    paths: results files. Records of devices other than that of the last choice are left out.

  Raises:
    records.BadRecords: there are no records of the benchmark `choose`.
  """
  every = [record for path in paths for record in records.latest(records.read(path)).values()]
  latest = [r for r in every if r["benchmark"] == "choose"]
  if not latest:
    raise records.BadRecords(f"{', '.join(map(str, paths))}: no records of the benchmark `choose`")
  environment = latest[-1]["environment"]
  device = environment["platform"], environment["device_kind"]
  every = [r for r in every if (r["environment"]["platform"], r["environment"]["device_kind"]) == device]
  latest = [r for r in every if r["benchmark"] == "choose"]
  platform = {"gpu": "cuda"}.get(environment["platform"], environment["platform"])
  found = table_of(latest, _GAIN_ON_CPU if platform == "cpu" else _GAIN)
  found |= recurrences_of(every)
  table = json.loads(choices.TABLE.read_text())
  table["platforms"][platform] = {
    "source": ", ".join(f"benchmarks/results/{path.name}" for path in paths),
    "device": environment["device_kind"] if platform != "cpu" else environment["cpu"],
    **({"estimate": "compiled for this device, not run"} if latest[-1]["status"] == "compiled" else {}),
    "choices": found,
  }
  choices.TABLE.write_text(_json(table))
  choices.reload()


def _json(table: Mapping[str, Any]) -> str:
  """Formats the table with one line per shape, so that changes are easy to read."""
  head = json.dumps(table, indent=1)
  for entry in table["platforms"].values():
    for rows in entry["choices"].values():
      for row in rows:
        spread = json.dumps(row, indent=1).replace("\n", "\n     ")
        head = head.replace(spread, json.dumps(row), 1)
  return head + "\n"


def main() -> None:
  flags = harness.parser(__doc__)
  flags.add_argument("--write", action="store_true", help="put the choices into the table")
  flags.add_argument(
    "--from",
    dest="sources",
    type=pathlib.Path,
    nargs="+",
    metavar="RESULTS",
    help="write the table from these files, of one platform",
  )
  flags.add_argument("--only", default="", help="run the cases whose name contains this")
  flags.add_argument(
    "--formulations", help="time only these, separated by commas; others keep the recorded times"
  )
  arguments = flags.parse_args()
  if arguments.sources is not None:
    write(arguments.sources)
    return
  session = harness.session("choose", arguments)
  for operation in _OPERATIONS:
    for problem in problems(operation, session.platform, session.quick):
      if arguments.only in problem.name:
        _measure(session, problem)
    if arguments.write and not session.quick and session.path.exists():
      write([session.path])  # Later measurements use these choices.
  harness.finish(session)


def _measure(session: harness.Session, problem: Problem) -> None:
  wanted = session.arguments.formulations
  options = {f"jaxfer_{name}": option for name, option in options_of(problem).items()
             if wanted is None or name in wanted.split(",")}  # fmt: skip
  if not options or session.recorded(problem.name, list(options)) is not None:
    return
  arguments = arrays_of(problem)
  case = harness.Case(
    name=problem.name,
    settings=settings_of(problem),
    work={"flops": problem.flops},
    tolerance=1e-4 if problem.dtype == "float32" and session.platform == "cpu" else 3e-2,
    dtype=problem.dtype,
    budget=_BUDGET,
  )  # fmt: skip
  contenders = [
    harness.Contender(name, functools.partial(prepare, problem, option, arguments))
    for name, option in options.items()
  ]
  session.measure(case, contenders, functools.partial(reference, problem, arguments), "XLA's own, float32")


if __name__ == "__main__":
  main()
