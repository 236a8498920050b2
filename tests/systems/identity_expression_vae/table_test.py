"""Tables and figures of studies of paper 003, from variants made by hand."""

import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.report import plots, swaps
from jaxfer.systems.identity_expression_vae import examples, figures, published, table
from jaxfer.systems.identity_expression_vae.examples import Examples, Interpolation, Method, SwapGrid

SIDES, TARGETS = ("train", "test"), ("subject", "expression")


def variant(name, size=32, on_photographs=0.5, **metrics):
  """A variant with one training, whose image classifiers have this accuracy on photographs."""
  found = {f"{target}, photographs, {side}": [on_photographs] for target in TARGETS for side in SIDES}
  found |= {f"{target} kept in swaps, {side}": [None] for target in TARGETS for side in SIDES}
  found |= {name: [value] for name, value in metrics.items()}
  described = {"name": name, "folder": f"rows/{name}", "comparable": True, "data": {"image_size": size}}
  return {**described, "metrics": found, "summaries": {}}


def test_accuracies_on_photographs_are_given_once_for_each_image_size():
  variants = [variant("small"), variant("large", 64, 0.75), variant("also small")]
  _, _, _, (_, (header, lines)) = table.tables(variants, (0,))
  assert header == ["", "subject, train", "expression, train", "subject, test", "expression, test"]
  assert lines == [
    ["small", None, None, None, None],
    ["large", None, None, None, None],
    ["also small", None, None, None, None],
    ["accuracy on photographs of 32 pixels", "50.0", "50.0", "50.0", "50.0"],
    ["accuracy on photographs of 64 pixels", "75.0", "75.0", "75.0", "75.0"],
  ]


def test_published_accuracies_are_shown_only_beside_comparable_variants():
  both = variant(published.BOTH)
  for comparable, printed in ((True, ("62.64 ± 2.48", "59.95 ± 4.31")), (False, (None, None))):
    (_, (_, ((_, *cells),))), *_ = table.tables([{**both, "comparable": comparable}], (0,))
    assert (cells[0], cells[3]) == printed


def test_the_original_vae_has_a_line_without_the_means_of_people_and_no_test_accuracy_there():
  metrics = {"train": 0.25, "test": 0.125, "train, subject means subtracted": 0.5}
  vae = variant(published.VAE, **metrics, **{"test, subject means subtracted": 0.75})
  (_, (_, lines)), *_ = table.tables([vae], (0,))
  assert lines == [
    ["original VAE", "38.08 ± 1.56", "25.0", None, "22.07 ± 3.21", "12.5", None],
    ["original VAE, subject means subtracted", "48.99 ± 2.76", "50.0", None, None, None, None],
  ]


def test_a_code_with_one_of_two_accuracies_is_in_the_table():
  metrics = {"subject from z_i": None, "expression from z_i": 0.25}
  _, (_, (_, lines)), *_ = table.tables([variant("small", **metrics)], (0,))
  assert lines == [["small", "z_i", None, "25.0"]]


def test_summaries_are_accuracies_by_round_in_percent_and_divergences_in_nat():
  history = [
    {"stage": "identity", "split": "train", "kl": 3.0},
    {"stage": "expression", "split": "train", "generator/kl": 2.0},
    {"stage": "expression", "split": "test", "accuracy": 0.5},
    {"stage": "identity", "split": "train", "kl": 4.0},
    {"stage": "expression", "split": "test", "accuracy": 0.75},
  ]
  found = table.summaries([history], [])
  assert found == {
    "nat of stage identity": [4.0],
    "nat of stage expression": [2.0],
    "test accuracy (%) after round 1": [50.0],
    "test accuracy (%) after round 2": [75.0],
  }
  pairs = {name: (values[0], None) for name, values in found.items()}
  assert table.by_round({"summaries": pairs}) == [(50.0, None), (75.0, None)]


