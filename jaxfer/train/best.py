"""Keeps the variables of each stage's best epoch by validation accuracy, on the host and beside each checkpoint."""

import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from jaxfer.train import weights
from jaxfer.train.stage import Stage, Variables

BEST = "best_on_validation"


class Best:
  """The variables of each member's best epoch in the current stage.

  The best epoch is the one with the highest validation accuracy; ties go to the earlier epoch.

  Attributes:
    chosen: member number, as a string -> (epoch from 1, accuracy from 0 to 1).
  """

  def __init__(self, workdir: pathlib.Path):
    self.chosen: dict[str, tuple[int, float]] = {}
    self._folder = pathlib.Path(workdir) / "best"
    self._variables: dict[str, Variables] = {}

  def clear(self) -> None:
    """Forgets all epochs, as a new stage begins."""
    self.chosen, self._variables = {}, {}

  def better(self, member: int, accuracy: float) -> bool:
    """Whether an accuracy is higher than that of every earlier epoch of the stage."""
    before = self.chosen.get(str(member))
    return before is None or accuracy > before[1]

  def keep(self, member: int, epoch: int, accuracy: float, variables: Variables) -> None:
    """Keeps the given variables, which are on the host, as the member's best."""
    self.chosen[str(member)], self._variables[str(member)] = (epoch, accuracy), variables

  def of(self, member: int, otherwise: Variables) -> Variables:
    """Returns a member's best variables, or `otherwise` if none were kept for it."""
    return self._variables.get(str(member), otherwise)

  def save(self, number: int, oldest: int) -> None:
    """Writes the kept variables for checkpoint `number`, and removes those of checkpoints before `oldest`."""
    for path in self._folder.glob("*"):
      if path.name.isdecimal() and int(path.name) < oldest:  # Other files may come from a file manager.
        shutil.rmtree(path)
    if self._variables:
      weights.save_weights(self._folder / str(number), self._variables, {})

  def load(self, number: int, chosen: dict[str, Any]) -> None:
    """Reads the variables that `save` wrote for checkpoint `number`.

    Args:
      number: number of the checkpoint.
      chosen: the attribute `chosen` at that time.

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
  """Returns a copy of a tree on the host, which stays valid when the device buffers are donated."""
  return jax.tree.map(lambda leaf: np.array(leaf), jax.device_get(tree))
