"""Shared code of the two pickle readers, which never import or call what a file names.

`pickle.load` runs any code that a file names. The two readers, `data.unpickle` for plain data and `convert.torch_file`
for PyTorch files, first `check` the opcodes of a pickle. Then they run a `pickle.Unpickler` whose `find_class` knows a
few names and returns placeholder objects instead of importing them. The placeholders are `Sealed`, so that no opcode
can change them.
"""

import pickle
import pickletools
from collections.abc import Set
from typing import Any

# Opcodes with which protocol 2 and later write containers, strings, numbers, global names and calls of these.
OPCODES = frozenset({
  "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
  "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "EMPTY_LIST",
  "EMPTY_TUPLE", "EMPTY_DICT", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS",
  "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD",
})  # fmt: skip
# Objects in memory need up to 64 times as many bytes as the opcodes that make them.
MAX_OPCODES = 1 << 22
# Python hashes nested tuples recursively in C, and a stack of 8 MiB overflows at somewhat more than 100,000 levels.
MAX_TUPLES = 1 << 16
# NumPy allows no more dimensions. Multiplying a million sizes would take hours.
MAX_DIMENSIONS = 64
# Integers beyond 64 bits. PyTorch's older format has one. A dict of many that share a hash takes hours to build.
_MAX_LONG = 16
# Exceptions that Python raises for a pickle that is cut short or changed.
UNSOUND = (
  pickle.UnpicklingError, EOFError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError,
  TypeError, ValueError,
)  # fmt: skip


class Forbidden(ValueError):
  """The pickle is refused. The message says why."""


class Sealed:
  """Ignores the state that a pickle sets, such as hooks and metadata, so that no attribute is overwritten."""

  def __setstate__(self, state: Any) -> None:
    del state


class _Sizes:
  """Follows the stack of a pickle and knows how many objects each object consists of, shared ones counted each time.

  A tuple of two references to one tuple, that one too, and so on for fifty levels takes a few hundred bytes. To hash or
  print it takes years.
  """

  def __init__(self) -> None:
    self.stack: list[int | None] = []  # None is a mark.
    self.memo: dict[int, int] = {}

  def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> int:
    """Applies an opcode; returns the size of the object that it makes, or 0. Raises ValueError for a damaged pickle."""
    before, name = opcode.stack_before, opcode.name
    try:
      if name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
        self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1] or 0
        return 0
      if name in ("BINGET", "LONG_BINGET", "GET"):
        size = self.memo[argument]
      else:
        parts: list[int | None] = []
        if pickletools.markobject in before:
          while (part := self.stack.pop()) is not None:
            parts.append(part)
          before = before[: before.index(pickletools.markobject)]
        parts += [self.stack.pop() for _ in before]
        size = 1 + sum(part or 0 for part in parts)
    except LookupError:
      raise ValueError(f"the pickle is damaged at {name}") from None
    if opcode.stack_after:
      self.stack.append(None if name == "MARK" else size)
    return size


def check(data: bytes, opcodes: Set[str], only: str) -> None:
  """Checks the opcodes of a pickle without running them.

  Args:
    data: bytes that begin with the pickle.
    opcodes: names of the allowed opcodes.
    only: what the allowed opcodes can build, for the message.

  Raises:
    Forbidden: the pickle has another opcode, has too many opcodes, tuples or integers beyond 64 bits, has an object
      that repeats its parts too often, or uses a memo number beyond its length.
    ValueError: the pickle is cut short, or the argument of an opcode is malformed.
  """
  argument: Any
  tuples = long = 0
  sizes = _Sizes()
  for number, (opcode, argument, _) in enumerate(pickletools.genops(data), start=1):
    if opcode.name not in opcodes:
      raise Forbidden(f"the pickle uses {opcode.name}: only {only} are read")
    # The memo is an array as long as its largest number.
    if opcode.name in ("LONG_BINPUT", "PUT") and argument > min(len(data), MAX_OPCODES):
      raise Forbidden(f"the pickle is damaged: its memo number {str(argument)[:20]} is beyond its length")
    tuples += opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
    if sizes.follow(opcode, argument) > MAX_OPCODES:
      raise Forbidden(f"the pickle repeats its parts more than {MAX_OPCODES} times: only {only} are read")
    long += type(argument) is int and argument.bit_length() > 64
    if long > _MAX_LONG:
      raise Forbidden(f"the pickle has more than {_MAX_LONG} integers beyond 64 bits: only {only} are read")
    if number > MAX_OPCODES or tuples > MAX_TUPLES:
      raise Forbidden(
        f"the pickle has more than {MAX_OPCODES} opcodes or {MAX_TUPLES} tuples: only {only} are read"
      )
