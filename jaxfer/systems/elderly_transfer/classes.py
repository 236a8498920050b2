"""Paper 004's classes one by one: a net beside people, of the paper and of the same pictures where they were asked."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer import metrics
from jaxfer.data import emotions
from jaxfer.data.datasets.nagoya import raters
from jaxfer.report.tables import Cell, Table
from jaxfer.systems.elderly_transfer import published
from jaxfer.systems.system import Task
from jaxfer.train.stage import Variables


def measured(names: Sequence[str]) -> list[str]:
  """How `measures` names what it finds: how many answers, how many of them right, and three rates of each class."""
  rates = [f"people, {rate} of {name}" for name in names for rate in ("precision", "recall", "F1")]
  return ["people, answers", "people, accuracy", *rates]


def measures(
  task: Task, variables: Variables, trained: np.ndarray, tested: np.ndarray
) -> dict[str, float | None]:
  """What people answer to the tested pictures, counted by `raters.judge`.

  Returns:
    By `measured` the number of answers and rates 0 to 1, None where nobody answered; nothing at all where the records
    are no rated pictures of elderly people.
  """
  del variables, trained
  names, votes = task.records.label_names, task.records.arrays.get("votes")
  if votes is None or order(names) != list(range(9)) or not votes.any():
    return {}
  asked = votes[tested]
  if not asked.any():
    return dict.fromkeys(measured(names))
  judged = raters.judge(asked, task.records.arrays["label"][tested])
  rates = np.stack([judged.precision, judged.recall, judged.f1], 1).ravel().tolist()
  values = [float(judged.answers), judged.accuracy, *rates]
  return {
    name: None if np.isnan(value) else value for name, value in zip(measured(names), values, strict=True)
  }


def order(names: Sequence[str]) -> list[int]:
  """Where the paper's classes are among others of the same meaning; nothing where they are other classes."""
  try:
    places = [emotions.find(name, names) for name in published.CLASSES]
  except ValueError:
    return []
  return places if len(names) == len(places) else []


def table(row: Mapping[str, Any]) -> Table:
  """Precision, recall, F1; their means over nine classes, sums by ten, as the raters' macro averages seem to be, and
  the averages that the paper prints.

  Args:
    row: of a study's table, of the paper's classes. Its counts are pooled over trainings; of what people said of the
      pictures of each test the mean over trainings is shown: those that know the rate; 0 where none does.
  """
  places = order(row["label_names"])
  ours = metrics.summarize(np.asarray(row["confusion"])[np.ix_(places, places)])
  groups = {f"ours: {row['name']}": np.stack([ours[name] for name in ("precision", "recall", "f1")])}
  found = [row["measures"].get(name, []) for name in measured(row["label_names"])]
  known = [[value for value in values if value is not None] for values in found]
  answers, accuracy, *rates = [float(np.mean(values or 0)) for values in known]
  if answers:
    what = f"people, same pictures ({answers:.0f} answers a test, {100 * accuracy:.1f} % right)"
    groups[what] = np.reshape(rates, (-1, 3)).T[:, places]
  macro: dict[str, tuple[float, ...]] = {}
  for who, printed in (("net", published.NET), ("people", published.PEOPLE)):
    what = f"paper's {who} ({100 * printed.accuracy:.1f} % right)"
    groups[what] = np.array([printed.precision, printed.recall, printed.f1])
    macro[what] = printed.macro
  lines: list[list[Cell]] = []
  for group, by_letter in groups.items():
    for k, (letter, values) in enumerate(zip("PRF", by_letter, strict=True)):
      nine, ten, *each = (
        f"{100 * value:.1f}" for value in (np.sum(values) / 9, np.sum(values) / 10, *values)
      )
      printed_mean = f"{100 * macro[group][k]:.1f}" if group in macro else None
      lines.append([f"{group}, {letter}", nine, ten, printed_mean, *each])
  return ["", "mean of 9", "sum / 10", "as printed", *published.CLASSES], lines
