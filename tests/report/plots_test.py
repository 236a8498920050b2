"""Tests that figures are written with their sizes, and that their pixels correspond to the numbers."""

import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from jaxfer.errors import UserError
from jaxfer.report import plots, study


def pixels(path):
  with PIL.Image.open(path) as image:
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


def amount(image, colour):
  """Returns the number of pixels with a colour "#RRGGBB"."""
  rgb = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
  return int((np.abs(image - rgb).max(-1) <= 3).sum())


def place(image, share):
  """Returns (middle row, middle column, number) of the pixels of the cells with this share of their row."""
  import matplotlib

  rgb = np.round(255 * np.array(matplotlib.colormaps["Blues"](share)[:3]))
  found = np.argwhere(np.abs(image[:, :760] - rgb).max(-1) <= 1)  # Left of the colour bar.
  return *found.mean(0), len(found)


def rows(epochs=6, splits=("train", "validation"), stage="train", offset=0.0, **extra):
  return [
    {
      "stage": stage,
      "epoch": k,
      "step": 10 * k,
      "split": split,
      "loss": 2 / (k + 1) + offset,
      "accuracy": k / 10,
    }
    | extra
    for k in range(epochs)
    for split in splits
  ]


def test_confusion(tmp_path):
  matrix, names = [[8, 2, 0], [0, 5, 5], [0, 0, 0]], ["joy", "fear", "anger"]
  path = tmp_path / "confusion.png"
  plots.confusion_png(matrix, names, path, "A title")
  image = pixels(path)
  assert image.shape == (774, 900, 3)
  (row_a, column_a, area_a), (row_b, column_b, area_b) = (place(image, share) for share in (0.8, 0.2))
  assert abs(row_a - row_b) < 20  # C[0, 0] and C[0, 1] are in one row, with predictions along the columns.
  assert 100 < column_b - column_a < 250
  assert 0.8 < area_a / area_b < 1.2
  row_c, column_c, area_c = place(image, 0.5)  # C[1, 1] and C[1, 2].
  assert 100 < row_c - row_a < 250
  assert column_c - column_b > 50
  assert 1.8 < area_c / area_a < 2.2
  plots.confusion_png(matrix, names, tmp_path / "again.png", "A title")
  assert (tmp_path / "again.png").read_bytes() == path.read_bytes()
  with pytest.raises(ValueError, match="2 label names"):
    plots.confusion_png(matrix, names[:2], path, "")


def test_confusion_with_many_classes_and_odd_names(tmp_path):
  names = [f"$\\frac{k}$" for k in range(20)]  # Invalid if interpreted as mathematics.
  plots.confusion_png(np.eye(20) * 1000, names, tmp_path / "c.png", "100 $ of {x_1}")
  assert pixels(tmp_path / "c.png").shape == (774, 900, 3)


def test_curves_show_each_split_in_its_colour(tmp_path):
  path = tmp_path / "curves.png"
  plots.learning_curves_png(rows(), path)
  image = pixels(path)
  assert image.shape == (846, 900, 3)
  train, validation, test = (plots.SPLITS[name][0] for name in ("train", "validation", "test"))
  assert amount(image, train) > 1000
  assert amount(image, validation) > 500
  assert amount(image, test) == 0
  plots.learning_curves_png(rows() + rows(1, ["test"]), path)
  assert amount(pixels(path), test) > 20


def test_curves_of_several_seeds_have_a_band(tmp_path):
  path = tmp_path / "curves.png"
  band = "#D1E5F1"  # 18 % of the colour of "train" on white.
  plots.learning_curves_png(rows(splits=["train"]), path)
  assert amount(pixels(path), band) < 300  # Smoothed edges only.
  plots.learning_curves_png(rows(splits=["train"], seed=0) + rows(splits=["train"], seed=1, offset=0.4), path)
  assert amount(pixels(path), band) > 5000


