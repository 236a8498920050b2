"""The weights that a run or a study is given to start from, told apart by their digest.

A net that stays frozen is not saved with a training but read again on resume, so its folder has to hold the same
weights then. The folder itself may have moved.
"""

import json
import pathlib
from collections.abc import Mapping

from jaxfer.errors import UserError
from jaxfer.train import weights

FILE = "given_weights.json"


def check(workdir: pathlib.Path, folders: Mapping[str, str | None], *, begin: bool) -> None:
  """Compares given weights with those that a run or a study began with, which `FILE` in its folder records.

  A folder that is gone is passed over, because a finished training no longer needs it; one that does need it says so.

  Args:
    workdir: of the run or the study.
    folders: for each key of the configuration that may name weights, such as "init_from", the folder or None.
    begin: whether nothing is trained yet, so that the weights are recorded instead of compared.

  Raises:
    UserError: the weights in a folder are others, cannot be read, or there is no record of them.
  """
  named = {key: pathlib.Path(folder) for key, folder in folders.items() if folder}
  if begin:
    record = {key: {"folder": str(folder), "sha256": _digest(folder)} for key, folder in named.items()}
    _write(workdir, record)
    return
  named = {key: folder for key, folder in named.items() if (folder / "weights.json").exists()}
  before = _read(workdir) if named else {}
  for key, folder in named.items():
    if key not in before:
      raise UserError(
        f"{workdir} does not say with which weights for {key} it was begun: choose another --workdir"
      )
    then, now = before[key]["sha256"], _digest(folder)
    if then != now:
      raise UserError(
        f"{workdir} was begun with other weights than {folder} holds now ({key}; digest {then[:12]} then, {now[:12]} "
        "now): give the folder of the same weights, or choose another --workdir"
      )


def _digest(folder: pathlib.Path) -> str:
  return weights.digest(weights.load_weights(folder)[0])


def _read(workdir: pathlib.Path) -> dict[str, dict[str, str]]:
  path = workdir / FILE
  if not path.is_file():
    return {}
  try:
    before = json.loads(path.read_text())
    return {key: {"sha256": each["sha256"]} for key, each in before.items()}
  except (ValueError, KeyError, TypeError, AttributeError):
    raise UserError(f"{path} is damaged: put it back from a copy, or choose another --workdir") from None


def _write(workdir: pathlib.Path, record: Mapping[str, Mapping[str, str]]) -> None:
  """Writes the record whole or not at all; without given weights there is none."""
  path = workdir / FILE
  if not record:
    path.unlink(missing_ok=True)
    return
  workdir.mkdir(parents=True, exist_ok=True)
  path.with_suffix(".part").write_text(json.dumps(record, indent=2) + "\n")
  path.with_suffix(".part").replace(path)
