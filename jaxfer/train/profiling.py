"""Records a profiler trace of a training."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from jaxfer import folders
from jaxfer.errors import UserError
from jaxfer.train.placement import Placement


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profiled(Placement):
  """A placement that records a trace of one chunk of steps: the first chunk that need not compile its program.

  Attributes:
    folder: folder for the trace.
  """

  folder: pathlib.Path
  _recorded: list[str] = dataclasses.field(default_factory=list)  # The recorded stage.

  def trainer(self, stage, driver) -> Callable[..., Any]:
    """See `Placement.trainer`."""
    chunk = super().trainer(stage, driver)
    compiled = False

    def watched(trainable, *args):
      nonlocal compiled
      if not compiled or self._recorded:
        compiled = True
        return chunk(trainable, *args)
      self._recorded.append(stage.name)
      jax.block_until_ready(trainable)  # Work that is still running belongs to the previous chunk.
      with jax.profiler.trace(self.folder):
        return jax.block_until_ready(chunk(trainable, *args))

    return watched

  def line(self) -> str:
    """Returns a line that says where the trace is and how to view it.

    Raises:
      UserError: nothing was recorded, because the training ended before a second chunk began.
    """
    if not self._recorded:
      raise UserError(
        f"nothing recorded in {self.folder}: the training was over after its first chunk of steps, which compiles; "
        "lower execution.steps_per_call or train for more epochs (this training is saved: `jaxfer evaluate`)"
      )
    return (
      f"trace of a chunk of stage '{self._recorded[0]}' in {self.folder}: `xprof --logdir {self.folder}` "
      "(pip install xprof), or open its *.trace.json.gz at ui.perfetto.dev"
    )


def profiled(devices: Placement, folder: pathlib.Path) -> Profiled:
  """Returns the same placement, which records a trace in `folder`.

  Raises:
    UserError: the folder cannot be written.
  """
  try:
    folders.check_writable(folder)
  except UserError as error:
    raise UserError(f"--profile {error}") from error
  fields = {field.name: getattr(devices, field.name) for field in dataclasses.fields(devices) if field.init}
  return Profiled(**fields, folder=folder)
