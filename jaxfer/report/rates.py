"""Draws the share of correct answers of people and of nets side by side, by class."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from jaxfer.report import plots


def rates_png(
  rates: Mapping[str, ArrayLike], label_names: Sequence[str], path: str | pathlib.Path, title: str
) -> None:
  """Draws the rate of each class: a bar for the mean over a group's runs or people, a line for the standard deviation.

  Args:
    rates: group -> [runs, classes] in [0, 1], for at most seven groups. A class that was not tested in some run (NaN)
      has no bar.
    label_names: names of the classes.
    path: path of the PNG.
    title: title above the figure.

  Raises:
    ValueError: there are no groups or too many, or a group has no runs or other classes.
  """
  if not 1 <= len(rates) <= len(plots.COLOURS):
    raise ValueError(f"1..{len(plots.COLOURS)} groups can be drawn, got {len(rates)}")
  places, width = np.arange(len(label_names)), 0.84 / len(rates)
  with plots.style():
    figure = plots.new_figure(plots.WIDTH * 0.62)
    axes = figure.add_subplot()
    for k, (name, values) in enumerate(rates.items()):
      runs = 100 * np.asarray(values, np.float64)
      if runs.ndim != 2 or not len(runs) or runs.shape[1] != len(places):
        raise ValueError(f"'{name}' has rates of shape {runs.shape} for {len(places)} classes")
      at = places + (k - (len(rates) - 1) / 2) * width
      axes.bar(at, runs.mean(0), width * 0.92, color=plots.COLOURS[k], label=name)
      if len(runs) > 1:
        std = runs.std(0, ddof=1)
        axes.errorbar(at, runs.mean(0), std, fmt="none", ecolor="black", elinewidth=1.2, capsize=2.5)
    axes.set_xticks(places, label_names)
    axes.tick_params(axis="x", length=0)
    axes.grid(False, axis="x")
    axes.set_ylim(0, 100)
    axes.set_ylabel("correct (%), mean and sd")
    columns = len(rates) if sum(map(len, rates)) < 44 else 2
    figure.legend(loc="outside lower center", ncols=columns)
    plots.write_png(figure, path, title)
