import numpy as np
import pytest
from PIL import Image

from jaxfer.report import grids


@pytest.mark.parametrize("channels", [1, 3])
def test_each_row_stands_under_its_name_in_its_place(tmp_path, channels):
  pictures = np.full((2, 3, 8, 8, channels), 128, np.uint8)
  pictures[0, 0], pictures[1, 2] = 0, 255  # Also what the darkest and the lightest are drawn as.
  grids.rows_png(pictures, ["above", "below"], tmp_path / "grid.png", "title")
  image = np.asarray(Image.open(tmp_path / "grid.png").convert("L"), np.float32)
  assert image.shape[1] == 900
  grey = np.abs(image - 128) < 3
  lines, columns = np.flatnonzero(grey.sum(1) > 300), np.flatnonzero(grey.sum(0) > 150)
  top, bottom, left, right = lines[0] + 9, lines[-1] - 9, columns[0], columns[-1]
  width = (right - left) // 3
  assert image[top, left + width // 2] < 5
  assert abs(image[top, right - 9] - 128) < 3
  assert abs(image[bottom, left + width // 2] - 128) < 3


def test_a_name_too_few_is_refused(tmp_path):
  with pytest.raises(ValueError, match="1 names for 2 rows"):
    grids.rows_png(np.zeros((2, 1, 4, 4, 3), np.uint8), ["one"], tmp_path / "grid.png", "title")
