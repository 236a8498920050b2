"""Checkpoints that are verified when they are restored.

Orbax writes and commits the checkpoints, but it restores one with a flipped byte without noticing. Therefore, after
Orbax has committed a checkpoint, the SHA-256 of each of its files is written to `digests/NUMBER.json`, and compared on
restore. A checkpoint without this file was interrupted while it was saved, and is ignored.

If several processes train together, all of them make the same calls, in the same order. Each writes the arrays that it
holds. Process 0 writes and compares the digests of all files, and decides for all which checkpoints count.
"""

import hashlib
import logging
import pathlib
import shutil
import sys
from concurrent import futures
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxfer import files
from jaxfer.errors import UserError
from jaxfer.train import processes

FORMAT = 3


class Checkpoints:
  """The checkpoints in a work directory, with numbers that increase during the training.

  Only the newest `keep` checkpoints are kept.
  """

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
    """Returns the SHA-256 of each file of a checkpoint, except files left by operating systems and editors."""
    root = self._directory / str(number)
    found = {}
    for path in sorted(root.rglob("*")):
      name = path.relative_to(root)
      if path.is_file() and not any(map(files.clutter, name.parts)):
        found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found

  def _commit(self, number: int) -> None:
    self._manager.wait_until_finished()  # By then, every process has written its files.
    if not processes.is_first():
      return
    files.write_json(self._digest(number), self._files(number), indent=None)
    self._prune()

  def _prune(self) -> None:
    """Removes the digests of checkpoints that no longer exist."""
    for path in self._digests.glob("*.json"):
      if path.stem.isdecimal() and int(path.stem) not in self._manager.all_steps():
        path.unlink()

  def _whole(self) -> list[int]:
    """Returns the numbers of the complete checkpoints, in ascending order."""
    return sorted(n for n in self._manager.all_steps() if self._digest(n).exists())

  def discard_unfinished(self) -> list[str]:
    """Removes incomplete checkpoints, whose saving was interrupted. Call it before a training continues.

    Returns:
      One line for each removed checkpoint.

    Raises:
      UserError: no checkpoint has digests, and an interruption cannot be the reason.
    """
    unfinished = processes.decided(self._unfinished)
    for number in unfinished:
      self._manager.delete(number)
    processes.alone(self._tidy, None)
    return [f"checkpoint {number} was not saved completely, and is removed" for number in unfinished]

  def _unfinished(self) -> list[int]:
    whole = self._whole()
    unfinished = sorted(set(self._manager.all_steps()) - set(whole))
    if unfinished and not whole and (len(unfinished) > 1 or not self._digests.is_dir()):
      raise UserError(
        f"{self._digests} lacks the digests that verify the checkpoints: put them back "
        f"from a copy, or remove {self._directory} to train from the start"
      )
    return unfinished

  def _tidy(self) -> None:
    """Removes the files of killed saves, and the digests of checkpoints that no longer exist."""
    for path in self._directory.glob("*.orbax-checkpoint-tmp*"):
      shutil.rmtree(path, ignore_errors=True)
    self._prune()

  def save(self, number: int, state: Any, meta: dict[str, Any]) -> None:
    """Starts to save a checkpoint. The arrays have been copied to the host when this returns.

    Args:
      number: number of the checkpoint. Nothing is saved if it is the newest complete one already.
      state: tree of arrays.
      meta: metadata that JSON can hold.
    """
    self.wait()
    if number == self.latest():
      return
    if processes.count() == 1:
      # Orbax would read the arrays' shards. JAX 0.10 keeps those of a pmapped array in a reference cycle, and with them
      # one copy of the state per save, until Python collects garbage.
      state = jax.device_get(state)
    arguments = ocp.args.Composite(
      state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(files.plain({"format": FORMAT, **meta}))
    )
    processes.alone(lambda: files.make_folder(self._digests), None)
    self._manager.save(number, args=arguments, force=True)
    self._committing = self._worker.submit(self._commit, number)

  def wait(self) -> None:
    """Waits until the last checkpoint is on disk; raises the exception if saving it failed."""
    if self._committing is not None:
      committing, self._committing = self._committing, None
      committing.result()

  def latest(self) -> int | None:
    """Returns the number of the newest complete checkpoint, or None."""
    return processes.decided(lambda: max(self._whole(), default=None))

  def oldest(self, number: int) -> int:
    """Returns the number of the oldest checkpoint, where `number` is that of one about to be saved."""
    self.wait()
    return min([number, *self._manager.all_steps()])

  def discard_damaged(self) -> list[str]:
    """Removes the newest checkpoints if they are damaged and an older one is intact. Call it before continuing.

    Returns:
      One line for each removed checkpoint. Nothing is removed if no checkpoint is intact; `meta` then says what is
      damaged.
    """
    damaged, number = processes.decided(self._damaged)
    for removed, _ in damaged:
      self._manager.delete(removed)
    processes.alone(self._prune, None)
    return [f"{damage}: checkpoint {removed} is removed, go on from {number}" for removed, damage in damaged]

  def _damaged(self) -> tuple[list[tuple[int, str]], int | None]:
    """Returns the newest checkpoints if they are damaged, with the damage, and the number of the intact one before."""
    damaged: list[tuple[int, str]] = []
    for number in reversed(self._whole()):
      damage, _ = self._compare(number)
      if damage is None:
        return damaged, number
      damaged.append((number, damage))
    return [], None

  def _compare(self, number: int) -> tuple[str | None, list[pathlib.Path]]:
    """Returns what is damaged in a checkpoint, or None, and the files in its folder that were not saved with it."""
    root, found = self._directory / str(number), self._files(number)
    try:
      recorded = files.read_json(self._digest(number), f"checkpoint {number} cannot be verified")
    except UserError as error:
      return str(error), []
    if not recorded:
      return f"{self._digest(number)} is damaged (it names no file)", []
    strangers = [root / name for name in sorted(set(found) - set(recorded))]
    for name in sorted(recorded):
      if recorded[name] != found.get(name):
        what = "has changed" if name in found else "is missing"
        return f"{root / name} {what} since it was saved", strangers
    return None, strangers

  def _verify(self, number: int) -> None:
    damage, strangers = self._compare(number)
    if damage is not None:
      earlier = [n for n in self._whole() if n < number]
      fix = "train again in another --workdir"
      if earlier:
        fix = f"remove {self._digest(number)} and go on with --resume, from checkpoint {earlier[-1]}"
      raise UserError(f"{damage}: {fix}")
    if strangers:
      raise UserError(f"{strangers[0]} is not part of the checkpoint that was saved: remove that file")

  def meta(self, number: int) -> dict[str, Any]:
    """Verifies every file of a checkpoint, and returns its metadata.

    Raises:
      UserError: a file is missing, new or changed, or the checkpoint has another format.
    """
    processes.alone(lambda: self._verify(number), None)
    meta = self._manager.restore(number, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    if meta["format"] != FORMAT:
      raise UserError(
        f"{self._directory / str(number)} has checkpoint format {meta['format']}, this version reads {FORMAT}: "
        f"use the jaxfer that wrote it ({meta.get('revision', 'unknown')})"
      )
    return meta

  def restore(self, number: int, template: Any) -> Any:
    """Returns the arrays of a checkpoint.

    Args:
      number: number of the checkpoint.
      template: tree of `jax.ShapeDtypeStruct`, with the shapes, dtypes and shardings of the result.

    Raises:
      UserError: the checkpoint does not fit the template.
    """
    arguments = ocp.args.Composite(state=ocp.args.StandardRestore(template))
    try:
      return self._manager.restore(number, args=arguments)["state"]
    except ValueError as error:
      raise UserError(
        f"{self._directory / str(number)} does not fit this configuration: {str(error).splitlines()[0]}"
      ) from error

  def close(self) -> None:
    """Waits until the last checkpoint is on disk, and releases the directory."""
    try:
      self.wait()
    finally:
      self._worker.shutdown()
      self._manager.close()


def _silence_failed_saves() -> None:
  """Silences the log messages about a failed save, which `save`, `wait` or `close` raise as an exception anyway.

  Orbax logs the exception several times, with its traceback. Its event loop logs the exceptions of the checkpoint's
  other files, and TensorStore calls back into the loop after the loop is closed.
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


_hooks: list[Any] = []  # The hooks that `_hook` replaced in this process.


def _hook(unraisable: Any) -> None:
  if str(unraisable.exc_value) != "Event loop is closed":
    _hooks[-1](unraisable)


def exists(workdir: pathlib.Path) -> bool:
  """Whether a training has started to save checkpoints in `workdir`."""
  return (pathlib.Path(workdir) / "checkpoints").is_dir()
