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


def gates_png(
  frames: np.ndarray, maps: np.ndarray, names: Sequence[str], path: str | pathlib.Path, title: str
) -> None:
  """Draws maps over their frames: a row a clip, a column a step; the map gives the colour, the frame its brightness.

  The colours span the maps' own range, widened to whole hundredths, since the gates of a trained net differ by little.

  Args:
    frames: [clips, time, height, width, 3], uint8; of more than eight steps, eight evenly spaced ones are drawn.
    maps: [clips, time, rows, columns], in [0, 1]; stretched over the frame.
    names: one a clip.
    path: of the PNG.
    title: above the grid.

  Raises:
    ValueError: the number of clips, steps or names disagrees.
  """
  import matplotlib

  if maps.shape[:2] != frames.shape[:2] or len(names) != len(frames):
    raise ValueError(f"{len(names)} names and maps {maps.shape} for frames {frames.shape}")
  clips, time, height, width, _ = frames.shape
  steps = np.unique(np.linspace(0, time - 1, min(time, 8)).round().astype(int))
  rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), maps.shape[2:], strict=True))
  values = np.asarray(maps, np.float64)[:, steps][:, :, rows][:, :, :, columns]
  low, high = np.floor(100 * values.min()) / 100, np.ceil(100 * values.max()) / 100
  low, high = (low, high) if high > low else (max(low - 0.05, 0.0), min(high + 0.05, 1.0))
  scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(low, high), "coolwarm")
  brightness = 0.35 + 0.65 * frames[:, steps].mean(-1, keepdims=True) / 255
  drawn = scale.to_rgba(values.reshape(-1, width))[:, :, :3].reshape(*values.shape, 3) * brightness
  with plots.style():
    figure = plots.new_figure(1.5 + plots.WIDTH * 0.8 * clips * height / (len(steps) * width))
    axes_of = figure.subplots(clips, len(steps), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.05, wspace=0, hspace=0)
    for (row, column), axes in np.ndenumerate(axes_of):
      axes.imshow(drawn[row, column], interpolation="nearest")
      axes.set(xticks=[], yticks=[])
      axes.spines[:].set_visible(False)
      if column == 0:
        axes.set_ylabel(names[row], rotation=0, ha="right", va="center")
      if row == 0:
        axes.set_title(f"step {steps[0] + 1}" if column == 0 else str(steps[column] + 1), fontsize=10)
    bar = figure.colorbar(scale, ax=axes_of, location="bottom", fraction=0.05, pad=0.02, aspect=50)
    bar.set_label("share let through, mean over features")
    bar.outline.set_visible(False)
    plots.write_png(figure, path, title)
