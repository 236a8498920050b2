"""Exceptions that a user can cause: bad input, with a hint for a misspelt name, and a stop by a signal."""

import difflib
import signal
from collections.abc import Iterable

_SHOWN = 80  # Number of characters that a message shows of a name.


class UserError(Exception):
  """Bad input. The message names the file, value or option and the fix; the CLI prints it without a traceback."""


class Interrupted(Exception):
  """A signal asked a command to stop.

  Args:
    number: number of the signal; kept as the attribute `signal`.
    what: what became of the work so far; the end of the message.
  """

  def __init__(self, number: int, what: str = "state saved: go on with --resume"):
    super().__init__(f"stopped by {signal.Signals(number).name}, {what}")
    self.signal = number


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
  """Returns the error for a name that is not one of `choices`, with the nearest valid one, on one line."""
  name = " ".join(name.split())
  choices = sorted(choices)
  near = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
  hint = f"did you mean '{near[0]}'? " if near else ""
  shown = name if len(name) <= _SHOWN else f"{name[: _SHOWN - 3]}..."
  return UserError(f"unknown {kind} '{shown}': {hint}valid are {', '.join(choices) or '(none)'}")
