"""Paper 004's tables: from the paper's counts through the code that reports a study, and from rows made by hand."""

import pathlib

import numpy as np
import pytest

from jaxfer import config
from jaxfer.report import study
from jaxfer.systems.elderly_transfer import published, table

TESTED = published.TEST_IMAGES
LABEL = np.repeat(np.arange(9), published.SUPPORT)


def judged(name, predicted, history=(), compared=None):
  """A study's row with one seed."""
  keys = [[f"{k:04d}" for k in range(TESTED)]]
  result = {
    "label_names": list(published.CLASSES), "key": keys, "subject": keys, "label": [LABEL.tolist()],
    "predicted": [predicted.tolist()], "correct": [(predicted == LABEL).astype(float).tolist()], "rank": None,
    "table_summaries": {},
    "summaries": {}, "predictions": {}, "data": {}, "parameters": 0, "folds": 1, "tested": "", "members": 1,
    "failed": [], "figures": {}, "metrics": {}, "warnings": [], "seconds": 0, "compile_seconds": 0,
  }  # fmt: skip
  row = {**study.summarize(result), "name": name, "published": None, "comparable": True}
  return {**row, "history": list(history), "compared": compared or {}}


def answers(right):
  return np.where(np.arange(TESTED) < right, LABEL, (LABEL + 1) % 9)


def history(*by_seed):
  return [
    {
      "member": f"seed {seed}, fold 0",
      "seed": seed,
      "fold": 0,
      "epoch": epoch,
      "split": split,
      "accuracy": accuracy,
    }
    for seed, accuracies in enumerate(by_seed)
    for epoch, accuracy in enumerate(accuracies, start=1)
    for split in ("train", "validation")
  ]


def pair(difference, told_apart):
  return {
    "difference": difference,
    "interval": [difference - 0.01, difference + 0.01],
    "told_apart": told_apart,
  }


@pytest.fixture(scope="module")
def rows():
  matrix = published.confusion()
  best = np.concatenate([np.repeat(np.arange(9), line) for line in matrix])
  scratch = history([0.2, 0.5, 0.4], [0.1, 0.2, 0.3])
  return [
    judged("ResNet18, scratch", answers(185), scratch),
    judged("ResNet18, objects", answers(249), history([0.6, 0.5, 0.4], [0.2, 0.3, 0.2])),
    judged("Face-ResNet18, scratch", answers(218), scratch),
    judged(
      "Face-ResNet18, adaface",
      best,
      history([0.2, 0.4, 0.4], [0.2, 0.3, 0.4]),
      {"Face-ResNet18, scratch": pair(0.05, True)},
    ),
  ]


@pytest.mark.parametrize("name", ["table", "table_synthetic"])
def test_every_variant_of_a_config_is_known_with_its_net_and_initialisation(name):
  root = pathlib.Path(__file__).parents[3]
  described = config.read(root / f"configs/elderly_transfer/{name}.py")
  for row in described.rows:
    variant = table.VARIANTS[row.name]
    net = table.NETS[variant.net]
    assert row.init_from == (
      None if variant.initialisation == "scratch" else f"{variant.initialisation}-{net}"
    )
    assert net in str(row.overrides)
    assert row.published == variant.published


@pytest.mark.parametrize(("name", "kind"), [("table", "imagenet"), ("table_synthetic", None)])
def test_pretraining_on_imagenet_crops_and_that_on_drawn_objects_does_not(name, kind):
  described = config.read(pathlib.Path(__file__).parents[3] / f"configs/elderly_transfer/{name}.py")
  kinds = {row.name: row.overrides.get("recipe.augmentation") for row in described.sources}
  assert {found for source, found in kinds.items() if source.startswith("objects-")} == {kind}
  assert {found for source, found in kinds.items() if source.startswith("expressions-")} == {None}


