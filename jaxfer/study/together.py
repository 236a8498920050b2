"""Prepares a training on several processes.

The processes compare their programs and commands, share the work directory, and read the data.
"""

import contextlib
import importlib.metadata
import json
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from jaxfer import config as configuration
from jaxfer.config import RunConfig
from jaxfer.data import records
from jaxfer.errors import UserError
from jaxfer.study import trainings
from jaxfer.train import processes


def check_program(configs: Mapping[str, RunConfig], **command: Any) -> None:
  """Checks that all processes run the same program with the same command.

  Args:
    configs: the configs to train. Their keys precede the names of values in messages.
    command: further values of the command. JSON must be able to hold them.

  Raises:
    UserError: the program or command of two processes differs. The message contains both values.
  """
  versions = {
    "jaxfer": trainings.revision(),
    "jax": jax.__version__,
    "jaxlib": importlib.metadata.version("jaxlib"),
  }
  flat = {f"{name}{key}": value for name, one in configs.items() for key, value in _flat(one).items()}
  processes.check_same({**versions, **command, **flat})


def _flat(config: RunConfig) -> dict[str, Any]:
  """Returns the values of a config. Keys are those of overrides, such as "execution.devices"."""
  flat: dict[str, Any] = {}

  def walk(prefix: str, tree: Mapping[str, Any]) -> None:
    for key, value in tree.items():
      if isinstance(value, Mapping):
        walk(prefix if key == "options" else f"{prefix}{key}.", value)
      else:
        flat[prefix + key] = value

  walk("", json.loads(configuration.to_json(config)))
  return flat


@contextlib.contextmanager
def hold(workdir: pathlib.Path, holding: contextlib.AbstractContextManager[None]) -> Iterator[None]:
  """Context manager in which process 0 holds a work directory that all processes see.

  Args:
    workdir: the work directory.
    holding: context manager that reserves it, from `folders.hold`.

  Raises:
    UserError: `holding` raises it, or a process does not see the directory of process 0.
  """
  with contextlib.ExitStack() as stack:
    processes.alone(lambda: stack.enter_context(holding), None)
    if processes.count() > 1:
      _check_shared(workdir)
    yield


def _check_shared(workdir: pathlib.Path) -> None:
  probe = workdir / f".{processes.decided(lambda: secrets.token_hex(8))}.partial"

  def look() -> None:
    list(workdir.glob("*"))  # Some network file systems show new files only after the folder is listed.
    if not probe.exists():
      raise UserError(
        f"{workdir} is not the folder that process 0 sees: give a --workdir that all machines share"
      )

  processes.alone(probe.touch, None)
  try:
    processes.each(look)
  finally:
    if processes.is_first():
      probe.unlink()


def load(config: RunConfig, data_dir: pathlib.Path) -> records.Records:
  """Reads the data of a config in every process, each from its own `data_dir`.

  Raises:
    UserError: `trainings.load_data` raises it in a process, whose machine the message names; or the data of two
      processes differ.
  """
  data = processes.each(lambda: trainings.load_data(config, data_dir))
  processes.check_same({f"data '{config.data.name}' with fingerprint": data.fingerprint})
  return data
