"""Records what the devices do while a training runs."""

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
  """Devices that record one chunk of steps: the first one whose program was compiled by an earlier chunk.

  Attributes:
    folder: where the trace goes.
  """

  folder: pathlib.Path
  _recorded: list[str] = dataclasses.field(default_factory=list)  # The stage, once it happened.

  def trainer(self, stage, driver) -> Callable[..., Any]:
    """As of `Placement`."""
    chunk = super().trainer(stage, driver)
    compiled = False

    def watched(trainable, *args):
      nonlocal compiled
      if not compiled or self._recorded:
        compiled = True
        return chunk(trainable, *args)
      self._recorded.append(stage.name)
      jax.block_until_ready(trainable)  # What is still under way belongs to the chunk before.
      with jax.profiler.trace(self.folder):
        return jax.block_until_ready(chunk(trainable, *args))

    return watched

  def line(self) -> str:
    """Says where the trace lies and how to look at it.

    Raises:
      UserError: the training was over before a second chunk began.
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
  """The same devices, recording into `folder`.

  Raises:
    UserError: the folder cannot be written.
  """
  try:
    folders.check_writable(folder)
  except UserError as error:
    raise UserError(f"--profile {error}") from error
  fields = {field.name: getattr(devices, field.name) for field in dataclasses.fields(devices) if field.init}
  return Profiled(**fields, folder=folder)
