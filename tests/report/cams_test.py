"""Tests the figure of both nets' maps by its colours."""

import numpy as np
import pytest
from PIL import Image

from jaxfer.report import cams


def case(**changed):
  dots = np.zeros((32, 32), np.float32)
  dots[16, 16] = 1
  maps = {"rgb_map": np.zeros((4, 4)), "landmark_map": np.ones((5, 5))}
  picture = np.full((20, 20, 3), 255, np.uint8)
  said = {"landmark": "fear", "RGB": "anger", "both": "fear"}
  return cams.Case(picture, dots, **maps, truth="fear", predicted=said)._replace(**changed)


def columns_of(mask):
  """Returns the places of a colour, in fifths of the figure's width."""
  return set((np.flatnonzero(mask.sum(0) > 40) * 5 // mask.shape[1]).tolist())


def test_maps_run_from_blue_to_red_over_their_own_picture(tmp_path):
  cams.cams_png([case(), case()], tmp_path / "cams.png", "title")
  image = np.asarray(Image.open(tmp_path / "cams.png").convert("RGB"), int)
  assert image.shape[1] == 900
  white, black, jet_low, jet_high = 255, 0, np.array([0, 0, 127.5]), np.array([127.5, 0, 0])
  blue = np.abs(image - (0.55 * white + 0.45 * jet_low)).max(-1) < 3
  red = np.abs(image - (0.55 * black + 0.45 * jet_high)).max(-1) < 3
  dark = image.max(-1) < 3
  # Five columns, of which the last is a little wider: each panel is within the fifth of its number.
  assert columns_of(blue) <= {0, 1}
  assert columns_of(red) <= {2, 3}
  assert columns_of(dark) <= {1, 2, 3}
  assert blue.sum() > 2 * 120**2
  assert red.sum() > 2 * 120**2
  assert np.flatnonzero(blue.any(0)).max() < np.flatnonzero(dark.sum(0) > 80).min()
  assert np.flatnonzero(dark.sum(0) > 80).max() < np.flatnonzero(red.any(0)).min()


def texts_of(own, path):
  """Returns the texts beside the pictures of a case, with their colours."""
  drawn = []
  import matplotlib.axes

  write = matplotlib.axes.Axes.text
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      matplotlib.axes.Axes,
      "text",
      lambda axes, x, y, words, **look: (
        drawn.append((words, look.get("color"))) or write(axes, x, y, words, **look)
      ),
    )
    cams.cams_png([own], path, "title")
  return drawn


def test_right_predictions_are_green_and_wrong_ones_red_and_crossed(tmp_path):
  drawn = texts_of(case(), tmp_path / "cams.png")
  assert [words for words, _ in drawn] == [
    "truth",
    "fear",
    "landmark",
    "fear",
    "RGB",
    "anger ×",
    "both",
    "fear",
  ]
  colours = dict(zip(("landmark", "RGB", "both"), (drawn[k][1] for k in (3, 5, 7)), strict=True))
  assert colours["landmark"] == colours["both"] != colours["RGB"]


def test_further_labels_are_written_below_the_first(tmp_path):
  more = case(further={"RGB": (("fear", 0.304), ("joy", 0.02))})
  words = [words for words, _ in texts_of(more, tmp_path / "cams.png")]
  assert words[words.index("anger ×") + 1] == "fear 30 %, joy 2 %"
  assert len(words) == len(texts_of(case(), tmp_path / "cams.png")) + 1


@pytest.mark.parametrize("count", [0, 13])
def test_no_cases_and_too_many_are_refused(tmp_path, count):
  with pytest.raises(ValueError, match=f"{count} cases to draw, expected 1 to 12"):
    cams.cams_png([case()] * count, tmp_path / "cams.png", "title")


def test_a_face_is_shown_beside_its_map_and_its_three_most_probable_classes(tmp_path, monkeypatch):
  import matplotlib.axes

  written, write = [], matplotlib.axes.Axes.text
  monkeypatch.setattr(
    matplotlib.axes.Axes,
    "text",
    lambda axes, x, y, words, **k: written.append(words) or write(axes, x, y, words, **k),
  )
  grey = np.full((20, 20, 1), 255, np.uint8)
  probabilities = [("anger", 0.6), ("fear", 0.25), ("happiness", 0.1), ("sadness", 0.05)]
  faces = [cams.FaceMap("face 0", grey, np.ones((2, 2)), probabilities)]
  faces.append(cams.FaceMap("face 1", grey.repeat(3, -1), np.zeros((2, 2)), probabilities[:2]))
  cams.faces_png(faces, tmp_path / "faces.png", "title")
  assert written == [
    *("face 0", "anger  60%", "fear  25%", "happiness  10%"),
    *("face 1", "anger  60%", "fear  25%", "no region stands out"),
  ]
  image = np.asarray(Image.open(tmp_path / "faces.png").convert("RGB"), int)
  assert image.shape[1] == 900
  red, blue = (
    np.argwhere(np.abs(image - (0.55 * 255 + 0.45 * np.array(jet))).max(-1) < 3)
    for jet in ((127.5, 0, 0), (0, 0, 127.5))
  )
  assert len(red) > 200**2
  assert len(blue) > 200**2
  assert red[:, 0].max() < blue[:, 0].min()
  with pytest.raises(ValueError, match="0 faces to draw, expected 1 to 12"):
    cams.faces_png([], tmp_path / "faces.png", "title")
