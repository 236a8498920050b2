"""Reads and checks what a work directory records: the configuration of a run, and the data of a run or study."""

import pathlib
from typing import Any

from jaxfer import config as configuration
from jaxfer import files, folders
from jaxfer.config import Call, RunConfig
from jaxfer.data.datasets import DATASETS
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.study.task import options_of

DATA = "data.json"
_RESTORE = "put it back from a copy, or train again in another --workdir"


def config_of(workdir: pathlib.Path) -> RunConfig:
  """Reads the configuration that a run was begun with.

  Raises:
    UserError: config.json is missing or damaged, or was written by another program or version of jaxfer.
  """
  path = workdir / folders.RUN
  tree = files.read_json(path, _RESTORE)
  try:
    return configuration.check(configuration.from_tree(tree), options_of)
  except (UserError, ValueError) as error:
    raise UserError(
      f"{path} was written by another program or version of jaxfer ({error}): train again in another --workdir"
    ) from None


def check_data(workdir: pathlib.Path, asked: Call, data: Records, *, begin: bool) -> None:
  """Compares data with those that a run or study was begun on, as recorded in `data.json` in its folder.

  Args:
    workdir: folder of the run or study.
    asked: name and options of the data set.
    data: the data set as it is prepared now.
    begin: whether to record data that are not recorded yet. If False, such data are an error.

  Raises:
    UserError: the data have changed, there is no record of them, or the record cannot be read or written.
  """
  path = workdir / DATA
  key = {"name": asked.name, "options": files.plain(asked.options)}
  now = {"fingerprint": data.fingerprint, "records": len(data), "label_names": list(data.label_names)}
  sets: list[dict[str, Any]] = []
  if path.exists():
    sets = files.read_json(path, _RESTORE, ["sets"])["sets"]
    if not isinstance(sets, list) or not all(
      isinstance(each, dict) and {*key, *now} <= {*each} and isinstance(each["label_names"], list)
      for each in sets
    ):
      raise UserError(f"{path} was written by another program or version of jaxfer: {_RESTORE}")
  before = next((each for each in sets if {name: each[name] for name in key} == key), None)
  if before is not None:
    _compare(workdir, asked, before, now)
  elif begin:
    files.write_json(path, {"sets": [*sets, {**key, **now}]})
  else:
    raise UserError(f"{path} does not record which data '{asked.name}' the training used: {_RESTORE}")


def _compare(workdir: pathlib.Path, asked: Call, before: dict[str, Any], now: dict[str, Any]) -> None:
  if before["fingerprint"] == now["fingerprint"]:
    return
  told = [
    f"{each['records']} records of {len(each['label_names'])} classes, fingerprint {str(each['fingerprint'])[:12]}"
    for each in (before, now)
  ]
  if before["label_names"] != now["label_names"]:
    told = [
      f"{line}, classes {', '.join(map(str, each['label_names'][:10]))}"
      for line, each in zip(told, (before, now), strict=True)
    ]
  if DATASETS[asked.name].generated:
    fix = "this jaxfer generates another version of these data; train again in another --workdir"
  else:
    fix = "give the --data-dir that holds the earlier data, prepare them again, or train in another --workdir"
  raise UserError(f"{workdir} was begun on other data '{asked.name}': then {told[0]}; now {told[1]}: {fix}")
