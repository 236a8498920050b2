"""What the readers of pickles share, so that nothing which a file names is imported or called.

`pickle.load` runs whatever the file says. Our two readers, `data.unpickle` for plain data and `convert.torch_file` for
files of PyTorch, first `check` a pickle's opcodes. Then they run a `pickle.Unpickler` of their own, whose `find_class`
knows a few names and returns objects of ours in place of what the names stand for. These objects are `Sealed`, so that
no opcode can change them.
"""

import pickle
import pickletools
from collections.abc import Set
from typing import Any

# For containers, texts, numbers, and names and calls of them, as protocol 2 and later write them.
OPCODES = frozenset({
  "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
  "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "EMPTY_LIST",
  "EMPTY_TUPLE", "EMPTY_DICT", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS",
  "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD",
})  # fmt: skip
# Objects in memory take up to 64 times the bytes of the opcodes that make them.
MAX_OPCODES = 1 << 22
# Python hashes nested tuples by recursion in C, and a stack of 8 MiB overflows somewhere above 100,000 of them.
MAX_TUPLES = 1 << 16
# What Python raises where a pickle is cut short or changed.
UNSOUND = (
  pickle.UnpicklingError, EOFError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError,
  TypeError, ValueError,
)  # fmt: skip


class Forbidden(ValueError):
  """A pickle that is not read. The message says why."""


class Sealed:
  """Takes no state from a pickle: hooks, metadata and the like are dropped, nothing is overwritten."""

  def __setstate__(self, state: Any) -> None:
    del state


def check(data: bytes, opcodes: Set[str], only: str) -> None:
  """Looks a pickle's opcodes over without running them.

  Args:
    data: begins with the pickle.
    opcodes: those that are allowed.
    only: what these can build, for the message.

  Raises:
    Forbidden: it has another opcode, or needs more memory or stack than its length explains.
    ValueError: it is cut short, or the argument of an opcode is malformed.
  """
  argument: Any
  tuples = 0
  for number, (opcode, argument, _) in enumerate(pickletools.genops(data), start=1):
    if opcode.name not in opcodes:
      raise Forbidden(f"the pickle uses {opcode.name}: only {only} are read")
    # The memo is an array up to its largest number.
    if opcode.name in ("LONG_BINPUT", "PUT") and argument > min(len(data), MAX_OPCODES):
      raise Forbidden(f"the pickle is not sound: its memo number {str(argument)[:20]} is beyond its length")
    tuples += opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
    if number > MAX_OPCODES or tuples > MAX_TUPLES:
      raise Forbidden(
        f"the pickle has more than {MAX_OPCODES} opcodes or {MAX_TUPLES} tuples: only {only} are read"
      )
