"""Handles signals that end an import: it is cleaned up, and the signal is reported in one line."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from jaxfer.errors import Interrupted


class _Stop(KeyboardInterrupt):
  """Raised by the handler. It is not an `Exception`, so that codecs and libraries do not catch it."""

  def __init__(self, number: int):
    super().__init__()
    self.number = number


@contextlib.contextmanager
def stopping(what: str) -> Iterator[None]:
  """Turns SIGINT and SIGTERM into `Interrupted` after all running code has cleaned up.

  A second signal ends the process at once. Outside the main thread, signals are not handled.

  Args:
    what: what remains of the work, for the message.

  Raises:
    Interrupted: a signal was received.
  """
  previous: dict[int, Any] = {}

  def stop(number: int, frame: object) -> None:
    del frame
    for which in previous:
      signal.signal(which, signal.SIG_DFL)
    raise _Stop(number)

  for caught in (signal.SIGTERM, signal.SIGINT):
    with contextlib.suppress(ValueError):  # Not the main thread.
      previous[caught] = signal.signal(caught, stop)
  try:
    yield
  except KeyboardInterrupt as error:
    number = error.number if isinstance(error, _Stop) else signal.SIGINT
    raise Interrupted(number, what) from None
  finally:
    for which, handler in previous.items():
      signal.signal(which, handler)
