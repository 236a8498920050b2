"""Reads lowered and compiled programs, and finds the program that a training compiles."""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax


class Loop(NamedTuple):
  """A loop of a program, with its number of iterations (None if that is not constant)."""

  number: int
  steps: int | None


@dataclasses.dataclass(frozen=True)
class Contraction:
  """A convolution or a matrix product.

  Attributes:
    kind: "convolution" or "dot_general".
    dtypes: element types of its two operands, such as "f32".
    summed: number of products that are summed for each element of the result.
    work: multiply-adds of one pass.
    loops: surrounding loops, the outermost first.
    over_leading: whether it is a convolution that sums over the leading axis of both operands. For images [batch,
      height, width, channels], this is the gradient of a kernel.
  """

  kind: str
  dtypes: tuple[str, str]
  summed: int
  work: int
  loops: tuple[Loop, ...]
  over_leading: bool


def contractions(lowered: jax.stages.Lowered) -> list[Contraction]:
  """Returns all convolutions and matrix products of a program; those of a function once per call."""
  module: Any = lowered.compiler_ir("stablehlo")
  functions = {op.attributes["sym_name"].value: op.operation for op in module.body.operations}
  number = iter(range(10**6))

  def walk(op, loops: tuple[Loop, ...]) -> Iterator[Contraction]:
    name = op.name.removeprefix("stablehlo.")
    if name in ("convolution", "dot_general"):
      yield _contraction(name, op, loops)
    elif name in ("func.call", "call"):
      yield from walk(functions[op.attributes["callee"].value], loops)
    elif name == "while":
      loops = (*loops, Loop(next(number), _steps(op)))
    for region in op.regions:
      for block in region.blocks:
        for inner in block.operations:
          yield from walk(inner.operation, loops)

  return list(walk(functions["main"], ()))


def _contraction(kind: str, op, loops: tuple[Loop, ...]) -> Contraction:
  left, right, result = (list(value.type.shape) for value in (*op.operands, *op.results))
  over_leading = False
  if kind == "convolution":
    # Such as #stablehlo.conv<[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]>.
    images, kernel, _ = (
      labels.split(", ") for labels in re.findall(r"\[(.*?)\]", str(op.attributes["dimension_numbers"]))
    )
    summed = math.prod(right) // right[kernel.index("o")]
    over_leading = images[0] == "f" and kernel[0] == "i"
  else:
    axes = re.search(r"lhs_contracting_dimensions = \[(.*?)\]", str(op.attributes["dot_dimension_numbers"]))
    summed = math.prod(left[int(axis)] for axis in axes[1].split(", ")) if axes else 1
  dtypes = tuple(str(value.type.element_type) for value in op.operands)
  return Contraction(kind, (dtypes[0], dtypes[1]), summed, math.prod(result) * summed, loops, over_leading)


def _steps(op) -> int | None:
  """Returns the bound of a counted loop: the constant with which its condition compares the counter."""
  for inner in op.regions[0].blocks[0].operations:
    if inner.operation.name == "stablehlo.compare":
      for operand in inner.operation.operands:
        if bound := re.search(r"stablehlo.constant dense<(\d+)>", str(operand.owner)):
          return int(bound[1])
  return None


# Operations that do not change the numbers of an array.
_MOVES = ("bitcast", "convert", "copy", "fusion", "parameter", "reshape", "transpose")


def reduced_products(text: str) -> list[str]:
  """Returns matrix products of an optimised program that only reductions read.

  jaxlib 0.10.0 and 0.10.1 compute such a pair wrongly on CPU, by one fusion of the kind `__ynn_fusion`, if it is large
  enough. A pair is found whether it was fused or not, so programs of any size can be checked.

  Args:
    text: result of `jax.stages.Compiled.as_text`.

  Returns:
    Names of the products.
  """
  opcodes: dict[str, str] = {}
  readers: dict[str, list[str]] = collections.defaultdict(list)
  parameters: dict[str, dict[int, str]] = collections.defaultdict(dict)
  roots: dict[str, str] = {}
  fusions: list[tuple[str, str, list[str]]] = []  # Name, computation and operands of each.
  computation = ""
  for line in text.splitlines():
    if opening := re.match(r"(?:ENTRY )?%([\w.-]+) \(.*\{$", line):
      computation = opening[1]
    elif found := re.match(r"  (ROOT )?%([\w.-]+) = .*? ([\w-]+)\((.*?)\)(?:, |$)", line):
      root, name, opcode, inside = found.groups()
      opcodes[name] = opcode
      operands = re.findall(r"%([\w.-]+)", inside)
      if root:
        roots[computation] = name
      if opcode == "parameter":
        parameters[computation][int(inside)] = name
      if opcode == "fusion":
        fusions.append((name, re.search(r"calls=%([\w.-]+)", line)[1], operands))
      else:
        for operand in operands:
          readers[operand].append(name)
  for name, called, operands in fusions:
    readers[roots[called]].append(name)
    for k, operand in enumerate(operands):
      readers[operand].append(parameters[called][k])

  def ends(name: str) -> Iterator[str]:
    """Yields the instructions that read the numbers of an instruction; none if they are a result of the program."""
    for reader in readers[name] or [""]:
      if opcodes.get(reader) in _MOVES:
        yield from ends(reader)
      else:
        yield opcodes.get(reader, "result")

  products = [name for name, opcode in opcodes.items() if opcode == "dot"]
  return [name for name in products if set(ends(name)) <= {"reduce", "reduce-window"}]


def watched(build: Callable[[], Callable]) -> tuple[Callable, list[jax.stages.Compiled]]:
  """Returns what `build` makes with `jax.jit` or `jax.pmap`, and a list of the programs that its calls run."""
  programs: list[jax.stages.Compiled] = []

  def watching(transform):
    def transformed(function, *args, **options):
      lower = transform(function, *args, **options).lower

      def call(*arguments):
        programs.append(lower(*arguments).compile())
        return programs[-1](*arguments)

      return call

    return transformed

  jit, pmap = jax.jit, jax.pmap
  jax.jit, jax.pmap = watching(jit), watching(pmap)
  try:
    return build(), programs
  finally:
    jax.jit, jax.pmap = jit, pmap


class Program(NamedTuple):
  """A function from `jax.jit` or `jax.pmap`, and the arguments of a call."""

  function: Any
  arguments: tuple[Any, ...]


class _Called(Exception):
  """Carries the program that would have run."""


def chunk_program(spread, stage, driver: str, *arguments) -> Program:
  """Returns the program that `spread.trainer(stage, driver)` would run on these arguments; arrays may be shapes."""

  class Caught:
    def __init__(self, function):
      self.function = function

    def __call__(self, *arguments):
      raise _Called(Program(self.function, arguments))

  jit, pmap = jax.jit, jax.pmap
  jax.jit, jax.pmap = (lambda *a, f=f, **k: Caught(f(*a, **k)) for f in (jit, pmap))
  try:
    spread.trainer(stage, driver)(*arguments)
  except _Called as called:
    return called.args[0]
  finally:
    jax.jit, jax.pmap = jit, pmap
  raise AssertionError("the trainer ran without a compiled function")
