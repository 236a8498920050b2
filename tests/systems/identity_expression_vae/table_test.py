"""What a study of paper 003 sets below its table, out of rows by hand."""

import numpy as np
import pytest

from jaxfer.systems.identity_expression_vae import figures, published, table

SIDES = ("train", "test")


def row(name, size, real, **measures):
  """A row of one training whose probes name a share of the photographs."""
  found = {f"{what}, photographs, {side}": [real] for what in ("subject", "expression") for side in SIDES}
  found |= {f"{what} kept in swaps, {side}": [None] for what in ("subject", "expression") for side in SIDES}
  found |= {name: [value] for name, value in measures.items()}
  folder = f"rows/{name}"
  told = {"name": name, "folder": folder, "comparable": True, "data": {"image_size": size}}
  return {**told, "measures": found, "facts": {}}


def test_shares_of_swapped_images_are_of_the_probes_of_their_size():
  rows = [row("small", 32, 0.5), row("large", 64, 0.75), row("small too", 32, 0.5)]
  _, _, _, (_, (header, lines)) = table.tables(rows, (0,))
  assert header == ["", "subject, train", "expression, train", "subject, test", "expression, test"]
  assert lines == [
    ["small", None, None, None, None],
    ["large", None, None, None, None],
    ["small too", None, None, None, None],
    ["the probes' accuracy on photographs of 32 px", "50.0", "50.0", "50.0", "50.0"],
    ["the probes' accuracy on photographs of 64 px", "75.0", "75.0", "75.0", "75.0"],
  ]


def test_published_recognition_stands_beside_comparable_rows_alone():
  own = row(published.BOTH, 32, 0.5)
  for comparable, printed in ((True, ("62.64 ± 2.48", "59.95 ± 4.31")), (False, (None, None))):
    (_, (_, ((_, *cells),))), *_ = table.tables([{**own, "comparable": comparable}], (0,))
    assert (cells[0], cells[3]) == printed


def test_a_code_of_which_one_thing_is_read_stands_in_the_table():
  measured = {"subject from z_i": None, "expression from z_i": 0.25}
  _, (_, (_, lines)), *_ = table.tables([row("small", 32, 0.5, **measured)], (0,))
  assert lines == [["small", "z_i", None, "25.0"]]


def test_accuracies_by_round_are_in_percent_and_divergences_in_nat():
  history = [
    {"stage": "identity", "split": "train", "kl": 3.0},
    {"stage": "expression", "split": "train", "generator/kl": 2.0},
    {"stage": "expression", "split": "test", "accuracy": 0.5},
    {"stage": "identity", "split": "train", "kl": 4.0},
    {"stage": "expression", "split": "test", "accuracy": 0.75},
  ]
  facts = table.facts([history], [])
  assert facts == {
    "nat of stage identity": [4.0],
    "nat of stage expression": [2.0],
    "test accuracy (%) after round 1": [50.0],
    "test accuracy (%) after round 2": [75.0],
  }
  pairs = {name: (values[0], None) for name, values in facts.items()}
  assert table.by_round({"facts": pairs}) == [(50.0, None), (75.0, None)]


@pytest.fixture
def drawn(monkeypatch):
  """The names that stand beside the rows of swaps, and those of interpolations."""
  names = []
  for draw in ("_draw_swaps", "_draw_between"):
    monkeypatch.setattr(figures, draw, lambda made, *more: names.append([str(one["method"]) for one in made]))
  return names


def test_rows_of_one_method_stand_side_by_side_under_their_own_names(tmp_path, drawn):
  rows = [row(name, 32, 0.5) for name in ("as printed: 1e5 and 0.01", "saturating", "failed", "plain")]
  methods = ("both losses (32)", "both losses (32)", None, "conventional (32)")
  for one, method in zip(rows, methods, strict=True):
    if method is not None:
      (tmp_path / one["folder"]).mkdir(parents=True)
      picture = np.zeros((32, 32, 3), np.uint8)
      np.savez_compressed(tmp_path / one["folder"] / "made.npz", method=np.asarray(method), source=picture)
  assert set(figures.side_by_side(rows, tmp_path)) == {"swaps_test.png", "swaps_train.png", "between.png"}
  assert drawn == [["conventional (32)", "as printed: 1e5 and 0.01\n(32)", "saturating (32)"]] * 3
