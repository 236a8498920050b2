"""Draws figures as PNG: confusion matrices and learning curves.

matplotlib is imported inside the functions, and figures are made without pyplot. So no backend is selected, no global
state changes, and no display is needed. The colours are those of Okabe and Ito, which colour-blind readers can
distinguish. Lines that could be confused also differ in dashes and markers. Figures are 900 pixels wide and stay
legible at 600.
"""

import contextlib
import math
import pathlib
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxfer import files
from jaxfer.errors import UserError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Colour, dashes and marker of a split, the same in every figure.
SPLITS = {
  "train": (COLOURS[0], "-", "o"),
  "validation": (COLOURS[1], "--", "s"),
  "test": (COLOURS[2], "-.", "^"),
}
WIDTH, DPI = 6.0, 150  # Inches and dots per inch: 900 pixels.
GREY = "#555555"

Run = tuple[Any, ...]  # Seed, fold and member.
Point = tuple[float, float, float, float]  # Epoch; lowest, mean and highest value of the runs.


@contextlib.contextmanager
def style() -> Iterator[None]:
  """Context manager that gives all figures the same style, whatever the user's own matplotlib settings are."""
  import matplotlib

  look: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.dpi": DPI,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "font.size": 10,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.parse_math": False,  # Names may contain "$".
    "xtick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.color": GREY,
    "ytick.labelcolor": "black",
  }
  with matplotlib.rc_context():
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(look)
    yield


def confusion_png(
  confusion: ArrayLike, label_names: Sequence[str], path: str | pathlib.Path, title: str
) -> None:
  """Draws a confusion matrix C[true, predicted]. Colours show the share of the row, numbers show the count.

  Args:
    confusion: [K, K]; the row of a class without examples stays white.
    label_names: K names.
    path: path of the PNG.
    title: title above the figure.

  Raises:
    ValueError: the shapes disagree.
  """
  matrix = np.asarray(confusion, np.float64)
  size = len(label_names)
  if matrix.shape != (size, size):
    raise ValueError(f"{size} label names for a confusion matrix of shape {matrix.shape}")
  totals = matrix.sum(1, keepdims=True)
  share = np.divide(matrix, totals, out=np.full_like(matrix, np.nan), where=totals > 0)
  with style():
    figure = new_figure(WIDTH * 0.86)
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    font = max(5.0, min(11.0, 85 / max(size, 1)))
    for row, column in np.ndindex(size, size):
      value = float(matrix[row, column])
      axes.text(
        column,
        row,
        f"{value:.0f}" if value.is_integer() else f"{value:.1f}",
        ha="center",
        va="center",
        fontsize=font,
        fontweight="bold" if row == column else "normal",
        color="white" if share[row, column] > 0.5 else "black",
      )
    _label_classes(axes, label_names)
    axes.set_yticks(range(size), label_names)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set(visible=True, color="#E5E5E5")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.ax.set_yticklabels(["0", "25", "50", "75", "100"])
    bar.set_label("% of the true class")
    bar.outline.set_visible(False)
    write_png(figure, path, title)


def learning_curves_png(
  metrics_rows: Sequence[Mapping[str, Any]], path: str | pathlib.Path, title: str = "Learning curves"
) -> None:
  """Draws loss and accuracy against the epoch, with one line per split. Stages follow each other on the x axis.

  Args:
    metrics_rows: rows of metrics.jsonl in the order written. Each has `stage`, `epoch`, `split` ("train", "validation"
      or "test") and `loss` or `accuracy` (in [0, 1]) or both; other rows are ignored. The keys `seed`, `fold` and
      `member` distinguish the rows of several runs. The line is then the mean of the runs, and the band their range.
      Several rows of one run and epoch are averaged. NaN leaves a gap, and None counts as missing.
    path: path of the PNG.
    title: title above the figure.

  Raises:
    UserError: no row has a loss or an accuracy.
  """
  curves, stages, runs = _curves(metrics_rows)
  panels = [name for name in ("loss", "accuracy") if any(key[0] == name for key in curves)]
  if not panels:
    raise UserError(
      f"{path}: there is nothing to draw, as no row has a loss or an accuracy; let the run finish one epoch"
    )
  with style():
    figure = new_figure(WIDTH * (0.3 + 0.32 * len(panels)))
    axes_of = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(axes_of, panels, strict=True):
      scale = 100 if panel == "accuracy" else 1
      for split, (colour, dashes, marker) in SPLITS.items():
        if (panel, split) not in curves:
          continue
        points = curves[panel, split]
        every = max(1, math.ceil(len(points) / 12))
        look = {"color": colour, "linestyle": dashes, "marker": marker, "markersize": 4, "markevery": every}
        for (start, _), (end, _) in zip(stages, [*stages[1:], (math.inf, "")], strict=True):
          part = [
            point for point in points if start <= point[0] < end
          ]  # Lines of different stages are not joined.
          if not part:
            continue
          at, low, mean, high = np.transpose(part)
          if runs > 1:
            axes.fill_between(at, scale * low, scale * high, color=colour, alpha=0.18, linewidth=0)
          if runs > 1 and len(part) == 1:  # A band of width 0 would be invisible.
            axes.vlines(at, scale * low, scale * high, color=colour, linewidth=1)
          axes.plot(at, scale * mean, label=split, **look)
      axes.set_ylabel("accuracy (%)" if panel == "accuracy" else panel)
      if panel == "accuracy":
        axes.set_ylim(top=min(axes.get_ylim()[1], 101))
      for start, _ in stages[1:]:
        axes.axvline(start - 0.5, color=GREY, linewidth=1, linestyle=":")
    if len(stages) > 1:
      for start, name in stages:
        axes_of[0].annotate(
          name,
          (start - 0.5, 1),
          xycoords=("data", "axes fraction"),
          xytext=(4, 3),
          textcoords="offset points",
          fontsize=8.5,
          color=GREY,
        )
    axes_of[-1].set_xlabel("epoch" if runs == 1 else f"epoch (mean and range of {runs} runs)")
    axes_of[-1].xaxis.get_major_locator().set_params(integer=True)
    drawn = [pair for axes in axes_of for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in drawn}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    write_png(figure, path, title)


