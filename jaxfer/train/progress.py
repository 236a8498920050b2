"""Shows the progress of a training: a bar with the remaining time on a terminal, and plain lines elsewhere."""

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
    """Raises an error that the command line handles; rich would end the process with exit code 1."""
    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class Progress:
  """Shows the number of steps done, and prints one line per epoch.

  For named trainings, which are members of a study, it prints a line at most every ten seconds.

  Args:
    total: number of steps of the whole training.
    done: number of steps done before.
    name: heading of the lines, see `title`; None for a single training.
  """

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

  def log(self, line: str) -> None:
    """Prints a line, above the bar if there is one."""
    self._console.print(line, markup=False)

  def advance(self, stage: str, steps: int) -> None:
    """Adds steps of a stage to the number of steps done."""
    self._done += steps
    self._bar.update(self._task, description=stage, completed=self._done)

  def epoch(self, stage: str, epoch: int, epochs: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the line of an epoch from its metric rows. Without a terminal, the line ends with the remaining time.

    For named trainings, it prints nothing within ten seconds of the last line, because a study has thousands of epochs.

    Args:
      stage: name of the stage.
      epoch: number of the epoch, from 1.
      epochs: number of epochs of the stage.
      rows: one row per split, with the key "split".
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
    self.log("  ".join(parts))


def title(names: Sequence[str] | None) -> str | None:
  """Returns the heading of the lines about these members, or None for a single training (`names` is None)."""
  if names is None:
    return None
  return names[0] if len(names) == 1 else f"mean of {len(names)} trainings"


def averaged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Averages each number in the metric rows over the members. Returns one row per split."""
  splits = list(dict.fromkeys(row["split"] for row in rows))
  averaged = []
  for split in splits:
    same = [row for row in rows if row["split"] == split]
    names = [name for name, value in same[0].items() if isinstance(value, float)]
    averaged.append(
      {"split": split} | {n: float(np.mean([row[n] for row in same if n in row])) for n in names}
    )
  return averaged