def test_every_variant_of_the_paper_has_its_accuracy():
  assert len(table.VARIANTS) == 24
  assert table.VARIANTS["ResNet50, adaface"] == table.Variant("ResNet50", "adaface")
  assert table.published_accuracy("ResNet50, cosface") is None
  assert table.published_accuracy("Face-ResNet18, adaface") == 281 / 768
  assert table.published_accuracy("ResNet18, objects") == 249 / 768
  assert table.published_accuracy("something else") is None


def test_a_variant_of_another_name_is_left_out_of_the_grid_and_the_epochs(rows):
  other = {**rows[1], "name": "My net, dreams"}
  assert table.tables([*rows, other]) == table.tables(rows)


def test_the_papers_counts_give_the_papers_numbers(rows):
  by_title = dict(table.tables(rows))
  (grid,) = (found for title, found in by_title.items() if title.startswith("Accuracy"))
  lines = {line[0]: line[1:] for line in grid[1]}
  assert lines["scratch"][0] == "24.1 (185)"
  assert lines["scratch"][1].startswith("24.1 (21.2 to 27.2)")
  assert lines["objects"][2:] == ["31.2 (240)", None]
  assert lines["adaface"][1] is None
  assert lines["adaface"][3].startswith("36.6 (")
  header, classes = next(found for title, found in by_title.items() if title.startswith("Results by class"))
  assert header[4:] == list(published.CLASSES)
  ours, net = [[line[1:3] + line[4:] for line in classes[k : k + 3]] for k in (0, 3)]
  assert classes[0][0] == "ours: Face-ResNet18, adaface, P"
  assert ours == net
  assert [line[3] for line in classes[:6]] == [None, None, None, "38.0", "38.4", "35.5"]
  assert [line[1] for line in classes[3:6]] == ["38.0", "38.4", "35.5"]
  assert [line[1:4] for line in classes[6:]] == [
    ["33.1", "29.8", "29.8"], ["34.0", "30.6", "30.4"], ["32.3", "29.0", "29.0"]
  ]  # fmt: skip
  assert [line[0] for line in classes[3:7:3]] == [
    "paper's model (36.6 % correct), P",
    "paper's people (34.1 % correct), P",
  ]
  notes = next(found for title, found in by_title.items() if title.startswith("Notes"))
  assert any("a tenth answer" in note for (note,) in notes[1])
  assert any("12 batches of 64" in note and "22 x 36 = 792" in note for (note,) in notes[1])


def test_epochs_until_scratchs_best_are_counted_by_seed(rows):
  _, lines = next(found for title, found in table.tables(rows) if title.startswith("Epochs"))
  by_row = {line[0]: line[1:] for line in lines}
  assert by_row["ResNet18, objects"][-2:] == ["1.5 ± 0.7", "1 2"]
  assert by_row["Face-ResNet18, adaface"][-2:] == ["not in all", "never 2"]
  assert by_row["ResNet18, scratch"][-2:] == ["2.5 ± 0.7", "2 3"]
  assert by_row["ResNet18, scratch"][0] == "2.5 ± 0.7"


def test_trainings_are_paired_by_seed_and_failed_ones_are_shown(rows, tmp_path):
  """In each variant another seed fails in its first epoch; in the last one, all fail."""
  one = history([0.2, 0.5, 0.4], [0.3, 0.2, 0.1], [0.1, 0.2, 0.3])
  two = history([0.1], [0.2, 0.3, 0.2], [0.4, 0.3, 0.3])

  def row(start, lines, failed):
    return {
      **rows[0],
      "name": f"ResNet18, {start}",
      "members": 3,
      "history": [line for line in lines if line["seed"] not in failed],
      "failed": [
        {"member": f"seed {k}, fold 0", "seed": k, "fold": 0, "where": "stage 'train', epoch 1"}
        for k in failed
      ],
    }

  scratch, objects, gone = row("scratch", one, [1]), row("objects", two, [0]), row("softmax", two, [0, 1, 2])
  epochs = table.epochs_of([scratch, objects, gone])
  assert list(epochs["ResNet18, objects"].first.values()) == ["failed", "failed", 1]
  assert list(epochs["ResNet18, scratch"].first.values()) == [2, "failed", 3]
  by_title = dict(table.tables([scratch, objects, gone]))
  _, lines = next(found for title, found in by_title.items() if title.startswith("Epochs"))
  assert lines[1] == [
    "ResNet18, objects",
    "1.5 ± 0.7",
    "35.0 ± 7.1",
    "40.0 ± 14.1",
    "not in all",
    "failed failed 1",
  ]
  assert lines[2][1:] == ["failed", "failed", "40.0 ± 14.1", "not in all", "failed failed failed"]
  _, lines = next(found for title, found in by_title.items() if title.startswith("Accuracy"))
  assert lines[2] == ["softmax", "29.9 (230)", "failed"]
  assert len(table.figures([scratch, objects, gone], tmp_path)) == 2


