"""Checkpoints: Orbax writes and commits them, our own digests say at restore whether a byte has changed since.

Orbax restores a checkpoint with a flipped byte without noticing. So when it has committed one, the SHA-256 of each of
its files goes into `digests/NUMBER.json` beside it. A checkpoint without one was cut off in that moment and does not
count.
"""

import hashlib
import json
import pathlib
from concurrent import futures
from typing import Any

import orbax.checkpoint as ocp

from jaxfer.errors import UserError

FORMAT = 2


class Checkpoints:
  """The checkpoints of a work directory, numbered in the order of the training; the oldest beyond `keep` are pruned."""

  def __init__(self, workdir: pathlib.Path, keep: int = 2):
    self._directory = pathlib.Path(workdir).absolute() / "checkpoints"
    self._digests = self._directory.parent / "digests"
    self._committing: futures.Future | None = None
    self._worker = futures.ThreadPoolExecutor(1)
    self._manager = ocp.CheckpointManager(
      self._directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep)
    )

  def _files(self, number: int) -> dict[str, str]:
    root = self._directory / str(number)
    return {
      str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
      for path in sorted(root.rglob("*"))
      if path.is_file()
    }

  def _commit(self, number: int) -> None:
    self._manager.wait_until_finished()
    self._digests.mkdir(exist_ok=True)
    partial = self._digests / f"{number}.json.partial"
    partial.write_text(json.dumps(self._files(number)))
    partial.rename(self._digests / f"{number}.json")
    for path in self._digests.glob("*.json"):
      if int(path.stem) not in self._manager.all_steps():
        path.unlink()

  def save(self, number: int, state: Any, meta: dict[str, Any]) -> None:
    """Begins to save `state` (arrays) and `meta` (JSON); the host copy is made before this returns."""
    self.wait()
    if number == self.latest():
      return
    arguments = ocp.args.Composite(
      state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave({"format": FORMAT, **meta})
    )
    self._manager.save(number, args=arguments, force=True)
    self._committing = self._worker.submit(self._commit, number)

  def wait(self) -> None:
    """Returns once everything that was begun is on disk; raises what went wrong on the way there."""
    if self._committing is not None:
      committing, self._committing = self._committing, None
      committing.result()

  def latest(self) -> int | None:
    """Number of the newest whole checkpoint, or None."""
    whole = [n for n in self._manager.all_steps() if (self._digests / f"{n}.json").exists()]
    return max(whole, default=None)

  def oldest(self, number: int) -> int:
    """Number of the oldest checkpoint, `number` of one that is to come."""
    self.wait()
    return min([number, *self._manager.all_steps()])

  def _verify(self, number: int) -> None:
    recorded = json.loads((self._digests / f"{number}.json").read_text())
    found = self._files(number)
    for name in sorted({*recorded, *found}):
      if recorded.get(name) != found.get(name):
        what = "is missing" if name not in found else "is new" if name not in recorded else "has changed"
        root = self._directory / str(number)
        raise UserError(
          f"{root / name} {what} since it was saved: remove {root} to go back to the checkpoint before it"
        )

  def meta(self, number: int) -> dict[str, Any]:
    """The JSON part of a checkpoint, after checking every file of it.

    Raises:
      UserError: a file is missing, new or changed; or the checkpoint is of another format.
    """
    self._verify(number)
    meta = self._manager.restore(number, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    if meta["format"] != FORMAT:
      raise UserError(
        f"{self._directory / str(number)} has checkpoint format {meta['format']}, this version reads {FORMAT}: "
        f"use the jaxfer that wrote it ({meta.get('revision', 'unknown')})"
      )
    return meta

  def restore(self, number: int, template: Any) -> Any:
    """The arrays of a checkpoint, onto the shardings of `template` (a tree of `jax.ShapeDtypeStruct`)."""
    arguments = ocp.args.Composite(state=ocp.args.StandardRestore(template))
    try:
      return self._manager.restore(number, args=arguments)["state"]
    except ValueError as error:
      raise UserError(
        f"{self._directory / str(number)} does not fit this configuration: {str(error).splitlines()[0]}"
      ) from error

  def close(self) -> None:
    """Waits for what was begun and lets go of the directory."""
    self.wait()
    self._worker.shutdown()
    self._manager.close()


def exists(workdir: pathlib.Path) -> bool:
  """Whether a run has begun to save checkpoints in `workdir`."""
  return (pathlib.Path(workdir) / "checkpoints").is_dir()
