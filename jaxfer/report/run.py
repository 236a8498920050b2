"""Writes the files that describe the result of a run, and its summary for the log."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer import files
from jaxfer.report import grids, pages, plots, tables


def write(
  workdir: pathlib.Path,
  result: Mapping[str, Any],
  predictions: Sequence[Sequence[str]],
  history: Sequence[Mapping[str, Any]],
) -> None:
  """Writes `evaluation.json`, `predictions.csv`, `confusion.txt`, `confusion.png` and `curves.png`.

  Args:
    workdir: folder of the run.
    result: contents of `evaluation.json`.
    predictions: rows of `predictions.csv`.
    history: metrics of all trainings, each with its "fold".
  """
  names = result["label_names"]
  files.write_json(workdir / "evaluation.json", result)
  several = ("predicted_by_most_trials", "fold", "share_right")
  header = ["key", "subject", "label", *(several if result["trials"] > 1 else ("predicted", "fold"))]
  if result["confusion"] is not None:
    header += [f"probability of {name}" for name in names]
  files.write_atomic(workdir / "predictions.csv", files.csv_text(header, predictions))
  if result["confusion"] is not None:
    table = tables.text(*tables.confusion_table(result["confusion"], names))
    files.write_atomic(workdir / "confusion.txt", table)
    title = f"{result['data']['name']}: {pages.counts(result)} ({result['accuracy']:.1%})"
    plots.confusion_png(result["confusion"], names, workdir / "confusion.png", title)
  if history:
    plots.learning_curves_png(history, workdir / "curves.png")


def write_examples(
  path: pathlib.Path, images: np.ndarray, labels: Sequence[str], predicted: Sequence[str]
) -> None:
  """Draws one test record of each class, with its label and the predicted class where the two differ.

  Args:
    path: PNG file to write.
    images: uint8 [n, frames, height, width, channels].
    labels: [n] names of the true classes.
    predicted: [n] names of the predicted classes.
  """
  names = [
    label + ("" if label == guess else f"\ntaken for {guess}")
    for label, guess in zip(labels, predicted, strict=True)
  ]
  grids.rows_png(images, names, path, "One test record of each class")


def lines(result: Mapping[str, Any]) -> Iterator[str]:
  """Yields the lines that summarize the contents of `evaluation.json` for the log."""
  yield ""
  if result["confusion"] is None:
    classes = len(result["label_names"])
    yield f"{classes} classes: too many for a confusion matrix and examples, so none are written"
  else:
    yield tables.text(*tables.confusion_table(result["confusion"], result["label_names"]), digits=3).rstrip()
  yield ""
  low, high = result["interval_95"]
  counts = f"{round(result['correct'], 1)} of {result['count']}"
  counts += f", the mean of {result['trials']} trials" if result["trials"] > 1 else ""
  yield (
    f"accuracy {result['accuracy']:.4f} ({counts}, 95 % interval {low:.3f} to {high:.3f}, chance "
    f"{result['chance']:.3f}) on {result['unseen']} that the training never saw"
    + (f", {result['batches']}" if result["batches"] else "")
  )
  if calibration := result["calibration"]:
    line = f"expected calibration error {calibration['error']:.3f}"
    if calibration["temperature"] is not None:
      scaled = f"{calibration['error_scaled']:.3f} with temperature {calibration['temperature']:.2f}"
      line += f"; {scaled}, fitted to validation records"
    yield line
  for name, groups in result["accuracy_by_group"].items():
    each = (f"{group} {own['accuracy']:.3f} ({own['count']})" for group, own in groups.items())
    yield f"accuracy by {name} (number of records): {', '.join(each)}"
  if len(result["accuracy_by_fold"]) > 1:
    values = list(result["accuracy_by_fold"].values())
    yield f"pooled over {len(values)} folds; single folds {min(values):.3f} to {max(values):.3f}"
  for name, other in result["other_predictions"].items():
    batches = f", {other['batches']}" if other["batches"] else ""
    yield f"the same net evaluated otherwise, {name}{batches}: {other['accuracy']:.4f}"
  for name, accuracy in result["published"].items():
    comparable = "" if result["papers_data"] else " (other data than the paper's)"
    yield f"published, {name}: {accuracy:.4f}{comparable}; {result['source']}"
