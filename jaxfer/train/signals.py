"""Catches the signals that stop a training, so that its state can be saved first."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
  """Collects SIGTERM and SIGINT in a list instead of ending the process.

  A second signal of the same kind has its usual effect.
  """
  caught: list[int] = []
  previous: dict[int, Any] = {}

  def handle(number, frame):
    del frame
    caught.append(number)
    signal.signal(number, previous[number])

  for number in (signal.SIGTERM, signal.SIGINT):
    with contextlib.suppress(ValueError):  # Only the main thread may handle signals.
      previous[number] = signal.signal(number, handle)
  try:
    yield caught
  finally:
    for which, handler in previous.items():
      signal.signal(which, handler)
