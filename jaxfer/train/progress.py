"""What a person sees of a training: a bar with the time left on a terminal, plain lines elsewhere."""

import errno
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.console
import rich.progress

_SECONDS_BETWEEN_LINES = 10.0


class _Console(rich.console.Console):
  def on_broken_pipe(self) -> None:
    """Leaves a closed pipe to the command line; rich would end the process with exit code 1."""
    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class Progress:
  """Shows steps done of a known total, and one line an epoch; of trainings among many, named, a line now and then."""

  def __init__(self, total: int, done: int = 0, name: str | None = None):
    self._name, self._said = name, time.monotonic()
    self._console = _Console(highlight=False, soft_wrap=True)
    self._total, self._done, self._first = total, done, done
    self._start = time.monotonic()
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("{task.description}"),
      rich.progress.BarColumn(),
      rich.progress.MofNCompleteColumn(),
      rich.progress.TextColumn("steps, left"),
      rich.progress.TimeRemainingColumn(),
      console=self._console,
      disable=not self._console.is_terminal,
      transient=True,
    )
    self._task = self._bar.add_task("train", total=total, completed=done)

  def __enter__(self) -> "Progress":
    self._bar.start()
    return self

  def __exit__(self, *exception: Any) -> None:
    self._bar.stop()

  def say(self, line: str) -> None:
    """Prints a line, above the bar where there is one."""
    self._console.print(line, markup=False)

  def advance(self, stage: str, steps: int) -> None:
    """Counts steps of a stage."""
    self._done += steps
    self._bar.update(self._task, description=stage, completed=self._done)

  def epoch(self, stage: str, epoch: int, epochs: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints an epoch's line from its rows of metrics, and elsewhere than on a terminal the time left.

    Of named trainings only where the last line is ten seconds old: a study has thousands of epochs.
    """
    if self._name is not None:
      if time.monotonic() - self._said < _SECONDS_BETWEEN_LINES:
        return
      self._said = time.monotonic()
    name = "" if self._name is None else f"{self._name}: "
    parts = [f"{name}{stage} {epoch:>{len(str(epochs))}}/{epochs}"]
    for row in rows:
      numbers = [f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float)]
      parts.append(f"{row['split']} {' '.join(numbers)}")
    if not self._console.is_terminal and self._done > self._first:
      rate = (time.monotonic() - self._start) / (self._done - self._first)
      parts.append(f"{round(rate * (self._total - self._done))} s left")
    self.say("  ".join(parts))


def title(names: Sequence[str] | None) -> str | None:
  """What the lines of members are headed by; None for a training alone."""
  if names is None:
    return None
  return names[0] if len(names) == 1 else f"mean of {len(names)} trainings"


def averaged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The mean over members of each number, one row per split."""
  splits = list(dict.fromkeys(row["split"] for row in rows))
  averaged = []
  for split in splits:
    same = [row for row in rows if row["split"] == split]
    names = [name for name, value in same[0].items() if isinstance(value, float)]
    averaged.append(
      {"split": split} | {n: float(np.mean([row[n] for row in same if n in row])) for n in names}
    )
  return averaged