def test_a_panel_for_each_metric_that_there_is(tmp_path):
  path = tmp_path / "curves.png"
  only_loss = [{key: value for key, value in row.items() if key != "accuracy"} for row in rows()]
  plots.learning_curves_png(only_loss, path)
  assert pixels(path).shape == (558, 900, 3)
  plots.learning_curves_png([row | {"accuracy": None} for row in rows()], path)
  assert pixels(path).shape == (558, 900, 3)
  with pytest.raises(UserError, match=r"curves.png: there is nothing to draw"):
    plots.learning_curves_png(
      [{"stage": "train", "epoch": 1, "split": "train", "images_per_second": 9}], path
    )


def test_curves_count_epochs_through_repeated_stages():
  data = []
  for k, stage in enumerate(["identity", "expression", "identity"]):
    data += [
      {"stage": stage, "epoch": epoch, "split": "train", "loss": 10 * k + epoch} for epoch in (1, 2, 3)
    ]
  data.insert(
    1, {"stage": "identity", "epoch": 1, "split": "train", "loss": 2.0}
  )  # A second chunk of epoch 1.
  curves, stages, runs = plots._curves(data)
  assert runs == 1
  assert stages == [(1, "identity"), (4, "expression"), (7, "identity")]
  assert [point[0] for point in curves["loss", "train"]] == list(range(1, 10))
  assert [point[2] for point in curves["loss", "train"]] == [1.5, 2, 3, 11, 12, 13, 21, 22, 23]
  assert set(curves) == {("loss", "train")}


def test_curves_take_mean_and_range_over_interleaved_runs():
  data = [
    {"stage": "train", "epoch": epoch, "split": "test", "accuracy": value + epoch, "seed": seed, "fold": 0}
    for epoch in (0, 1)
    for seed, value in enumerate((1.0, 2.0, 6.0))
  ]
  curves, _, runs = plots._curves(data)
  assert runs == 3
  assert curves["accuracy", "test"] == [(1, 1, 3, 6), (2, 2, 4, 7)]


def test_style_leaves_the_settings_of_the_user_alone():
  import matplotlib

  with matplotlib.rc_context({"axes.grid": False, "font.size": 33}):
    with plots.style():
      assert matplotlib.rcParams["axes.grid"]
      assert matplotlib.rcParams["font.size"] == 10
    assert not matplotlib.rcParams["axes.grid"]
    assert matplotlib.rcParams["font.size"] == 33


def test_import_is_light_and_drawing_needs_no_pyplot(tmp_path):
  code = (
    "import sys; from jaxfer.report import plots; assert 'matplotlib' not in sys.modules;"
    f"plots.confusion_png([[1]], ['a'], {str(tmp_path / 'c.png')!r}, '');"
    "assert 'matplotlib.pyplot' not in sys.modules"
  )
  env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
  subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=env)


def test_a_title_too_long_for_the_figure_is_broken(tmp_path):
  plots.confusion_png(np.eye(2), ["a", "b"], tmp_path / "long.png", "confusion matrix of a long name " * 3)
  image = pixels(tmp_path / "long.png")
  assert (image[:, :4] > 250).all()
  assert (image[:, -4:] > 250).all()


@pytest.mark.parametrize(("means", "drawn"), [((0.3, 0.6), True), ((0.9, 0.95), False)])
def test_chance_far_below_the_accuracies_is_named_but_not_drawn(tmp_path, monkeypatch, means, drawn):
  figures = []
  monkeypatch.setattr(plots, "write_png", lambda figure, path, title: figures.append(figure))
  rows = [
    {"name": f"row {k}", "mean": mean, "interval": (mean - 0.02, mean + 0.02), "per_seed": [mean], "published": None,
     "chance": 1 / 7}
    for k, mean in enumerate(means)
  ]  # fmt: skip
  study.accuracy_png({"title": "a table", "rows": rows}, tmp_path / "accuracy.png")
  (axes,) = figures[0].axes
  assert (axes.get_xlim()[0] < 100 / 7) == drawn
  assert any("chance" in text.get_text() for text in figures[0].legends[0].get_texts())
