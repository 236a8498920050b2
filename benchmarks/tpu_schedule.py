"""Counts the bundles of a final TPU schedule from its text, with loops multiplied out.

A TPU core issues one VLIW bundle per cycle. In the dump (`*-final_bundles.txt`) each line is a bundle:

  0x6 LB: > { %s19 = sadd.s32 4294967295, %s18  ;;  %s18 = sphi %s17, %s25 } /* Start region 161 */

A loop ends with a branch back to a region that starts at or above it, and with the delay slots of the branch. The
compiler pipelines the loop of a kernel: the first and last iterations only start and await copies, and a branch skips
the work in them. Therefore the number of executions of a region is computed from the branches around it, iteration by
iteration. If a branch depends on anything but the index of the loop, the region counts in every iteration, which is an
upper bound.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Mapping

_BUNDLE = re.compile(r"^\s*(?P<address>0x[0-9a-f]+|0)\s+(?:[A-Z]{2}\s*)*:[\s>]*\{")
_REGION = re.compile(r"Start(?:/End empty)? region (\d+)")
_BRANCH = re.compile(
  r"sbr\.rel\s*(?:\((?P<negated>!?)(?P<predicate>%p\w+)\),?)?\s*target = \$region(?P<target>\d+)"
)
_ASSIGNMENT = re.compile(r"(?P<name>%[sp]\w+) = (?P<operation>[a-z][\w.]*) (?P<operands>[^;}]*)")
_OPERATION = re.compile(r"= ([a-z]+)")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_MOST_TRIPS = 1_000_000
_DELAY_SLOTS = 4  # Bundles after a branch that are executed whether it is taken or not.

# Units of a core and the operations that use one of their slots, without trailing digits (v6e: "vmatpush1"). Other
# operations that begin with "v" run on the vector unit.
_UNITS: Mapping[str, tuple[str, ...]] = {
  "matrix": ("vmatmul", "vmatpush", "vmatprep", "vdwg"),
  "results": ("vpop",),
  "loads": ("vld",),
  "stores": ("vst",),
  "transcendentals": ("vtanh", "vpow", "vrcp", "vrsqrt", "vlog"),
  "rotations": ("vrot", "vxpose"),
}
_UNIT_OF: Mapping[str, str] = {name: unit for unit, names in _UNITS.items() for name in names}

_COMPARISONS: Mapping[str, Callable[[int, int], bool]] = {
  "eq": lambda a, b: a == b,
  "ne": lambda a, b: a != b,
  "lt": lambda a, b: a < b,
  "le": lambda a, b: a <= b,
  "gt": lambda a, b: a > b,
  "ge": lambda a, b: a >= b,
}
_LOGIC: Mapping[str, Callable[..., bool]] = {
  "pneg": lambda a: not a,
  "pand": lambda a, b: a and b,
  "por": lambda a, b: a or b,
  "pnand": lambda a, b: not (a and b),
  "pnor": lambda a, b: not (a or b),
}


class _Unknown(Exception):
  """A value that is not a function of the loop's index."""


@dataclasses.dataclass(frozen=True)
class Count:
  """Bundles of a schedule.

  Attributes:
    bundles: number of executed bundles, with loops multiplied out.
    lines: number of bundles in the text.
    unread: loops whose iterations cannot be counted, by the address of their first bundle; each counts as one
      iteration.
    units: share of a unit's slots that the executed bundles fill, by unit. The number of slots is taken from the bundle
      that uses most of them, so a share is too high if no bundle fills the unit.
  """

  bundles: int
  lines: int
  unread: tuple[str, ...]
  units: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class _Branch:
  at: int
  target: int
  negated: bool
  predicate: str | None