def test_a_single_pass_is_drawn_at_the_size_of_each_curve(tmp_path, monkeypatch):
  def with_mean(name, size, mean, rounds=()):
    curve = {table.after_round(k): (accuracy, None) for k, accuracy in enumerate(rounds, 1)}
    return {**variant(name, size), "mean": mean, "summaries": curve}

  variants = [
    with_mean(published.BOTH, 64, 0.25),
    with_mean(published.ITERATED, 64, 0.5, (25.0, 50.0)),
    with_mean(published.LARGE, 128, 0.625, (25.0, 62.5)),
    with_mean(published.BOTH_LARGE, 128, 0.375),
  ]
  found = []
  monkeypatch.setattr(plots, "write_png", lambda figure, path, title: found.append(figure))
  captions = table.figures(variants, tmp_path)
  assert set(captions) == {"rounds.png"}
  lines = {line.get_label(): line for line in found[0].axes[0].lines}
  small, large, small_pass, large_pass = lines.values()
  assert list(lines)[2:] == [
    "with L_gan and L_switch (64 px), a single pass", "both losses, double size (128 px), a single pass",
  ]  # fmt: skip
  assert [list(line.get_ydata()) for line in (small, large, small_pass, large_pass)] == [
    [25.0, 50.0], [25.0, 62.5], [25.0, 25.0], [37.5, 37.5],
  ]  # fmt: skip
  assert small.get_color() == small_pass.get_color() != large.get_color() == large_pass.get_color()


def made(method, size=32):
  """Examples with black images."""
  image = np.zeros((size, size, 3), np.uint8)
  grid = SwapGrid(np.stack([image] * 2), image[None], np.stack([image] * 2)[None])
  return Examples(method, grid, grid, Interpolation(image, image, np.stack([image] * 3)))


@pytest.fixture
def drawn(monkeypatch):
  """The labels in each figure of swaps or interpolations that is drawn, and the size of the images beside them."""
  found = []

  def swap_grid(identities, expressions, swapped, path, title):
    found.append((list(swapped), len(expressions[0])))

  def interpolation(source, target, between, path, title):
    found.append((list(between), len(source)))

  monkeypatch.setattr(swaps, "swap_grid_png", swap_grid)
  monkeypatch.setattr(swaps, "interpolation_png", interpolation)
  return found


def test_variants_of_one_method_are_labelled_by_their_names(tmp_path, drawn):
  methods = {
    "as printed: 1e5 and 0.01": made(Method.BOTH),
    "saturating": made(Method.BOTH),
    "large": made(Method.BOTH, 64),
    "failed": None,
    "plain": made(Method.CONVENTIONAL),
  }
  variants = [variant(name) for name in methods]
  for described, own in zip(variants, methods.values(), strict=True):
    if own is not None:
      (tmp_path / described["folder"]).mkdir(parents=True)
      own.save(tmp_path / described["folder"] / examples.FILE)
  captions = figures.side_by_side(variants, tmp_path)
  assert set(captions) == {"swaps_test.png", "swaps_train.png", "between.png"}
  labels = ["conventional (32)", "as printed: 1e5 and 0.01\n(32)", "saturating (32)", "both losses (64)"]
  assert drawn == [(labels, 64)] * 3
  assert figures.side_by_side([variant("failed")], tmp_path) == {}


def test_damaged_examples_are_refused(tmp_path):
  path = tmp_path / examples.FILE
  made(Method.ITERATED).save(path)
  assert examples.load(path).label == "iterated (32)"
  whole = path.read_bytes()
  with np.load(path) as arrays:
    other = {**arrays, "method": np.asarray("iterated (32)")}
  without = {name: array for name, array in other.items() if name != "train swaps"}
  for write in (
    lambda: path.write_bytes(whole[: len(whole) // 2]),
    lambda: np.savez(path, **other),
    lambda: np.savez(path, **without),
  ):
    write()
    with pytest.raises(UserError, match=r"made.npz is damaged .*: remove it and .*result.json, and run"):
      examples.load(path)


def test_the_method_follows_from_the_options_of_the_recipe():
  assert Method.of({}) == Method.BOTH
  assert Method.of({"switch": False}) == Method.ADVERSARIAL
  assert Method.of({"switch": False, "adversarial": False}) == Method.CONVENTIONAL
  assert Method.of({"iterated": True}) == Method.ITERATED