def test_what_was_not_trained_is_printed_as_failed(rows):
  missing = [
    {"name": f"ResNet50, {start}", "published": None, "comparable": True} for start in ("scratch", "cosface")
  ]
  _, (header, lines) = table.tables(rows, missing)[0]
  assert header[3:5] == ["ResNet50, published", "ours"]
  assert {line[0]: line[3:5] for line in lines} == {
    "scratch": ["14.3 (110)", "failed"],
    "objects": ["34.6 (266)", None],
    "cosface": ["failed", "failed"],
    "adaface": ["20.8 (160)", None],
  }


def test_all_crosses_stand_inside_the_figure(rows, tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(table.plots, "write_png", lambda figure, path, title: drawn.append(figure.axes[0]))
  never = {**rows[1], "history": history(*[[0.1, 0.1, 0.1]] * 5), "members": 5}
  scratch = {**rows[0], "history": history(*[[0.1, 0.2, 0.1]] * 5), "members": 5}
  table.figures([scratch, never], tmp_path)
  crosses = [line.get_xdata() for line in drawn[1].lines if line.get_marker() == "x"]
  assert max(x.max(initial=0) for x in crosses) < drawn[1].get_xlim()[1]
  dots = [line.get_ydata() for line in drawn[1].lines if line.get_marker() == "o"]
  assert dots == [1]  # Only the variant from scratch has a mean.


def test_a_published_difference_is_confirmed_contradicted_or_neither():
  assert table.verdict(8.0, pair(0.05, True)) == "confirmed"
  assert table.verdict(-8.0, pair(0.05, True)) == "contradicted: opposite sign"
  assert table.verdict(8.0, pair(0.05, False)) == "neither confirmed nor contradicted"
  assert table.verdict(0.1, pair(0.05, True)) == (
    "published difference within its sampling error; our difference is clear"
  )
  assert table.verdict(None, pair(0.05, False)) == "our difference is not clear"


def test_our_differences_are_shown_beside_the_papers(rows):
  _, lines = next(found for title, found in table.tables(rows) if title.startswith("Differences"))
  assert lines == [
    ["Face-ResNet18, adaface minus Face-ResNet18, scratch", "+8.2", "+5.0 (+4.0 to +6.0)", "confirmed"]
  ]


def test_figures_are_drawn_where_there_are_validation_people(rows, tmp_path):
  drawn = table.figures(rows, tmp_path)
  assert set(drawn) == {"transfer_curves.png", "transfer_epochs.png"}
  for name in drawn:
    assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
  assert table.figures([{**row, "history": []} for row in rows], tmp_path) == {}
  assert len(table.tables([{**row, "history": []} for row in rows])) == 4


def test_on_other_data_no_published_number_stands_in_any_table(rows):
  found = dict(table.tables([{**row, "comparable": False} for row in rows]))
  grid, claims = list(found.values())[:2]
  assert {cell for _, *cells in grid[1] for cell in cells[::2]} == {None}
  assert [line[1] for line in claims[1]] == [None]
  assert not [title for title in found if "by class" in title]
