"""The best epoch of a stage by the watched rows: its variables are kept on the host, and in a folder a checkpoint."""

import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from jaxfer.train import weights
from jaxfer.train.stage import Stage, Variables

BEST = "best_on_validation"


class Best:
  """Of each member the variables of its best epoch in the current stage, by accuracy; of equal ones the earlier.

  Attributes:
    chosen: member's number -> (epoch from 1, accuracy).
  """

  def __init__(self, workdir: pathlib.Path):
    self.chosen: dict[str, tuple[int, float]] = {}
    self._folder = pathlib.Path(workdir) / "best"
    self._variables: dict[str, Variables] = {}

  def clear(self) -> None:
    """Begins a stage."""
    self.chosen, self._variables = {}, {}

  def better(self, member: int, accuracy: float) -> bool:
    """Whether an accuracy is above that of all epochs so far."""
    before = self.chosen.get(str(member))
    return before is None or accuracy > before[1]

  def keep(self, member: int, epoch: int, accuracy: float, variables: Variables) -> None:
    """Takes variables, on the host, for the best."""
    self.chosen[str(member)], self._variables[str(member)] = (epoch, accuracy), variables

  def of(self, member: int, otherwise: Variables) -> Variables:
    """A member's variables at its best, or those given where it has not ended an epoch."""
    return self._variables.get(str(member), otherwise)

  def save(self, number: int, oldest: int) -> None:
    """Writes what is kept beside the checkpoint of a number, and drops what is of those before the `oldest`."""
    for path in self._folder.glob("*"):
      if path.name.isdecimal() and int(path.name) < oldest:  # A file manager may leave files of its own.
        shutil.rmtree(path)
    if self._variables:
      weights.save_weights(self._folder / str(number), self._variables, {})

  def load(self, number: int, chosen: dict[str, Any]) -> None:
    """Reads what `save` wrote for a checkpoint.

    Raises:
      UserError: a file is missing or has changed.
    """
    self.chosen = {member: (int(epoch), float(accuracy)) for member, (epoch, accuracy) in chosen.items()}
    if self.chosen:
      self._variables = weights.load_weights(self._folder / str(number), sound=False)[0]


def selects(stage: Stage) -> bool:
  """Whether a stage ends with the variables of its best epoch."""
  return stage.select == BEST


def on_host(tree: Any) -> Any:
  """A copy that no donation touches."""
  return jax.tree.map(lambda leaf: np.array(leaf), jax.device_get(tree))
