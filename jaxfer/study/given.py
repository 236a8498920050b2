"""Checks that a run or a study continues with the weights that it was given at its start.

A frozen net is not saved in checkpoints but read again on resume, so its folder must then hold the same weights. They
are compared by their digest, so the folder itself may have moved.
"""

import pathlib
from collections.abc import Mapping

from jaxfer import files
from jaxfer.errors import UserError
from jaxfer.train import weights

FILE = "given_weights.json"
_RESTORE = "put it back from a copy, or choose another --workdir"


def check(workdir: pathlib.Path, folders: Mapping[str, str | None], *, begin: bool) -> None:
  """Compares given weights with those that a run or a study began with.

  The file `FILE` in the folder of the run or study records the digests. A folder of weights that no longer exists is
  skipped, because a finished training does not need it. A training that does need it reports the missing folder.

  Args:
    workdir: folder of the run or the study.
    folders: key of the configuration that may name weights, such as "init_from" -> folder of weights, or None.
    begin: whether nothing is trained yet, so that the weights are recorded and not compared.

  Raises:
    UserError: the weights in a folder have changed or cannot be read, or there is no record of them.
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
        f"{workdir} does not record the weights for {key} with which it was begun: choose another --workdir"
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
  """Writes the record, or removes it if no weights are given."""
  if record:
    files.make_folder(workdir)
    files.write_json(workdir / FILE, record)
  else:
    (workdir / FILE).unlink(missing_ok=True)
