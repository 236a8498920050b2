"""Signals that end an import: cleaned up after, and reported in one line."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from jaxfer.errors import Interrupted


class _Stop(KeyboardInterrupt):
  """What the handler raises: no `except Exception` of a codec or a library takes it for an error of its own."""

  def __init__(self, number: int):
    super().__init__()
    self.number = number


@contextlib.contextmanager
def stopping(what: str) -> Iterator[None]:
  """Turns SIGINT and SIGTERM into `Interrupted`, after everything that runs has cleaned up.

  A second signal ends the process at once. In another thread than the main one signals stay as they are.

  Args:
    what: what is left of the work, for the message.

  Raises:
    Interrupted: a signal came.
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
