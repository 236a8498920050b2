"""Lists the studies of a folder of configs."""

import pathlib

from jaxfer import config as configuration
from jaxfer.config import StudyConfig
from jaxfer.data.datasets import DATASETS
from jaxfer.errors import UserError
from jaxfer.study.task import options_of


def studies(root: pathlib.Path) -> str:
  """Lists all studies below a folder, with their titles, rows, presets, publications, and data sets with licences.

  A file that cannot be read is listed with the reason. The last line counts such files.

  Raises:
    UserError: there is no study below the folder.
  """
  lines, broken, paths = [], 0, sorted(root.rglob("*.py"))
  for path in paths:
    name = f"{root.name / path.relative_to(root)}"
    try:
      study = configuration.read(path)
      if isinstance(study, StudyConfig):
        lines += [name, *_described(study)]
    except UserError as error:
      lines += [name, f"  cannot be read: {error}"]
      broken += 1
  if not lines:
    raise UserError(f"no study below {root}: run the command in another folder, or name a config file")
  if broken:
    lines.append(f"{broken} of {len(paths)} configs cannot be read")
  return "\n".join(lines)


def _described(study: StudyConfig) -> list[str]:
  resolved, rows = configuration.resolve(study, None, (), options_of)
  sources = configuration.sources_of(resolved, options_of)
  names = dict.fromkeys(config.data.name for config in [*rows.values(), *sources.values()])
  return [
    f"  {study.title}; {len(study.rows)} rows; presets {', '.join(study.presets)}",
    f"  published: {study.source}",
    *(f"  data: {name}: {DATASETS[name].licence}" for name in names),
  ]
