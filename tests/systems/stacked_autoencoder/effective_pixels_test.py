"""The figure of effective pixels, for weights whose effective pixels are known."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
from PIL import Image

from jaxfer import config
from jaxfer.config import Call, RunConfig
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.study.task import options_of
from jaxfer.systems.stacked_autoencoder import effective_pixels

CONFIG = RunConfig(
  recipe=Call("stacked_autoencoder"), model=Call("stacked_autoencoder"), data=Call("synthetic_faces")
)
NAMES = ("anger", "disgust", "fear")


def faces(landmarks=True):
  """Records of four images of 16 x 16 pixels, with the eyes at rows 6 and 7 and the mouth at rows 12 and 13."""
  rng = np.random.default_rng(0)
  points = np.zeros((4, 37, 2), np.float32)
  points[:, 13:16], points[:, 16:19] = [3, 6], [6, 8]
  points[:, 19:22], points[:, 22:25] = [10, 6], [13, 8]
  points[:, 25:31], points[:, 31:] = [5, 12], [11, 14]
  arrays = {
    "image": rng.integers(0, 256, (4, 16, 16, 1)).astype(np.uint8),
    "label": np.array([0, 1, 2, 0]),
  }
  if landmarks:
    arrays["landmarks"] = points
  return Records.from_arrays(arrays, list("abcd"), NAMES, ["P1", "P1", "P2", "P2"])


def weights():
  """Weights of two layers: anger depends on the eyes, and fear on nothing.

  Disgust depends on the mouth and on as many pixels of the background.
  """
  first = np.zeros((256, 8))
  eyes, both = np.zeros((16, 16), bool), np.zeros((16, 16), bool)
  eyes[6:8, 3:6] = True
  both[12:14, 5:11] = both[0:2, 5:11] = True
  first[eyes.ravel(), 0] = 1
  first[both.ravel(), 1] = 1
  last = np.zeros((8, 3))
  last[0, 0] = last[1, 1] = 1
  return [first, last]


def test_the_caption_states_the_share_on_the_parts_and_the_share_by_chance(tmp_path):
  files = effective_pixels.draw(weights(), faces(), np.arange(4), tmp_path, percentile=90)
  (caption,) = files.values()
  # The mean of 100 % for anger and 50 % for disgust. The parts cover 24 of 256 pixels.
  assert "75 % of the effective pixels and 75 % of the paths" in caption
  assert "By chance it would be 9 %" in caption
  image = Image.open(tmp_path / "effective_pixels.png")
  assert image.size[0] == 900
  assert np.asarray(image.convert("RGB"), int).std() > 10


def test_without_landmarks_there_is_no_share(tmp_path):
  (caption,) = effective_pixels.draw(weights(), faces(landmarks=False), np.arange(4), tmp_path).values()
  assert "chance" not in caption
  assert (tmp_path / "effective_pixels.png").is_file()


@pytest.mark.parametrize("signed", [True, False])
def test_constant_pixels_are_left_out_whatever_their_weights(tmp_path, signed):
  records = faces()
  records.arrays["image"][:, :2] = 40  # The background pixels of disgust.
  layers = weights()
  layers[0][:32, 2], layers[1][2, 2] = 5, 5
  options = {"signed": signed, "percentile": 90, "share": 1.0}
  (caption,) = effective_pixels.draw(layers, records, np.arange(4), tmp_path, **options).values()
  # Of the 32 constant pixels 12 belong to disgust. Those of fear are too many to exceed the limit.
  assert (
    "32 of 256 pixels are constant over the training images; 12 of the 30 effective pixels are." in caption
  )
  (caption,) = effective_pixels.draw(
    layers, records, np.arange(4), tmp_path, constant_pixels=False, **options
  ).values()
  assert "32 of 256 pixels are constant over the training images and are left out." in caption
  assert "1 of 3 classes have no path" in caption
  assert "100 % of the effective pixels and 100 % of the paths" in caption


def test_the_set_has_the_given_share_where_every_pixel_has_a_path(tmp_path):
  """At the paper's depth with random weights, the former mask marks all pixels."""
  rng = np.random.default_rng(0)
  sizes = (256, 400, 300, 200, 100, 3)
  layers = [rng.normal(size=shape) for shape in itertools.pairwise(sizes)]
  every, some = (
    effective_pixels.draw(layers, faces(landmarks=False), np.arange(4), tmp_path, **options)
    for options in ({"share": 1.0}, {})
  )
  assert (
    "Every pixel with a path is effective: 100.0 % of the pixels on average" in every["effective_pixels.png"]
  )
  (share,) = re.findall(r"most paths are effective: ([\d.]+) %", some["effective_pixels.png"])
  assert 4.5 < float(share) < 5.5


def test_one_limit_for_each_layer_can_leave_a_class_without_a_path(tmp_path):
  layers = weights()
  layers[1][1, 1] = 0.1  # Disgust depends on its unit by a small weight.
  (by_unit,), (by_layer,) = (
    effective_pixels.draw(layers, faces(landmarks=False), np.arange(4), tmp_path, **options).values()
    for options in ({"percentile": 90}, {"kappa": 1.0})
  )
  assert "1 of 3 classes have no path" in by_unit
  assert "2 of 3 classes have no path" in by_layer
  assert "more than 1 standard deviations above the mean of a layer" in by_layer


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ("figures.kapa=1", r"unknown config key 'figures\.kapa': did you mean 'figures\.kappa'"),
    ("figures.share=0", r"figures\.share=0\.0: give a number, above 0"),
    ("figures.name=x", r"unknown config key 'figures\.name'"),
    ("figures.signed=perhaps", "figures.signed"),
  ],
)
def test_wrong_options_of_the_figures_are_refused(wrong, message):
  with pytest.raises(UserError, match=message):
    config.check(config.override(CONFIG, [wrong], options_of), options_of)


def test_options_of_the_figures_are_no_part_of_what_was_trained():
  given = ["figures.kappa=1.5", "figures.signed=false", "figures.constant_pixels=false"]
  changed = config.override(CONFIG, given, options_of)
  assert changed.figures == {"kappa": 1.5, "signed": False, "constant_pixels": False}
  assert config.differences(CONFIG, changed) == []
  assert config.from_json(config.to_json(changed)) == changed
  other = dataclasses.replace(CONFIG, recipe=Call("two_stream_conv_rnn"), figures={"kappa": 1.5})
  with pytest.raises(UserError, match="unknown option of figures 'two_stream_conv_rnn' 'kappa'"):
    config.check(other, options_of)
