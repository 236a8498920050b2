"""Figures of codes that separate identity and expression: swaps, interpolations, maps (paper 003, Figs. 4 and 5)."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.report import plots

_GAP = 0.04  # Gap between pictures, as a fraction of a picture's side.
_LETTER = 0.072  # Width of a letter of a method's name in inches.
_MARKERS = "os^DvPX"


def swap_grid_png(
  identities: np.ndarray,
  expressions: np.ndarray,
  swapped: Mapping[str, np.ndarray],
  path: str | pathlib.Path,
  title: str,
) -> None:
  """Draws faces with the expressions of other faces, as in Fig. 4.

  The top row shows the face whose identity a column has. Below it is a block for each expression. On the left of a
  block is the picture with this expression, and next to it a row for each method.

  Args:
    identities: [columns, height, width, 3], uint8, or float in [0, 1].
    expressions: [rows, height, width, 3], of the same types.
    swapped: method -> [rows, columns, own height, own width, 3]; the name should include the size of the input.
    path: path of the PNG.
    title: title above the grid.

  Raises:
    ValueError: a method has another number of rows or columns.
  """
  rows, columns, methods = len(expressions), len(identities), len(swapped)
  for name, pictures in swapped.items():
    if pictures.shape[:2] != (rows, columns):
      raise ValueError(f"{name}: {pictures.shape[:2]} swaps of {rows} expressions and {columns} identities")
  with plots.style():
    axes, figure = _sheet(columns + 1.15, rows * (methods + 0.15) + 1, swapped)
    for column, picture in enumerate(identities):
      _show(axes, picture, column + 1.15, 0)
    axes.text(0.95, 0.5, "identity of", ha="right", va="center")
    for row, picture in enumerate(expressions):
      top = 1.15 + row * (methods + 0.15)
      _show(axes, picture, 0, top + (methods - 1) / 2)
      for k, (name, pictures) in enumerate(swapped.items()):
        axes.text(-0.08, top + k + 0.5, name, ha="right", va="center", fontsize=8.5)
        for column in range(columns):
          _show(axes, pictures[row, column], column + 1.15, top + k)
    plots.write_png(figure, path, title)


def interpolation_png(
  source: np.ndarray,
  target: np.ndarray,
  between: Mapping[str, np.ndarray],
  path: str | pathlib.Path,
  title: str,
) -> None:
  """Draws interpolations from one expression to another, z_e = (1 - t) source + t target, as in Fig. 5.

  Args:
    source: [height, width, 3], uint8, or float in [0, 1]; its identity is kept.
    target: [height, width, 3], of the same types.
    between: method -> [steps, own height, own width, 3] with t from 0 to 1, and the same number of steps for all
      methods.
    path: path of the PNG.
    title: title above the figure.

  Raises:
    ValueError: the numbers of steps differ, or are less than 2.
  """
  counts = {name: len(pictures) for name, pictures in between.items()}
  if len(set(counts.values())) != 1 or min(counts.values()) < 2:
    raise ValueError(f"numbers of steps: {counts}; all methods need the same number, at least 2")
  steps = next(iter(counts.values()))
  with plots.style():
    axes, figure = _sheet(steps, len(between) + 1.45, between)
    for place, picture, name in ((0, source, "source"), (steps - 1, target, "target")):
      _show(axes, picture, place, 0)
      beside, side = (place + 1.08, "left") if place == 0 else (place - 0.08, "right")
      axes.text(beside, 0.5, name, ha=side, va="center")
    for k, (name, pictures) in enumerate(between.items()):
      axes.text(-0.08, 1.15 + k + 0.5, name, ha="right", va="center", fontsize=8.5)
      for step, picture in enumerate(pictures):
        _show(axes, picture, step, 1.15 + k)
    for step, t in enumerate(np.linspace(0, 1, steps)):
      label = f"t = {t:.2g}" if step in (0, steps - 1) else f"{t:.2f}"
      axes.text(step + 0.5, 1.2 + len(between), label, ha="center", va="top", fontsize=8.5)
    plots.write_png(figure, path, title)


def pca(features: np.ndarray, components: int = 2) -> tuple[np.ndarray, np.ndarray]:
  """Projects features to the directions of largest variance.

  Args:
    features: [n, d].
    components: number of directions, at most n and d.

  Returns:
    Projections [n, components] with mean 0, and their shares of the total variance, [components]. The sign of each
    direction is chosen so that its largest entry is positive.
  """
  features = np.asarray(features, np.float64)
  left, lengths, directions = np.linalg.svd(features - features.mean(0), full_matrices=False)
  largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)[:, 0]
  variance = lengths**2
  points = left * lengths * np.where(largest < 0, -1, 1)
  return points[:, :components], (variance / max(variance.sum(), np.finfo(float).tiny))[:components]


def tsne(features: np.ndarray) -> np.ndarray:
  """Returns an embedding [n, 2] of features [n, d] by t-SNE with a fixed seed. Needs scikit-learn."""
  from sklearn.manifold import TSNE

  perplexity = min(30.0, (len(features) - 1) / 3)
  return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(
    np.asarray(features, np.float64)
  )


def latent_map_png(
  points: np.ndarray,
  expressions: np.ndarray,
  subjects: np.ndarray,
  label_names: Sequence[str],
  path: str | pathlib.Path,
  title: str,
  shares: np.ndarray | None = None,
) -> None:
  """Draws points twice, coloured by expression and by subject.

  Args:
    points: [n, 2], from `pca` or `tsne`.
    expressions: [n] indices of `label_names`.
    subjects: [n] integers. If there are more than seven, their colours are those of a rainbow, in order.
    label_names: names of the expressions; those without points are left out of the legend.
    path: path of the PNG.
    title: title above the figure.
    shares: [2] shares of the variance, written at the axes if given.

  Raises:
    ValueError: the lengths disagree.
  """
  import matplotlib

  if points.shape != (len(expressions), 2) or len(subjects) != len(expressions):
    raise ValueError(f"points {points.shape} for {len(expressions)} expressions and {len(subjects)} subjects")
  people, who = np.unique(subjects, return_inverse=True)
  if len(people) > len(plots.COLOURS):
    colours: Any = matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, len(people)))
  else:
    colours = plots.COLOURS
  size = float(np.clip(3000 / max(len(points), 1), 4, 26))
  with plots.style():
    figure = plots.new_figure(plots.WIDTH * 0.68)
    by_expression, by_subject = figure.subplots(1, 2, sharex=True, sharey=True)
    look: dict[str, Any] = {"s": size, "alpha": 0.75, "linewidths": 0}
    for k, name in enumerate(label_names):
      own = points[expressions == k]
      if not len(own):
        continue
      colour, marker = plots.COLOURS[k % len(plots.COLOURS)], _MARKERS[k % len(_MARKERS)]
      by_expression.scatter(*own.T, color=colour, marker=marker, label=name, **look)
    for k in range(len(people)):
      by_subject.scatter(*points[who == k].T, color=colours[k], **look)
    by_expression.set_title("by expression", fontsize=10)
    by_subject.set_title(f"by subject ({len(people)})", fontsize=10)
    for axes in (by_expression, by_subject):
      axes.tick_params(labelbottom=False, labelleft=False, length=0)
      if shares is not None:
        axes.set_xlabel(f"{100 * shares[0]:.0f} % of the variance")
    if shares is not None:
      by_expression.set_ylabel(f"{100 * shares[1]:.0f} %")
    legend = figure.legend(
      loc="outside lower center", ncols=min(len(np.unique(expressions)), 4), markerscale=1.6
    )
    for handle in legend.legend_handles:
      handle.set_alpha(1)
    plots.write_png(figure, path, title)


def _sheet(columns: float, rows: float, names: Iterable[str]) -> tuple[Any, Any]:
  """Returns axes and their figure. Pictures are unit squares below and right of the origin; names are on the left."""
  room = 0.15 + _LETTER * max(len(line) for name in names for line in name.splitlines())
  picture = (plots.WIDTH - 0.3 - room) / columns  # Inches.
  figure = plots.new_figure(0.75 + picture * rows)
  axes = figure.add_subplot()
  axes.set_aspect("equal")
  axes.set_axis_off()
  axes.set(xlim=(-room / picture, columns), ylim=(rows, 0))
  return axes, figure


def _show(axes: Any, picture: np.ndarray, left: float, top: float) -> None:
  """Draws a picture in its unit square."""
  low, high = _GAP / 2, 1 - _GAP / 2
  axes.imshow(
    picture,
    extent=(left + low, left + high, top + high, top + low),
    interpolation="nearest" if len(picture) < 200 else "antialiased",
    aspect="equal",
    clip_on=False,
  )
