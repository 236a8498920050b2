"""Reads operations of optimised TPU programs, with numbers of executions and costs, from the text of scheduled HLO.

XLA:TPU writes the cycles of its model (`estimated_cycles`) on each operation that it schedules. It writes them on a
fusion but not inside it, and neither on operations that only name or move a buffer (`tuple`, `bitcast`, `copy-start`: a
copy in parallel with other work) nor on Pallas kernels. A `while` has none either: its body costs them once per
iteration.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Hashable, Iterator, Mapping

_HEAD = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\) -> .* \{$")
_OPERATION = re.compile(
  r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.*?) (?P<opcode>[a-z][a-z0-9\-]*)\((?P<rest>.*)$"
)
_ATTRIBUTES = re.compile(
  r", (?:calls|to_apply)=%?[\w.\-]+|, (?:metadata|sharding|frontend_attributes|backend_config)=.*"
)
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_WRAPPERS = ("copy", "bitcast", "convert", "reshape", "copy-done")
_MOVES = {
  "bitcast", "broadcast", "concatenate", "constant", "copy", "copy-start", "custom-call", "dynamic-slice",
  "dynamic-update-slice", "fusion", "get-tuple-element", "iota", "pad", "parameter", "reshape", "reverse", "slice",
  "slice-start", "transpose", "tuple",
}  # fmt: skip
_COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
PALLAS = "tpu_custom_call"


class Unreadable(Exception):
  """A cost cannot be read from the text; the message names the operation."""


@dataclasses.dataclass(frozen=True)
class Operation:
  """A line of a computation.

  Attributes:
    name: unique name in the program.
    type: type of the result, with layout and memory space.
    opcode: opcode, such as "fusion".
    operands: names of the operands.
    attributes: the rest of the line.
  """

  name: str
  type: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str

  @property
  def cycles(self) -> int | None:
    """XLA's estimate, or None if there is none."""
    found = _CYCLES.search(self.attributes)
    return int(found[1]) if found else None

  @property
  def is_pallas(self) -> bool:
    """Whether it is a Pallas (Mosaic) kernel."""
    return self.opcode == "custom-call" and f'custom_call_target="{PALLAS}"' in self.attributes

  def called(self, attribute: str) -> list[str]:
    """Returns the computations that an attribute such as "calls" names."""
    found = re.search(rf"\b{attribute}=(?:%?([\w.\-]+)|\{{([^}}]*)\}})", self.attributes)
    if not found:
      return []
    return [found[1]] if found[1] else [name.strip().lstrip("%") for name in found[2].split(",")]

  @property
  def source(self) -> str:
    """The JAX operation from which it originates, from the metadata; empty if unknown."""
    found = re.search(r'op_name="([^"]*)"', self.attributes)
    return found[1] if found else ""


@dataclasses.dataclass
class Computation:
  """Operations by name, in order; the root is the last one."""

  operations: dict[str, Operation]
  root: str = ""

  @functools.cached_property
  def parameters(self) -> list[str]:
    """Names of the parameters by number."""
    numbered = {
      int(re.match(r"(\d+)", o.attributes)[1]): o.name  # type: ignore[index]
      for o in self.operations.values()
      if o.opcode == "parameter"
    }
    return [numbered[k] for k in sorted(numbered)]

  @functools.cached_property
  def users(self) -> Mapping[str, list[Operation]]:
    """The operations that read each value."""
    found = collections.defaultdict(list)
    for operation in self.operations.values():
      for operand in dict.fromkeys(operation.operands):
        found[operand].append(operation)
    return found


@dataclasses.dataclass(frozen=True)
class Run:
  """An operation of a program, the computation that holds it, and how often it runs."""

  operation: Operation
  computation: Computation
  trips: int


