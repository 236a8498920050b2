"""Grids of pictures with a name a row."""

import pathlib
from collections.abc import Sequence

import numpy as np

from jaxfer.report import plots


def rows_png(pictures: np.ndarray, names: Sequence[str], path: str | pathlib.Path, title: str) -> None:
  """Draws rows of pictures, each row under one name.

  Args:
    pictures: [rows, columns, height, width, 1 or 3], uint8.
    names: one a row.
    path: of the PNG.
    title: above the grid.
  """
  rows, columns, height, width, _ = pictures.shape
  if len(names) != rows:
    raise ValueError(f"{len(names)} names for {rows} rows of pictures")
  strips = pictures.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, -1)
  with plots.style():
    figure = plots.new_figure(0.75 + plots.WIDTH * 0.78 * rows * height / (columns * width))
    axes = figure.add_subplot()
    axes.imshow(strips if strips.shape[-1] == 3 else strips[..., 0], cmap="gray", interpolation="nearest")
    axes.set_yticks((np.arange(rows) + 0.5) * height - 0.5, names)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for k in range(1, rows):
      axes.axhline(k * height - 0.5, color="white", linewidth=2)
    plots.write_png(figure, path, title)