def new_figure(height: float) -> Any:
  """Returns an empty figure of the common width, with a separate Agg canvas. `height` is in inches."""
  from matplotlib.figure import Figure

  return Figure(figsize=(WIDTH, height), layout="constrained")


def _label_classes(axes: Any, label_names: Sequence[str]) -> None:
  """Labels the ticks 0, 1, ... of the x axis. Labels are slanted if they do not fit, at about 56 characters in all."""
  slant: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
  level = all(len(name) * len(label_names) <= 56 for name in label_names)
  axes.set_xticks(range(len(label_names)), label_names, **({} if level else slant))


def write_png(figure: Any, path: str | pathlib.Path, title: str) -> None:
  """Writes the PNG and wraps long titles. It omits time and version, so equal numbers give identical files."""
  figure.suptitle("\n".join(textwrap.fill(line, 52) for line in title.split("\n")))
  with warnings.catch_warnings():
    # Characters that matplotlib's font lacks are drawn as boxes. Tables and pages show the same names correctly.
    warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
    files.write_atomic(path, lambda file: figure.savefig(file, format="png", metadata={"Software": None}))


def _curves(
  rows: Sequence[Mapping[str, Any]],
) -> tuple[dict[tuple[str, str], list[Point]], list[tuple[int, str]], int]:
  """Groups rows into {(metric, split): points}, [(first x, stage)] and the number of runs.

  x counts the epochs of all stages from 1. Stages are distinguished by their position in the run, not by their name, so
  a repeated stage counts as a new one.
  """
  place: dict[Run, tuple[int, str]] = {}  # The current stage of each run: its index in `names`, and its name.
  names: list[str] = []
  epochs: list[set[int]] = []
  values: dict[tuple[str, str, int, int], dict[Run, list[float]]] = {}
  for row in rows:
    if row.get("split") not in SPLITS or row.get("epoch") is None:
      continue
    measured = {name: row[name] for name in ("loss", "accuracy") if row.get(name) is not None}
    if not measured:
      continue
    run = tuple(row.get(key) for key in ("seed", "fold", "member"))
    stage, epoch = str(row.get("stage", "")), int(row["epoch"])
    index, current = place.get(run, (-1, None))
    if stage != current:
      index += 1
      place[run] = (index, stage)
      if index == len(names):
        names.append(stage)
        epochs.append(set())
    epochs[index].add(epoch)
    for name, value in measured.items():
      values.setdefault((name, row["split"], index, epoch), {}).setdefault(run, []).append(float(value))

  stages, start = [], 1
  for name, seen in zip(names, epochs, strict=True):
    stages.append((start, name))
    start += max(seen) - min(seen) + 1
  curves: dict[tuple[str, str], list[Point]] = {}
  for (name, split, index, epoch), by_run in sorted(values.items(), key=lambda item: item[0]):
    means = np.array([np.mean(of_run) for of_run in by_run.values()])
    x = stages[index][0] + epoch - min(epochs[index])
    curves.setdefault((name, split), []).append((x, means.min(), means.mean(), means.max()))
  drawn = {key: points for key, points in curves.items() if np.isfinite([point[2] for point in points]).any()}
  return drawn, stages, len(place)