class Module:
  """A program of one device."""

  def __init__(self, text: str):
    self.computations: dict[str, Computation] = {}
    self.entry, current = "", None
    for line in text.splitlines():
      if head := _HEAD.match(line):
        current = self.computations[head["name"]] = Computation({})
        self.entry = head["name"] if head["entry"] else self.entry
      elif line.startswith("}"):
        current = None
      elif current is not None and (found := _OPERATION.match(line)):
        inside = found["rest"].split(")", 1)[0] if found["opcode"] not in ("parameter", "constant") else ""
        operands = tuple(re.findall(r"%([\w.\-]+)", inside))
        current.operations[found["name"]] = Operation(
          found["name"], found["type"], found["opcode"], operands, found["rest"]
        )
        if found["root"]:
          current.root = found["name"]
    self.alias = "input_output_alias={" in text.split("\n", 1)[0]

  def runs(self) -> Iterator[Run]:
    """Yields every operation outside fusions, with its number of executions.

    Raises:
      Unreadable: the number of iterations of a loop cannot be read.
    """
    yield from self._runs(self.entry, 1)

  def _runs(self, name: str, trips: int) -> Iterator[Run]:
    computation = self.computations[name]
    for operation in computation.operations.values():
      if operation.opcode == "while":
        yield from self._runs(operation.called("body")[0], trips * self.trips(name, operation))
      elif operation.opcode == "conditional":
        branches = operation.called("branch_computations") or [
          *operation.called("true_computation"),
          *operation.called("false_computation"),
        ]
        each = [list(self._runs(branch, trips)) for branch in branches]
        yield from max(each, key=lambda runs: sum(r.trips * (r.operation.cycles or 0) for r in runs))
      elif operation.opcode == "call":
        yield from self._runs(operation.called("to_apply")[0], trips)
      elif operation.opcode == "async-start" and operation.cycles is None:
        yield from self._runs(operation.called("calls")[0], trips)
      else:
        yield Run(operation, computation, trips)

  def trips(self, computation: str, loop: Operation) -> int:
    """Returns the number of iterations of a `while` whose counter starts at, grows by and is compared with constants.

    Raises:
      Unreadable: the loop has no such counter.
    """
    condition = self.computations[loop.called("condition")[0]]
    body = self.computations[loop.called("body")[0]]
    start = self.computations[computation]

    def initial(number: int) -> tuple[int, int]:
      source = self.behind(start, loop.operands[0])
      if source.opcode != "tuple":
        raise Unreadable(f"loop {loop.name}: its first values are not a tuple")
      return self._linear(start, source.operands[number], lambda _: (1, 0))

    def invariant(number: int) -> tuple[int, int]:
      """Returns a value that the body does not change."""
      after = self.behind(body, body.operations[body.root].operands[number])
      if after.opcode != "get-tuple-element" or f"index={number}" not in after.attributes:
        raise Unreadable(
          f"loop {loop.name}: its condition compares a value that is neither counter nor constant"
        )
      return initial(number)

    compare, operands = self._comparison(condition, loop)
    for counter in (o for o in operands if isinstance(o, int)):

      def at(number: int, counter: int = counter) -> tuple[int, int]:
        return (1, 0) if number == counter else invariant(number)

      try:
        scale, first = initial(counter)
        moves, step = self._linear(body, body.operations[body.root].operands[counter], at)
        sides = [at(o) if isinstance(o, int) else (0, o[0]) for o in operands]
        if scale == 0 and moves == 1 and step:
          return self._count(loop, compare, sides, first, step)
      except Unreadable:
        continue
    raise Unreadable(f"loop {loop.name}: its number of iterations cannot be read from its condition")

  @staticmethod
  def _count(loop: Operation, direction: str, sides: list[tuple[int, int]], first: int, step: int) -> int:
    compare = {"LT": int.__lt__, "LE": int.__le__, "GT": int.__gt__, "GE": int.__ge__, "NE": int.__ne__}[
      direction
    ]
    now, trips = first, 0
    while compare(*(scale * now + offset for scale, offset in sides)):
      now, trips = now + step, trips + 1
      if trips > 10_000_000:
        raise Unreadable(f"loop {loop.name}: it does not end")
    return trips

  def _comparison(self, condition: Computation, loop: Operation) -> tuple[str, list[int | tuple[int]]]:
    """Returns the direction, and each side: the number of a value of the loop, or a constant in a tuple."""
    root, bound = condition.operations[condition.root], condition
    names: Callable[[str], str] = lambda name: name  # noqa: E731
    if root.opcode == "fusion":
      outer = root
      bound = self.computations[root.called("calls")[0]]
      root = bound.operations[bound.root]
      names = lambda name: outer.operands[bound.parameters.index(name)]  # noqa: E731
    if root.opcode != "compare":
      raise Unreadable(f"loop {loop.name}: its condition is not a comparison but {root.opcode}")
    sides: list[int | tuple[int]] = []
    for name in root.operands:
      at = self.behind(bound, name)
      if at.opcode == "parameter" and bound is not condition:
        at = self.behind(condition, names(at.name))
      if at.opcode == "get-tuple-element":
        sides.append(int(re.search(r"index=(\d+)", at.attributes)[1]))  # type: ignore[index]
      else:
        sides.append((_constant(at, loop.name),))
    return re.search(r"direction=(\w+)", root.attributes)[1], sides  # type: ignore[index]

  def behind(self, computation: Computation, name: str) -> Operation:
    """Returns the operation whose result a value is a copy of."""
    operation = computation.operations[name]
    while True:
      if operation.opcode in _WRAPPERS or operation.opcode == "copy-start":
        name = operation.operands[0]
      elif operation.opcode == "get-tuple-element":
        number = int(re.search(r"index=(\d+)", operation.attributes)[1])  # type: ignore[index]
        source = computation.operations[operation.operands[0]]
        if source.opcode != "tuple":
          return operation
        name = source.operands[number]
      else:
        return operation
      operation = computation.operations[name]

  def _linear(
    self, computation: Computation, name: str, element: Callable[[int], tuple[int, int]]
  ) -> tuple[int, int]:
    """Returns (a, b) if a value is a * counter + b; `element` returns these for the loop's values by number."""
    at = self.behind(computation, name)
    if at.opcode == "get-tuple-element":
      return element(int(re.search(r"index=(\d+)", at.attributes)[1]))  # type: ignore[index]
    if at.opcode in ("add", "subtract"):
      (a, b), (c, d) = (self._linear(computation, operand, element) for operand in at.operands)
      return (a + c, b + d) if at.opcode == "add" else (a - c, b - d)
    if at.opcode == "fusion":
      inner = self.computations[at.called("calls")[0]]
      given = dict(zip(inner.parameters, at.operands, strict=True))

      def through(name: str) -> tuple[int, int]:
        source = self.behind(inner, name)
        if source.opcode == "parameter":
          return self._linear(computation, given[source.name], element)
        if source.opcode in ("add", "subtract"):
          (a, b), (c, d) = map(through, source.operands)
          return (a + c, b + d) if source.opcode == "add" else (a - c, b - d)
        return 0, _constant(source, at.name)

      return through(inner.root)
    return 0, _constant(at, name)

  def likeness(self, run: Run) -> Hashable:
    """Returns a key that is equal for operations with equal computation and types, of which only one is scheduled."""
    operation = run.operation
    operands = tuple(run.computation.operations[name].type for name in operation.operands)
    kernel = re.search(r'"body":"([^"]*)"', operation.attributes)
    inner = tuple(self._canonical(name) for name in operation.called("calls"))
    return operation.opcode, operation.type, operands, inner, operation.cycles, kernel and kernel[1]

  @functools.cache  # noqa: B019  A module lives as long as its program is counted.
  def _canonical(self, name: str) -> Hashable:
    """Returns a computation in the order in which its root needs the operations, without names and origins."""
    operations = self.computations[name].operations
    numbers: dict[str, int] = {}
    found, pending = [], [self.computations[name].root]
    while pending:
      operation = operations[pending[-1]]
      waiting = [operand for operand in operation.operands if operand not in numbers]
      if waiting:
        pending += reversed(waiting)
        continue
      pending.pop()
      if operation.name in numbers:
        continue
      numbers[operation.name] = len(numbers)
      rest = operation.attributes.split(")", 1)[-1] if operation.operands else operation.attributes
      inner = [self._canonical(n) for a in ("calls", "to_apply") for n in operation.called(a)]
      operands = tuple(numbers[operand] for operand in operation.operands)
      found.append((operation.opcode, operation.type, operands, tuple(inner), _ATTRIBUTES.sub("", rest)))
    return tuple(found)

  def products(self) -> dict[str, int]:
    """Counts convolutions and matrix products by the dtypes of their operands, such as "bf16 x bf16"."""
    found = collections.Counter(
      " x ".join(c.operations[name].type.split("[")[0] for name in o.operands)
      for c in self.computations.values()
      for o in c.operations.values()
      if o.opcode in ("convolution", "dot")
    )
    return dict(found)

  def kind(self, operation: Operation) -> str:
    """Returns "pallas", "convolution" (or matrix product), "collective", "copy" (only moves values) or "vector"."""
    if operation.is_pallas:
      return "pallas"
    inside = self._opcodes(operation)
    if inside & {"convolution", "dot"}:
      return "convolution"
    if any(opcode.startswith(_COLLECTIVES) for opcode in inside):
      return "collective"
    return "copy" if inside <= _MOVES else "vector"

  def _opcodes(self, operation: Operation) -> set[str]:
    found = {operation.opcode}
    for name in operation.called("calls"):
      for inner in self.computations[name].operations.values():
        found |= self._opcodes(inner)
    return found


def _constant(operation: Operation, where: str) -> int:
  found = re.match(r"(-?\d+)\)", operation.attributes)
  if operation.opcode != "constant" or not found:
    raise Unreadable(f"{where}: {operation.name} is not a constant but {operation.opcode}")
  return int(found[1])
