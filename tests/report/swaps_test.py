import numpy as np
import pytest
from PIL import Image

from jaxfer.report import swaps

METHODS = {"conventional (64)": 0.25, "iterated (128)": 0.75}


def colours(path):
  image = np.asarray(Image.open(path).convert("RGB"), np.float32)
  assert image.shape[1] == 900
  return image


def test_swaps_stand_below_their_identity_and_beside_their_expression(tmp_path):
  """Red encodes the column, green the row, and blue the method, whose pictures may have another size."""
  columns, rows = 3, 2
  red, green = 80 * np.arange(1, columns + 1), 100 * np.arange(1, rows + 1)
  identities = np.zeros((columns, 8, 8, 3), np.uint8)
  identities[..., 0] = red[:, None, None]
  expressions = np.zeros((rows, 8, 8, 3), np.uint8)
  expressions[..., 1] = green[:, None, None]
  swapped = {}
  for k, (name, blue) in enumerate(METHODS.items()):
    own = np.zeros((rows, columns, 8 << k, 8 << k, 3))
    own[..., 0], own[..., 1], own[..., 2] = red[:, None, None] / 255, green[:, None, None, None] / 255, blue
    swapped[name] = own
  swaps.swap_grid_png(identities, expressions, swapped, tmp_path / "swaps.png", "title")
  image = colours(tmp_path / "swaps.png")

  def place(*colour):
    found = np.argwhere(np.abs(image - colour).max(-1) < 3)
    assert len(found) > 400, colour
    return found.mean(0)

  heads = [place(own, 0, 0) for own in red]
  sides = [place(0, own, 0) for own in green]
  for row in range(rows):
    lines = []
    for blue in METHODS.values():
      at = [place(red[c], green[row], 255 * blue) for c in range(columns)]
      np.testing.assert_allclose([x for _, x in at], [x for _, x in heads], atol=2)
      lines.append(np.mean([y for y, _ in at]))
    assert lines[0] < lines[1]
    assert abs(np.mean(lines) - sides[row][0]) < 2
    assert sides[row][1] < heads[0][1]
  assert (image[:, :4] == 255).all()  # Names are not cut off.


def test_interpolations_stand_in_order_between_source_and_target(tmp_path):
  source, target = np.zeros((2, 8, 8, 3), np.uint8)
  source[..., 0] = target[..., 1] = 255
  steps = np.linspace(0.2, 1, 5)[:, None, None, None] * np.ones((5, 8, 8, 3)) * [0, 0, 1]
  swaps.interpolation_png(source, target, {"a": steps, "b": steps}, tmp_path / "way.png", "title")
  image = colours(tmp_path / "way.png")
  blues = [
    np.argwhere(np.abs(image - [0, 0, 255 * t]).max(-1) < 3).mean(0)[1] for t in np.linspace(0.2, 1, 5)
  ]
  assert (np.diff(blues) > 50).all()
  for colour, at in (([255, 0, 0], blues[0]), ([0, 255, 0], blues[-1])):
    assert abs(np.argwhere(np.abs(image - colour).max(-1) < 3).mean(0)[1] - at) < 2


def test_pca_finds_the_directions_and_their_shares():
  rng = np.random.default_rng(0)
  main, other = np.array([-3.0, 4.0, 0.0]) / 5, np.array([0.0, 0.0, 1.0])
  own = rng.standard_normal((500, 2)) * [3, 1]
  own = (own - own.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(own.T)).T) * [3, 1]
  points, shares = swaps.pca(10 + own[:, :1] * main + own[:, 1:] * other)
  np.testing.assert_allclose(points, own, atol=1e-9)  # Signs are equal too.
  np.testing.assert_allclose(shares, [0.9, 0.1], atol=1e-9)
  assert (swaps.pca(np.ones((4, 3)))[1] == 0).all()


@pytest.mark.parametrize("people", [3, 12])
def test_maps_are_drawn_by_expression_and_by_subject(tmp_path, people):
  rng = np.random.default_rng(0)
  points, expressions = rng.standard_normal((60, 2)), np.arange(60) % 2
  swaps.latent_map_png(
    points,
    expressions,
    np.arange(60) % people,
    ["a", "b"],
    tmp_path / "map.png",
    "title",
    np.array([0.6, 0.2]),
  )
  image = colours(tmp_path / "map.png")

  def green(part):
    """Counts pixels of a colour of the third or further subjects, which neither of the two expressions has."""
    return int(((part[..., 1] > part[..., 0] + 60) & (part[..., 1] > part[..., 2] + 25)).sum())

  assert green(image[:, :450]) == 0
  assert green(image[:, 450:]) > 100


def test_a_map_s_legend_names_only_what_is_there(tmp_path, monkeypatch):
  named = []

  def write(figure, path, title):
    del path, title
    named.extend(text.get_text() for text in figure.legends[0].get_texts())

  monkeypatch.setattr(swaps.plots, "write_png", write)
  points = np.zeros((4, 2))
  swaps.latent_map_png(
    points, np.asarray([0, 2, 0, 2]), np.zeros(4, int), ["a", "b", "c"], tmp_path / "map.png", ""
  )
  assert named == ["a", "c"]


def test_what_does_not_belong_together_is_refused(tmp_path):
  faces = np.zeros((2, 4, 4, 3))
  with pytest.raises(ValueError, match=r"m: \(2, 3\) swaps of 2 expressions and 2 identities"):
    swaps.swap_grid_png(faces, faces, {"m": np.zeros((2, 3, 4, 4, 3))}, tmp_path / "x.png", "")
  with pytest.raises(ValueError, match="all methods need the same number"):
    swaps.interpolation_png(faces[0], faces[0], {"a": faces, "b": faces[:1]}, tmp_path / "x.png", "")
  with pytest.raises(ValueError, match=r"points \(3, 2\) for 2 expressions"):
    swaps.latent_map_png(np.zeros((3, 2)), np.zeros(2), np.zeros(3), ["a"], tmp_path / "x.png", "")
