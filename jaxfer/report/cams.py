"""Where two nets look, over the pictures they look at (paper 002, Tables 9, 10 and 11)."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfer.report import plots

_COLUMNS = ("picture", "where the\nRGB net looks", "landmarks", "where the\nlandmark net looks")
_SHARE = 0.45  # Of the colour in a blend.
_MOST = 12  # Rows that a figure of this width holds.


class Case(NamedTuple):
  """A picture, what three nets say of it, and where two of them look.

  Attributes:
    picture: [height, width, 3] uint8.
    heatmap: [size, size] in [0, 1], its landmarks.
    rgb_map: [rows, columns] in [0, 1], of the RGB net; stretched over the picture.
    landmark_map: [rows, columns] in [0, 1], of the landmark net; stretched over the heatmap.
    truth: the label's name.
    predicted: name of a net -> name of the class it predicts, in the order to be written.
    further: name of a net -> its next classes with their probabilities, to be written below the predicted one.
  """

  picture: np.ndarray
  heatmap: np.ndarray
  rgb_map: np.ndarray
  landmark_map: np.ndarray
  truth: str
  predicted: Mapping[str, str]
  further: Mapping[str, Sequence[tuple[str, float]]] = {}


def cams_png(cases: Sequence[Case], path: str | pathlib.Path, title: str) -> None:
  """Draws a row a case: picture, the RGB net's map over it, heatmap, the landmark net's map over it, and who says what.

  Maps are coloured from blue (0) to red (1), as the paper's; a prediction is green where it is right, else red and
  crossed.

  Args:
    cases: 1 to 12.
    path: of the PNG.
    title: above the figure.

  Raises:
    ValueError: no cases, or too many.
  """
  if not 1 <= len(cases) <= _MOST:
    raise ValueError(f"{len(cases)} cases to draw, expected 1 to {_MOST}")
  with plots.style():
    figure = plots.new_figure(0.95 + 1.17 * len(cases))
    axes_of = figure.subplots(
      len(cases), len(_COLUMNS) + 1, squeeze=False, gridspec_kw={"width_ratios": [1, 1, 1, 1, 1.4]}
    )
    figure.get_layout_engine().set(w_pad=0.025, h_pad=0.025, wspace=0, hspace=0)
    for row, case in zip(axes_of, cases, strict=True):
      dots = np.repeat(case.heatmap[:, :, None], 3, -1)
      picture = case.picture / 255
      panels = (picture, _blended(picture, case.rgb_map), dots, _blended(dots, case.landmark_map))
      for axes, panel in zip(row, panels, strict=False):
        axes.imshow(panel, interpolation="nearest", vmin=0, vmax=1)
      _write_predictions(row[-1], case)
    for axes, name in zip(axes_of[0], _COLUMNS, strict=False):
      axes.set_title(name, fontsize=8.5)
    for axes in axes_of.flat:
      axes.set_axis_off()
    plots.write_png(figure, path, title)


def _blended(under: np.ndarray, values: np.ndarray) -> np.ndarray:
  """A map's colours over a picture [height, width, 3] in [0, 1]."""
  import matplotlib
  from PIL import Image

  height, width, _ = under.shape
  map_ = Image.fromarray(np.asarray(values, np.float32)).resize((width, height), Image.Resampling.BILINEAR)
  colour = matplotlib.colormaps["jet"](np.clip(np.asarray(map_), 0, 1))[:, :, :3]
  return np.clip((1 - _SHARE) * under + _SHARE * colour, 0, 1)


def _write_predictions(axes: Any, case: Case) -> None:
  """Writes the truth and below it what each net says."""
  axes.set(xlim=(0, 1), ylim=(len(case.predicted) + 1.4, -0.4))
  axes.text(0.04, 0.5, "truth", color=plots.GREY, fontsize=8, va="center")
  axes.text(0.5, 0.5, case.truth, fontsize=9, fontweight="bold", va="center")
  for k, (name, said) in enumerate(case.predicted.items()):
    right = said == case.truth
    axes.text(0.04, k + 1.5, name, color=plots.GREY, fontsize=8, va="center")
    words = said if right else f"{said} ×"
    axes.text(
      0.5, k + 1.5, words, color=plots.COLOURS[2] if right else plots.COLOURS[1], fontsize=9, va="center"
    )
    if more := case.further.get(name):
      listed = ", ".join(f"{label} {share:.0%}".replace("%", " %") for label, share in more)
      axes.text(0.04, k + 1.92, listed, color=plots.GREY, fontsize=6.5, va="center")
