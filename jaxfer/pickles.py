"""Pickles looked over before they are read, for readers that import and call nothing that a file names.

`pickle.load` runs whatever the file says. The readers, `data.unpickle` (plain data) and `convert.torch_file` (files of
PyTorch), first `check` a pickle's opcodes. Then they run a `pickle.Unpickler` of their own, whose `find_class` knows a
few names and returns objects of ours, not what the names stand for. These objects are `Sealed`, so that no opcode can
change them.
"""

import pickle
import pickletools
from collections.abc import Set
from typing import Any

# What plain containers, texts, numbers, names and calls of them take from protocol 2 on.
OPCODES = frozenset({
  "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4",
  "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
  "EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_DICT", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM",
  "SETITEMS", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
})  # fmt: skip
# What goes wrong where a pickle is cut short or changed.
UNSOUND = (
  pickle.UnpicklingError, EOFError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError,
  TypeError, ValueError,
)  # fmt: skip


class Sealed:
  """Takes no state from a pickle: hooks, metadata and the like are dropped, nothing is overwritten."""

  def __setstate__(self, state: Any) -> None:
    del state


def check(data: bytes, opcodes: Set[str], only: str) -> str:
  """Says why a pickle must not be read; "" where it may be.

  Args:
    data: begins with the pickle.
    opcodes: those that are allowed.
    only: what these can build, for the message.

  Raises:
    ValueError: the pickle is cut short, or an opcode's argument is malformed.
  """
  argument: Any
  for opcode, argument, _ in pickletools.genops(data):
    if opcode.name not in opcodes:
      return f"the pickle uses {opcode.name}: only {only} are read"
    # The memo is a list with room for the largest number.
    if opcode.name in ("LONG_BINPUT", "PUT") and argument > len(data):
      return "not a sound pickle (a memo number beyond its length)"
  return ""
