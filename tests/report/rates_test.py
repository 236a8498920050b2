import numpy as np
import pytest
from PIL import Image

from jaxfer.report import plots, rates


def rgb(colour):
  return np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])


def test_bars_stand_as_high_as_the_means(tmp_path):
  groups = {"one": [[0.5, 0.2], [0.5, 0.4]], "other": [[1.0, np.nan]]}
  rates.rates_png(groups, ["a", "b"], tmp_path / "rates.png", "title")
  image = np.asarray(Image.open(tmp_path / "rates.png").convert("RGB"), int)
  assert image.shape[1] == 900
  drawn = [np.abs(image - rgb(colour)).max(-1) < 3 for colour in plots.COLOURS[:2]]
  # Only the bars, without the legend below them; a class without rates has no bar.
  tall = [[column for column in np.flatnonzero(own.sum(0) > 60)] for own in drawn]
  full = drawn[1][:, tall[1][0]].sum()
  heights = [drawn[0][:, tall[0][at]].sum() / full for at in (4, -4)]
  np.testing.assert_allclose(heights, [0.5, 0.3], atol=0.06)
  assert np.ptp(tall[1]) < 0.3 * image.shape[1] < np.ptp(tall[0])


def test_groups_that_do_not_fit_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"'one' has rates of shape \(1, 3\) for 2 classes"):
    rates.rates_png({"one": [[1, 0, 1]]}, ["a", "b"], tmp_path / "rates.png", "title")
  with pytest.raises(ValueError, match="can be drawn, got 0"):
    rates.rates_png({}, ["a", "b"], tmp_path / "rates.png", "title")
