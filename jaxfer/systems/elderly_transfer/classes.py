"""Results by class for paper 004: our model, human raters of the same images, and the paper's model and raters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer import metrics
from jaxfer.data import emotions
from jaxfer.data.datasets.nagoya import raters
from jaxfer.data.records import Records
from jaxfer.report.tables import Cell, Table
from jaxfer.systems.elderly_transfer import published

# The images for which people's answers are counted: the test images, or all. The names of the metrics begin with these.
TESTED, ALL = "people", "all images"


def metric_names(label_names: Sequence[str], which: str = TESTED) -> list[str]:
  """Names of the metrics of `rater_metrics`: the number of answers, their accuracy, and three rates per class."""
  rates = [f"{which}, {rate} of {name}" for name in label_names for rate in ("precision", "recall", "F1")]
  return [f"{which}, answers", f"{which}, accuracy", *rates]


def rater_metrics(records: Records, indices: np.ndarray, which: str = TESTED) -> dict[str, float | None]:
  """Accuracy, precision, recall and F1 of human raters on some records, as `raters.judge` counts them.

  Args:
    records: images of the paper's classes, with the array "votes" [n, 10] of the Nagoya data set.
    indices: the records to count: the test records of a training, or all.
    which: `TESTED` or `ALL`, for the names.

  Returns:
    The number of answers, and rates between 0 and 1, by the names of `metric_names`. A value is None where nobody
    answered. The mapping is empty if the records have no votes or other classes than the paper's.
  """
  names, votes = records.label_names, records.arrays.get("votes")
  if votes is None or order(names) != list(range(9)) or not votes.any():
    return {}
  votes = votes[indices]
  if not votes.any():
    return dict.fromkeys(metric_names(names, which))
  rated = raters.judge(votes, records.arrays["label"][indices])
  rates = np.stack([rated.precision, rated.recall, rated.f1], 1).ravel().tolist()
  values = [float(rated.answers), rated.accuracy, *rates]
  return {
    name: None if np.isnan(value) else value
    for name, value in zip(metric_names(names, which), values, strict=True)
  }


def order(names: Sequence[str]) -> list[int]:
  """The index in `names` of each of the paper's classes; empty if the names are not those of the same nine classes."""
  try:
    places = [emotions.find(name, names) for name in published.CLASSES]
  except ValueError:
    return []
  return places if len(names) == len(places) else []


def table(row: Mapping[str, Any]) -> Table:
  """Precision, recall and F1 by class, in %, for one variant, the paper's best model and human raters.

  If the data have answers, the rows below the variant show people on its test images, and on all images.

  Three averages precede the classes: the mean of the nine values; their sum divided by ten, which seems to be how the
  paper averages its raters (see `published.NOTES`); and the average that the paper prints.

  Args:
    row: a variant of a study's table, on the paper's classes. Its confusion matrix is pooled over trainings. Raters'
      rates are means over the trainings that know the rate, or 0 if none does.
  """
  places = order(row["label_names"])
  ours = metrics.summarize(np.asarray(row["confusion"])[np.ix_(places, places)])
  groups = {f"ours: {row['name']}": np.stack([ours[name] for name in ("precision", "recall", "f1")])}
  for which, words in ((TESTED, "same images (%.0f answers per training"), (ALL, "all images (%.0f answers")):
    found = [row["metrics"].get(name, []) for name in metric_names(row["label_names"], which)]
    known = [[value for value in values if value is not None] for values in found]
    answers, accuracy, *rates = [float(np.mean(values or 0)) for values in known]
    if answers:
      what = f"people, {words % answers}, {100 * accuracy:.1f} % correct)"
      groups[what] = np.reshape(rates, (-1, 3)).T[:, places]
  macro: dict[str, tuple[float, ...]] = {}
  for who, printed in (("model", published.MODEL), ("people", published.PEOPLE)):
    what = f"paper's {who} ({100 * printed.accuracy:.1f} % correct)"
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
