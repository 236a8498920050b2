"""Signals that stop a training: caught, so that its state can be saved first."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
  """Collects SIGTERM and SIGINT instead of dying of them; a second one of a kind acts as usual."""
  caught: list[int] = []
  previous: dict[int, Any] = {}

  def handle(number, frame):
    del frame
    caught.append(number)
    signal.signal(number, previous[number])

  for number in (signal.SIGTERM, signal.SIGINT):
    with contextlib.suppress(ValueError):  # Not the main thread: signals are not ours to handle.
      previous[number] = signal.signal(number, handle)
  try:
    yield caught
  finally:
    for which, handler in previous.items():
      signal.signal(which, handler)
