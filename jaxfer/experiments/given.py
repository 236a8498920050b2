"""The weights that a run or a study is given to start from, told apart by their digest.

A net that stays frozen is not saved with a training but read again on resume, so its folder has to hold the same
weights then. The folder itself may have moved.
"""

import pathlib
from collections.abc import Mapping

from jaxfer import files
from jaxfer.errors import UserError
from jaxfer.train import weights

FILE = "given_weights.json"
_RESTORE = "put it back from a copy, or choose another --workdir"


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
  if not path.exists():
    return {}
  before = files.read_json(path, _RESTORE)
  if not all(isinstance(each, dict) and isinstance(each.get("sha256"), str) for each in before.values()):
    raise UserError(f"{path} was written by another program or version of jaxfer: {_RESTORE}")
  return before


def _write(workdir: pathlib.Path, record: Mapping[str, Mapping[str, str]]) -> None:
  """Writes the record; without given weights there is none."""
  if record:
    files.make_folder(workdir)
    files.write_json(workdir / FILE, record)
  else:
    (workdir / FILE).unlink(missing_ok=True)
