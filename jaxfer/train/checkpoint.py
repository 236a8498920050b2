"""Checkpoints: Orbax writes and commits them, our own digests say at restore whether a byte has changed since.

Orbax restores a checkpoint with a flipped byte without noticing. So when it has committed one, the SHA-256 of each of
its files goes into `digests/NUMBER.json` beside it. A checkpoint without one was cut off in that moment and does not
count.
"""

import hashlib
import logging
import pathlib
import shutil
import sys
from concurrent import futures
from typing import Any

import orbax.checkpoint as ocp

from jaxfer import files
from jaxfer.errors import UserError

FORMAT = 3


class Checkpoints:
  """The checkpoints of a work directory, numbered in the order of the training; the oldest beyond `keep` are pruned."""

  def __init__(self, workdir: pathlib.Path, keep: int = 2):
    _silence_failed_saves()
    self._directory = pathlib.Path(workdir).absolute() / "checkpoints"
    self._digests = self._directory.parent / "digests"
    self._committing: futures.Future | None = None
    self._worker = futures.ThreadPoolExecutor(1)
    self._manager = ocp.CheckpointManager(
      self._directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep)
    )

  def _digest(self, number: int) -> pathlib.Path:
    return self._digests / f"{number}.json"

  def _files(self, number: int) -> dict[str, str]:
    """The SHA-256 of each file of a checkpoint, without those that operating systems and editors leave anywhere."""
    root = self._directory / str(number)
    found = {}
    for path in sorted(root.rglob("*")):
      name = path.relative_to(root)
      if path.is_file() and not any(map(files.clutter, name.parts)):
        found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found

  def _commit(self, number: int) -> None:
    self._manager.wait_until_finished()
    files.write_json(self._digest(number), self._files(number), indent=None)
    self._prune()

  def _prune(self) -> None:
    """Removes the digests of checkpoints that are no longer there."""
    for path in self._digests.glob("*.json"):
      if path.stem.isdecimal() and int(path.stem) not in self._manager.all_steps():
        path.unlink()

  def _whole(self) -> list[int]:
    """The numbers of the checkpoints that were saved to the end, ascending."""
    return sorted(n for n in self._manager.all_steps() if self._digest(n).exists())

  def discard_unfinished(self) -> list[str]:
    """Removes checkpoints whose saving was cut off, before a training goes on.

    Returns:
      One line for each.

    Raises:
      UserError: no checkpoint has a digest, and not for that reason.
    """
    whole = self._whole()
    unfinished = sorted(set(self._manager.all_steps()) - set(whole))
    if unfinished and not whole and (len(unfinished) > 1 or not self._digests.is_dir()):
      raise UserError(
        f"{self._digests} lacks the digests of the checkpoints, which cannot be verified without them: put them back "
        f"from a copy, or remove {self._directory} to train from the start"
      )
    for number in unfinished:
      self._manager.delete(number)
    for path in self._directory.glob("*.orbax-checkpoint-tmp*"):
      shutil.rmtree(path, ignore_errors=True)
    self._prune()
    return [f"checkpoint {number} was not saved to its end, and is removed" for number in unfinished]

  def save(self, number: int, state: Any, meta: dict[str, Any]) -> None:
    """Begins to save `state` (arrays) and `meta` (JSON); the host copy is made before this returns."""
    self.wait()
    if number == self.latest():
      return
    arguments = ocp.args.Composite(
      state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(files.plain({"format": FORMAT, **meta}))
    )
    files.make_folder(self._digests)
    self._manager.save(number, args=arguments, force=True)
    self._committing = self._worker.submit(self._commit, number)

  def wait(self) -> None:
    """Returns once everything that was begun is on disk; raises what went wrong on the way there."""
    if self._committing is not None:
      committing, self._committing = self._committing, None
      committing.result()

  def latest(self) -> int | None:
    """Number of the newest whole checkpoint, or None."""
    return max(self._whole(), default=None)

  def oldest(self, number: int) -> int:
    """Number of the oldest checkpoint, `number` of one that is to come."""
    self.wait()
    return min([number, *self._manager.all_steps()])

  def _verify(self, number: int) -> None:
    earlier = [n for n in self._whole() if n < number]
    fix = "train again in another --workdir"
    if earlier:
      fix = f"remove {self._digest(number)} and go on with --resume, from checkpoint {earlier[-1]}"
    root, found = self._directory / str(number), self._files(number)
    recorded = files.read_json(self._digest(number), f"checkpoint {number} cannot be verified; {fix}")
    for name in sorted(recorded):
      if recorded[name] != found.get(name):
        what = "has changed" if name in found else "is missing"
        raise UserError(f"{root / name} {what} since it was saved: {fix}")
    if not recorded:
      raise UserError(f"{self._digest(number)} is damaged (it names no file): {fix}")
    if strangers := sorted(set(found) - set(recorded)):
      raise UserError(f"{root / strangers[0]} is no part of the checkpoint as it was saved: remove that file")

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
    try:
      self.wait()
    finally:
      self._worker.shutdown()
      self._manager.close()


def _silence_failed_saves() -> None:
  """Leaves the report of a failed save to the exception that `save`, `wait` or `close` raise.

  Orbax logs such an exception as well, several times with its traceback. Its event loop logs those of the other files
  of the checkpoint, and TensorStore calls back into the loop after it is closed.
  """
  for name in ("absl", "asyncio"):
    logging.getLogger(name).addFilter(_is_no_failed_save)
  if sys.unraisablehook is not _hook:
    _hooks.append(sys.unraisablehook)
    sys.unraisablehook = _hook


def _is_no_failed_save(record: logging.LogRecord) -> bool:
  error = record.exc_info[1] if record.exc_info else None
  orbax = record.name == "absl" and "orbax" in record.pathname
  return record.levelno < logging.ERROR or not (orbax or (error and files.disk_error(error)))


_hooks: list[Any] = []  # The hooks of this process that ours replaced.


def _hook(unraisable: Any) -> None:
  if str(unraisable.exc_value) != "Event loop is closed":
    _hooks[-1](unraisable)


def exists(workdir: pathlib.Path) -> bool:
  """Whether a run has begun to save checkpoints in `workdir`."""
  return (pathlib.Path(workdir) / "checkpoints").is_dir()