class _Schedule:
  """A schedule's bundles, assignments and branches."""

  def __init__(self, text: str):
    self.bundles: list[str] = []
    self.addresses: list[str] = []
    for line in text.splitlines():
      if head := _BUNDLE.match(line):
        self.addresses.append(head["address"])
        self.bundles.append(line)
      elif self.bundles:
        self.bundles[-1] += f" {line}"  # The windows of a copy are spelled out over several lines.
    regions: dict[str, int] = {}
    self.values: dict[str, tuple[str, list[str]]] = {}
    for at, bundle in enumerate(self.bundles):
      for region in _REGION.findall(bundle):
        regions.setdefault(region, at)
      for found in _ASSIGNMENT.finditer(_COMMENT.sub("", bundle)):
        operands = [part.strip() for part in found["operands"].split(",")]
        # A guarded move has the value that applies if the loop is entered.
        operands = [part for part in operands if not part.startswith("(")]
        self.values.setdefault(found["name"], (found["operation"], operands))
    self.branches = [
      _Branch(at, regions[found["target"]], found["negated"] == "!", found["predicate"])
      for at, bundle in enumerate(self.bundles)
      for found in _BRANCH.finditer(bundle)
      if found["target"] in regions
    ]

  def value(self, name: str, index: Mapping[str, int]) -> int | bool:
    """Returns a scalar or predicate for the given values of `index`."""
    if name in index:
      return index[name]
    if re.fullmatch(r"-?\d+", name):
      number = int(name)
      return number - 2**32 if number >= 2**31 else number
    operation, operands = self.values.get(name, ("", []))
    head, *kind = operation.split(".")
    if head not in ("smov", "sadd", "scmp", *_LOGIC):
      raise _Unknown
    values = [self.value(operand, index) for operand in operands]
    if head == "smov":
      return values[0]
    if head == "sadd":
      return sum(values)
    if head == "scmp":
      return _COMPARISONS[kind[0]](*values)
    return _LOGIC[head](*values)

  def source(self, name: str) -> str:
    """Follows copies of scalars back, and returns the name of the first value."""
    while (found := self.values.get(name)) and found[0] == "smov" and len(found[1]) == 1:
      name = found[1][0]
    return name

  def indices(self, back: _Branch) -> list[dict[str, int]]:
    """Returns the index of each iteration of the loop that `back` closes.

    Raises:
      _Unknown: the text does not show the number of iterations.
    """
    if back.predicate is None:
      raise _Unknown
    _, compared = self.values.get(back.predicate, ("", []))
    following = next((name for name in compared if self.values.get(name, ("",))[0].startswith("sadd")), None)
    phis = {
      name: operands[0]
      for name, (operation, operands) in self.values.items()
      if operation == "sphi" and len(operands) == 2 and self.source(operands[1]) == following
    }
    if following is None or not phis:
      raise _Unknown
    name, first = next(iter(phis.items()))
    step = next((int(x) for x in self.values[following][1] if re.fullmatch(r"\d+", x)), None)
    now = self.value(first, {})
    if step is None:
      raise _Unknown
    found: list[dict[str, int]] = []
    while len(found) < _MOST_TRIPS:
      found.append({name: now})
      now += step - 2**32 if step >= 2**31 else step
      if self.value(back.predicate, {following: now}) != (not back.negated):
        return found
    raise _Unknown


def count(text: str) -> Count:
  """Counts a schedule."""
  schedule = _Schedule(text)
  times = [1] * len(schedule.bundles)
  loops = [branch for branch in schedule.branches if branch.target <= branch.at]
  unread = []
  for loop in loops:
    try:
      indices = schedule.indices(loop)
    except _Unknown:
      unread.append(schedule.addresses[loop.target])
      continue
    inside = range(loop.target, min(loop.at + _DELAY_SLOTS + 1, len(times)))
    runs = dict.fromkeys(inside, len(indices))
    for branch in schedule.branches:
      inner = any(other is not loop and loop.target <= other.target <= branch.at <= other.at <= loop.at
                  for other in loops)  # fmt: skip
      if branch.at in inside and branch.at < branch.target <= loop.at and not inner:
        taken = _not_skipped(schedule, branch, indices)
        for at in range(branch.at + _DELAY_SLOTS + 1, branch.target):
          runs[at] = min(runs[at], taken)
    for at, factor in runs.items():
      times[at] *= factor
  return Count(sum(times), len(times), tuple(unread), _units(schedule.bundles, times))


def _units(bundles: list[str], times: list[int]) -> dict[str, float]:
  taken: collections.Counter[str] = collections.Counter()
  slots: collections.Counter[str] = collections.Counter()
  for bundle, runs in zip(bundles, times, strict=True):
    names = [
      name
      for name in _OPERATION.findall(_COMMENT.sub("", bundle))
      if name.startswith("v") and not name.startswith("vsync")
    ]
    here = collections.Counter(_UNIT_OF.get(name, "vector") for name in names)
    slots |= here
    taken.update({unit: runs * n for unit, n in here.items()})
  return {unit: n / (slots[unit] * sum(times)) for unit, n in taken.most_common()}


def _not_skipped(schedule: _Schedule, branch: _Branch, indices: list[dict[str, int]]) -> int:
  """Returns the number of iterations in which a forward branch is not taken; all if that cannot be read."""
  if branch.predicate is None:
    return len(indices)
  try:
    taken = [schedule.value(branch.predicate, index) != branch.negated for index in indices]
  except _Unknown:
    return len(indices)
  return taken.count(False)
