import numpy as np
import pytest
from PIL import Image

from jaxfer.report import grids


@pytest.mark.parametrize("channels", [1, 3])
def test_each_row_stands_under_its_name_in_its_place(tmp_path, channels):
  pictures = np.full((2, 3, 8, 8, channels), 128, np.uint8)
  pictures[0, 0], pictures[1, 2] = 0, 255  # Also tests how black and white are drawn.
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


@pytest.mark.parametrize("rows", [2, 8])
def test_long_names_are_not_cut(tmp_path, rows):
  names = [f"square\ntaken for {'circle' * (k % 2 + 1)}" for k in range(rows)]
  grids.rows_png(np.full((rows, 1, 8, 8, 3), 128, np.uint8), names, tmp_path / "grid.png", "title")
  image = np.asarray(Image.open(tmp_path / "grid.png").convert("L"))
  assert image.shape[1] == 900
  assert (image[:, :5] == 255).all()


def test_a_name_too_few_is_refused(tmp_path):
  with pytest.raises(ValueError, match="1 names for 2 rows"):
    grids.rows_png(np.zeros((2, 1, 4, 4, 3), np.uint8), ["one"], tmp_path / "grid.png", "title")


def test_gates_colour_the_frame_by_the_map_and_shade_it_by_the_frame(tmp_path):
  frames = np.full((2, 3, 8, 8, 3), 255, np.uint8)
  frames[1] = 0
  maps = np.zeros((2, 3, 4, 4))  # The maps of a layer are smaller than the frame.
  maps[:, 1] = 1
  grids.gates_png(frames, maps, ["bright", "dark"], tmp_path / "gates.png", "title")
  image = np.asarray(Image.open(tmp_path / "gates.png").convert("RGB"), np.float32)
  assert image.shape[1] == 900
  strong = np.abs(image.max(-1) - image.min(-1)) > 30
  # Wide blocks of colour are the clips, and below them the colour bar.
  lines = np.flatnonzero(strong.sum(1) > 400)
  upper, lower = np.split(lines, np.flatnonzero(np.diff(lines) > 3) + 1)[:2]
  top, bottom = image[upper[len(upper) // 2]], image[lower[len(lower) // 2]]
  columns = np.flatnonzero(strong[upper[len(upper) // 2]])
  blocks = np.split(columns, np.flatnonzero(np.diff(columns) > 3) + 1)
  assert len(blocks) == 3
  for k, block in enumerate(blocks):
    red, _, blue = top[block[len(block) // 2]]
    assert (red > blue) == (k == 1)
    np.testing.assert_allclose(bottom[block[len(block) // 2]], 0.35 * top[block[len(block) // 2]], atol=2)


def test_gates_of_streams_lie_below_their_frames_with_a_scale_each(tmp_path):
  """There are two clips: the frames, then the maps of two streams, whose lowest values are equally blue."""
  import matplotlib.axes

  frames = np.zeros((2, 2, 4, 4, 3), np.uint8)
  frames[1] = 255
  maps = {"one": np.zeros((2, 2, 2, 2)), "other": np.full((2, 2, 4, 4), 0.5)}
  maps["one"][:, 1], maps["other"][:, 1] = 1, 0.6
  drawn, labels = [], []
  show, label = matplotlib.axes.Axes.imshow, matplotlib.axes.Axes.set_ylabel
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(matplotlib.axes.Axes, "imshow", lambda axes, x, **k: drawn.append(x) or show(axes, x, **k))
    patch.setattr(
      matplotlib.axes.Axes, "set_ylabel", lambda axes, x, **k: labels.append(x) or label(axes, x, **k)
    )
    grids.gate_streams_png(frames, maps, ["dark", "bright"], tmp_path / "gates.png", "title")
  assert [x for x in labels if x] == ["dark", "one", "other", "bright", "one", "other"]
  low, high = (np.array(matplotlib.colormaps["coolwarm"](end)[:3]) for end in (0.0, 1.0))
  wanted = [[k, k, *[(0.35 + 0.65 * k) * colour for colour in (low, high, low, high)]] for k in (0, 1)]
  for found, want in zip(drawn, [row for clip in wanted for row in clip], strict=True):
    np.testing.assert_allclose(found, np.broadcast_to(want, (4, 4, 3)), atol=0.01)
  with pytest.raises(ValueError, match="1 names and maps"):
    grids.gate_streams_png(frames, maps, ["dark"], tmp_path / "gates.png", "title")


def test_gates_of_long_clips_are_drawn_at_eight_steps(tmp_path):
  import matplotlib.axes

  drawn = []
  show = matplotlib.axes.Axes.imshow
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(matplotlib.axes.Axes, "imshow", lambda axes, x, **k: drawn.append(x) or show(axes, x, **k))
    grids.gates_png(
      np.zeros((1, 15, 4, 4, 3), np.uint8),
      np.linspace(0, 1, 15)[None, :, None, None] * np.ones((4, 4)),
      ["clip"],
      tmp_path / "gates.png",
      "",
    )
  colours = 0.35 * matplotlib.colormaps["coolwarm"](np.arange(0, 15, 2) / 14)[:, :3]  # On a black frame.
  np.testing.assert_allclose([x[0, 0] for x in drawn], colours, atol=0.01)


def test_gates_that_do_not_belong_to_the_frames_are_refused(tmp_path):
  with pytest.raises(ValueError, match="1 names and maps"):
    grids.gates_png(
      np.zeros((1, 2, 4, 4, 3), np.uint8), np.zeros((1, 3, 4, 4)), ["a"], tmp_path / "g.png", ""
    )


def test_maps_colour_the_face_where_they_are_not_zero(tmp_path):
  face = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (16, 1))
  maps = np.zeros((3, 16, 16))
  maps[1, 4:12, 4:12] = 5
  region = maps[1] > 0
  images = []
  for regions in (None, {"part": region}):
    grids.over_face_png(face, maps, ["a", "b", "c"], tmp_path / "maps.png", "title", regions)
    images.append(np.asarray(Image.open(tmp_path / "maps.png").convert("RGB"), int))
  assert all(image.shape[1] == 900 for image in images)
  red = (images[0][..., 0] - images[0][..., 2] > 60) & (images[0][..., 1] < 120)
  lines, columns = np.flatnonzero(red[:-90].any(1)), np.flatnonzero(red[:-90].any(0))
  # One square of half a panel's width, in the second of four panels.
  assert 225 < columns[0] < columns[-1] < 450
  assert abs(np.ptp(lines) - np.ptp(columns)) < 4
  others = images[0][lines[0] : lines[-1], :225]  # A map of zeros leaves the face grey.
  assert (others.max(-1) - others.min(-1)).max() < 10
  blue = images[1][..., 2] - images[1][..., 0] > 90  # The outline, in the last panel and in the legend.
  assert np.flatnonzero(blue.any(0))[-1] > 675
  with pytest.raises(ValueError, match="2 names and maps"):
    grids.over_face_png(face, maps, ["a", "b"], tmp_path / "maps.png", "title")
