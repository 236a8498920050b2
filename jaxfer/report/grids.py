"""Draws grids of pictures with a name for each row."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.report import plots


def rows_png(pictures: np.ndarray, names: Sequence[str], path: str | pathlib.Path, title: str) -> None:
  """Draws rows of pictures, each with a name.

  Args:
    pictures: [rows, columns, height, width, 1 or 3], uint8.
    names: one name per row.
    path: path of the PNG.
    title: title above the grid.
  """
  rows, columns, height, width, _ = pictures.shape
  if len(names) != rows:
    raise ValueError(f"{len(names)} names for {rows} rows of pictures")
  strips = pictures.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, -1)
  with plots.style():
    figure = plots.new_figure(0.75 + plots.WIDTH * 0.78 * rows * height / (columns * width))
    # "constrained" truncates long names next to pictures with a fixed aspect ratio.
    figure.set_layout_engine("compressed")
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


def signed_png(maps: np.ndarray, columns: int, path: str | pathlib.Path, title: str) -> None:
  """Draws maps of positive (red) and negative (blue) numbers side by side, each with a separate scale around zero.

  Args:
    maps: [count, height, width].
    columns: number of maps in a row.
    path: path of the PNG.
    title: title above the grid.
  """
  count, height, width = maps.shape
  rows, gap = -(-count // columns), max(1, height // 16)
  scaled = maps / np.maximum(np.abs(maps).max((1, 2), keepdims=True), np.finfo(np.float32).tiny)
  tiles = np.full((rows * columns, height + gap, width + gap), np.nan)
  tiles[:count, gap:, gap:] = scaled
  whole = tiles.reshape(rows, columns, height + gap, width + gap).transpose(0, 2, 1, 3)
  sheet = whole.reshape(rows * (height + gap), columns * (width + gap))
  with plots.style():
    figure = plots.new_figure(0.6 + plots.WIDTH * 0.96 * sheet.shape[0] / sheet.shape[1])
    axes = figure.add_subplot()
    axes.imshow(sheet, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    plots.write_png(figure, path, title)


def gates_png(
  frames: np.ndarray, maps: np.ndarray, names: Sequence[str], path: str | pathlib.Path, title: str
) -> None:
  """Draws maps over their frames, with a row for each clip and a column for each step.

  The map determines the colour and the frame the brightness. The scale is the range of the maps, widened to whole
  hundredths, because the gates of a trained net differ little.

  Args:
    frames: [clips, time, height, width, 3], uint8. If there are more than eight steps, eight evenly spaced ones are
      drawn.
    maps: [clips, time, rows, columns], in [0, 1]; stretched over the frames.
    names: one name per clip.
    path: path of the PNG.
    title: title above the grid.

  Raises:
    ValueError: the number of clips, steps or names disagrees.
  """
  if maps.shape[:2] != frames.shape[:2] or len(names) != len(frames):
    raise ValueError(f"{len(names)} names and maps {maps.shape} for frames {frames.shape}")
  steps = _steps(frames)
  scale, drawn = _over_frames(frames[:, steps], maps[:, steps])
  _steps_png(drawn, names, steps, {"share let through, mean over features": scale}, path, title)


def gate_streams_png(
  frames: np.ndarray,
  maps: Mapping[str, np.ndarray],
  names: Sequence[str],
  path: str | pathlib.Path,
  title: str,
) -> None:
  """Draws clips with the maps of several streams below their frames, one row for each stream.

  Each stream has its own colour scale, see `gates_png`.

  Args:
    frames: see `gates_png`.
    maps: stream -> [clips, time, rows, columns], in [0, 1]; stretched over the frames.
    names: one name per clip.
    path: path of the PNG.
    title: title above the grid.

  Raises:
    ValueError: the number of clips, steps or names disagrees.
  """
  for of_stream in maps.values():
    if of_stream.shape[:2] != frames.shape[:2] or len(names) != len(frames):
      raise ValueError(f"{len(names)} names and maps {of_stream.shape} for frames {frames.shape}")
  steps = _steps(frames)
  rows, scales = [frames[:, steps] / 255], {}
  for stream, of_stream in maps.items():
    scale, drawn = _over_frames(frames[:, steps], of_stream[:, steps])
    rows.append(drawn)
    scales[f"{stream}: share let through, mean over features"] = scale
  labels = [label for name in names for label in (name, *maps)]
  interleaved = np.stack(rows, 1).reshape(-1, *rows[0].shape[1:])
  _steps_png(interleaved, labels, steps, scales, path, title)


def _steps(frames: np.ndarray) -> np.ndarray:
  """Returns the steps of clips [clips, time, ...] that are drawn: all, or eight evenly spaced ones."""
  time = frames.shape[1]
  return np.unique(np.linspace(0, time - 1, min(time, 8)).round().astype(int))


def _over_frames(frames: np.ndarray, maps: np.ndarray) -> tuple[Any, np.ndarray]:
  """Returns the colour scale of maps, and the maps over their frames, [clips, steps, height, width, 3] in [0, 1]."""
  import matplotlib

  height, width = frames.shape[2:4]
  rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), maps.shape[2:], strict=True))
  values = np.asarray(maps, np.float64)[:, :, rows][:, :, :, columns]
  low, high = np.floor(100 * values.min()) / 100, np.ceil(100 * values.max()) / 100
  low, high = (low, high) if high > low else (max(low - 0.05, 0.0), min(high + 0.05, 1.0))
  scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(low, high), "coolwarm")
  brightness = 0.35 + 0.65 * frames.mean(-1, keepdims=True) / 255
  return scale, scale.to_rgba(values.reshape(-1, width))[:, :, :3].reshape(*values.shape, 3) * brightness


def _steps_png(
  rows: np.ndarray,
  names: Sequence[str],
  steps: np.ndarray,
  scales: Mapping[str, Any],
  path: str | pathlib.Path,
  title: str,
) -> None:
  """Draws rows [rows, steps, height, width, 3] in [0, 1], with a colour bar for each label in `scales`."""
  count, _, height, width, _ = rows.shape
  with plots.style():
    bars = 0.75 * len(scales)
    figure = plots.new_figure(0.75 + bars + plots.WIDTH * 0.8 * count * height / (len(steps) * width))
    axes_of = figure.subplots(count, len(steps), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.05, wspace=0, hspace=0)
    for (row, column), axes in np.ndenumerate(axes_of):
      axes.imshow(rows[row, column], interpolation="nearest")
      axes.set(xticks=[], yticks=[])
      axes.spines[:].set_visible(False)
      if column == 0:
        axes.set_ylabel(names[row], rotation=0, ha="right", va="center")
      if row == 0:
        axes.set_title(f"step {steps[0] + 1}" if column == 0 else str(steps[column] + 1), fontsize=10)
    for label, scale in reversed(list(scales.items())):  # Later bars are drawn above earlier ones.
      bar = figure.colorbar(scale, ax=axes_of, location="bottom", fraction=0.05, pad=0.02, aspect=50)
      bar.set_label(label)
      bar.outline.set_visible(False)
    plots.write_png(figure, path, title)


def over_face_png(
  face: np.ndarray,
  maps: np.ndarray,
  names: Sequence[str],
  path: str | pathlib.Path,
  title: str,
  regions: Mapping[str, np.ndarray] | None = None,
) -> None:
  """Draws the map of each class over one face, in rows of four panels. The last panel shows the regions' outlines.

  The colours of a map span its range from the smallest positive value to the largest. Where it is zero, the face is
  shown.

  Args:
    face: [height, width] uint8, drawn in pale grey.
    maps: [classes, height, width], nonnegative.
    names: one name per class, written above its panel.
    path: path of the PNG.
    title: title above the grid.
    regions: name -> [height, width] bool.

  Raises:
    ValueError: the number of names or the size of the maps disagrees.
  """
  import matplotlib

  if maps.shape[1:] != face.shape or len(names) != len(maps):
    raise ValueError(f"{len(names)} names and maps {maps.shape} for a face {face.shape}")
  regions = regions or {}
  height, width = face.shape
  pale = 90 + 150 * (face.astype(float) - face.min()) / max(float(np.ptp(face)), 1.0)
  y, x = (np.arange(4 * n) / 4 - 0.375 for n in (height, width))  # Outlines are between pixels.
  rows = -(-(len(maps) + 1) // 4)
  scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), "YlOrRd")
  with plots.style():
    figure = plots.new_figure(1.1 + rows * (0.42 + plots.WIDTH / 4.3 * height / width))
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
    axes_of = figure.subplots(rows, 4, squeeze=False).flat
    for axes, name, values in zip(axes_of, [*names, "the face"], [*maps, np.zeros_like(face)], strict=False):
      axes.imshow(pale, cmap="gray", vmin=0, vmax=255)
      high = float(values.max())
      low = float(values[values > 0].min()) if high > 0 else 0.0
      strength = (values - low) / (high - low) if high > low else np.ones(values.shape)
      colour = scale.to_rgba(0.2 + 0.8 * strength)
      colour[..., 3] = np.where(values > 0, 0.3 + 0.6 * strength, 0)
      axes.imshow(colour, interpolation="nearest")
      axes.set_title(name, fontsize=9.5)
      last = name == "the face"
      for region, own in zip(regions.values(), plots.COLOURS, strict=False):
        look = {"colors": own if last else "#222222", "linewidths": 1.6 if last else 0.7}
        if region.any() and not region.all():
          axes.contour(x, y, region.repeat(4, 0).repeat(4, 1), [0.5], **look)
    for each in figure.axes:
      each.set_axis_off()
    for name, own in zip(regions, plots.COLOURS, strict=False):
      figure.axes[-1].plot([], [], color=own, label=name)
    bar = figure.colorbar(scale, ax=figure.axes, location="bottom", fraction=0.03, pad=0.01, aspect=60)
    bar.set_ticks([])
    bar.ax.set_xlim(0.2, 1)
    for at, side in ((0, "left"), (1, "right")):
      words = ("few paths", "the most of a class")[at]
      bar.ax.annotate(words, (at, 0), (0, -4), "axes fraction", "offset points", ha=side, va="top")
    bar.outline.set_visible(False)
    if regions:
      figure.legend(loc="outside lower center", ncols=len(regions))
    plots.write_png(figure, path, title)
