"""Formats tables, each a header and rows of cells, as plain text and Markdown.

`confusion_table` and `class_table` make such tables from the results of `jaxfer.metrics`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Cell = str | bool | int | float | np.generic | None
Table = tuple[list[str], list[list[Cell]]]


def text(header: Sequence[str], rows: Sequence[Sequence[Cell]], digits: int = 4) -> str:
  """Returns the table as aligned plain text. Columns of numbers are aligned right, all others left.

  Args:
    header: one name per column.
    rows: cells as str, int, float (printed with `digits` decimals; NaN as "nan"), bool ("yes" or "no") or None
      ("-").
    digits: number of decimals of floats.

  Raises:
    ValueError: a row does not have one cell per column.
  """
  cells, widths, right = _layout(header, rows, digits)
  rule = ["-" * width for width in widths]
  lines = [cells[0], rule, *cells[1:]]
  return "".join("  ".join(_pad(line, widths, right)).rstrip() + "\n" for line in lines)


def not_finite(failed: Mapping[str, Any]) -> str:
  """Describes a failed training.

  Args:
    failed: "member", such as "seed 0, fold 1", and "where" a value was not finite.
  """
  return f"{failed['member']}: not finite in {failed['where']}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[Cell]], digits: int = 4) -> str:
  """Returns the table as GitHub Markdown with an aligned source. Arguments and errors are those of `text`."""
  header = [_escape(name) for name in header]
  rows = [[_escape(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
  cells, widths, right = _layout(header, rows, digits)
  widths = [max(width, 3) for width in widths]
  rule = [
    "-" * (width - 1) + ":" if is_right else "-" * width
    for width, is_right in zip(widths, right, strict=True)
  ]
  lines = [_pad(cells[0], widths, right), rule, *(_pad(line, widths, right) for line in cells[1:])]
  return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def confusion_table(confusion: ArrayLike, label_names: Sequence[str]) -> Table:
  """Returns (header, rows) of a confusion matrix C[true, predicted]: one row per true class, with its recall.

  Args:
    confusion: [K, K]; whole numbers are shown without decimals.
    label_names: K names.

  Raises:
    ValueError: the shapes disagree.
  """
  matrix = np.asarray(confusion, np.float64)
  if matrix.shape != (len(label_names), len(label_names)):
    raise ValueError(f"{len(label_names)} label names for a confusion matrix of shape {matrix.shape}")
  rows: list[list[Cell]] = []
  for k, name in enumerate(label_names):
    total = matrix[k].sum()
    counts = [_count(value) for value in (*matrix[k], total)]
    rows.append([name, *counts, matrix[k, k] / total if total else math.nan])
  return ["true \\ predicted", *label_names, "sum", "recall"], rows


def group_tables(accuracy_by_group: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Table]:
  """Returns a (header, rows) for each column of "accuracy_by_group" in evaluation.json: one row per group."""
  return [
    ([column, "accuracy", "records"], [[name, own["accuracy"], own["count"]] for name, own in groups.items()])
    for column, groups in accuracy_by_group.items()
  ]


def class_table(summary: Mapping[str, Any], label_names: Sequence[str]) -> Table:
  """Returns (header, rows) of a result of `metrics.summarize`: one row per class, then the macro averages."""
  columns = [summary[name] for name in ("precision", "recall", "f1", "support")]
  rows: list[list[Cell]] = [
    [name, float(precision), float(recall), float(f1), _count(support)]
    for name, precision, recall, f1, support in zip(label_names, *columns, strict=True)
  ]
  macro = [summary[f"macro_{name}"] for name in ("precision", "recall", "f1")]
  rows.append(["macro average", *macro, _count(summary["count"])])
  return ["class", "precision", "recall", "f1", "examples"], rows


def _layout(
  header: Sequence[str], rows: Sequence[Sequence[Cell]], digits: int
) -> tuple[list[list[str]], list[int], list[bool]]:
  """Returns the cells as text (header first), the width of each column, and whether it is aligned right."""
  check(header, rows)
  shown = [list(header), *([show(cell, digits) for cell in row] for row in rows)]
  cells = [[re.sub(r"\s", " ", cell) for cell in line] for line in shown]  # A row is one line.
  widths = [max(len(line[k]) for line in cells) for k in range(len(header))]
  right = [is_numeric([row[k] for row in rows]) for k in range(len(header))]
  return cells, widths, right


def check(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
  """Raises `ValueError` if a row does not have one cell per column."""
  for row in rows:
    if len(row) != len(header):
      raise ValueError(f"a row of {len(row)} cells under a header of {len(header)}: {list(row)}")


def is_numeric(column: Sequence[Cell]) -> bool:
  """Returns whether a column is aligned right: it holds at least one number, and nothing else but None."""
  filled = [cell for cell in column if cell is not None]
  return bool(filled) and not any(isinstance(cell, str | bool | np.bool_) for cell in filled)


def _pad(line: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
  return [
    cell.rjust(width) if is_right else cell.ljust(width)
    for cell, width, is_right in zip(line, widths, right, strict=True)
  ]


def _escape(cell: str) -> str:
  """Escapes text for a Markdown cell.

  A bar would end the cell, so it gets a backslash. Backslashes before a bar are doubled, or they would undo its escape.
  """
  return re.sub(r"(\\*)\|", r"\1\1\\|", cell).replace("<", "\\<")


def _count(value: float) -> int | float:
  """Removes the rounding error of a sum of fractional counts; returns an int if the result is whole."""
  value = round(float(value), 9)
  return int(value) if value.is_integer() else value


def show(cell: Cell, digits: int) -> str:
  """Returns the text of a cell, as `text` prints it."""
  value = cell.item() if isinstance(cell, np.generic) else cell
  if value is None:
    return "-"
  if isinstance(value, bool):
    return "yes" if value else "no"
  return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
