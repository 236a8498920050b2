"""Pre-trainings of a study, whose weights rows start from. Each is run once, and is not a row of the study's table.

A pre-training counts as failed if its loss was not finite, or if its training accuracy in the last epoch is less than
twice the chance level. This rule is our choice: paper 004 prints "- (Pretraining Failed)" and does not define it.
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
from jaxfer.report import plots, tables
from jaxfer.report.tables import Cell
from jaxfer.study import variants
from jaxfer.study.split import split_of
from jaxfer.study.task import Task
from jaxfer.train import processes


@dataclasses.dataclass(frozen=True)
class Source:
  """A pre-training.

  Attributes:
    row: the name of the pre-training, and optionally a folder of weights that replaces it.
    config: config of the training.
    folder: folder for its checkpoints, `result.json`, `history.jsonl`, `curves.png` and weights.
  """

  row: configuration.Row
  config: RunConfig
  folder: pathlib.Path

  @property
  def ready(self) -> bool:
    """Whether it has been trained, or is replaced by given weights."""
    return self.row.init_from is not None or (self.folder / variants.RESULT).is_file()

  @property
  def result(self) -> dict[str, Any]:
    """The result that `train` stored."""
    return variants.stored(self.folder)

  @property
  def failure(self) -> str | None:
    """The reason why no row can start from it, or None."""
    return None if self.row.init_from is not None else self.result["failure"]

  @property
  def weights(self) -> pathlib.Path:
    """The folder of weights to start from.

    Raises:
      UserError: the folder of the trained weights does not contain exactly one training.
    """
    if self.row.init_from is not None:
      return pathlib.Path(self.row.init_from)
    below = self.folder / "weights"
    found = [path for path in below.glob("*") if path.is_dir() and not files.clutter(path.name)]
    if len(found) != 1:
      raise UserError(
        f"{below} holds {len(found)} folders, expected the weights of one training: remove "
        f"{self.folder / variants.RESULT} and go on with --resume"
      )
    return found[0]

  def train(self, task: Callable[[RunConfig], Task], seed: int, log: Callable[[str], None]) -> None:
    """Trains it, evaluates it on its own test records, and stores the result in its folder.

    Args:
      task: function of a config that returns its task.
      seed: seed of the training.
      log: called with each line of the log.
    """
    log(f"pre-training {self.row.name}:")
    own, made = [variants.Variant(self.row.name, self.config, self.folder)], task(self.config)
    data = made.records
    log(folds.describe(data.subjects, data.arrays["label"], data.label_names, split_of(self.config, data)))
    trained = variants.train(own, made, (seed,), variants.Start(), True, log)
    processes.alone(lambda: self._store(*trained[0]), None)

  def _store(self, result: dict[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
    learned = [line["accuracy"] for line in lines if line["split"] == "train" and "accuracy" in line]
    result |= {
      "failure": failure(result["failed"], learned, len(result["label_names"])),
      "learned": learned[-1] if learned else None,
      "epochs": len(learned),
    }
    if lines:
      plots.learning_curves_png(lines, self.folder / "curves.png", self.row.name)
    variants.store(self.folder, result, lines)


def failure(failed: Sequence[Mapping[str, Any]], learned: Sequence[float], classes: int) -> str | None:
  """Returns the reason why a pre-training counts as failed, or None.

  Args:
    failed: the trainings that were not finite, see `report.tables.not_finite`.
    learned: training accuracy of each epoch, in [0, 1].
    classes: number of classes.
  """
  if failed:
    return f"failed: {tables.not_finite(failed[0])}"
  if learned and learned[-1] < 2 / classes:
    return f"failed: {learned[-1]:.1%} of its training records correct at the end, less than twice {1 / classes:.1%}"
  return None


def pretrainings(sources: Sequence[Source]) -> list[dict[str, Any]]:
  """Returns a table of the pre-trainings' results as a list of one, or an empty list if there are none."""
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
  return [{"title": "Pre-trainings, each evaluated on its own test records", "header": header, "rows": lines}]


def timing(sources: Sequence[Source]) -> dict[str, float]:
  """Returns the number of pre-trainings that were run, and their total duration in seconds."""
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
