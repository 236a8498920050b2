"""Draws maps of where networks look, over their pictures: for any network, and for the two nets of paper 002."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfer.report import plots

_COLUMNS = ("picture", "where the\nRGB net looks", "landmarks", "where the\nlandmark net looks")
_SHARE = 0.45  # Share of the colour in a blend.
_CLASSES = 3  # Classes whose probabilities are written beside a face.
_MOST = 12  # Maximum number of rows in a figure of this width.


class Case(NamedTuple):
  """A picture, the predictions of three nets for it, and the maps of two of them.

  Attributes:
    picture: [height, width, 3] uint8.
    heatmap: [size, size] in [0, 1], the landmarks of the picture.
    rgb_map: [rows, columns] in [0, 1], map of the RGB net; stretched over the picture.
    landmark_map: [rows, columns] in [0, 1], map of the landmark net; stretched over the heatmap.
    truth: name of the label.
    predicted: name of a net -> name of the class that it predicts, in the order in which they are written.
    further: name of a net -> its next classes with their probabilities, written below the predicted class.
  """

  picture: np.ndarray
  heatmap: np.ndarray
  rgb_map: np.ndarray
  landmark_map: np.ndarray
  truth: str
  predicted: Mapping[str, str]
  further: Mapping[str, Sequence[tuple[str, float]]] = {}


def cams_png(cases: Sequence[Case], path: str | pathlib.Path, title: str) -> None:
  """Draws a row for each case: picture, RGB net's map over it, heatmap, landmark net's map over it, and predictions.

  Maps are coloured from blue (0) to red (1), as in the paper. A correct prediction is green; a wrong one is red and
  marked with a cross.

  Args:
    cases: 1 to 12 cases.
    path: path of the PNG.
    title: title above the figure.

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


class FaceMap(NamedTuple):
  """A face, a map over it, and the prediction that the map belongs to.

  Attributes:
    name: name of the face.
    picture: [height, width, 1 or 3] uint8.
    map: [rows, columns] in [0, 1]; stretched over the face. Zeros if no region stands out.
    probabilities: classes and their probabilities, the predicted one first.
  """

  name: str
  picture: np.ndarray
  map: np.ndarray
  probabilities: Sequence[tuple[str, float]]


def faces_png(faces: Sequence[FaceMap], path: str | pathlib.Path, title: str) -> None:
  """Draws a row for each face: the face, the map over it, and the three most probable classes.

  Args:
    faces: 1 to 12 faces.
    path: path of the PNG.
    title: title above the figure.

  Raises:
    ValueError: no faces, or too many.
  """
  if not 1 <= len(faces) <= _MOST:
    raise ValueError(f"{len(faces)} faces to draw, expected 1 to {_MOST}")
  with plots.style():
    figure = plots.new_figure(1.4 + 1.62 * len(faces))
    axes_of = figure.subplots(len(faces), 3, squeeze=False, gridspec_kw={"width_ratios": [1, 1, 1.45]})
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    for row, face in zip(axes_of, faces, strict=True):
      picture = np.broadcast_to(face.picture, (*face.picture.shape[:2], 3)) / 255
      row[0].imshow(picture, interpolation="antialiased")
      row[1].imshow(_blended(picture, face.map), interpolation="antialiased")
      _write_probabilities(row[2], face)
    for axes in axes_of.flat:
      axes.set_axis_off()
    _add_scale(figure, axes_of[:, :2])
    plots.write_png(figure, path, title)


def _write_probabilities(axes: Any, face: FaceMap) -> None:
  """Writes the name of a face, and bars for its three most probable classes."""
  shown = face.probabilities[:_CLASSES]
  axes.set(xlim=(-0.04, 1), ylim=(_CLASSES + 0.5, -0.85))
  axes.text(0.02, -0.45, face.name, color=plots.GREY, fontsize=9, va="center")
  for k, (name, probability) in enumerate(shown):
    weight = "normal" if k else "bold"
    axes.text(0.02, k + 0.35, f"{name}  {probability:.0%}", fontsize=9.5, fontweight=weight, va="center")
    axes.barh(k + 0.75, probability, height=0.22, color=plots.COLOURS[0], alpha=0.45 if k else 1, left=0.02)
  if not np.any(face.map):
    axes.text(0.02, _CLASSES + 0.3, "no region stands out", fontsize=8.5, style="italic", va="center")


def _add_scale(figure: Any, axes: Any) -> None:
  """Adds the scale of the maps below these axes."""
  import matplotlib

  scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), "jet")
  bar = figure.colorbar(scale, ax=axes, location="bottom", fraction=0.03, pad=0.01, aspect=45)
  bar.set_ticks([])
  for at, words in enumerate(("least sensitive", "most sensitive")):
    side = "right" if at else "left"
    bar.ax.annotate(words, (at, 0), (0, -4), "axes fraction", "offset points", ha=side, va="top", fontsize=9)
  bar.outline.set_visible(False)


def _blended(under: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Returns the colours of a map blended with a picture [height, width, 3] in [0, 1]."""
  import matplotlib
  from PIL import Image

  height, width, _ = under.shape
  map_ = Image.fromarray(np.asarray(values, np.float32)).resize((width, height), Image.Resampling.BILINEAR)
  colour = matplotlib.colormaps["jet"](np.clip(np.asarray(map_), 0, 1))[:, :, :3]
  return np.clip((1 - _SHARE) * under + _SHARE * colour, 0, 1)


def _write_predictions(axes: Any, case: Case) -> None:
  """Writes the true class, and below it the prediction of each net."""
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
