"""Trainings that rows of a study start from without standing in its table: pre-trainings, each run once.

A pre-training has failed where its loss was not finite, or where it is right for less than twice the share of chance
of its training records in its last epoch. The rule is our choice: paper 004 prints "- (Pretraining Failed)" and gives
none.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer import config as configuration
from jaxfer import files
from jaxfer.config import RunConfig
from jaxfer.data import folds
from jaxfer.errors import UserError
from jaxfer.experiments import rows as row_trainings
from jaxfer.experiments.task import Task, split_of
from jaxfer.report import plots, tables
from jaxfer.report.tables import Cell


@dataclasses.dataclass(frozen=True)
class Source:
  """A pre-training.

  Attributes:
    row: its name, and a folder of weights where one takes its place.
    config: of the training.
    folder: for its checkpoints, `result.json`, `history.jsonl`, `curves.png` and weights.
  """

  row: configuration.Row
  config: RunConfig
  folder: pathlib.Path

  @property
  def ready(self) -> bool:
    """Whether it is trained, or given."""
    return self.row.init_from is not None or (self.folder / row_trainings.RESULT).is_file()

  @property
  def result(self) -> dict[str, Any]:
    """What `train` left."""
    return row_trainings.stored(self.folder)

  @property
  def failure(self) -> str | None:
    """Why nothing starts from it."""
    return None if self.row.init_from is not None else self.result["failure"]

  @property
  def weights(self) -> pathlib.Path:
    """The folder of weights to start from."""
    if self.row.init_from is not None:
      return pathlib.Path(self.row.init_from)
    below = self.folder / "weights"
    found = [path for path in below.glob("*") if path.is_dir() and not files.clutter(path.name)]
    if len(found) != 1:
      raise UserError(
        f"{below} holds {len(found)} folders, expected the weights of one training: remove "
        f"{self.folder / row_trainings.RESULT} and go on with --resume"
      )
    return found[0]

  def train(self, task: Callable[[RunConfig], Task], seed: int, say: Callable[[str], None]) -> None:
    """Trains it with a seed, judges it on its own held-out records, and leaves the result in its folder."""
    say(f"pre-training {self.row.name}:")
    own, made = [row_trainings.Row(self.row.name, self.config, self.folder)], task(self.config)
    data = made.records
    say(folds.describe(data.subjects, data.arrays["label"], data.label_names, split_of(self.config, data)))
    ((result, lines),) = row_trainings.train(own, made, (seed,), None, True, say)
    learned = [line["accuracy"] for line in lines if line["split"] == "train" and "accuracy" in line]
    result |= {
      "failure": failure(result["failed"], learned, len(result["label_names"])),
      "learned": learned[-1] if learned else None,
      "epochs": len(learned),
    }
    if lines:
      plots.learning_curves_png(lines, self.folder / "curves.png", self.row.name)
    row_trainings.store(self.folder, result, lines)


def failure(failed: Sequence[Mapping[str, Any]], learned: Sequence[float], classes: int) -> str | None:
  """Why a pre-training counts as failed, or None.

  Args:
    failed: the trainings that were not finite, see `report.tables.not_finite`.
    learned: accuracy on its training records, by epoch.
    classes: how many it tells apart.
  """
  if failed:
    return f"failed: {tables.not_finite(failed[0])}"
  if learned and learned[-1] < 2 / classes:
    return (
      f"failed: {learned[-1]:.1%} of its training records right at its end, less than twice {1 / classes:.1%}"
    )
  return None


def pretrainings(sources: Sequence[Source]) -> list[dict[str, Any]]:
  """The table of what the pre-trainings came to; none where there are none."""
  if not sources:
    return []
  lines: list[list[Cell]] = []
  for source in sources:
    if source.row.init_from is not None:
      lines.append([source.row.name, f"given: {source.row.init_from}", *[None] * 7])
      continue
    if source.ready:
      lines.append([source.row.name, *_cells(source.result)])
  header = ["", "data", "records", "classes", "held out", "right %", "in training %", "epochs", "seconds"]
  return [
    {"title": "Pre-trainings, each judged on its own held-out records", "header": header, "rows": lines}
  ]


def timing(sources: Sequence[Source]) -> dict[str, float]:
  """How many pre-trainings there were, and what they took together."""
  own = [source.result["seconds"] for source in sources if source.row.init_from is None and source.ready]
  return {"pretrainings": len(own), "pretraining_seconds": round(sum(own), 1)}


def _cells(result: Mapping[str, Any]) -> list[Cell]:
  correct, learned = np.concatenate(result["correct"]), result["learned"]
  return [
    result["data"]["name"] + ("" if result["failure"] is None else f", {result['failure']}"),
    result["data"]["records"],
    len(result["label_names"]),
    len(correct),
    f"{100 * correct.mean():.1f}",
    None if learned is None else f"{100 * learned:.1f}",
    result["epochs"],
    round(result["seconds"]),
  ]
